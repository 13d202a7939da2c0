#include "model/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "base/error.h"

namespace shoal {
namespace {

// exp(x) for x <= 0, in double, with one result on every machine: x = n ln 2 + r with |r| <= ln 2 / 2, then
// the Taylor polynomial of degree 12 (truncation below 2e-16 relative). 0 below -708. Branch-free, so that
// loops vectorise.
inline double exp_nonpositive(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 6.93147180369123816490e-01,
                   kLn2Low = 1.90821492927058770002e-10;  // Cody and Waite
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to the nearest integer
  const double clamped = x < -708.0 ? -708.0 : x;
  const double shifted = clamped * kLog2E + kMagic;
  const double n = shifted - kMagic;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  // The low bits of `shifted` hold n; moved to the exponent's place they are 2^n.
  const double scale = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  return x < -708.0 ? 0.0 : p * scale;
}

uint64_t splitmix64(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// xoroshiro128++.
uint64_t next_random(uint64_t state[2]) {
  const uint64_t s0 = state[0];
  uint64_t s1 = state[1];
  const uint64_t result = std::rotl(s0 + s1, 17) + s0;
  s1 ^= s0;
  state[0] = std::rotl(s0, 49) ^ s1 ^ (s1 << 21);
  state[1] = std::rotl(s1, 28);
  return result;
}

bool penalises(const SamplerOptions& o) {
  return o.repeat_last_n > 0 &&
         (o.repeat_penalty != 1 || o.frequency_penalty != 0 || o.presence_penalty != 0);
}

// Adjusts the logits of candidates that occur in the history and restores the order.
void apply_penalties(const SamplerOptions& o, const std::vector<int32_t>& history,
                     std::vector<Candidate>& work) {
  std::vector<int32_t> sorted(history);
  std::sort(sorted.begin(), sorted.end());
  for (Candidate& candidate : work) {
    const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), candidate.token);
    if (first == last) continue;
    const auto count = static_cast<float>(last - first);
    // Keskar et al. 2019 (CTRL) divide; a negative logit is multiplied, so that it always becomes less
    // likely.
    candidate.logit =
        candidate.logit > 0 ? candidate.logit / o.repeat_penalty : candidate.logit * o.repeat_penalty;
    candidate.logit -= count * o.frequency_penalty + o.presence_penalty;
  }
  std::erase_if(work, [](const Candidate& c) { return std::isnan(c.logit); });  // 0 * inf and inf - inf
  std::sort(work.begin(), work.end(), better);
}

// Keeps the candidates that top-p and min-p keep; the best always. Holtzman et al. 2020 and Nguyen et al.
// 2024.
void truncate_by_probability(const SamplerOptions& o, std::vector<Candidate>& work) {
  const double max = work.front().logit;
  if (o.top_p < 1) {
    double total = 0;
    for (const Candidate& c : work) total += exp_nonpositive(c.logit - max);
    double sum = 0;
    size_t keep = 0;
    while (keep < work.size() && (keep == 0 || sum < o.top_p * total))
      sum += exp_nonpositive(work[keep++].logit - max);
    work.resize(keep);
  }
  if (o.min_p > 0) {
    size_t keep = 1;
    while (keep < work.size() && exp_nonpositive(work[keep].logit - max) >= o.min_p) ++keep;
    work.resize(keep);
  }
}

template <class Number>
void check_range(const char* option, Number value, bool inside, const char* range) {
  if (inside) return;  // false for NaN
  std::ostringstream text;
  text << option << " is " << value << " but must be " << range;
  throw SetupError(text.str());
}

}  // namespace

void SamplerOptions::validate() const {
  check_range("--temp (temperature)", temperature, temperature >= 0 && temperature <= 100,
              "between 0 and 100");
  check_range("--top-k", top_k, top_k >= 0, "0 (off) or more");
  check_range("--top-p", top_p, top_p > 0 && top_p <= 1, "above 0 and at most 1 (off)");
  check_range("--min-p", min_p, min_p >= 0 && min_p <= 1, "between 0 (off) and 1");
  check_range("--repeat-penalty", repeat_penalty, repeat_penalty > 0 && repeat_penalty <= 100,
              "above 0 and at most 100");
  check_range("--frequency-penalty", frequency_penalty, std::abs(frequency_penalty) <= 100,
              "between -100 and 100");
  check_range("--presence-penalty", presence_penalty, std::abs(presence_penalty) <= 100,
              "between -100 and 100");
  check_range("--repeat-last-n", repeat_last_n, repeat_last_n >= 0 && repeat_last_n <= kRepeatLastMax,
              "between 0 (off) and 65536");
}

int SamplerOptions::candidates_needed() const {
  const int wanted = greedy() ? 1 : top_k;
  if (wanted == 0) return 0;
  if (!penalises(*this)) return wanted;
  // A bonus may lift any token; a penalty only drops those of the history, so that many more are enough.
  const bool bonus = repeat_penalty < 1 || frequency_penalty < 0 || presence_penalty < 0;
  if (bonus || wanted > std::numeric_limits<int>::max() - repeat_last_n) return 0;
  return wanted + repeat_last_n;
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  options_.validate();
  uint64_t state = options_.seed;
  for (uint64_t& word : rng_state_) word = splitmix64(state);
}

void Sampler::accept(int32_t token) {
  if (!penalises(options_)) return;
  if (history_.size() == static_cast<size_t>(options_.repeat_last_n)) history_.erase(history_.begin());
  history_.push_back(token);
}

int32_t Sampler::sample(std::span<const Candidate> candidates) {
  work_.clear();
  for (const Candidate& candidate : candidates) {
    if (!std::isnan(candidate.logit)) work_.push_back(candidate);
  }
  if (penalises(options_) && !history_.empty()) apply_penalties(options_, history_, work_);
  if (work_.empty()) return -1;
  if (options_.greedy()) return work_.front().token;
  if (options_.top_k > 0 && work_.size() > static_cast<size_t>(options_.top_k)) work_.resize(options_.top_k);
  // One random number a token, whatever is cut, so that a seed's later draws do not depend on earlier
  // candidates.
  const double random = static_cast<double>(next_random(rng_state_) >> 11) * 0x1p-53;
  if (!std::isfinite(work_.front().logit))
    return work_.front().token;  // infinite: probability 1, or none has any
  truncate_by_probability(options_, work_);

  const double max = work_.front().logit;
  const auto weight = [&](const Candidate& c) {
    return exp_nonpositive((c.logit - max) / options_.temperature);
  };
  double total = 0;
  for (const Candidate& c : work_) total += weight(c);
  double sum = 0;
  for (const Candidate& c : work_) {
    sum += weight(c);
    if (sum > random * total) return c.token;
  }
  return work_.front().token;  // unreachable but for rounding: sum == total > random * total
}

}  // namespace shoal
