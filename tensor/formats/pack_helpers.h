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

// The same with one word of each row, to [16 rows][4 bytes].
inline void interleave_word(const std::byte* rows, size_t row_bytes, uint8_t* out) {
  for (int r = 0; r < 16; ++r) std::memcpy(out + 4 * r, rows + r * row_bytes, 4);
}

// Takes kLanes vectors of kLanes elements as the rows of a matrix and transposes it: each round deals the
// elements of vectors i and i + kLanes / 2 out in turn.
template <int kLanes, class Vector>
inline void transpose(Vector (&v)[kLanes]) {
  for (int round = 1; round < kLanes; round *= 2) {
    Vector dealt[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      const Vector a = v[i], b = v[i + kLanes / 2];
      if constexpr (kLanes == 8) {
        dealt[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
        dealt[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
      } else {
        static_assert(kLanes == 16);
        dealt[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        dealt[2 * i + 1] =
            __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      }
    }
    for (int i = 0; i < kLanes; ++i) v[i] = dealt[i];
  }
}

// 16 bytes of each of 16 rows to [16 bytes][16 rows].
inline void interleave_bytes(const std::byte* rows, size_t row_bytes, uint8_t* out) {
  uint8_t v __attribute__((vector_size(16)));
  decltype(v) lines[16];
  for (int r = 0; r < 16; ++r) std::memcpy(&lines[r], rows + r * row_bytes, 16);
  transpose<16>(lines);
  std::memcpy(out, lines, sizeof(lines));
}

// `cols` 16-bit elements of each of 16 rows to [cols][16 rows].
inline void interleave_elements16(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* out) {
  uint16_t v __attribute__((vector_size(16)));
  int64_t k = 0;
  // Eight rows at a time along a cache line: 16 rows that are a power of two apart would share too few places
  // of the cache.
  for (; k + 32 <= cols; k += 32) {
    for (int half = 0; half < 2; ++half) {
      for (int64_t j = k; j < k + 32; j += 8) {
        decltype(v) lines[8];
        for (int r = 0; r < 8; ++r) std::memcpy(&lines[r], rows + (8 * half + r) * row_bytes + 2 * j, 16);
        transpose<8>(lines);
        for (int i = 0; i < 8; ++i) std::memcpy(out + 32 * (j + i) + 16 * half, &lines[i], 16);
      }
    }
  }
  for (; k < cols; ++k) {
    for (int r = 0; r < 16; ++r) std::memcpy(out + (16 * k + r) * 2, rows + r * row_bytes + 2 * k, 2);
  }
}

// Transposes bit fields: `planes` has kPlanes (8: one-bit fields, 4: two-bit fields) of 64 bytes, and
// afterwards field p of byte n of plane j is what field j of byte n of plane p was.
template <int kPlanes>
inline void transpose_fields(uint8_t (*planes)[64]) {
  const auto exchange = [&](int j, int distance, int shift, uint32_t mask) {
    for (int n = 0; n < 64; n += 16) {
      const Words a = load_words(planes[j] + n), b = load_words(planes[j + distance] + n);
      const Words first = (a & mask) | ((b & mask) << shift), second = ((a >> shift) & mask) | (b & ~mask);
      std::memcpy(planes[j] + n, &first, 16);
      std::memcpy(planes[j + distance] + n, &second, 16);
    }
  };
  for (int j = 0; j < kPlanes / 2; ++j) exchange(j, kPlanes / 2, 4, 0x0f0f0f0fu);
  for (int j = 0; j < kPlanes; ++j) {
    if ((j & (kPlanes / 4)) == 0) exchange(j, kPlanes / 4, 2, 0x33333333u);
  }
  if constexpr (kPlanes == 8) {
    for (int j = 0; j < kPlanes; j += 2) exchange(j, 1, 1, 0x55555555u);
  }
}

// One word of 32 one-bit fields of each of 16 rows to four bytes a row: bit j of byte i is the row's bit
// 4j + i.
inline void interleave_bits(const std::byte* rows, size_t row_bytes, uint8_t* out) {
  for (int r = 0; r < 16; r += 4) {
    const std::byte* p = rows + r * row_bytes;
    Words bits = {load_u32(p), load_u32(p + row_bytes), load_u32(p + 2 * row_bytes),
                  load_u32(p + 3 * row_bytes)};
    // A bit's number has five bits, j2 j1 j0 i1 i0, that shall be i1 i0 j2 j1 j0: each step swaps two of
    // them.
    const auto swap = [](Words x, int distance, uint32_t mask) {
      const Words moved = (x ^ (x >> distance)) & mask;
      return x ^ moved ^ (moved << distance);
    };
    bits = swap(bits, 14, 0x0000ccccu);  // i1 j1 j0 j2 i0
    bits = swap(bits, 7, 0x00aa00aau);   // i1 i0 j0 j2 j1
    bits = swap(bits, 2, 0x0c0c0c0cu);   // i1 i0 j2 j0 j1
    bits = swap(bits, 1, 0x22222222u);
    std::memcpy(out + 4 * r, &bits, 16);
  }
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

// Two sub-blocks of Q4_K, Q5_K or Q6_K that share 32 bytes of a row (low nibbles: the first sub-block, high
// nibbles: the second), as one nibble plane each, the second `stride` bytes behind the first.
inline void interleave_nibble_pair(const std::byte* rows, size_t row_bytes, uint8_t* planes, int stride) {
  alignas(16) uint8_t head[256], tail[256];  // values 0-15 and 16-31 of both sub-blocks
  interleave_words<4>(rows, row_bytes, head);
  interleave_words<4>(rows + 16, row_bytes, tail);
  for (int n = 0; n < 256; n += 16) {
    const Words a = load_words(head + n), b = load_words(tail + n);
    const Words first = (a & 0x0f0f0f0fu) | ((b & 0x0f0f0f0fu) << 4),
                second = ((a >> 4) & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u);
    std::memcpy(planes + n, &first, 16);
    std::memcpy(planes + stride + n, &second, 16);
  }
}

}  // namespace shoal
