#include "node/logit_bias.h"

#include <algorithm>

namespace shoal {

int candidates_for_bias(const LogitBias& bias, int needed) {
  const bool lifts =
      std::any_of(bias.begin(), bias.end(), [](const auto& entry) { return entry.second > 0; });
  return needed == 0 || lifts ? 0 : needed + static_cast<int>(bias.size());
}

std::vector<Candidate> biased(std::span<const Candidate> candidates, const LogitBias& bias) {
  std::vector<Candidate> result(candidates.begin(), candidates.end());
  for (Candidate& candidate : result) {
    for (const auto& [token, added] : bias) {
      if (candidate.token == token) candidate.logit += added;
    }
  }
  std::sort(result.begin(), result.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  });
  return result;
}

}  // namespace shoal
