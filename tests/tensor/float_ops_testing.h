// What the tests of tensor/float_ops.h share: the tables that can run here, random inputs that are the same
// on every machine, comparison of bits, and a hash to compare machines with.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tensor/float_ops_tables.h"

namespace shoal::testing {

struct NamedTable {
  std::string name;
  const FloatOps* ops;
};

// SHOAL_EMULATE_AVX512: the AVX-512 table was compiled over SIMDe and runs anywhere (see float_ops_test.cc).
inline std::vector<NamedTable> tables_here() {
  std::vector<NamedTable> tables = {{"generic", &kFloatOpsGeneric}};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) tables.push_back({"avx2", &kFloatOpsAvx2});
#if defined(SHOAL_EMULATE_AVX512)
  tables.push_back({"avx512", &kFloatOpsAvx512});
#else
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    tables.push_back({"avx512", &kFloatOpsAvx512});
  }
#endif
#elif defined(__aarch64__)
  tables.push_back({"neon", &kFloatOpsNeon});
#endif
  return tables;
}

class Random {  // SplitMix64 (S. Vigna, public domain)
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint64_t>(n)); }
  float uniform(float limit) {  // [-limit, limit)
    return (static_cast<float>(bits() >> 40) * 0x1p-23f - 1.0f) * limit;
  }
  std::vector<float> floats(size_t n, float limit) {
    std::vector<float> v(n);
    for (float& x : v) x = uniform(limit);
    return v;
  }
  // Any finite float: all exponents, denormals, both zeros.
  float any() {
    for (;;) {
      const uint32_t b = static_cast<uint32_t>(bits());
      float x;
      std::memcpy(&x, &b, 4);
      if (std::isfinite(x)) return x;
    }
  }

 private:
  uint64_t state_;
};

// Values at which kernels go wrong, padded with random ones to n.
inline std::vector<float> nasty_floats(size_t n, uint64_t seed) {
  const float infinity_free[] = {
      0.0f,   -0.0f,  1e-45f,  -1e-45f,  1e-39f, 1.17549435e-38f, -1e-38f, 1e-31f,  9e-31f,
      1e-30f, 0.5f,   -0.5f,   1.5f,     2.5f,   -2.5f,           126.5f,  -126.5f, 127.0f,
      -87.0f, -87.1f, -86.9f,  87.0f,    88.9f,  -104.0f,         65504.f, 65519.f, 65520.f,
      1e30f,  -1e30f, 3.4e38f, -3.4e38f, 6e-8f,  2.98e-8f};
  Random random(seed);
  std::vector<float> v;
  for (size_t i = 0; i < n; ++i) {
    const size_t kind = static_cast<size_t>(random.below(3));
    if (kind == 0) {
      v.push_back(infinity_free[random.bits() % std::size(infinity_free)]);
    } else {
      v.push_back(kind == 1 ? random.any() : random.uniform(4.0f));
    }
  }
  return v;
}

// Bit for bit, except that any NaN equals any other.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], 4) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  }
  return true;
}

class Hash {  // 64-bit FNV-1a over the little-endian bytes of the elements
 public:
  template <class T>
  void add(const std::vector<T>& v) {
    for (const T& element : v) {
      unsigned char bytes[sizeof(T)];
      std::memcpy(bytes, &element, sizeof(T));
      for (unsigned char byte : bytes) value_ = (value_ ^ byte) * 0x100000001b3;
    }
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325;
};

// One layer's K and V of `positions` positions in pages of random order, all other slots NaN.
struct PagedKv {
  PagedKv(const FloatOps& ops, Random& random, int n_head_kv, int dim_k, int dim_v, int positions,
          float limit = 1.0f, KvType type = KvType::kF16)
      : type(type),
        k_page_bytes(kv_k_page_bytes(type, n_head_kv, dim_k) + 32),
        v_page_bytes(kv_v_page_bytes(type, n_head_kv, dim_v) + 16) {
    const int n_pages = (positions + kKvPageTokens - 1) / kKvPageTokens;
    for (int i = 0; i < n_pages; ++i) pages.push_back(i + 1);
    for (size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[random.bits() % i]);
    k.assign(k_page_bytes * static_cast<size_t>(n_pages + 1), std::byte{0x7e});
    v.assign(v_page_bytes * static_cast<size_t>(n_pages + 1), std::byte{0x7e});
    for (int t = 0; t < positions; ++t) {
      const std::vector<float> k_row = random.floats(static_cast<size_t>(n_head_kv * dim_k), limit);
      const std::vector<float> v_row = random.floats(static_cast<size_t>(n_head_kv * dim_v), limit);
      const size_t page = static_cast<size_t>(pages[static_cast<size_t>(t / kKvPageTokens)]);
      ops.store_k(type, k_row.data(), n_head_kv, dim_k, t % kKvPageTokens, &k[page * k_page_bytes]);
      ops.store_v(type, v_row.data(), n_head_kv, dim_v, t % kKvPageTokens, &v[page * v_page_bytes]);
    }
  }
  KvPages view() const { return {type, k.data(), v.data(), k_page_bytes, v_page_bytes, pages.data()}; }

  KvType type;
  size_t k_page_bytes, v_page_bytes;
  std::vector<std::byte> k, v;
  std::vector<int32_t> pages;
};

// Dimension d of K and of V of one position of a page, read by the layouts that tensor/float_ops.h states.
inline float half_at(const std::byte* base, size_t index) {
  uint16_t half;
  std::memcpy(&half, base + 2 * index, 2);
  float x;
  kFloatOpsGeneric.f16_to_f32(&half, 1, &x);
  return x;
}
inline float stored_k(KvType type, const std::byte* page, int dim, int head, int t, int d) {
  const size_t block = static_cast<size_t>(head * 2 + t / 16), n = static_cast<size_t>(dim);
  const size_t at = static_cast<size_t>(d * 16 + t % 16);
  if (type == KvType::kF16) return half_at(page, block * n * 16 + at);
  const std::byte* bytes = page + block * (n * 16 + (n + 31) / 32 * 32);
  return static_cast<float>(static_cast<int8_t>(bytes[at])) *
         half_at(bytes + n * 16, static_cast<size_t>(d / 32 * 16 + t % 16));
}
inline float stored_v(KvType type, const std::byte* page, int dim, int head, int t, int d) {
  const size_t n = static_cast<size_t>(dim), blocks = (n + 31) / 32;
  if (type == KvType::kF16)
    return half_at(page, static_cast<size_t>(head * 32 + t) * n + static_cast<size_t>(d));
  const std::byte* bytes = page + static_cast<size_t>(head) * blocks * (32 * 32 + 64);
  return static_cast<float>(static_cast<int8_t>(bytes[(d / 32 * 32 + t) * 32 + d % 32])) *
         half_at(bytes + blocks * 32 * 32, static_cast<size_t>(d / 32 * 32 + t));
}

struct AttentionShape {
  int n_head, n_head_kv, dim_k, dim_v, first, last;
  float soft_cap = 0.0f;
  float bias = 0.0f;  // of scores: bias_at() times this; 0: none is given
};

inline float bias_at(int head, int t) {
  return static_cast<float>((head * 37 + t * 11) % 29 - 14) / 14.0f;
}

// Runs one row with its KV heads split into `parts` calls; checks that scratch beyond the stated size is
// untouched.
inline std::vector<float> attend(const FloatOps& ops, const AttentionShape& shape,
                                 const std::vector<float>& q, const KvPages& kv, int parts = 1,
                                 bool* scratch_kept = nullptr) {
  std::vector<float> out(static_cast<size_t>(shape.n_head * shape.dim_v), 1e9f);
  const size_t floats = attention_scratch_floats(kv.type, shape.n_head, shape.n_head_kv, shape.last);
  std::vector<float> scratch(floats + 16, 12345.0f);
  // Beyond the visible positions it holds what must not count.
  const size_t bias_stride = static_cast<size_t>(shape.last) + 19;
  std::vector<float> bias(bias_stride * static_cast<size_t>(shape.n_head), 1e30f);
  for (int h = 0; h < shape.n_head; ++h) {
    for (int t = shape.first; t < shape.last; ++t)
      bias[static_cast<size_t>(h) * bias_stride + static_cast<size_t>(t)] = shape.bias * bias_at(h, t);
  }
  for (int part = 0; part < parts; ++part) {
    AttentionArgs args = {};
    args.q = q.data();
    args.out = out.data();
    args.kv = kv;
    args.n_head = shape.n_head;
    args.n_head_kv = shape.n_head_kv;
    args.head_dim_k = shape.dim_k;
    args.head_dim_v = shape.dim_v;
    args.first = shape.first;
    args.last = shape.last;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape.dim_k));
    args.soft_cap = shape.soft_cap;
    args.head_kv_begin = shape.n_head_kv * part / parts;
    args.head_kv_end = shape.n_head_kv * (part + 1) / parts;
    args.scratch = scratch.data();
    if (shape.bias != 0.0f) {
      args.bias = bias.data();
      args.bias_stride = bias_stride;
    }
    ops.attention(args);
  }
  if (scratch_kept != nullptr) {
    *scratch_kept = true;
    for (size_t i = floats; i < scratch.size(); ++i) *scratch_kept = *scratch_kept && scratch[i] == 12345.0f;
  }
  return out;
}

}  // namespace shoal::testing
