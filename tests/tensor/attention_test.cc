// Attention of every table: bits equal to the generic table, values close to a double reference, no
// dependence on pages, head splits or anything outside the visible positions.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/tensor/float_ops_testing.h"

namespace shoal::testing {
namespace {

const std::vector<AttentionShape> kShapes = {
    {9, 3, 64, 64, 0, 1},          {9, 3, 64, 64, 0, 37},         {9, 3, 64, 64, 0, 512},
    {32, 4, 64, 64, 0, 100},       {14, 2, 64, 64, 0, 65},        {4, 4, 40, 40, 0, 33},
    {6, 1, 80, 96, 0, 48},         {5, 1, 72, 7, 0, 31},          {8, 1, 128, 128, 0, 130},
    {7, 1, 33, 17, 0, 32},         {1, 1, 8, 8, 0, 16},           {1, 1, 1, 1, 0, 3},
    {2, 1, 256, 256, 0, 20},       {12, 2, 24, 56, 0, 64},        {11, 1, 16, 100, 0, 47},
    {13, 1, 16, 33, 0, 47},        {9, 3, 64, 64, 5, 37},         {9, 3, 64, 64, 300, 428},
    {4, 2, 64, 64, 47, 48},        {4, 2, 64, 64, 16, 32},        {4, 2, 64, 64, 31, 33},
    {8, 4, 256, 256, 0, 50, 50.f}, {4, 1, 32, 32, 9, 77, 30.f},   {16, 1, 64, 64, 0, 40},
    {6, 6, 64, 64, 0, 75, 0, 3.f}, {9, 3, 64, 64, 5, 37, 0, 2.f}, {16, 1, 32, 40, 0, 33, 0, 1.f},
};

constexpr KvType kTypes[] = {KvType::kF16, KvType::kQ8_0};

struct Case {
  AttentionShape shape;
  KvType type;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const AttentionShape& shape : kShapes) {
    for (const KvType type : kTypes) cases.push_back({shape, type});
  }
  return cases;
}

std::vector<float> wide_queries(Random& random, const AttentionShape& shape) {
  return random.floats(static_cast<size_t>(shape.n_head * shape.dim_k), 3.0f);
}

// One output and the bound that rounding may move it by.
struct Expected {
  double value, tolerance;
};

// Attention in double over the stored halves, following the definition and no order of the kernels'.
std::vector<Expected> reference(const AttentionShape& s, const std::vector<float>& q, const PagedKv& kv) {
  const double unit = std::ldexp(1.0, -24);  // relative error of one rounding to f32
  const auto page = [&](int t) {
    return static_cast<size_t>(kv.pages[static_cast<size_t>(t / kKvPageTokens)]);
  };
  std::vector<Expected> out;
  for (int h = 0; h < s.n_head; ++h) {
    const int h_kv = h / (s.n_head / s.n_head_kv);
    std::vector<double> weights;
    double score_error = 0, highest = -1e300, sum = 0;
    for (int t = s.first; t < s.last; ++t) {
      const int slot = t % kKvPageTokens;
      double dot = 0, size = 0;
      for (int d = 0; d < s.dim_k; ++d) {
        const float k = stored_k(kv.type, &kv.k[page(t) * kv.k_page_bytes], s.dim_k, h_kv, slot, d);
        const double product = static_cast<double>(q[static_cast<size_t>(h * s.dim_k + d)]) * k;
        dot += product;
        size += std::abs(product);
      }
      const double scale = 1.0f / std::sqrt(static_cast<float>(s.dim_k));
      double score = dot * scale + s.bias * bias_at(h, t);
      score_error = std::max(score_error, (s.dim_k + 4) * unit * size * scale + unit * std::abs(score));
      if (s.soft_cap != 0.0f) score = s.soft_cap * std::tanh(score / s.soft_cap);
      weights.push_back(score);
      highest = std::max(highest, score);
    }
    score_error += 3e-7 * s.soft_cap;
    for (double& w : weights) sum += w = std::exp(w - highest);
    for (int d = 0; d < s.dim_v; ++d) {
      double y = 0, size = 0;
      for (int t = s.first; t < s.last; ++t) {
        const float v =
            stored_v(kv.type, &kv.v[page(t) * kv.v_page_bytes], s.dim_v, h_kv, t % kKvPageTokens, d);
        const double term = weights[static_cast<size_t>(t - s.first)] / sum * v;
        y += term;
        size += std::abs(term);
      }
      // Scores move weights and their sum by up to score_error each (twice: the maximum moves too); exp is
      // good to 2e-7; sums of n terms.
      const int n = s.last - s.first;
      out.push_back({y, size * (4 * score_error + 4e-7 + (2 * n + 5) * unit) + 1e-12});
    }
  }
  return out;
}

TEST_CASE("attention: every table has the generic table's bits, whatever the split") {
  for (const auto& [shape, type] : all_cases()) {
    Random random(static_cast<uint64_t>(shape.n_head * 1000 + shape.last));
    const PagedKv kv(kFloatOpsGeneric, random, shape.n_head_kv, shape.dim_k, shape.dim_v, shape.last, 1.0f,
                     type);
    const std::vector<float> q = wide_queries(random, shape);
    const std::vector<float> expected = attend(kFloatOpsGeneric, shape, q, kv.view());
    for (float y : expected) REQUIRE(std::isfinite(y));
    for (const NamedTable& table : tables_here()) {
      CAPTURE(table.name);
      CAPTURE(shape.n_head);
      CAPTURE(shape.dim_v);
      CAPTURE(shape.last);
      bool scratch_kept = false;
      CHECK(same_bits(attend(*table.ops, shape, q, kv.view(), 1, &scratch_kept), expected));
      CHECK(scratch_kept);
      CHECK(same_bits(attend(*table.ops, shape, q, kv.view(), shape.n_head_kv), expected));
    }
  }
}

TEST_CASE("attention: close to a double reference within the bound of its roundings") {
  for (const auto& [shape, type] : all_cases()) {
    Random random(static_cast<uint64_t>(shape.n_head * 77 + shape.last));
    const PagedKv kv(kFloatOpsGeneric, random, shape.n_head_kv, shape.dim_k, shape.dim_v, shape.last, 1.0f,
                     type);
    const std::vector<float> q = wide_queries(random, shape);
    const std::vector<Expected> expected = reference(shape, q, kv);
    for (const NamedTable& table : tables_here()) {
      const std::vector<float> out = attend(*table.ops, shape, q, kv.view());
      double worst = 0;  // in units of the tolerance
      for (size_t i = 0; i < out.size(); ++i) {
        REQUIRE(expected[i].tolerance < 1e-3);  // the bound says something
        worst = std::max(worst, std::abs(out[i] - expected[i].value) / expected[i].tolerance);
      }
      CAPTURE(table.name);
      CAPTURE(shape.n_head);
      CAPTURE(shape.last);
      CHECK(worst <= 1.0);
    }
  }
}

TEST_CASE("attention: where pages lie and what else they hold does not matter") {
  const AttentionShape shape = {6, 2, 64, 40, 21, 150};
  for (const NamedTable& table : tables_here())
    for (const KvType type : kTypes) {
      CAPTURE(table.name);
      Random first(5), second(5);
      PagedKv a(*table.ops, first, 2, 64, 40, 150, 1.0f, type);
      PagedKv b = a;
      // b: pages in reverse places, and other numbers before the window and after the end.
      const size_t n_pages = a.pages.size();
      for (size_t p = 0; p < n_pages; ++p) {
        const size_t from = static_cast<size_t>(a.pages[p]), to = n_pages - p;
        b.pages[p] = static_cast<int32_t>(to);
        std::copy_n(&a.k[from * a.k_page_bytes], a.k_page_bytes, &b.k[to * a.k_page_bytes]);
        std::copy_n(&a.v[from * a.v_page_bytes], a.v_page_bytes, &b.v[to * a.v_page_bytes]);
      }
      const std::vector<float> loud(128, 60000.0f);
      for (int t = 0; t < 160; ++t) {
        if (t >= shape.first && t < shape.last) continue;
        const size_t page = static_cast<size_t>(b.pages[static_cast<size_t>(t / kKvPageTokens)]);
        table.ops->store_k(type, loud.data(), 2, 64, t % kKvPageTokens, &b.k[page * b.k_page_bytes]);
        table.ops->store_v(type, loud.data(), 2, 40, t % kKvPageTokens, &b.v[page * b.v_page_bytes]);
      }
      const std::vector<float> q = Random(8).floats(6 * 64, 3.0f);
      const std::vector<float> expected = attend(*table.ops, shape, q, a.view());
      CHECK(same_bits(attend(*table.ops, shape, q, b.view()), expected));
      AttentionShape wider = shape;
      wider.first = 20;  // and that a visible position does matter
      CHECK_FALSE(same_bits(attend(*table.ops, wider, q, b.view()), expected));
    }
}

TEST_CASE("attention: extreme scores") {
  const AttentionShape shape = {3, 1, 64, 64, 0, 70};
  KvType type = KvType::kF16;
  SUBCASE("f16") {}
  SUBCASE("q8_0") {
    type = KvType::kQ8_0;
  }
  Random random(12);
  const PagedKv kv(kFloatOpsGeneric, random, 1, 64, 64, 70, 1000.0f, type);
  for (float limit : {0.0f, 1e-44f, 1e-20f, 1e4f, 1e30f}) {
    const std::vector<float> q = random.floats(3 * 64, limit);
    for (float cap : {0.0f, 20.0f}) {
      AttentionShape capped = shape;
      capped.soft_cap = cap;
      const std::vector<float> expected = attend(kFloatOpsGeneric, capped, q, kv.view());
      for (float y : expected) CHECK(std::abs(y) <= 1001.0f);  // an average of values, NaN fails
      for (const NamedTable& table : tables_here()) {
        CAPTURE(table.name);
        CAPTURE(limit);
        CHECK(same_bits(attend(*table.ops, capped, q, kv.view()), expected));
      }
    }
  }
}

// One of K's, V's or a query's elements is no finite number.
struct Broken {
  enum class Where { kQ, kK, kV };
  AttentionShape shape;
  KvType type;
  Where where;
  int head_kv, t;
  float bad;

  std::vector<float> attend_with(const FloatOps& ops) const {
    Random random(31);
    const int positions = shape.last + 2;
    PagedKv kv(ops, random, shape.n_head_kv, shape.dim_k, shape.dim_v, positions, 1.0f, type);
    std::vector<float> q = wide_queries(random, shape);
    if (where == Where::kQ) {
      q[static_cast<size_t>((head_kv * shape.n_head / shape.n_head_kv) * shape.dim_k + shape.dim_k - 1)] =
          bad;
    } else {
      const bool is_k = where == Where::kK;
      const int dim = is_k ? shape.dim_k : shape.dim_v;
      std::vector<float> row = random.floats(static_cast<size_t>(shape.n_head_kv * dim), 1.0f);
      row[static_cast<size_t>(head_kv * dim + dim - 1)] = bad;
      const size_t page = static_cast<size_t>(kv.pages[static_cast<size_t>(t / kKvPageTokens)]);
      if (is_k)
        ops.store_k(type, row.data(), shape.n_head_kv, dim, t % kKvPageTokens, &kv.k[page * kv.k_page_bytes]);
      if (!is_k)
        ops.store_v(type, row.data(), shape.n_head_kv, dim, t % kKvPageTokens, &kv.v[page * kv.v_page_bytes]);
    }
    return attend(ops, shape, q, kv.view());
  }
};

TEST_CASE("attention: what is not finite in a query, a key or a value comes out, and nowhere else") {
  using Where = Broken::Where;
  const float inf = std::numeric_limits<float>::infinity();
  float odd, signalling;  // NaNs whose bits a sum in integers would turn into numbers
  const uint32_t odd_bits = 0x7fc00080, signalling_bits = 0xff800040;
  std::memcpy(&odd, &odd_bits, 4);
  std::memcpy(&signalling, &signalling_bits, 4);
  for (const NamedTable& table : tables_here()) {
    for (const KvType type : kTypes) {
      for (const float cap : {0.0f, 20.0f}) {
        for (const Where where : {Where::kQ, Where::kK, Where::kV}) {
          for (const float bad : {std::numeric_limits<float>::quiet_NaN(), odd, signalling, inf, -inf}) {
            if (where == Where::kK && type == KvType::kF16 && std::isinf(bad))
              continue;  // as attention_impl.h says
            // Of a query all positions of whole blocks: one that is not seen makes a NaN of its own.
            const bool whole_blocks = where == Where::kQ;
            const AttentionShape shape = {6, 2, 40, 72, whole_blocks ? 0 : 3, whole_blocks ? 48 : 50, cap};
            CAPTURE(table.name);
            CAPTURE(static_cast<int>(type));
            CAPTURE(cap);
            CAPTURE(static_cast<int>(where));
            CAPTURE(bad);
            const Broken seen{shape, type, where, 1, 17, bad};
            const std::vector<float> out = seen.attend_with(*table.ops);
            // The last output of the first head that shares the second KV head, and all outputs of the first.
            CHECK_FALSE(std::isfinite(out[4 * 72 - 1]));
            for (size_t i = 0; i < 3 * 72; ++i) CHECK(std::isfinite(out[i]));
            if (where == Where::kQ) continue;
            Broken beyond = seen, unbroken = seen;
            beyond.t = 51;
            unbroken.t = 51;
            unbroken.bad = 0.5f;
            CHECK(same_bits(beyond.attend_with(*table.ops), unbroken.attend_with(*table.ops)));
          }
        }
      }
    }
  }
}

TEST_CASE("attention: no visible position gives zeros") {
  Random random(3);
  const PagedKv kv(kFloatOpsGeneric, random, 1, 16, 16, 20);
  const std::vector<float> q = random.floats(2 * 16, 1.0f);
  for (const NamedTable& table : tables_here()) {
    const std::vector<float> out = attend(*table.ops, {2, 1, 16, 16, 17, 17}, q, kv.view());
    CHECK(out == std::vector<float>(32, 0.0f));
  }
}

}  // namespace
}  // namespace shoal::testing
