#include "node/answer_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace shoal {
namespace {

// `seen`: of each token whether it occurred in this row; all false, before and after.
std::string why_no_candidates(const RowOutput& output, size_t wanted, std::vector<bool>& seen) {
  const std::vector<Candidate>& candidates = output.candidates;
  if (!output.embedding.empty()) return "it has an embedding that nobody asked for";
  wanted = std::min(wanted, seen.size());
  if (candidates.size() < wanted || candidates.size() > seen.size())
    return fmt::format("{} candidates, where {} were asked for", candidates.size(), wanted);
  if (!std::isfinite(output.log_sum_exp)) return "the sum over the vocabulary is not finite";
  if (!std::isfinite(candidates.front().logit)) return "the best logit is not finite";
  std::string wrong;
  size_t good = 0;
  for (; good < candidates.size() && wrong.empty(); ++good) {
    const Candidate& candidate = candidates[good];
    if (candidate.token < 0 || static_cast<size_t>(candidate.token) >= seen.size()) {
      wrong = fmt::format("token {} is not in the vocabulary of {}", static_cast<uint32_t>(candidate.token),
                          seen.size());
    } else if (seen[static_cast<size_t>(candidate.token)]) {
      wrong = fmt::format("token {} occurs twice", candidate.token);
    } else if (good > 0 && !better(candidates[good - 1], candidate)) {
      wrong = "its candidates are not in order, best first";  // NaN is in no order
    } else {
      seen[static_cast<size_t>(candidate.token)] = true;
      continue;
    }
    break;
  }
  for (size_t i = 0; i < good; ++i) seen[static_cast<size_t>(candidates[i].token)] = false;
  return wrong;
}

std::string why_no_embedding(const RowOutput& output, int n_embd) {
  const std::vector<float>& embedding = output.embedding;
  if (!output.candidates.empty()) return "it has candidates where an embedding was asked for";
  if (embedding.empty() || embedding.size() > static_cast<size_t>(n_embd))
    return fmt::format("an embedding of {} numbers", embedding.size());
  if (!std::all_of(embedding.begin(), embedding.end(), [](float x) { return std::isfinite(x); }))
    return "an embedding that is not finite";
  return "";
}

}  // namespace

std::string why_unusable(const StepOutcome& answer, std::span<const AskedRow> asked,
                         const PipelineLayout& layout) {
  if (answer.rows.size() != asked.size())
    return fmt::format("it has {} rows, where {} were asked for", answer.rows.size(), asked.size());
  std::vector<bool> seen(static_cast<size_t>(layout.n_vocab));
  for (size_t i = 0; i < asked.size(); ++i) {
    const RowOutput& output = answer.rows[i];
    if (output.row != asked[i].row)
      return fmt::format("it has row {}, where row {} was asked for", static_cast<uint32_t>(output.row),
                         asked[i].row);
    const std::string wrong = asked[i].embedding ? why_no_embedding(output, layout.n_embd)
                                                 : why_no_candidates(output, asked[i].candidates, seen);
    if (!wrong.empty()) return fmt::format("row {}: {}", output.row, wrong);
  }
  return "";
}

}  // namespace shoal
