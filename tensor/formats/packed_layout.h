// Where things lie in a packed group of 16 rows: first the `meta` bytes of every block (scales, minima), then
// the `data` bytes of every block, so that data is on a 64-byte boundary wherever the number of blocks is
// even. A block here is 32 columns, or 256 in the formats ending in _K. Total: the bytes of the file.
//
//   f16 scale (and min)  [16 rows]
//   nibbles, 256 bytes   [4 j][16 rows][4 i]: low nibble k = 4j + i, high nibble k = 16 + 4j + i
//   fifth bits, 64 bytes [16 rows][4 i]: bit j is of k = 4j + i
//   bytes, 512 bytes     [8 j][16 rows][4 i], k = 4j + i, with the sign bit flipped: 0..255
// Q2_K meta: d, dmin; data: scale bytes [16 sub-blocks][16 rows], then the value bytes in file order
//   [16 words][16 rows][4]
// Q3_K data: the twelve scale bytes [3 words][16 rows][4], the two low bits of the values [16 words][16
// rows][4] and
//   their high bits [8 words][16 rows][4], all words as in the file
// Q4_K, Q5_K meta: d, dmin, then the twelve bytes of 6-bit scales in three planes of [16 rows][4]:
//   plane 0: scale 0..3 in bits 0-5, min 0..3 bits 4-5 in bits 6-7; plane 1: the same of 4..7;
//   plane 2: min 0..3 bits 0-3 in the low nibble, min 4..7 in the high nibble
// Q6_K data: int8 scales [8 blocks][2][16 rows], then per 32 columns nibbles (256) and two planes of 2-bit
//   fields [16 rows][4 i], bits 2j of plane h is of k = 16h + 4j + i
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {

template <int kColumns_, int kMeta_, int kData_>
struct PackedLayout {
  static constexpr int kColumns = kColumns_;
  static constexpr int kMeta = kMeta_;
  static constexpr int kData = kData_;
  static const uint8_t* meta(const std::byte* group, int64_t block) {
    return reinterpret_cast<const uint8_t*>(group) + block * kMeta;
  }
  static const uint8_t* data(const std::byte* group, int64_t cols, int64_t block) {
    return reinterpret_cast<const uint8_t*>(group) + cols / kColumns * kMeta + block * kData;
  }
  static uint8_t* meta(std::byte* group, int64_t block) {
    return reinterpret_cast<uint8_t*>(group) + block * kMeta;
  }
  static uint8_t* data(std::byte* group, int64_t cols, int64_t block) {
    return reinterpret_cast<uint8_t*>(group) + cols / kColumns * kMeta + block * kData;
  }
};

using PackedQ4_0 = PackedLayout<32, 32, 256>;
using PackedQ4_1 = PackedLayout<32, 64, 256>;
using PackedQ5_0 = PackedLayout<32, 32, 256 + 64>;
using PackedQ5_1 = PackedLayout<32, 64, 256 + 64>;
using PackedQ8_0 = PackedLayout<32, 32, 512>;
using PackedQ2_K = PackedLayout<256, 64, 256 + 1024>;
using PackedQ3_K = PackedLayout<256, 32, 192 + 1024 + 512>;
using PackedQ4_K = PackedLayout<256, 256, 8 * 256>;
using PackedQ5_K = PackedLayout<256, 256, 8 * (256 + 64)>;
using PackedQ6_K = PackedLayout<256, 32, 256 + 8 * (256 + 128)>;

}  // namespace shoal
