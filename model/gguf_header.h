// The header of one GGUF part: metadata and tensor records, parsed and checked: for GgufFile::open, and
// entries byte by byte for a file made from another.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/gguf_reader.h"

namespace shoal {

inline constexpr uint64_t kAlignmentDefault = 32;  // bytes, where the file has no general.alignment

struct GgufHeader {
  uint32_t version = 0;
  std::map<std::string, MetaValue> metadata;
  std::vector<TensorInfo> tensors;  // with absolute offsets, each inside the file
  std::vector<std::byte> bytes;     // the header as it lies in the file
};

// Throws SetupError. `part` is copied into the tensors.
GgufHeader read_gguf_header(const RegularFile& file, int part);

// A metadata entry as it lies in the file: length and text of the key, type and value.
struct RawMetadata {
  std::string key;
  std::vector<std::byte> bytes;
};

// The entries in the file's order. Throws SetupError.
std::vector<RawMetadata> read_raw_metadata(const RegularFile& file);

}  // namespace shoal
