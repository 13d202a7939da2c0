// Pieces that the format files share: reading scales, interleaving rows, and the nibble and fifth-bit planes.
#pragma once

#include <cstring>

#include "tensor/format.h"
#include "tensor/half.h"

namespace shoal {

inline uint16_t load_u16(const void* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

inline uint32_t load_u32(const void* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

inline void store_u32(void* p, uint32_t v) {
  std::memcpy(p, &v, 4);
}

inline float load_half(const void* p) {
  return half_to_float(load_u16(p));
}

// One f16 of each of 16 rows, `row_bytes` apart, side by side.
inline void interleave_halves(const std::byte* rows, size_t row_bytes, uint8_t* out) {
  for (int r = 0; r < 16; ++r) std::memcpy(out + 2 * r, rows + r * row_bytes, 2);
}

using Words = uint32_t __attribute__((vector_size(16)));  // the compilers' portable four words

inline Words load_words(const void* p) {
  Words v;
  std::memcpy(&v, p, 16);
  return v;
}

// 4 * kWords bytes of each of 16 rows to [kWords][16 rows][4 bytes], each byte xor `flip`: 4 x 4 words at a
// time.
template <int kWords>
inline void interleave_words(const std::byte* rows, size_t row_bytes, uint8_t* out, uint32_t flip = 0) {
  static_assert(kWords % 4 == 0);
  for (int r = 0; r < 16; r += 4) {
    for (int j = 0; j < kWords; j += 4) {
      const std::byte* p = rows + r * row_bytes + 4 * j;
      const Words a = load_words(p) ^ flip, b = load_words(p + row_bytes) ^ flip;
      const Words c = load_words(p + 2 * row_bytes) ^ flip, d = load_words(p + 3 * row_bytes) ^ flip;
      const Words ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                  ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Words cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                  cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      const Words column[4] = {
          __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5), __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7),
          __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7)};
      for (int i = 0; i < 4; ++i) std::memcpy(out + 64 * (j + i) + 4 * r, &column[i], 16);
    }
  }
}

// 32 one-bit fields, bit k of `bits`, to four bytes: bit j of byte i is bit 4j + i.
inline uint32_t transpose_bits(uint32_t bits) {
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t x = (bits >> i) & 0x11111111u;  // one bit in each nibble, gathered in three steps
    x = (x | x >> 3) & 0x03030303u;
    x = (x | x >> 6) & 0x000f000fu;
    x = (x | x >> 12) & 0xffu;
    out |= x << (8 * i);
  }
  return out;
}

// Panels: 16 halves to floats, the nibble plane, and bits added above it.
inline void unpack_halves(const uint8_t* halves, float* out) {
  uint16_t h[16];
  std::memcpy(h, halves, 32);
  for (int r = 0; r < 16; ++r) out[r] = half_to_float(h[r]);
}

inline void unpack_nibbles(const uint8_t* nibbles, Panel* out) {
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 256; ++n) {
    q[n] = nibbles[n] & 15;
    q[256 + n] = nibbles[n] >> 4;
  }
}

inline void unpack_fifth_bits(const uint8_t* bits, Panel* out) {
  for (int j = 0; j < 8; ++j) {
    uint8_t* q = &out->q[j][0][0];
    for (int n = 0; n < 64; ++n) q[n] |= static_cast<uint8_t>(((bits[n] >> j) & 1) << 4);
  }
}

// The 6-bit scales and minima of Q4_K and Q5_K, four to a word: scales 0-3, 4-7, minima 0-3, 4-7.
struct SixBitScales {
  uint32_t scale[2];
  uint32_t min[2];
  int scale_of(int sub) const { return (scale[sub / 4] >> (8 * (sub % 4))) & 255; }
  int min_of(int sub) const { return (min[sub / 4] >> (8 * (sub % 4))) & 255; }
};

// From the twelve bytes of the file: bytes 0-3 and 4-7 hold the low six bits of scales and minima 0-3, their
// top two bits belong to 4-7, whose low nibbles are in bytes 8-11.
inline SixBitScales read_six_bit_scales(const void* bytes) {
  const auto* p = static_cast<const uint8_t*>(bytes);
  const uint32_t a = load_u32(p), b = load_u32(p + 4), c = load_u32(p + 8);
  return {{a & 0x3f3f3f3fu, (c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u)},
          {b & 0x3f3f3f3fu, ((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u)}};
}

// To and from the three planes of packed_layout.h, for one row; planes are 64 bytes apart.
inline void pack_six_bit_scales(const SixBitScales& s, uint8_t* planes, int row) {
  store_u32(planes + 4 * row, s.scale[0] | ((s.min[0] & 0x30303030u) << 2));
  store_u32(planes + 64 + 4 * row, s.scale[1] | ((s.min[1] & 0x30303030u) << 2));
  store_u32(planes + 128 + 4 * row, (s.min[0] & 0x0f0f0f0fu) | ((s.min[1] & 0x0f0f0f0fu) << 4));
}

// Scale and min of sub-block `sub` (0..7) of all 16 rows as panel fields: d * scale, -(dmin * min), both
// exact.
inline void unpack_six_bit_scales(const uint8_t* meta, int sub, Panel* out) {
  float d[16], dmin[16];
  unpack_halves(meta, d);
  unpack_halves(meta + 32, dmin);
  const uint8_t* plane = meta + 64 + 64 * (sub / 4);
  const uint8_t* low = meta + 192;
  for (int r = 0; r < 16; ++r) {
    const int byte = plane[4 * r + sub % 4];
    const int min = ((low[4 * r + sub % 4] >> (4 * (sub / 4))) & 15) | ((byte >> 6) << 4);
    out->scale[r] = d[r] * static_cast<float>(byte & 63);
    out->min[r] = -(dmin[r] * static_cast<float>(min));
  }
}

// Two sub-blocks of Q4_K or Q5_K that share 32 bytes of a row (low nibbles: the first sub-block, high
// nibbles: the second), as one nibble plane each, `plane_stride` bytes apart.
inline void interleave_nibble_pair(const std::byte* rows, size_t row_bytes, uint8_t* planes,
                                   int plane_stride) {
  for (int r = 0; r < 16; ++r) {
    for (int j = 0; j < 4; ++j) {
      const uint32_t head = load_u32(rows + r * row_bytes + 4 * j);  // values 4j.. of both sub-blocks
      const uint32_t tail = load_u32(rows + r * row_bytes + 16 + 4 * j);
      uint8_t* out = planes + 64 * j + 4 * r;
      store_u32(out, (head & 0x0f0f0f0fu) | ((tail & 0x0f0f0f0fu) << 4));
      store_u32(out + plane_stride, ((head >> 4) & 0x0f0f0f0fu) | (tail & 0xf0f0f0f0u));
    }
  }
}

}  // namespace shoal
