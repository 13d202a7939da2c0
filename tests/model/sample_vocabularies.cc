#include "tests/model/sample_vocabularies.h"

#include <algorithm>
#include <unordered_set>

#include "model/bpe.h"
#include "tests/model/tokenizer_strings.h"

namespace shoal {

VocabData spm_data() {
  VocabData data;
  data.model = "llama";
  for (const std::string& line : read_fixture_lines("tokenizer_spm_vocab.txt")) {
    const size_t first = line.find('\t'), second = line.find('\t', first + 1);
    data.types.push_back(static_cast<TokenType>(std::stoi(line)));
    data.scores.push_back(std::stof(line.substr(first + 1)));
    data.tokens.push_back(bytes_of_hex(line.substr(second + 1)));
  }
  data.bos = 1;
  data.eos = 2;
  data.unknown = 0;
  return data;
}

VocabData unigram_data(const std::string& name) {
  VocabData data;
  data.model = "t5";
  for (const std::string& line : read_fixture_lines(name)) {
    if (line.starts_with("charsmap: ")) {
      data.charsmap = bytes_of_hex(line.substr(10));
      continue;
    }
    const size_t first = line.find('\t'), second = line.find('\t', first + 1);
    data.types.push_back(static_cast<TokenType>(std::stoi(line)));
    data.scores.push_back(std::stof(line.substr(first + 1)));
    data.tokens.push_back(bytes_of_hex(line.substr(second + 1)));
  }
  return data;
}

VocabData wordpiece_data() {
  VocabData data;
  data.model = "bert";
  for (const std::string& hex : read_fixture_lines("tokenizer_wordpiece.txt"))
    data.tokens.push_back(bytes_of_hex(hex));
  data.types.assign(data.tokens.size(), TokenType::kNormal);
  std::fill_n(data.types.begin(), 5, TokenType::kControl);
  data.padding = 0;
  data.unknown = 1;
  data.bos = 2;
  data.separator = 3;
  return data;
}

void add_merges(VocabData& data, const std::string& fixture) {
  bool merges = true;
  const std::unordered_set<std::string> known(data.tokens.begin(), data.tokens.end());
  for (std::string line : read_fixture_lines(fixture)) {
    if (line == "tokens:") {
      merges = false;
      continue;
    }
    if (merges) {
      data.merges.push_back(line);
      line.erase(line.find(' '), 1);
    }
    if (known.count(line) == 0) data.tokens.push_back(line);
  }
}

VocabData crossing_vocabulary(const std::string& pre) {
  static const VocabData common = [] {
    VocabData data;
    data.model = "gpt2";
    data.add_bos = 0;
    for (int byte = 0; byte < 256; ++byte)
      data.tokens.emplace_back(byte_to_symbol(static_cast<uint8_t>(byte)));
    add_merges(data, "tokenizer_pre_merges.txt");
    return data;
  }();
  VocabData data = common;
  data.pre = pre;
  return data;
}

std::vector<std::pair<std::string, Tokenizer>> all_tokenizers() {
  std::vector<std::pair<std::string, Tokenizer>> all;
  for (const char* pre : kOneOfEachGroup) all.emplace_back(pre, Tokenizer::from(crossing_vocabulary(pre)));
  all.emplace_back("T5", Tokenizer::from(unigram_data("tokenizer_unigram.txt")));
  all.emplace_back("T5 with bytes", Tokenizer::from(unigram_data("tokenizer_unigram_bytes_vocab.txt")));
  all.emplace_back("SentencePiece", Tokenizer::from(spm_data()));
  all.emplace_back("BERT", Tokenizer::from(wordpiece_data()));
  return all;
}

}  // namespace shoal
