// Chooses the next token from candidates. Deterministic: the same options, seed, history and logits give the
// same token on every machine: random numbers are xoroshiro128++ (Blackman and Vigna 2019) seeded by
// splitmix64, exp is a polynomial in double with no contraction and no libm. Candidates whose logit is not a
// number are left out. A Sampler belongs to one sequence and one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace shoal {

inline constexpr int kRepeatLastMax = 65536;

struct SamplerOptions {
  float temperature = 0.8f;     // 0: greedy
  int top_k = 40;               // 0: off
  float top_p = 0.95f;          // 1: off
  float min_p = 0.05f;          // 0: off
  float repeat_penalty = 1.0f;  // 1: off; applies to the last repeat_last_n tokens
  float frequency_penalty = 0;
  float presence_penalty = 0;
  int repeat_last_n = 64;  // 0: off
  uint64_t seed = 0;

  void validate() const;  // throws SetupError naming the option and its range
  bool greedy() const { return temperature == 0; }
  // How many best candidates a stage must return so that the choice equals that over the whole vocabulary; 0:
  // all.
  int candidates_needed() const;
};

struct Candidate {
  int32_t token;
  float logit;
};
// Best first, ties by lower id.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  // `candidates`: best first (ties by lower id). The order of steps is llama.cpp's: penalties, top-k, top-p,
  // min-p (both at temperature 1), temperature, draw. Greedy takes the best after penalties, the lower id of
  // equals. -1 when no candidate has a logit that is a number.
  int32_t sample(std::span<const Candidate> candidates);
  void accept(int32_t token);  // adds to the history that penalties look at; prompt tokens too

 private:
  SamplerOptions options_;
  std::vector<int32_t> history_;  // last repeat_last_n tokens
  uint64_t rng_state_[2];
  std::vector<Candidate> work_;
};

}  // namespace shoal
