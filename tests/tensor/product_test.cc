// Products: every table against a scalar reference that reads rows in file order, bit for bit.
//
// The reference shares nothing with the library but the numbers' definition (docs/numerics.md): it takes
// integers and scales straight out of the blocks of the file.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "tensor/float_ops.h"
#include "tensor/format.h"
#include "tensor/kernels.h"
#include "tensor/matmul.h"

namespace shoal {
namespace {

constexpr TensorType kTypes[] = {
    TensorType::kF32,   TensorType::kF16,     TensorType::kBF16,  TensorType::kQ4_0,   TensorType::kQ4_1,
    TensorType::kQ5_0,  TensorType::kQ5_1,    TensorType::kQ8_0,  TensorType::kQ2_K,   TensorType::kQ3_K,
    TensorType::kQ4_K,  TensorType::kQ5_K,    TensorType::kQ6_K,  TensorType::kIQ4_NL, TensorType::kIQ4_XS,
    TensorType::kIQ3_S, TensorType::kIQ3_XXS, TensorType::kIQ2_S, TensorType::kIQ2_XS, TensorType::kIQ2_XXS,
    TensorType::kIQ1_M, TensorType::kIQ1_S,   TensorType::kMXFP4, TensorType::kTQ1_0,  TensorType::kTQ2_0};

float half(const uint8_t* p) {
  const int h = p[0] | (p[1] << 8), exponent = (h >> 10) & 31;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(h & 1023), -24)
                                        : std::ldexp(static_cast<float>(1024 + (h & 1023)), exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

// 32 columns of one row: w = d * sub[k / 16] * q + min * sub_min[k / 16].
struct Block32 {
  int q[32];
  float d = 0, min = 0;
  int sub[2] = {1, 1}, sub_min[2] = {1, 1};
  bool has_min = false, has_sub_min = false;
};

void read_small(TensorType type, const uint8_t* p, Block32& out) {
  static const int kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  out.d = half(p);
  const bool five = type == TensorType::kQ5_0 || type == TensorType::kQ5_1;
  out.has_min = type == TensorType::kQ4_1 || type == TensorType::kQ5_1;
  if (out.has_min) out.min = half(p + 2);
  const uint8_t* fifth = p + (out.has_min ? 4 : 2);
  const uint8_t* quants = five ? fifth + 4 : fifth;
  for (int k = 0; k < 32; ++k) {
    int q = (quants[k % 16] >> (k / 16 * 4)) & 15;
    if (five) q += ((fifth[k / 8] >> (k % 8)) & 1) * 16;
    if (type == TensorType::kQ4_0) q -= 8;
    if (type == TensorType::kQ5_0) q -= 16;
    if (type == TensorType::kIQ4_NL) q = kTable[q];
    if (type == TensorType::kQ8_0) q = reinterpret_cast<const int8_t*>(p + 2)[k];
    out.q[k] = q;
  }
}

void read_q4_q5_k(bool five, const uint8_t* p, int s, Block32& out) {
  const uint8_t* c = p + 4;
  const int scale = s < 4 ? c[s] & 63 : (c[s + 4] & 15) | ((c[s - 4] >> 6) << 4);
  const int min = s < 4 ? c[s + 4] & 63 : (c[s + 4] >> 4) | ((c[s] >> 6) << 4);
  out.d = half(p) * static_cast<float>(scale);
  out.min = -(half(p + 2) * static_cast<float>(min));
  out.has_min = true;
  const uint8_t* quants = p + (five ? 48 : 16) + s / 2 * 32;
  for (int k = 0; k < 32; ++k) {
    out.q[k] = (quants[k] >> (s % 2 * 4)) & 15;
    if (five) out.q[k] += ((p[16 + k] >> s) & 1) * 16;
  }
}

// 32 columns number s (0..7) of a 256-wide block.
void read_large(TensorType type, const uint8_t* p, int s, Block32& out) {
  if (type == TensorType::kQ4_K || type == TensorType::kQ5_K)
    return read_q4_q5_k(type == TensorType::kQ5_K, p, s, out);
  const int half_block = s / 4, part = s % 4;
  for (int u = 0; u < 2; ++u) {
    const int n = 2 * s + u;  // of 16 sub-blocks
    if (type == TensorType::kQ6_K) out.sub[u] = reinterpret_cast<const int8_t*>(p + 192)[n];
    if (type == TensorType::kQ2_K) {
      out.sub[u] = p[n] & 15;
      out.sub_min[u] = p[n] >> 4;
    }
    if (type == TensorType::kQ3_K) {
      const uint8_t* c = p + 96;
      out.sub[u] = ((n < 8 ? c[n] & 15 : c[n - 8] >> 4) | (((c[8 + n % 4] >> (n / 4 * 2)) & 3) << 4)) - 32;
    }
  }
  out.d = half(p + (type == TensorType::kQ6_K ? 208 : type == TensorType::kQ2_K ? 80 : 108));
  if (type == TensorType::kQ2_K) {
    out.min = -half(p + 82);
    out.has_sub_min = true;
  }
  for (int k = 0; k < 32; ++k) {
    if (type == TensorType::kQ6_K) {
      const int low = p[half_block * 64 + part % 2 * 32 + k] >> (part / 2 * 4);
      out.q[k] = ((low & 15) | (((p[128 + half_block * 32 + k] >> (part * 2)) & 3) << 4)) - 32;
    } else if (type == TensorType::kQ2_K) {
      out.q[k] = (p[16 + half_block * 32 + k] >> (part * 2)) & 3;
    } else {
      const int low = (p[32 + half_block * 32 + k] >> (part * 2)) & 3;
      out.q[k] = low + (((p[k] >> s) & 1) * 4) - 4;
    }
  }
}

// The scales of formats whose integers come from tables: d and the sub-scales of 32 columns number s.
void read_table_scales(TensorType type, const uint8_t* p, int s, Block32& out) {
  const auto odd = [&](int at, int shift, int mask) { return 2 * ((p[at] >> shift) & mask) + 1; };
  out.d = half(p + (type == TensorType::kTQ1_0 ? 52 : type == TensorType::kTQ2_0 ? 64 : 0));
  int both = 1;
  switch (type) {
    case TensorType::kIQ4_XS:
      both = ((p[4 + s / 2] >> (s % 2 * 4)) & 15) + ((p[2 + s / 4] >> (s % 4 * 2)) & 3) * 16 - 32;
      break;
    case TensorType::kIQ3_S:
      both = odd(106 + s / 2, s % 2 * 4, 15);
      break;
    case TensorType::kIQ3_XXS:
      both = odd(66 + 4 * s + 3, 4, 15);
      out.d /= 4;
      break;
    case TensorType::kIQ2_XXS:
      both = odd(2 + 8 * s + 7, 4, 15);
      out.d /= 8;
      break;
    case TensorType::kIQ1_S:
      both = odd(34 + 2 * s + 1, 4, 7);
      out.d /= 8;
      break;
    case TensorType::kIQ2_XS:
    case TensorType::kIQ2_S:
      for (int u = 0; u < 2; ++u) out.sub[u] = odd((type == TensorType::kIQ2_S ? 74 : 66) + s, 4 * u, 15);
      out.d /= 8;
      break;
    case TensorType::kIQ1_M: {
      const uint8_t* c = p + 48;
      const uint8_t d[2] = {static_cast<uint8_t>((c[1] >> 4) | (c[3] & 0xf0)),
                            static_cast<uint8_t>((c[5] >> 4) | (c[7] & 0xf0))};
      const int scales = c[s / 2 * 2] | (c[s / 2 * 2 + 1] << 8);
      for (int u = 0; u < 2; ++u) out.sub[u] = 2 * ((scales >> (s % 2 * 6 + 3 * u)) & 7) + 1;
      out.d = half(d) / 8;
      break;
    }
    default:
      break;
  }
  out.d *= static_cast<float>(both);
}

// Formats whose integers come from tables: the scales from the block, the integers from the values that
// decode() gives (compared with the gguf package in format_test.cc), which are exact products.
void read_table(const Format& format, const uint8_t* p, int s, Block32& out) {
  float w[256];
  format.decode(reinterpret_cast<const std::byte*>(p), format.block, w);
  if (format.type == TensorType::kMXFP4) {
    out.d = std::ldexp(1.0f, p[0] - 128);
  } else {
    read_table_scales(format.type, p, s, out);
  }
  for (int k = 0; k < 32; ++k) {
    const double unit = double{out.d} * out.sub[k / 16], q = unit == 0 ? 0 : w[32 * s + k] / unit;
    REQUIRE(q == std::rint(q));
    out.q[k] = static_cast<int>(q);
  }
}

bool has_table(TensorType type) {
  return type >= TensorType::kIQ2_XXS && type != TensorType::kIQ4_NL;
}

// One activation row as the reference sees it.
struct Activations {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum;
};

// `scaled_first`: the wrong order of the two scales, for the negative control.
float reference(const Format& format, const uint8_t* row, int cols, const Activations& a,
                bool scaled_first = false) {
  float sum = 0;
  if (format.is_float) {
    std::vector<float> w(cols);
    format.decode(reinterpret_cast<const std::byte*>(row), cols, w.data());
    for (int k = 0; k < cols; ++k) sum = std::fma(w[k], a.x[k], sum);
    return sum;
  }
  for (int b = 0; b < cols / 32; ++b) {
    Block32 w;
    if (has_table(format.type)) {
      const int per_block = format.block / 32;
      read_table(format, row + b / per_block * format.block_bytes, b % per_block, w);
    } else if (format.block == 256) {
      read_large(format.type, row + b / 8 * format.block_bytes, b % 8, w);
    } else {
      read_small(format.type, row + b * format.block_bytes, w);
    }
    int t = 0, u = 0;
    for (int k = 0; k < 32; ++k) {
      const int activation = a.q[32 * b + k];
      t += w.sub[k / 16] * w.q[k] * activation;
      u += w.sub_min[k / 16] * activation;
    }
    const float scale = a.scale[b];
    if (scaled_first) {
      sum = std::fma(static_cast<float>(t) * w.d, scale, sum);
    } else {
      sum = std::fma(static_cast<float>(t), w.d * scale, sum);
    }
    if (w.has_min) sum = std::fma(w.min, scale * static_cast<float>(a.sum[b]), sum);
    if (w.has_sub_min) sum = std::fma(static_cast<float>(u), w.min * scale, sum);
  }
  return sum;
}

enum class Data { kRandom, kWorst, kTinyScales };

// Where the halves of a block lie.
std::vector<int> halves_of(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0:
    case TensorType::kQ5_0:
    case TensorType::kQ8_0:
    case TensorType::kIQ4_NL:
    case TensorType::kIQ4_XS:
    case TensorType::kIQ3_S:
    case TensorType::kIQ3_XXS:
    case TensorType::kIQ2_S:
    case TensorType::kIQ2_XS:
    case TensorType::kIQ2_XXS:
    case TensorType::kIQ1_S:
      return {0};
    case TensorType::kTQ1_0:
      return {52};
    case TensorType::kTQ2_0:
      return {64};
    case TensorType::kIQ1_M:
    case TensorType::kMXFP4:
      return {};
    case TensorType::kQ2_K:
      return {80, 82};
    case TensorType::kQ3_K:
      return {108};
    case TensorType::kQ6_K:
      return {208};
    default:
      return {0, 2};
  }
}

std::vector<std::byte> make_weights(const Format& format, int rows, int cols, Data data,
                                    std::mt19937& random) {
  std::vector<std::byte> raw(format.row_bytes(cols) * rows);
  if (format.is_float) {
    for (auto& b : raw) b = static_cast<std::byte>(random() & 0xbf);  // moderate exponents, no NaN
    return raw;
  }
  const bool worst = data == Data::kWorst;
  for (size_t at = 0; at < raw.size(); at += format.block_bytes) {
    const auto extreme = static_cast<std::byte>(random() % 2                       ? 0xff
                                                : format.type == TensorType::kQ8_0 ? 0x80
                                                                                   : 0x00);
    for (int i = 0; i < format.block_bytes; ++i) {
      raw[at + i] = worst ? extreme : static_cast<std::byte>(random());
    }
    if (worst && format.type == TensorType::kQ6_K) {
      for (int i = 192; i < 208; ++i) raw[at + i] = std::byte{0x80};  // the largest scale, -128
    }
    if (worst && format.type == TensorType::kQ3_K) {
      for (int i = 96; i < 108; ++i) raw[at + i] = std::byte{0x00};  // -32
    }
    for (int offset : halves_of(format.type)) {
      // Exponents from 2^-6 to 2^1, or subnormal.
      const uint16_t exponent = data == Data::kTinyScales ? 0 : static_cast<uint16_t>(9 + random() % 8);
      const auto h = static_cast<uint16_t>((random() & 0x83ff) | (exponent << 10));
      std::memcpy(&raw[at + offset], &h, 2);
    }
    if (format.type == TensorType::kMXFP4) {
      raw[at] = static_cast<std::byte>(data == Data::kTinyScales ? random() % 2 : 122 + random() % 8);
    }
    if (format.type == TensorType::kIQ1_M) {  // the sign, and the exponent but its lowest bit, of a half
      const uint32_t top = data == Data::kTinyScales ? random() % 2 * 8 : 2 + random() % 3 + random() % 2 * 8;
      raw[at + 55] = (raw[at + 55] & std::byte{15}) | static_cast<std::byte>(top << 4);
    }
  }
  return raw;
}

std::vector<float> make_activations(int rows, int cols, Data data, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows) * cols);
  for (float& v : x) {
    v = normal(random);
    if (data == Data::kWorst) v = v < 0 ? -3.0f : 3.0f;
  }
  if (data == Data::kWorst) {  // all of one sign in the first two rows: the largest sums
    std::fill_n(x.begin(), cols, 3.0f);
    std::fill_n(x.begin() + cols, cols, -3.0f);
  }
  return x;
}

Activations quantized(const float* x, int cols) {
  Activations a{{x, x + cols},
                std::vector<int8_t>(cols),
                std::vector<float>(cols / 32),
                std::vector<int32_t>(cols / 32)};
  select_kernels("generic").floats->quantize(x, cols, a.q.data(), a.scale.data(), a.sum.data());
  return a;
}

constexpr int kRowsMax = 33, kOutputsMax = 40;

// What the product of every row must be, as bits: [kRowsMax][kOutputsMax].
std::vector<float> expected(const Format& format, const std::vector<std::byte>& raw,
                            const std::vector<float>& x, int cols, bool scaled_first = false) {
  std::vector<float> y;
  for (int r = 0; r < kRowsMax; ++r) {
    const Activations a = quantized(x.data() + static_cast<size_t>(r) * cols, cols);
    for (int o = 0; o < kOutputsMax; ++o) {
      const auto* row = reinterpret_cast<const uint8_t*>(raw.data()) + o * format.row_bytes(cols);
      y.push_back(reference(format, row, cols, a, scaled_first));
    }
  }
  return y;
}

// Elements that differ in their bits, and values written past the outputs.
int differences(const Kernels& kernels, ThreadPool& pool, const WeightMatrix& w, const std::vector<float>& x,
                int rows, const std::vector<float>& want) {
  constexpr float kUntouched = 12345.5f;
  const int cols = static_cast<int>(w.cols()), outputs = static_cast<int>(w.rows()), ld_y = outputs + 19;
  std::vector<float> y(static_cast<size_t>(rows) * ld_y, kUntouched);
  ActivationRows activations(kRowsMax, cols);
  activations.assign(kernels, pool, x.data(), cols, rows, cols);
  matmul(kernels, pool, activations, {{&w, y.data(), ld_y}});
  int different = 0;
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < ld_y; ++o) {
      const float expected = o < outputs ? want[r * kOutputsMax + o] : kUntouched;
      different += std::bit_cast<uint32_t>(y[r * ld_y + o]) != std::bit_cast<uint32_t>(expected);
    }
  }
  return different;
}

struct Case {
  const Format& format;
  int cols;
  std::vector<std::byte> raw;
  std::vector<float> x;
  Case(TensorType type, int cols_, Data data, uint32_t seed) : format(format_of(type)), cols(cols_) {
    std::mt19937 random(seed);
    raw = make_weights(format, kOutputsMax, cols, data, random);
    x = make_activations(kRowsMax, cols, data, random);
  }
  WeightMatrix matrix(int outputs) const {
    WeightMatrix w(format.type, outputs, cols);
    w.pack_rows(0, outputs, std::span(raw).first(format.row_bytes(cols) * outputs));
    return w;
  }
};

}  // namespace

TEST_CASE("every table gives the bits of the scalar reference for any number of rows") {
  ThreadPool pool(1);
  for (TensorType type : kTypes) {
    for (int cols : {256, 576, 2048}) {
      if (cols % format_of(type).block != 0) continue;
      for (Data data : {Data::kRandom, Data::kWorst, Data::kTinyScales}) {
        const Case test(type, cols, data, 11 * cols + static_cast<int>(data));
        const auto want = expected(test.format, test.raw, test.x, cols);
        for (int outputs : {9, 16, 40}) {
          if (cols == 2048 && outputs != 16) continue;  // emulated processors take minutes otherwise
          const WeightMatrix w = test.matrix(outputs);
          for (const Kernels* kernels : available_kernels()) {
            for (int rows : {1, 2, 3, 4, 5, 7, 8, 16, 33}) {
              CAPTURE(test.format.name);
              CAPTURE(kernels->name);
              CAPTURE(cols);
              CAPTURE(outputs);
              CAPTURE(rows);
              CHECK(differences(*kernels, pool, w, test.x, rows, want) == 0);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("the comparison can fail: the scales multiplied in another order give other bits") {
  ThreadPool pool(1);
  const Case test(TensorType::kQ4_0, 2048, Data::kRandom, 5);
  const auto wrong = expected(test.format, test.raw, test.x, test.cols, true);
  for (const Kernels* kernels : available_kernels()) {
    CHECK(differences(*kernels, pool, test.matrix(40), test.x, 33, wrong) > 100);
  }
}

TEST_CASE("threads and products that share a call do not change a bit") {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    const Case a(TensorType::kQ4_1, 576, Data::kRandom, 1), b(TensorType::kQ8_0, 576, Data::kRandom, 2);
    const Case c(TensorType::kF16, 576, Data::kRandom, 3);
    const WeightMatrix wa = a.matrix(40), wb = b.matrix(9), wc = c.matrix(16);
    const auto want_a = expected(a.format, a.raw, a.x, 576), want_b = expected(b.format, b.raw, a.x, 576),
               want_c = expected(c.format, c.raw, a.x, 576);
    for (const Kernels* kernels : available_kernels()) {
      CAPTURE(threads);
      CAPTURE(kernels->name);
      ActivationRows activations(kRowsMax, 576);
      activations.assign(*kernels, pool, a.x.data(), 576, 33, 576);
      std::vector<float> ya(33 * 40), yb(33 * 9), yc(33 * 16);
      matmul(*kernels, pool, activations, {{&wa, ya.data(), 40}, {&wb, yb.data(), 9}, {&wc, yc.data(), 16}});
      int different = 0;
      for (int r = 0; r < 33; ++r) {
        const auto* row = [](const std::vector<float>& v, int i) { return v.data() + i; }(want_a,
                                                                                          r * kOutputsMax);
        different += std::memcmp(&ya[r * 40], row, 40 * 4) != 0;
        different += std::memcmp(&yb[r * 9], &want_b[r * kOutputsMax], 9 * 4) != 0;
        different += std::memcmp(&yc[r * 16], &want_c[r * kOutputsMax], 16 * 4) != 0;
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("what is not a number stays so: int8 has no value for it, and none may come out that looks right") {
  ThreadPool pool(1);
  for (const TensorType type : kTypes) {
    const Case test(type, 512, Data::kRandom, 4);
    const WeightMatrix w = test.matrix(16);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = test.x;
      x[1 * test.cols + 300] = bad;  // of the second row
      for (const Kernels* kernels : available_kernels()) {
        ActivationRows activations(kRowsMax, test.cols);
        activations.assign(*kernels, pool, x.data(), test.cols, 3, test.cols);
        std::vector<float> y(3 * 16);
        matmul(*kernels, pool, activations, {{&w, y.data(), 16}});
        CAPTURE(test.format.name);
        CAPTURE(kernels->name);
        CAPTURE(bad);
        for (int i = 0; i < 3 * 16; ++i) CHECK(std::isfinite(y[static_cast<size_t>(i)]) == (i / 16 != 1));
      }
    }
  }
}

TEST_CASE("float matrices take any number of columns") {
  ThreadPool pool(2);
  for (TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16}) {
    const Case test(type, 37, Data::kRandom, 9);
    std::vector<float> want;
    for (int r = 0; r < kRowsMax; ++r) {
      const Activations a{{test.x.begin() + r * 37, test.x.begin() + (r + 1) * 37}, {}, {}, {}};
      for (int o = 0; o < kOutputsMax; ++o) {
        const auto* row = reinterpret_cast<const uint8_t*>(test.raw.data()) + o * test.format.row_bytes(37);
        want.push_back(reference(test.format, row, 37, a));
      }
    }
    for (const Kernels* kernels : available_kernels()) {
      for (int rows : {1, 6, 33})
        CHECK(differences(*kernels, pool, test.matrix(40), test.x, rows, want) == 0);
    }
  }
}

TEST_CASE("more rows than the cache holds at once are taken in portions with the same bits") {
  constexpr int kRows = 700, kCols = 576;
  const Case test(TensorType::kQ4_0, kCols, Data::kRandom, 21);
  const WeightMatrix w = test.matrix(40);
  ThreadPool pool(2);
  std::mt19937 random(3);
  const auto x = make_activations(kRows, kCols, Data::kRandom, random);
  for (const Kernels* kernels : available_kernels()) {
    ActivationRows all(kRows, kCols), one(1, kCols);
    std::vector<float> y(kRows * 40), single(40);
    all.assign(*kernels, pool, x.data(), kCols, kRows, kCols);
    matmul(*kernels, pool, all, {{&w, y.data(), 40}});
    int different = 0;
    for (int r = 0; r < kRows; ++r) {
      one.assign(*kernels, pool, &x[r * kCols], kCols, 1, kCols);
      matmul(*kernels, pool, one, {{&w, single.data(), 40}});
      different += std::memcmp(&y[r * 40], single.data(), 40 * 4) != 0;
    }
    CHECK(different == 0);
  }
}

}  // namespace shoal
