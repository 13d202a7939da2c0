#include "model/grammar_filter.h"

#include <cmath>

namespace shoal {

TokenBytes::TokenBytes(const Tokenizer& tokenizer) {
  const auto n = static_cast<size_t>(tokenizer.vocab_size());
  begin_.reserve(n + 1);
  ends_.reserve(n);
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token) {
    begin_.push_back(bytes_.size());
    bytes_ += tokenizer.piece(token);
    ends_.push_back(tokenizer.is_end_of_generation(token));
  }
  begin_.push_back(bytes_.size());
}

std::string_view TokenBytes::of(int32_t token) const {
  const auto index = static_cast<size_t>(token);
  return std::string_view(bytes_).substr(begin_[index], begin_[index + 1] - begin_[index]);
}

std::vector<Candidate> GrammarFilter::allowed(std::span<const Candidate> candidates, int wanted) {
  if (wanted <= 0 || wanted > kGrammarCandidatesMax) wanted = kGrammarCandidatesMax;
  const uint64_t moves_most = matcher_.moves() + kGrammarMovesMax;
  const std::bitset<256> next = matcher_.next_bytes();
  const bool complete = matcher_.complete();
  std::vector<Candidate> kept;
  for (const Candidate& candidate : candidates) {
    if (static_cast<int>(kept.size()) == wanted) break;
    if (!kept.empty() && matcher_.moves() > moves_most) break;
    if (candidate.token < 0 || candidate.token >= grammar_.tokens->size() || std::isnan(candidate.logit))
      continue;
    if (grammar_.tokens->ends(candidate.token)) {
      if (complete) kept.push_back(candidate);
      continue;
    }
    const std::string_view bytes = grammar_.tokens->of(candidate.token);
    if (bytes.empty() || !next[static_cast<uint8_t>(bytes.front())]) continue;
    if (bytes.size() == 1 || matcher_.allows(bytes)) kept.push_back(candidate);
  }
  return kept;
}

void GrammarFilter::accept(int32_t token) {
  matcher_.accept(grammar_.tokens->of(token));
}

}  // namespace shoal
