#include "model/grammar_filter.h"

#include <doctest/doctest.h>

#include "model/vocabulary.h"

namespace shoal::test {
namespace {

constexpr int kWords = 6000;  // of four letters each

// "a", "b", quotes and brackets, and kWords words.
std::shared_ptr<const TokenBytes> tokens() {
  VocabData data;
  data.model = "llama";
  data.tokens = {"<unk>", "</s>", "a", "b", "[\""};
  for (int i = 0; i < kWords; ++i) {
    std::string word;
    for (int rest = i, letter = 0; letter < 4; ++letter, rest /= 26)
      word += static_cast<char>('a' + rest % 26);
    data.tokens.push_back(word);
  }
  data.scores.assign(data.tokens.size(), 0.0f);
  data.types.assign(data.tokens.size(), TokenType::kNormal);
  data.types[0] = TokenType::kUnknown, data.types[1] = TokenType::kControl;
  data.unknown = 0, data.eos = 1;
  return std::make_shared<const TokenBytes>(Tokenizer::from(std::move(data)));
}

// So many arrays, of strings of at most three characters, that begin alike.
std::shared_ptr<const JsonGrammar> arrays(int count) {
  JsonGrammar grammar;
  const int root = grammar.add_type(), text = grammar.add_type();
  JsonShape string, array;
  string.kind = JsonShape::Kind::kString, string.most = 3;
  grammar.add_shape(text, string);
  array.kind = JsonShape::Kind::kArray, array.items = text;
  for (int i = 0; i < count; ++i) grammar.add_shape(root, array);
  std::string problem;
  REQUIRE(grammar.finish(root, problem));
  return std::make_shared<const JsonGrammar>(std::move(grammar));
}

// Of the words, which are all too long, with the tokens `first` before and `last` behind them.
std::vector<int32_t> allowed(int alternatives, std::vector<int32_t> first, int32_t last) {
  GrammarFilter filter({arrays(alternatives), tokens()});
  filter.accept(4);
  std::vector<Candidate> candidates;
  for (const int32_t token : first) candidates.push_back({token, 0.0f});
  for (int32_t word = 0; word < kWords; ++word) candidates.push_back({5 + word, 0.0f});
  candidates.push_back({last, 0.0f});
  std::vector<int32_t> kept;
  for (const Candidate& candidate : filter.allowed(candidates, 0)) kept.push_back(candidate.token);
  return kept;
}

}  // namespace

TEST_CASE("a grammar of many meanings takes no more than its share of time") {
  CHECK(allowed(1, {2}, 3) == std::vector<int32_t>{2, 3});
  CHECK(allowed(64, {2}, 3) == std::vector<int32_t>{2});  // not looked for any further
  CHECK(allowed(64, {}, 3) == std::vector<int32_t>{3});   // but until one is found
}

}  // namespace shoal::test
