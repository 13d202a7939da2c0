// Keeps an answer within a grammar: of the candidates for the next token, those whose bytes the text may go
// on with. An end token is let through once the text is complete. Candidates are tried best first and only as
// many as the sampler can use, after a look at their first byte; within a string that is a few dozen tokens
// of a vocabulary, so that no mask over all of it is needed.
//
// TokenBytes is immutable and safe from several threads. A GrammarFilter belongs to one answer and one
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/json_matcher.h"
#include "model/sampler.h"
#include "model/tokenizer.h"

namespace shoal {

// Of so many of the likeliest allowed tokens one is drawn at most, whatever top-k says.
inline constexpr int kGrammarCandidatesMax = 1000;

// So much work is spent on one token of an answer (JsonMatcher::moves), or until the first allowed one is
// found: some 15 ms. A schema of one meaning takes a tenth for a whole vocabulary; one with many
// alternatives that begin alike must not keep other answers waiting.
inline constexpr uint64_t kGrammarMovesMax = 250'000;

// The bytes of each token of a vocabulary; none for tokens that stand for no text.
class TokenBytes {
 public:
  explicit TokenBytes(const Tokenizer& tokenizer);
  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  std::string_view of(int32_t token) const;
  bool ends(int32_t token) const { return ends_[static_cast<size_t>(token)]; }  // an answer

 private:
  std::string bytes_;
  std::vector<size_t> begin_;  // [n + 1]
  std::vector<bool> ends_;
};

// What an answer is to be.
struct AnswerGrammar {
  std::shared_ptr<const JsonGrammar> json;
  std::shared_ptr<const TokenBytes> tokens;
};

class GrammarFilter {
 public:
  explicit GrammarFilter(AnswerGrammar grammar) : grammar_(std::move(grammar)), matcher_(*grammar_.json) {}

  // The first `wanted` that are allowed, in their order; 0: kGrammarCandidatesMax. Fewer where these many are
  // not found within kGrammarMovesMax, but one at least where there is one.
  std::vector<Candidate> allowed(std::span<const Candidate> candidates, int wanted);
  void accept(int32_t token);                      // one that was allowed and does not end the answer
  bool ended() const { return matcher_.ended(); }  // nothing but the end can follow

 private:
  AnswerGrammar grammar_;
  JsonMatcher matcher_;
};

}  // namespace shoal
