// The element formats of weights, one object each, and how their packed form is read.
//
// A quantised format is one file in tensor/formats/: its block in the file (struct, static_assert of the
// size), decode, pack and unpack, and one line in the table of format.cc. With that alone it works on every
// instruction set, because each has a product of the canonical panel below. Formats with a hand-written
// kernel besides have their packed layout in formats/packed_layout.h.
//
// Block layouts are those of GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and
// ggml-common.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor_type.h"

namespace shoal {

// How the integers of a 32-wide block become floats; docs/numerics.md has the order of the operations.
// q' = q - offset, t and u are exact integers:
enum class PanelKind {
  kScale,        // w = scale q'
  kScaleMin,     // w = scale q' + min
  kSubScale,     // w = scale sub_scale[k / 16] q'
  kSubScaleMin,  // w = scale sub_scale[k / 16] q' + min sub_min[k / 16]
};

// One 32-wide block of a packed group of 16 rows in canonical form. Fields that the kind does not name are
// unset.
struct Panel {
  alignas(64) uint8_t q[8][16][4];  // [k / 4][row][k % 4]
  float scale[16];
  float min[16];             // to be added, so negative in formats that subtract it
  int16_t sub_scale[16][2];  // [row][k / 16]
  int16_t sub_min[16][2];
};

struct Format {
  TensorType type;
  const char* name;  // as GGUF writes it
  int block;         // elements that share a block of the file
  int block_bytes;
  bool is_float;  // no panels: elements packed as they are, [k][16 rows]

  // Quantised formats only: how a panel is read. max_q bounds q and decides how much a kernel may add up in
  // 16 bits.
  PanelKind kind;
  int offset;
  int max_q;

  // `n` elements in file order (n % block == 0) as floats, exactly the value the format defines.
  void (*decode)(const std::byte* row, int64_t n, float* out);
  // 16 rows in file order, `row_bytes` apart, to one packed group of the same number of bytes.
  void (*pack)(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group);
  // Elements [32 block, 32 block + 32) of the 16 rows. Null for float formats.
  void (*unpack)(const std::byte* group, int64_t cols, int64_t block, Panel* out);

  // A row of n finite values as the file's bytes, or null if Shoal does not write the format. `importance`,
  // one weight a column, or null: how much an error there matters. The same bytes as ggml's reference method
  // gives, for every format that has one (tests/tensor/encode_test.cc).
  void (*encode)(const float* values, int64_t n, const float* importance, std::byte* row) = nullptr;

  size_t row_bytes(int64_t cols) const { return static_cast<size_t>(cols / block) * block_bytes; }
};

// The format with this id in GGUF files, or null if it is not supported.
const Format* find_format(uint32_t ggml_id);
const Format& format_of(TensorType type);
std::vector<std::string> known_formats();  // names, for messages

}  // namespace shoal
