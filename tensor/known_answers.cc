#include "tensor/known_answers.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include "tensor/aligned_buffer.h"
#include "tensor/float_ops.h"
#include "tensor/format.h"
#include "tensor/known_answers_table.h"
#include "tensor/matmul.h"
#include "tensor/thread_pool.h"
#include "tensor/weight_matrix.h"

namespace shoal {
namespace {

constexpr int kOutputs = 37, kCols = 512;  // a last group that is not full; two 256-wide blocks
constexpr int kRows[] = {1, 5, 11};        // one row, one tile, tiles of different width
constexpr int kElements = 129;             // of a float operation: no multiple of any vector
constexpr int kHeads = 4, kHeadsKv = 2, kHeadDim = 40, kPositions = 70;  // three pages, the last not full
constexpr uint32_t kTypeIdsEnd = 64;

// SplitMix64 (Steele, Lea, Flood 2014).
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  float unit() {
    return static_cast<float>(static_cast<int64_t>(bits()) >> 40) * 0x1p-23f;
  }  // [-1, 1), exact
  std::vector<float> floats(size_t n, float reach = 1) {
    std::vector<float> values(n);
    for (float& value : values) value = reach * unit();
    return values;
  }

 private:
  uint64_t state_;
};

class Digest {
 public:
  template <class T>
  void add(std::span<const T> values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size_bytes(); ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001B3u;
  }
  void add(float value) { add(std::span<const float>(&value, 1)); }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325u;
};

uint64_t product_digest(const Kernels& kernels, ThreadPool& pool, const Format& format) {
  Numbers numbers(static_cast<uint64_t>(format.type) + 1);
  std::vector<std::byte> raw(format.row_bytes(kCols) * kOutputs);
  // Without this bit no half, bfloat or float is infinite or NaN, wherever a format keeps its scales.
  for (std::byte& byte : raw) byte = static_cast<std::byte>(numbers.bits() >> 56 & 0xbf);
  WeightMatrix matrix(format.type, kOutputs, kCols);
  matrix.pack_rows(0, kOutputs, raw);
  Digest digest;
  for (const int rows : kRows) {
    const std::vector<float> x = numbers.floats(static_cast<size_t>(rows) * kCols, 3);
    std::vector<float> y(static_cast<size_t>(rows) * kOutputs);
    ActivationRows activations(rows, kCols);
    activations.assign(kernels, pool, x.data(), kCols, rows, kCols);
    matmul(kernels, pool, activations, {{&matrix, y.data(), kOutputs}});
    digest.add(std::span<const float>(y));
  }
  return digest.value();
}

uint64_t attention_digest(const FloatOps& ops, KvType type) {
  Numbers numbers(77 + static_cast<uint64_t>(type));
  const int pages = (kPositions + kKvPageTokens - 1) / kKvPageTokens;
  const size_t k_bytes = kv_k_page_bytes(type, kHeadsKv, kHeadDim),
               v_bytes = kv_v_page_bytes(type, kHeadsKv, kHeadDim);
  AlignedBuffer k(k_bytes * static_cast<size_t>(pages)), v(v_bytes * static_cast<size_t>(pages));
  std::memset(k.data(), 0, k.size());
  std::memset(v.data(), 0, v.size());
  for (int position = 0; position < kPositions; ++position) {
    const size_t page = static_cast<size_t>(position / kKvPageTokens);
    ops.store_k(type, numbers.floats(kHeadsKv * kHeadDim).data(), kHeadsKv, kHeadDim,
                position % kKvPageTokens, k.data() + page * k_bytes);
    ops.store_v(type, numbers.floats(kHeadsKv * kHeadDim).data(), kHeadsKv, kHeadDim,
                position % kKvPageTokens, v.data() + page * v_bytes);
  }
  const int32_t order[] = {0, 1, 2};
  AlignedBuffer q(sizeof(float) * kHeads * kHeadDim), out(sizeof(float) * kHeads * kHeadDim),
      scratch(sizeof(float) * attention_scratch_floats(type, kHeads, kHeadsKv, kPositions));
  const std::vector<float> asked = numbers.floats(kHeads * kHeadDim, 2);
  std::copy(asked.begin(), asked.end(), q.as<float>());
  Digest digest;
  for (const auto& [first, soft_cap] : {std::pair(0, 0.0f), std::pair(13, 20.0f)}) {
    AttentionArgs args{};
    args.q = q.as<float>();
    args.out = out.as<float>();
    args.kv = {type, k.data(), v.data(), k_bytes, v_bytes, order};
    args.n_head = kHeads;
    args.n_head_kv = kHeadsKv;
    args.head_dim_k = args.head_dim_v = kHeadDim;
    args.first = first;
    args.last = kPositions;
    args.scale = 0.15625f;
    args.soft_cap = soft_cap;
    args.head_kv_begin = 0;
    args.head_kv_end = kHeadsKv;
    args.scratch = scratch.as<float>();
    ops.attention(args);
    digest.add(std::span<const float>(out.as<float>(), kHeads * kHeadDim));
  }
  return digest.value();
}

uint64_t rope_digest(const FloatOps& ops) {
  Numbers numbers(5);
  Digest digest;
  double frequencies[kHeadDim / 2];
  float cos[kHeadDim / 2], sin[kHeadDim / 2];
  rope_frequencies({}, kHeadDim, nullptr, frequencies);
  rope_angles(1234, frequencies, kHeadDim / 2, 1, cos, sin);
  for (const bool interleaved : {false, true}) {
    std::vector<float> x = numbers.floats(kHeads * kHeadDim);
    ops.rope(x.data(), kHeads, kHeadDim, kHeadDim, interleaved, cos, sin);
    digest.add(std::span<const float>(x));
  }
  return digest.value();
}

uint64_t quantize_digest(const FloatOps& ops) {
  const std::vector<float> x = Numbers(9).floats(kCols, 4);
  std::vector<int8_t> q(kCols);
  std::vector<float> scale(kCols / kQuantBlock);
  std::vector<int32_t> sum(kCols / kQuantBlock);
  ops.quantize(x.data(), kCols, q.data(), scale.data(), sum.data());
  Digest digest;
  digest.add(std::span<const int8_t>(q));
  digest.add(std::span<const float>(scale));
  digest.add(std::span<const int32_t>(sum));
  return digest.value();
}

// What `compute` makes of x in place; y and z are its other operands.
template <class Compute>
uint64_t in_place(uint64_t seed, float reach, Compute compute) {
  Numbers numbers(seed);
  std::vector<float> x = numbers.floats(kElements, reach);
  const std::vector<float> y = numbers.floats(kElements, reach), z = numbers.floats(kElements);
  compute(x.data(), y.data(), z.data());
  Digest digest;
  digest.add(std::span<const float>(x));
  return digest.value();
}

uint64_t halves_digest(const FloatOps& ops) {
  std::vector<float> x = Numbers(31).floats(kElements, 70000), back(kElements);
  std::vector<uint16_t> halves(kElements);
  ops.f32_to_f16(x.data(), kElements, halves.data());
  ops.f16_to_f32(halves.data(), kElements, back.data());
  Digest digest;
  digest.add(std::span<const uint16_t>(halves));
  digest.add(std::span<const float>(back));
  return digest.value();
}

uint64_t softmax_digest(const FloatOps& ops) {
  const std::vector<float> x = Numbers(32).floats(kElements, 30);
  Digest digest;
  const float highest = ops.largest(x.data(), kElements);
  digest.add(highest);
  digest.add(ops.sum_of_exps(x.data(), highest, kElements));
  return digest.value();
}

}  // namespace

std::vector<KnownAnswer> answers_of(const Kernels& kernels) {
  const FloatOps& ops = *kernels.floats;
  ThreadPool pool(1);
  std::vector<KnownAnswer> answers;
  for (uint32_t id = 0; id < kTypeIdsEnd; ++id) {
    if (const Format* format = find_format(id))
      answers.push_back({format->name, product_digest(kernels, pool, *format)});
  }
  answers.push_back({"attention over f16", attention_digest(ops, KvType::kF16)});
  answers.push_back({"attention over q8_0", attention_digest(ops, KvType::kQ8_0)});
  answers.push_back({"rope", rope_digest(ops)});
  answers.push_back({"quantize", quantize_digest(ops)});
  answers.push_back({"halves", halves_digest(ops)});
  answers.push_back({"softmax", softmax_digest(ops)});
  constexpr int n = kElements;
  const auto add = [&](const char* what, float reach, auto compute) {
    answers.push_back({what, in_place(answers.size(), reach, compute)});
  };
  add("rms_norm", 2, [&](float* x, const float* y, const float* z) { ops.rms_norm(y, z, 1e-5f, n, x); });
  add("layer_norm", 2,
      [&](float* x, const float* y, const float* z) { ops.layer_norm(x, y, z, 1e-5f, n, x); });
  add("silu_mul", 9, [&](float* x, const float* y, const float*) { ops.silu_mul(x, y, n); });
  add("gelu_mul", 5, [&](float* x, const float* y, const float*) { ops.gelu_mul(x, y, n); });
  add("gelu", 5, [&](float* x, const float*, const float*) { ops.gelu(x, n); });
  add("add", 2, [&](float* x, const float* y, const float*) { ops.add(x, y, n); });
  add("add_scaled", 2, [&](float* x, const float* y, const float*) { ops.add_scaled(x, y, 0.7f, n); });
  add("scale", 2, [&](float* x, const float*, const float*) { ops.scale(x, 0.7f, n); });
  add("soft_cap", 90, [&](float* x, const float*, const float*) { ops.soft_cap(x, 30, n); });
  return answers;
}

std::string wrong_answer(const Kernels& kernels) {
  if (std::string_view(kernels.numeric_class) != "exact") return "";
  for (const KnownAnswer& answer : answers_of(kernels)) {
    const auto known =
        std::find_if(std::begin(kKnownAnswers), std::end(kKnownAnswers),
                     [&](const KnownAnswer& k) { return std::string_view(k.what) == answer.what; });
    if (known != std::end(kKnownAnswers) && known->digest == answer.digest) continue;
    return std::string("the kernels ") + kernels.name + " compute " + answer.what + " wrongly here";
  }
  return "";
}

}  // namespace shoal
