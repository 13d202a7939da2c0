// A GGUF model file, version 2 or 3, little endian, in one part or split (-00001-of-0000N).
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Opening reads and checks the header only: every count is bounded by the bytes that remain before anything
// is allocated, every tensor's extent lies inside its part, names are unique. Tensor bytes are read on demand
// with pread, never mapped, so a file truncated meanwhile is an error and not a signal. Immutable after
// open(); reading from several threads is safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tensor/tensor_type.h"

namespace shoal {

// A metadata value. Integers of all widths are widened; arrays are homogeneous.
using MetaValue =
    std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>, std::vector<int64_t>,
                 std::vector<double>, std::vector<bool>, std::vector<std::string>>;

struct TensorInfo {
  std::string name;
  TensorType type;
  std::vector<int64_t> dims;  // GGUF order: dims[0] is the row length (n_in), dims[1] the rows (n_out)
  int part;                   // which file of a split model
  uint64_t offset;            // absolute, in that part
  uint64_t bytes;

  int64_t cols() const { return dims[0]; }
  int64_t rows() const;  // product of the other dims
};

struct GgufHeader;

class GgufFile {
 public:
  // Throws SetupError naming the file, the key or tensor, and what is wrong.
  static GgufFile open(const std::string& path);
  // A model of one part of which only the first bytes are here, the whole header among them: metadata and
  // tensor records are as of any file, reading a tensor is an error. `name` stands for the path.
  static GgufFile from_header(const std::string& name, std::vector<std::byte> first_bytes,
                              uint64_t file_bytes);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  const std::map<std::string, MetaValue>& metadata() const { return metadata_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  uint64_t total_bytes() const;  // of all parts
  std::vector<std::string> part_paths() const;

  const TensorInfo* find_tensor(std::string_view name) const;  // nullptr if absent
  const TensorInfo& tensor(std::string_view name) const;       // SetupError if absent

  // Typed metadata: `get_*` throw SetupError if the key is absent or of another type, the forms with a
  // default only if it has another type.
  const MetaValue* find(const std::string& key) const;
  uint64_t get_uint(const std::string& key) const;
  uint64_t get_uint(const std::string& key, uint64_t fallback) const;
  double get_float(const std::string& key, double fallback) const;
  bool get_bool(const std::string& key, bool fallback) const;
  std::string get_string(const std::string& key) const;
  std::string get_string(const std::string& key, const std::string& fallback) const;
  // A number or an array of numbers with one entry per layer: always n entries back.
  std::vector<uint64_t> get_uint_per_layer(const std::string& key, size_t n_layer) const;

  // Reads bytes [offset, offset + out.size()) of a tensor. Throws SetupError (exit code 1) when
  // the file changed.
  void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const;

  // Says that these bytes will be read soon, so that the disk can be at work meanwhile. Only advice.
  void expect(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const;

  // Throws SetupError (exit code 1), naming the part, where one was written to since it was opened.
  void require_unchanged() const;

  // The stamps of all parts (model/gguf_reader.h); empty where one has none.
  std::string stamp() const;

  // SHA-256 (hex) over the header bytes of all parts, their sizes and samples of each tensor: tells files
  // apart without reading them. Computed when the file was opened; empty where only the header is here. What
  // vouches for every byte is the manifest (model/weight_manifest.h).
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  struct Part;
  GgufHeader add_part(std::shared_ptr<Part> part);

  std::string path_;
  uint32_t version_ = 0;
  std::string fingerprint_;
  std::map<std::string, MetaValue> metadata_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
  std::vector<std::shared_ptr<Part>> parts_;
};

}  // namespace shoal
