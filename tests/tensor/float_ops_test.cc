// FloatOps: every table this processor can run against the generic table bit for bit, the generic table
// against double references, and one hash of all results that must be the same on every machine.
//
// Tables that the processor at hand lacks can be checked on an x86-64 machine with AVX2, from the repository
// root:
//   flags="-std=c++20 -O2 -Wno-psabi -ffp-contract=off -I. -Itests/tensor"
//   tests="tests/doctest_main.cc tests/tensor/float_ops_test.cc tests/tensor/attention_test.cc"
// AVX-512, emulated by SIMDe (Debian package libsimde-dev):
//   g++ $flags -mavx2 -mfma -mf16c -DSHOAL_EMULATE_AVX512 -c tensor/float_ops_avx512.cc
//   g++ $flags -mavx2 -mfma -mf16c -c tensor/float_ops_avx2.cc
//   g++ $flags -DSHOAL_EMULATE_AVX512 $tests float_ops_avx*.o tensor/float_ops_generic.cc
//   tensor/rope_angles.cc -o emulated
// NEON, emulated by QEMU (g++-aarch64-linux-gnu, qemu-user-static):
//   aarch64-linux-gnu-g++ -static $flags $tests tensor/float_ops_{generic,neon}.cc tensor/rope_angles.cc -o
//   neon qemu-aarch64-static -cpu cortex-a72 ./neon
#include <doctest/doctest.h>

#include <algorithm>
#include <initializer_list>

#include "tests/tensor/float_ops_testing.h"

namespace shoal::testing {
namespace {

const std::vector<int> kLengths = {1, 3, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 100, 576, 1536, 2049};

void angles(int position, int n_rot, const RopeScaling& scaling, const float* factors, float* cos,
            float* sin) {
  std::vector<double> frequencies(static_cast<size_t>(n_rot / 2));
  rope_frequencies(scaling, n_rot, factors, frequencies.data());
  rope_angles(position, frequencies.data(), n_rot / 2, scaling.magnitude, cos, sin);
}

// Calls compare(table, input) for every table and several inputs of each length.
template <class Compare>
void for_inputs(Compare compare) {
  for (int n : kLengths) {
    const std::vector<std::vector<float>> inputs = {
        Random(static_cast<uint64_t>(n)).floats(static_cast<size_t>(n), 5.0f),
        nasty_floats(static_cast<size_t>(n), 1), nasty_floats(static_cast<size_t>(n), 2),
        std::vector<float>(static_cast<size_t>(n), 0.0f)};
    for (const NamedTable& table : tables_here()) {
      for (size_t i = 0; i < inputs.size(); ++i) {
        CAPTURE(table.name);
        CAPTURE(n);
        CAPTURE(i);
        compare(*table.ops, inputs[i]);
      }
    }
  }
}

TEST_CASE("float ops: elementwise functions and norm have the generic bits") {
  for_inputs([](const FloatOps& ops, const std::vector<float>& x) {
    const int n = static_cast<int>(x.size());
    const std::vector<float> other = nasty_floats(x.size(), 99);
    std::vector<float> a = x, b = x;
    ops.silu_mul(a.data(), other.data(), n);
    kFloatOpsGeneric.silu_mul(b.data(), other.data(), n);
    CHECK(same_bits(a, b));

    a = b = x;
    ops.add(a.data(), other.data(), n);
    kFloatOpsGeneric.add(b.data(), other.data(), n);
    CHECK(same_bits(a, b));

    a = b = x;
    ops.gelu(a.data(), n);
    kFloatOpsGeneric.gelu(b.data(), n);
    CHECK(same_bits(a, b));

    const std::vector<float> bias = Random(static_cast<uint64_t>(n) + 7).floats(x.size(), 1.0f);
    ops.layer_norm(x.data(), other.data(), bias.data(), 1e-5f, n, a.data());
    kFloatOpsGeneric.layer_norm(x.data(), other.data(), bias.data(), 1e-5f, n, b.data());
    CHECK(same_bits(a, b));
    a = x;
    ops.layer_norm(a.data(), other.data(), bias.data(), 1e-5f, n, a.data());  // in place
    CHECK(same_bits(a, b));

    ops.rms_norm(x.data(), other.data(), 1e-5f, n, a.data());
    kFloatOpsGeneric.rms_norm(x.data(), other.data(), 1e-5f, n, b.data());
    CHECK(same_bits(a, b));
    a = x;
    ops.rms_norm(a.data(), other.data(), 1e-5f, n, a.data());  // in place
    CHECK(same_bits(a, b));
  });
}

TEST_CASE("float ops: rope has the generic bits and rotates") {
  Random random(4);
  for (bool interleaved : {false, true}) {
    for (int n_rot : {2, 6, 16, 32, 34, 64, 80, 128}) {
      const int head_dim = n_rot + (n_rot % 32 == 0 ? 0 : 8), n_head = 3;
      std::vector<float> cos(static_cast<size_t>(n_rot / 2)), sin = cos;
      angles(1234, n_rot, {}, nullptr, cos.data(), sin.data());
      const std::vector<float> x = random.floats(static_cast<size_t>(n_head * head_dim), 4.0f);
      std::vector<float> expected = x;
      kFloatOpsGeneric.rope(expected.data(), n_head, head_dim, n_rot, interleaved, cos.data(), sin.data());
      for (const NamedTable& table : tables_here()) {
        std::vector<float> y = x;
        table.ops->rope(y.data(), n_head, head_dim, n_rot, interleaved, cos.data(), sin.data());
        CAPTURE(table.name);
        CAPTURE(n_rot);
        CHECK(same_bits(y, expected));
      }
      for (int h = 0; h < n_head; ++h) {
        for (int d = 0; d < head_dim; ++d) {
          const size_t at = static_cast<size_t>(h * head_dim + d), base = static_cast<size_t>(h * head_dim);
          if (d >= n_rot) {
            CHECK(expected[at] == x[at]);
            continue;
          }
          const int pair = interleaved ? d / 2 : d % (n_rot / 2);
          const bool second = interleaved ? d % 2 == 1 : d >= n_rot / 2;
          const size_t i = static_cast<size_t>(pair);
          const double x0 = x[base + static_cast<size_t>(interleaved ? 2 * pair : pair)];
          const double x1 = x[base + static_cast<size_t>(interleaved ? 2 * pair + 1 : pair + n_rot / 2)];
          const double y = second ? x0 * sin[i] + x1 * cos[i] : x0 * cos[i] - x1 * sin[i];
          CHECK(std::abs(expected[at] - y) <= 1e-6);
        }
      }
    }
  }
}

TEST_CASE("float ops: layer norm and gelu by erf against double") {
  Random random(16);
  for (int n : {2, 16, 100, 384, 1027}) {
    std::vector<float> x = random.floats(static_cast<size_t>(n), 3.0f);
    for (float& v : x) v += 5.0f;  // a mean to be taken off
    const std::vector<float> weight = random.floats(x.size(), 2.0f), bias = random.floats(x.size(), 2.0f);
    std::vector<float> y(x.size());
    kFloatOpsGeneric.layer_norm(x.data(), weight.data(), bias.data(), 1e-12f, n, y.data());
    double mean = 0, squares = 0;
    for (float v : x) mean += v;
    mean /= n;
    for (float v : x) squares += (v - mean) * (v - mean);
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = (x[i] - mean) / std::sqrt(squares / n + 1e-12) * weight[i] + bias[i];
      CHECK(std::abs(y[i] - expected) <= 2e-6 * (1 + std::abs(expected)));
    }
  }
  std::vector<float> x;
  for (float v = -12.0f; v < 12.0f; v += 0.00137f) x.push_back(v);
  std::vector<float> y = x;
  kFloatOpsGeneric.gelu(y.data(), static_cast<int>(y.size()));
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = 0.5 * x[i] * std::erfc(-x[i] / std::sqrt(2.0));
    worst = std::max(worst, std::abs(y[i] - expected) / std::max(1.0f, std::abs(x[i])));
  }
  CHECK(worst < 2e-7);
}

TEST_CASE("float ops: norm and silu against double") {
  Random random(6);
  for (int n : {1, 16, 100, 576, 2048}) {
    const std::vector<float> x = random.floats(static_cast<size_t>(n), 10.0f);
    const std::vector<float> weight = random.floats(static_cast<size_t>(n), 2.0f);
    std::vector<float> y(x.size());
    kFloatOpsGeneric.rms_norm(x.data(), weight.data(), 1e-5f, n, y.data());
    double squares = 0;
    for (float v : x) squares += static_cast<double>(v) * v;
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = x[i] / std::sqrt(squares / n + 1e-5f) * weight[i];
      CHECK(std::abs(y[i] - expected) <= (n / 16 + 8) * 6e-8 * std::abs(expected));
    }
  }
  std::vector<float> gate, up;
  for (float v = -86.5f; v < 100.0f; v += 0.0137f) gate.push_back(v);
  const std::vector<float> x = gate;
  up.assign(gate.size(), 1.0f);
  kFloatOpsGeneric.silu_mul(gate.data(), up.data(), static_cast<int>(gate.size()));
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = x[i] / (1.0 + std::exp(-static_cast<double>(x[i])));
    worst = std::max(worst, std::abs(gate[i] - expected) / std::abs(expected));
  }
  CHECK(worst < 5e-7);
}

TEST_CASE("float ops: gelu, scales and soft caps have the generic bits") {
  for_inputs([](const FloatOps& ops, const std::vector<float>& x) {
    const int n = static_cast<int>(x.size());
    const std::vector<float> other = nasty_floats(x.size(), 99);
    const auto check = [&](auto&& change) {
      std::vector<float> a = x, b = x;
      change(ops, a.data());
      change(kFloatOpsGeneric, b.data());
      CHECK(same_bits(a, b));
    };
    check([&](const FloatOps& f, float* v) { f.gelu_mul(v, other.data(), n); });
    check([&](const FloatOps& f, float* v) { f.add_scaled(v, other.data(), 0.22f, n); });
    check([&](const FloatOps& f, float* v) { f.scale(v, 12.5f, n); });
    check([&](const FloatOps& f, float* v) { f.soft_cap(v, 30.0f, n); });
    // By 1 it is the plain sum, so that models without the scale have one definition.
    std::vector<float> scaled = x, plain = x;
    ops.add_scaled(scaled.data(), other.data(), 1.0f, n);
    ops.add(plain.data(), other.data(), n);
    CHECK(same_bits(scaled, plain));
  });
}

TEST_CASE("float ops: gelu and soft cap against double") {
  std::vector<float> x;
  for (float v = -100.0f; v < 100.0f; v += 0.0137f) x.push_back(v);
  const std::vector<float> one(x.size(), 1.0f);
  std::vector<float> gelu = x, capped = x;
  kFloatOpsGeneric.gelu_mul(gelu.data(), one.data(), static_cast<int>(x.size()));
  kFloatOpsGeneric.soft_cap(capped.data(), 30.0f, static_cast<int>(x.size()));
  double worst = 0, worst_cap = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i], u = std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v);
    const double expected = v / (1 + std::exp(-2 * u));
    // The exponent is off by a few of its last places, up to 2 u 6e-8 of the result.
    if (2 * u > -80) worst = std::max(worst, std::abs(gelu[i] - expected) / std::abs(expected));
    worst_cap = std::max(worst_cap, std::abs(capped[i] - 30 * std::tanh(v / 30)));
  }
  CHECK(worst < 2e-5);
  CHECK(worst_cap < 1e-5);
}

// The rounding that f32_to_f16 promises, by the definition of the format.
double nearest_half(double x) {
  if (x == 0) return x;
  const double unit = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
  const double y = std::nearbyint(x / unit) * unit;  // nearbyint: ties to even
  return std::abs(y) >= 65536.0 ? std::copysign(INFINITY, y) : y;
}

TEST_CASE("float ops: half conversions, all halves and many floats") {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> expected(halves.size());
  kFloatOpsGeneric.f16_to_f32(halves.data(), 65536, expected.data());
  for (size_t i = 0; i < halves.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10) & 31, mantissa = static_cast<int>(i) & 1023;
    double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) value = mantissa == 0 ? INFINITY : NAN;
    if (i & 0x8000) value = -value;
    CHECK((std::isnan(value) ? std::isnan(expected[i]) : static_cast<double>(expected[i]) == value));
  }

  std::vector<float> floats = nasty_floats(200000, 7);
  for (size_t i = 0; i + 1 < 31744; ++i) {  // the ties between neighbours, and what lies just beside them
    const float tie = (expected[i] + expected[i + 1]) / 2;
    floats.insert(floats.end(), {tie, -tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)});
  }
  const int n = static_cast<int>(floats.size());
  std::vector<uint16_t> rounded(floats.size());
  std::vector<float> back(floats.size());
  kFloatOpsGeneric.f32_to_f16(floats.data(), n, rounded.data());
  kFloatOpsGeneric.f16_to_f32(rounded.data(), n, back.data());
  size_t wrong = 0;
  for (size_t i = 0; i < floats.size(); ++i) {
    const double y = nearest_half(floats[i]);
    wrong += static_cast<double>(back[i]) != y || std::signbit(back[i]) != std::signbit(floats[i]);
  }
  CHECK(wrong == 0);

  const uint32_t nan_bits[] = {0x7fc00000, 0xffc00000, 0x7f800001, 0x7fffffff,
                               0xff812345, 0x7f800000, 0xff800000};
  for (uint32_t bits : nan_bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    floats.push_back(x);
  }
  rounded.resize(floats.size());
  kFloatOpsGeneric.f32_to_f16(floats.data(), static_cast<int>(floats.size()), rounded.data());
  for (const NamedTable& table : tables_here()) {
    CAPTURE(table.name);
    std::vector<float> y(halves.size());
    table.ops->f16_to_f32(halves.data(), 65536, y.data());
    CHECK(std::memcmp(y.data(), expected.data(), y.size() * 4) == 0);
    std::vector<uint16_t> h(floats.size());
    table.ops->f32_to_f16(floats.data(), static_cast<int>(floats.size()), h.data());
    CHECK(h == rounded);
    for (int length = 1; length < 40; ++length) {  // nothing beyond the end is written
      std::vector<uint16_t> part(48, 7);
      table.ops->f32_to_f16(floats.data(), length, part.data());
      CHECK(std::equal(part.begin(), part.begin() + length, rounded.begin()));
      CHECK(std::all_of(part.begin() + length, part.end(), [](uint16_t v) { return v == 7; }));
    }
  }
}

struct Quantized {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum;
  bool operator==(const Quantized&) const = default;
};

Quantized quantize(const FloatOps& ops, const std::vector<float>& x) {
  Quantized r = {std::vector<int8_t>(x.size()), std::vector<float>(x.size() / 32),
                 std::vector<int32_t>(x.size() / 32)};
  ops.quantize(x.data(), static_cast<int>(x.size()), r.q.data(), r.scale.data(), r.sum.data());
  return r;
}

TEST_CASE("float ops: quantising follows its definition, ties to even, never -128") {
  std::vector<float> x;
  for (int b = 0; b < 200; ++b) {
    const std::vector<float> block =
        b % 2 == 0 ? nasty_floats(32, static_cast<uint64_t>(b))
                   : Random(static_cast<uint64_t>(b)).floats(32, std::ldexp(1.0f, b - 100));
    x.insert(x.end(), block.begin(), block.end());
  }
  // Blocks whose largest magnitude is 127, so that x itself is rounded: every tie from -126.5 to 126.5.
  for (int b = 0; b < 16; ++b) {
    x.push_back(b % 2 == 0 ? 127.0f : -127.0f);
    for (int i = 0; i < 31; ++i) x.push_back(std::min(126.5f, static_cast<float>(b * 16 + i) - 126.5f));
  }
  for (float amax : {0.0f, 1e-45f, 9.9e-31f, 1e-30f, 1.1e-30f, 3.4e38f}) {
    for (int i = 0; i < 32; ++i) x.push_back(i % 3 == 0 ? -amax : amax / static_cast<float>(i));
  }
  const Quantized expected = quantize(kFloatOpsGeneric, x);
  for (size_t b = 0; b < x.size() / 32; ++b) {
    float amax = 0;
    for (size_t i = 0; i < 32; ++i) amax = std::max(amax, std::abs(x[32 * b + i]));
    const bool zero = amax < 1e-30f;
    int sum = 0;
    CHECK(expected.scale[b] == (zero ? 0.0f : amax / 127.0f));
    for (size_t i = 0; i < 32; ++i) {
      const float scaled = zero ? 0.0f : x[32 * b + i] * (127.0f / amax);
      const int q = expected.q[32 * b + i];
      CHECK(q == static_cast<int>(std::nearbyint(scaled)));
      CHECK(std::abs(q) <= 127);
      sum += q;
    }
    CHECK(expected.sum[b] == sum);
  }
  for (const NamedTable& table : tables_here()) {
    CAPTURE(table.name);
    CHECK((quantize(*table.ops, x) == expected));
  }
}

TEST_CASE("float ops: K and V kept in q8_0 are within half a step, in every table the same bytes") {
  for (const float size : {2.0f, 3e-3f, 5e4f, 1e-9f, 8e6f}) {
    for (int dim : {7, 16, 33, 40, 64, 128}) {
      const int n_head_kv = 3;
      std::vector<std::vector<std::byte>> pages;
      for (const NamedTable& table : tables_here()) {
        Random random(22);
        std::vector<std::byte> k(kv_k_page_bytes(KvType::kQ8_0, n_head_kv, dim), std::byte{0x7e});
        std::vector<std::byte> v(kv_v_page_bytes(KvType::kQ8_0, n_head_kv, dim), std::byte{0x7e});
        for (int t : {0, 15, 16, 31}) {
          const std::vector<float> row = random.floats(static_cast<size_t>(n_head_kv * dim), size);
          table.ops->store_k(KvType::kQ8_0, row.data(), n_head_kv, dim, t, k.data());
          table.ops->store_v(KvType::kQ8_0, row.data(), n_head_kv, dim, t, v.data());
          // Half a step of the scale, which is a half itself: normal from 2^-14, a multiple of 2^-24 below.
          const float scale = std::max(size / 127.0f, 0x1p-24f);
          const float bound = 0.5f * scale * 1.001f + (scale < 0x1p-14f ? 127.0f * 0x1p-25f : 0.0f);
          for (int h = 0; h < n_head_kv; ++h) {
            for (int d = 0; d < dim; ++d) {
              const float x = row[static_cast<size_t>(h * dim + d)];
              CHECK(std::abs(stored_k(KvType::kQ8_0, k.data(), dim, h, t, d) - x) <= bound);
              CHECK(std::abs(stored_v(KvType::kQ8_0, v.data(), dim, h, t, d) - x) <= bound);
            }
          }
        }
        pages.push_back(k);
        pages.back().insert(pages.back().end(), v.begin(), v.end());
        CHECK(pages.back() == pages.front());
      }
    }
  }
}

TEST_CASE("float ops: the largest and the sum of exps of logits pass over NaN, tails included") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const NamedTable& table : tables_here()) {
    CAPTURE(table.name);
    for (int n : {1, 5, 16, 17, 31, 32, 300}) {
      std::vector<float> x = Random(static_cast<uint64_t>(n)).floats(static_cast<size_t>(n), 20.0f);
      if (n > 5) {
        x[2] = nan;
        x[x.size() - 1] = nan;
        x[3] = -inf;
      }
      float highest = -inf;
      for (float v : x) highest = v > highest ? v : highest;
      double sum = 0;
      for (float v : x) sum += std::isnan(v) ? 0.0 : std::exp(static_cast<double>(v) - highest);
      CHECK(table.ops->largest(x.data(), n) == highest);
      CHECK(std::abs(table.ops->sum_of_exps(x.data(), highest, n) / sum - 1) < 1e-6);
    }
    const std::vector<float> none(40, nan);
    CHECK(table.ops->largest(none.data(), 40) == -inf);
    CHECK(table.ops->sum_of_exps(none.data(), 1.0f, 40) == 0.0f);
  }
}

TEST_CASE("float ops: K and V land in the layout of the page") {
  Random random(21);
  for (const NamedTable& table : tables_here()) {
    for (int dim : {7, 16, 40, 64}) {
      const int n_head_kv = 3;
      const size_t elements = static_cast<size_t>(n_head_kv * kKvPageTokens * dim);
      std::vector<uint16_t> k(elements, 0xabcd), v(elements, 0xabcd), k_expected = k, v_expected = v;
      for (int t : {0, 15, 16, 31}) {
        const std::vector<float> row = random.floats(static_cast<size_t>(n_head_kv * dim), 2.0f);
        std::vector<uint16_t> half(row.size());
        kFloatOpsGeneric.f32_to_f16(row.data(), static_cast<int>(row.size()), half.data());
        table.ops->store_k(KvType::kF16, row.data(), n_head_kv, dim, t,
                           reinterpret_cast<std::byte*>(k.data()));
        table.ops->store_v(KvType::kF16, row.data(), n_head_kv, dim, t,
                           reinterpret_cast<std::byte*>(v.data()));
        for (int h = 0; h < n_head_kv; ++h) {
          for (int d = 0; d < dim; ++d) {
            const uint16_t value = half[static_cast<size_t>(h * dim + d)];
            k_expected[static_cast<size_t>(((h * 2 + t / 16) * dim + d) * 16 + t % 16)] = value;
            v_expected[static_cast<size_t>((h * 32 + t) * dim + d)] = value;
          }
        }
      }
      CHECK(k == k_expected);
      CHECK(v == v_expected);
    }
  }
}

TEST_CASE("rope angles are within 1e-7 of the C library's in double") {
  const float factors[] = {1.0f, 1.5f, 3.0f, 32.0f};
  double worst = 0;
  for (double base : {10000.0, 100000.0, 500000.0, 1e6}) {
    for (int n_rot : {8, 64, 128}) {
      for (int position : {0, 1, 2, 31, 32, 511, 4095, 131071, 999999}) {
        for (double scale : {1.0, 0.25}) {
          for (bool with_factors : {false, true}) {
            if (with_factors && n_rot != 8) continue;
            std::vector<float> cos(static_cast<size_t>(n_rot / 2)), sin = cos;
            angles(position, n_rot, {base, scale}, with_factors ? factors : nullptr, cos.data(), sin.data());
            for (size_t i = 0; i < cos.size(); ++i) {
              const double theta = std::pow(base, -2.0 * static_cast<double>(i) / n_rot) * scale;
              const double angle = position * theta / (with_factors ? factors[i] : 1.0f);
              worst =
                  std::max({worst, std::abs(cos[i] - std::cos(angle)), std::abs(sin[i] - std::sin(angle))});
            }
          }
        }
      }
    }
  }
  CHECK(worst < 1e-7);
}

// Fixed by the definitions alone: a machine that computes another value is not of the numeric class `exact`.
// It changes only with the inputs below or with a definition in tensor/.
constexpr uint64_t kHashEverywhere = 0xe576fdd7042b99eb;

constexpr uint64_t kHashOfLogitsAndQ8Cache = 0x254679ffc6ea51e6;

void hash_attention(const FloatOps& ops, KvType type, Random& random, Hash& hash) {
  const std::vector<AttentionShape> shapes = {{9, 3, 64, 64, 0, 200},       {14, 2, 64, 64, 33, 150},
                                              {8, 1, 128, 128, 0, 97},      {5, 5, 40, 24, 0, 60},
                                              {4, 2, 64, 64, 0, 90, 50.0f}, {6, 1, 33, 7, 2, 49}};
  for (const AttentionShape& shape : shapes) {
    const PagedKv kv(ops, random, shape.n_head_kv, shape.dim_k, shape.dim_v, shape.last, 1.0f, type);
    const std::vector<float> q = random.floats(static_cast<size_t>(shape.n_head * shape.dim_k), 4.0f);
    hash.add(attend(ops, shape, q, kv.view()));
  }
}

uint64_t hash_of_logits_and_q8_cache(const FloatOps& ops) {
  Hash hash;
  Random random(2027);
  hash_attention(ops, KvType::kQ8_0, random, hash);
  for (int n : {1, 15, 16, 17, 256, 1000}) {
    const std::vector<float> x = random.floats(static_cast<size_t>(n), 30.0f);
    const float highest = ops.largest(x.data(), n);
    hash.add(std::vector<float>{highest, ops.sum_of_exps(x.data(), highest, n)});
  }
  return hash.value();
}

// Every function once over inputs that give no NaN (whose sign differs between x86 and Arm).
uint64_t hash_of_everything(const FloatOps& ops) {
  Hash hash;
  Random random(2026);
  std::vector<float> x = nasty_floats(3001, 17), up = random.floats(3001, 2.0f), y(3001);
  ops.silu_mul(x.data(), up.data(), 3001);
  hash.add(x);
  ops.add(up.data(), random.floats(3001, 1e-3f).data(), 3001);
  ops.rms_norm(up.data(), random.floats(3001, 1.0f).data(), 1e-6f, 3001, y.data());
  hash.add(y);
  std::vector<float> cos(64), sin(64);
  for (int position : {1, 77, 8191, 500000}) {
    angles(position, 128, {500000.0, 1.0}, nullptr, cos.data(), sin.data());
    ops.rope(y.data(), 20, 150, 128, false, cos.data(), sin.data());
    ops.rope(y.data(), 20, 150, 128, true, cos.data(), sin.data());
    hash.add(cos);
    hash.add(sin);
  }
  hash.add(y);
  const std::vector<float> wide = nasty_floats(32 * 300, 18);
  const Quantized quantized = quantize(ops, wide);
  hash.add(quantized.q);
  hash.add(quantized.scale);
  hash.add(quantized.sum);
  std::vector<uint16_t> half(wide.size());
  ops.f32_to_f16(wide.data(), static_cast<int>(wide.size()), half.data());
  hash.add(half);
  hash_attention(ops, KvType::kF16, random, hash);
  return hash.value();
}

TEST_CASE("float ops: the same results on every machine") {
  for (const NamedTable& table : tables_here()) {
    const uint64_t hash = hash_of_everything(*table.ops);
    MESSAGE("hash of all float ops, " << table.name << ": " << hash);
    CHECK(hash == kHashEverywhere);
    const uint64_t newer = hash_of_logits_and_q8_cache(*table.ops);
    MESSAGE("hash of logits and the q8_0 cache, " << table.name << ": " << newer);
    CHECK(newer == kHashOfLogitsAndQ8Cache);
  }
}

}  // namespace
}  // namespace shoal::testing
