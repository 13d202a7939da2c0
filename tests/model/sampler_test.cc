#include "model/top_candidates.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "base/error.h"

namespace shoal {
namespace {

// One row through the engine's way.
void top_candidates(std::span<const float> logits, int k, std::vector<Candidate>& out, float& log_sum_exp,
                    const Kernels& kernels = select_kernels(), int threads = 1) {
  static std::map<int, std::unique_ptr<ThreadPool>> pools;
  std::unique_ptr<ThreadPool>& pool = pools[threads];
  if (!pool) pool = std::make_unique<ThreadPool>(threads);
  TopCandidates top(static_cast<int>(logits.size()), 1);
  top.scan(kernels, *pool, logits.data(), 1);
  top.select(0, k, out, log_sum_exp);
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

SamplerOptions plain(float temperature) {
  SamplerOptions o;
  o.temperature = temperature;
  o.top_k = 0;
  o.top_p = 1;
  o.min_p = 0;
  return o;
}

std::vector<Candidate> candidates(const std::vector<float>& logits) {
  std::vector<Candidate> out;
  float lse = 0;
  top_candidates(logits, 0, out, lse);
  return out;
}

std::vector<int32_t> draw(const SamplerOptions& options, const std::vector<Candidate>& from, int n) {
  Sampler sampler(options);
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back(sampler.sample(from));
  return out;
}

// Which tokens can come out at all.
std::vector<int32_t> support(const SamplerOptions& options, const std::vector<Candidate>& from) {
  auto tokens = draw(options, from, 4000);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

const std::vector<float> kLogits = {2.0f, 1.5f, 1.0f, 0.5f, 0.0f, -0.5f, -1.0f, -2.0f};

}  // namespace

TEST_CASE("greedy takes the highest logit, the lower id of equals") {
  Sampler sampler(plain(0));
  CHECK(sampler.sample(candidates({1, 3, 2})) == 1);
  CHECK(sampler.sample(candidates({1, 3, 3})) == 1);
  CHECK(sampler.sample(candidates({-kInf, -kInf})) == 0);
}

TEST_CASE("draws follow xoroshiro128++ seeded by splitmix64") {
  // Computed by a separate program from the published algorithms and libm's exp.
  SamplerOptions options = plain(0.8f);
  options.seed = 42;
  CHECK(draw(options, candidates(kLogits), 24) ==
        std::vector<int32_t>{3, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 0, 2, 4, 0, 1, 0, 0, 0, 2, 1, 0});
  options.temperature = 1.3f;
  options.seed = 7;
  CHECK(draw(options, candidates(kLogits), 24) ==
        std::vector<int32_t>{2, 0, 1, 3, 0, 6, 6, 0, 4, 0, 4, 3, 6, 3, 0, 0, 1, 0, 7, 0, 1, 0, 3, 6});
}

TEST_CASE("frequencies of draws fit the softmax") {
  constexpr int kDraws = 200000;
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    SamplerOptions options = plain(temperature);
    options.seed = 1;
    std::vector<int> counts(kLogits.size());
    for (const int32_t token : draw(options, candidates(kLogits), kDraws)) ++counts[token];
    double total = 0, chi_square = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    for (size_t i = 0; i < kLogits.size(); ++i) {
      const double expected = kDraws * std::exp(kLogits[i] / temperature) / total;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    CHECK(chi_square < 24.3);  // 7 degrees of freedom, probability 0.001
  }
}

TEST_CASE("top-k, top-p and min-p keep what they say") {
  const auto from = candidates(kLogits);
  SamplerOptions options = plain(1);
  options.top_k = 3;
  CHECK(support(options, from) == std::vector<int32_t>{0, 1, 2});
  // Probabilities: 0.403 0.244 0.148 0.090 0.055 0.033 0.020 0.007; the sums 0.403, 0.648, 0.796 ...
  options = plain(1);
  options.top_p = 0.645f;
  CHECK(support(options, from) == std::vector<int32_t>{0, 1});
  options.top_p = 0.65f;
  CHECK(support(options, from) == std::vector<int32_t>{0, 1, 2});
  options.top_p = 1e-6f;
  CHECK(support(options, from) == std::vector<int32_t>{0});
  // Relative to the best: 1 0.607 0.368 0.223 0.135 ...
  options = plain(1);
  options.min_p = 0.3f;
  CHECK(support(options, from) == std::vector<int32_t>{0, 1, 2});
  options.min_p = 1;
  CHECK(support(options, from) == std::vector<int32_t>{0});
  // Both look at temperature 1, as in llama.cpp: a high temperature does not widen them.
  options = plain(10);
  options.min_p = 0.3f;
  CHECK(support(options, from) == std::vector<int32_t>{0, 1, 2});
}

TEST_CASE("penalties by hand") {
  const auto from = candidates({4.0f, 3.0f, -1.0f, -1.5f});
  const auto greedy_after = [&](SamplerOptions options, std::vector<int32_t> history) {
    options.temperature = 0;
    Sampler sampler(options);
    for (const int32_t token : history) sampler.accept(token);
    return sampler.sample(from);
  };
  SamplerOptions options = plain(0);
  options.repeat_penalty = 1.3f;  // 4 / 1.3 = 3.08 > 3
  CHECK(greedy_after(options, {0}) == 0);
  options.repeat_penalty = 1.4f;  // 4 / 1.4 = 2.86 < 3
  CHECK(greedy_after(options, {0}) == 1);
  CHECK(greedy_after(options, {0, 1}) == 0);  // 2.86 and 2.14
  CHECK(greedy_after(options, {}) == 0);
  // A negative logit is multiplied: -1 * 1.6 = -1.6 < -1.5.
  options.repeat_penalty = 1.6f;
  Sampler negative(options);
  negative.accept(2);
  CHECK(negative.sample(candidates({-9.0f, -9.0f, -1.0f, -1.5f})) == 3);

  options = plain(0);
  options.frequency_penalty = 0.4f;  // 4 - 0.4 n
  CHECK(greedy_after(options, {0, 0}) == 0);
  CHECK(greedy_after(options, {0, 0, 0}) == 1);
  options = plain(0);
  options.presence_penalty = 0.9f;  // once, however often
  CHECK(greedy_after(options, {0, 0, 0, 0}) == 0);
  options.presence_penalty = 1.1f;
  CHECK(greedy_after(options, {0}) == 1);
  // The window forgets.
  options.repeat_last_n = 2;
  CHECK(greedy_after(options, {0, 7, 8}) == 0);
  CHECK(greedy_after(options, {7, 0, 8}) == 1);
  options.repeat_last_n = 0;
  CHECK(greedy_after(options, {0}) == 0);
}

TEST_CASE("as many candidates as candidates_needed() give the choice over the whole vocabulary") {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> logits(500);
    for (float& logit : logits)
      logit = static_cast<float>(static_cast<int>(random() % 64)) / 8 - 4;  // many equal
    SamplerOptions options;
    options.temperature = round % 3 == 0 ? 0.0f : 0.9f;
    options.top_k = 1 + static_cast<int>(random() % 20);
    options.repeat_penalty = round % 2 == 0 ? 1.0f : 1.5f;
    options.frequency_penalty = round % 5 == 0 ? 0.5f : 0.0f;
    options.repeat_last_n = 16;
    options.seed = round;
    const int needed = options.candidates_needed();
    REQUIRE(needed > 0);
    Sampler whole(options), part(options);
    for (int step = 0; step < 30; ++step) {
      std::vector<Candidate> all, some;
      float lse_all = 0, lse_some = 0;
      top_candidates(logits, 0, all, lse_all);
      top_candidates(logits, needed, some, lse_some);
      REQUIRE(lse_all == lse_some);
      const int32_t token = whole.sample(all);
      REQUIRE(token == part.sample(some));
      whole.accept(token);
      part.accept(token);
    }
  }
  CHECK(plain(0).candidates_needed() == 1);
  CHECK(plain(1).candidates_needed() == 0);
  CHECK(SamplerOptions().candidates_needed() == 40);
  SamplerOptions options;
  options.presence_penalty = 1;
  CHECK(options.candidates_needed() == 104);
  options.presence_penalty = -1;  // a bonus may lift any token
  CHECK(options.candidates_needed() == 0);
}

TEST_CASE("top_candidates equals a full sort and its log-sum-exp is that of float64") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  for (const size_t n : {1u, 2u, 7u, 8u, 9u, 1000u, 4099u, 49152u}) {
    std::vector<float> logits(n);
    for (float& logit : logits) logit = std::round(normal(random) * 8) / 8;
    std::vector<Candidate> sorted(n);
    for (size_t i = 0; i < n; ++i) sorted[i] = {static_cast<int32_t>(i), logits[i]};
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.logit > b.logit; });
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    for (const int k : {0, 1, 2, 5, 40, 300, 5000}) {
      std::vector<Candidate> out;
      float lse = 0;
      top_candidates(logits, k, out, lse);
      REQUIRE(out.size() == (k == 0 ? n : std::min<size_t>(k, n)));
      for (size_t i = 0; i < out.size(); ++i) {
        REQUIRE(out[i].token == sorted[i].token);
        REQUIRE(out[i].logit == sorted[i].logit);
      }
      CHECK(lse == doctest::Approx(std::log(sum)).epsilon(1e-6));
    }
  }
}

TEST_CASE("candidates and log-sum-exp have the same bits for all tables, threads and rows beside them") {
  constexpr int kVocab = 5003, kRows = 3;
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 6);
  std::vector<float> logits(kVocab * kRows);
  for (float& logit : logits) logit = std::round(normal(random) * 16) / 16 + 1e-3f;
  logits[17] = kNaN;
  logits[kVocab + 5] = -kInf;
  for (int row = 0; row < kRows; ++row) {
    std::vector<Candidate> expected, out;
    float expected_lse = 0, lse = 0;
    const std::span<const float> one(logits.data() + row * kVocab, kVocab);
    top_candidates(one, 10, expected, expected_lse, *available_kernels().front());
    const auto same = [&] {
      CHECK(std::bit_cast<uint32_t>(lse) == std::bit_cast<uint32_t>(expected_lse));
      REQUIRE(out.size() == expected.size());
      for (size_t i = 0; i < out.size(); ++i) {
        CHECK(out[i].token == expected[i].token);
        CHECK(out[i].logit == expected[i].logit);
      }
    };
    for (const Kernels* kernels : available_kernels()) {
      for (const int threads : {1, 3}) {
        top_candidates(one, 10, out, lse, *kernels, threads);
        same();
      }
      ThreadPool pool(2);
      TopCandidates top(kVocab, kRows);
      top.scan(*kernels, pool, logits.data(), kRows);
      top.select(row, 10, out, lse);
      same();
    }
  }
}

TEST_CASE("logits that are no numbers are left out, infinite ones decided") {
  std::vector<Candidate> out;
  float lse = 0;
  for (const int k : {0, 1, 3}) {
    top_candidates(std::vector<float>{kNaN, 1, kNaN, 2, kNaN}, k, out, lse);
    REQUIRE(out.size() == (k == 1 ? 1 : 2));
    CHECK(out[0].token == 3);
    CHECK(lse == doctest::Approx(std::log(std::exp(1.0) + std::exp(2.0))));
  }
  std::vector<float> many(1000, kNaN);
  many[999] = -5;
  top_candidates(many, 10, out, lse);
  CHECK(out.size() == 1);
  CHECK(lse == -5);
  top_candidates(std::vector<float>(1000, kNaN), 10, out, lse);
  CHECK(out.empty());
  CHECK(lse == -kInf);
  top_candidates({}, 4, out, lse);
  CHECK(out.empty());

  for (const float temperature : {0.0f, 1.0f}) {
    SamplerOptions options = plain(temperature);
    options.top_p = 0.9f;
    options.min_p = 0.1f;
    options.presence_penalty = 0.5f;
    Sampler sampler(options);
    sampler.accept(1);
    CHECK(sampler.sample({}) == -1);
    CHECK(sampler.sample(std::vector<Candidate>{{0, kNaN}, {1, kNaN}}) == -1);
    CHECK(sampler.sample(std::vector<Candidate>{{0, kNaN}, {1, 2}, {2, kNaN}}) == 1);
    CHECK(sampler.sample(std::vector<Candidate>{{4, kInf}, {5, 2}}) == 4);
    CHECK(sampler.sample(std::vector<Candidate>{{6, 2}, {7, -kInf}}) == 6);
    CHECK(sampler.sample(std::vector<Candidate>{{1, -kInf}, {8, -kInf}}) >= 1);
    CHECK(sampler.sample(std::vector<Candidate>{{9, 3e38f}, {10, -3e38f}}) == 9);
  }
  SamplerOptions cold = plain(std::numeric_limits<float>::denorm_min());
  CHECK(Sampler(cold).sample(candidates({1, 2, 2})) >= 1);
}

TEST_CASE("options out of range are refused by name") {
  const auto refused = [](auto change, const char* part) {
    SamplerOptions options;
    change(options);
    CHECK_THROWS_WITH_AS(options.validate(), doctest::Contains(part), SetupError);
    CHECK_THROWS_AS(Sampler{options}, SetupError);
  };
  CHECK_NOTHROW(SamplerOptions().validate());
  refused([](auto& o) { o.temperature = -0.1f; }, "--temp (temperature)");
  refused([](auto& o) { o.temperature = kNaN; }, "--temp (temperature)");
  refused([](auto& o) { o.temperature = kInf; }, "--temp (temperature)");
  refused([](auto& o) { o.top_k = -1; }, "--top-k is -1 but");
  refused([](auto& o) { o.top_p = 0; }, "--top-p is");
  refused([](auto& o) { o.top_p = 1.01f; }, "--top-p is");
  refused([](auto& o) { o.top_p = kNaN; }, "--top-p is");
  refused([](auto& o) { o.min_p = -0.01f; }, "--min-p is");
  refused([](auto& o) { o.min_p = 1.01f; }, "--min-p is");
  refused([](auto& o) { o.repeat_penalty = 0; }, "--repeat-penalty is");
  refused([](auto& o) { o.repeat_penalty = kInf; }, "--repeat-penalty is");
  refused([](auto& o) { o.frequency_penalty = kNaN; }, "--frequency-penalty is");
  refused([](auto& o) { o.presence_penalty = 1000; }, "--presence-penalty is");
  refused([](auto& o) { o.repeat_last_n = -1; }, "--repeat-last-n is");
  refused([](auto& o) { o.repeat_last_n = 1 << 20; }, "--repeat-last-n is");
}

TEST_CASE("a seed is an independent stream and repeats itself") {
  SamplerOptions options = plain(1);
  const auto from = candidates(kLogits);
  options.seed = 1;
  const auto first = draw(options, from, 50);
  CHECK(first == draw(options, from, 50));
  options.seed = 2;
  CHECK(first != draw(options, from, 50));
}

TEST_CASE("selecting a few of a large vocabulary is far from a sort's cost") {
  std::mt19937 random(9);
  std::vector<float> logits(256000);
  for (float& logit : logits) logit = static_cast<float>(random() % 100000) / 5000;
  std::vector<Candidate> out;
  float lse = 0;
  const auto seconds = [&](int k) {
    double best = 1e9;
    for (int i = 0; i < 3; ++i) {
      const auto start = std::chrono::steady_clock::now();
      top_candidates(logits, k, out, lse);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  };
  const double few = seconds(40), all = seconds(0);
  MESSAGE("40 of 256000: " << few * 1e3 << " ms, all: " << all * 1e3 << " ms");
  CHECK(few < all);
}

}  // namespace shoal
