#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "base/error.h"
#include "model/bpe.h"
#include "model/charsmap.h"
#include "model/pretokenizer.h"
#include "model/tokenizer.h"
#include "model/ugm.h"
#include "model/unicode.h"
#include "model/utf8.h"
#include "model/vocabulary.h"
#include "model/wpm.h"
#include "tests/model/sample_vocabularies.h"
#include "tests/model/tokenizer_strings.h"

namespace shoal {
namespace {

// "a" and "b" of score -1, "ab" of -3, "▁" of -2, a user-defined "<u>".
VocabData tiny_unigram() {
  VocabData data;
  data.model = "t5";
  data.tokens = {"<pad>", "</s>", "<unk>", "▁", "a", "b", "ab", "<u>"};
  data.scores = {0, 0, 0, -2, -1, -1, -3, 0};
  data.types = {TokenType::kControl, TokenType::kControl, TokenType::kUnknown, TokenType::kNormal,
                TokenType::kNormal,  TokenType::kNormal,  TokenType::kNormal,  TokenType::kUserDefined};
  return data;
}

std::string random_bytes(uint64_t& state) {
  std::string text;
  for (uint64_t left = splitmix64(state) % 40; left > 0; --left) {
    // Half of them bytes of UTF-8's longer forms, so that forms get cut and broken.
    const uint64_t draw = splitmix64(state);
    text += static_cast<char>(draw % 2 == 0 ? 0x80 + (draw >> 8) % 0x80 : (draw >> 8) % 0x80);
  }
  return text;
}

}  // namespace

TEST_CASE("unigram ids equal SentencePiece's, with and without space prefix and merging of spaces") {
  for (const char* flags : {"11", "10", "01", "00"}) {
    VocabData data = unigram_data("tokenizer_unigram.txt");
    data.add_space_prefix = flags[0] == '1';
    data.remove_extra_whitespaces = flags[1] == '1';
    const Tokenizer tokenizer = Tokenizer::from(std::move(data));
    CHECK(check_digests(std::string("tokenizer_unigram_") + flags + ".txt",
                        [&](std::string_view text) { return tokenizer.encode(text, false, false); }) >= 1500);
  }
}

TEST_CASE("unigram ids with byte fallback equal SentencePiece's, and come back") {
  const Tokenizer tokenizer = Tokenizer::from(unigram_data("tokenizer_unigram_bytes_vocab.txt"));
  CHECK(check_digests("tokenizer_unigram_bytes.txt",
                      [&](std::string_view text) { return tokenizer.encode(text, false, false); }) >= 1500);
  CHECK(tokenizer.decode(tokenizer.encode("Ꙁ 𒀀 the", false, false)) == "Ꙁ 𒀀 the");
}

TEST_CASE("WordPiece ids equal those of Hugging Face's tokenizers") {
  const auto check = [](const char* name, int lower_case, int strip_accents) {
    VocabData data = wordpiece_data();
    data.lower_case = lower_case;
    data.strip_accents = strip_accents;
    const Tokenizer tokenizer = Tokenizer::from(std::move(data));
    CHECK(check_digests(name, [&](std::string_view text) { return tokenizer.encode(text, false, false); }) >=
          1460);
  };
  check("tokenizer_wordpiece_uncased.txt", -1, -1);
  check("tokenizer_wordpiece_cased.txt", 0, -1);
  check("tokenizer_wordpiece_accents.txt", 1, 0);
}

TEST_CASE(
    "ids under every group of pre-tokenizers equal those of llama.cpp or of the published expressions") {
  std::set<std::string> groups;
  for (const char* name : kOneOfEachGroup) {
    groups.insert(std::string(PreTokenizer(name).group()));
    const Tokenizer tokenizer = Tokenizer::from(crossing_vocabulary(name));
    CHECK(check_digests("tokenizer_pre_" + std::string(name) + ".txt",
                        [&](std::string_view text) { return tokenizer.encode(text, false, false); }) >= 1500);
  }
  for (const std::string& name : PreTokenizer::known_names())
    CHECK_MESSAGE(groups.contains(std::string(PreTokenizer(name).group())), name);
}

TEST_CASE("unigram: the best sum of scores wins, runs without a token are one unknown") {
  const Tokenizer tokenizer = Tokenizer::from(tiny_unigram());
  CHECK(tokenizer.encode("ab", false, false) == std::vector<int32_t>{3, 4, 5});  // -2 before -3
  CHECK(tokenizer.encode("  a  b ", false, false) == std::vector<int32_t>{3, 4, 3, 5});
  CHECK(tokenizer.encode("a你好b", false, false) == std::vector<int32_t>{3, 4, 2, 5});
  CHECK(tokenizer.encode("a\xff\xff", false, false) == std::vector<int32_t>{3, 4, 2});
  CHECK(tokenizer.encode("", false, false).empty());
  CHECK(tokenizer.encode("   ", false, false).empty());
  CHECK(tokenizer.decode({3, 4, 3, 5}) == "a b");
  CHECK(tokenizer.encode("<u>a", false, false) == std::vector<int32_t>{7, 3, 4});
  CHECK(tokenizer.encode("</s>", false, false) == std::vector<int32_t>{3, 2});
  CHECK(tokenizer.encode("</s>", true, false) == std::vector<int32_t>{1});

  // An input of an encoder ends with EOS unless the file says otherwise.
  CHECK(tokenizer.encode_input("a") == std::vector<int32_t>{3, 4, 1});
  CHECK(tokenizer.encode_input("") == std::vector<int32_t>{1});
  CHECK(tokenizer.eos() == 1);
  CHECK(tokenizer.padding() == 0);
  CHECK_FALSE(tokenizer.adds_bos());
  CHECK(tokenizer.is_end_of_generation(1));
  VocabData data = tiny_unigram();
  data.add_eos = 0;
  CHECK(Tokenizer::from(std::move(data)).encode_input("a") == std::vector<int32_t>{3, 4});
}

TEST_CASE(
    "a pair for a cross-encoder: each text ended, one beginning, and RoBERTa's second separator if asked "
    "for") {
  for (const int add_sep : {-1, 0, 1}) {
    CAPTURE(add_sep);
    VocabData data = tiny_unigram();
    data.bos = 0, data.add_bos = 1, data.add_sep = add_sep;
    const Tokenizer tokenizer = Tokenizer::from(std::move(data));
    const std::vector<int32_t> want = add_sep == 1 ? std::vector<int32_t>{0, 3, 4, 1, 1, 3, 5, 1}
                                                   : std::vector<int32_t>{0, 3, 4, 1, 3, 5, 1};
    CHECK(tokenizer.encode_pair("a", "b") == want);
  }
}

TEST_CASE("unigram: a long run takes linear time") {
  const Tokenizer tokenizer = Tokenizer::from(tiny_unigram());
  CHECK(tokenizer.encode(std::string(1 << 20, 'a'), false, false).size() == (1 << 20) + 1);
}

TEST_CASE("WordPiece: longest match from the left, unknown words, [CLS] and [SEP]") {
  VocabData data;
  data.model = "bert";
  data.tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "aff", "able", "▁a", "▁,", "▁你", "▁"};
  data.types.assign(data.tokens.size(), TokenType::kNormal);
  std::fill_n(data.types.begin(), 4, TokenType::kControl);
  data.padding = 0;
  data.unknown = 1;
  data.bos = 2;
  data.separator = 3;
  const Tokenizer tokenizer = Tokenizer::from(std::move(data));
  CHECK(tokenizer.encode_input("Únaffable, a你") == std::vector<int32_t>{2, 4, 5, 6, 8, 7, 9, 3});
  CHECK(tokenizer.encode("aaa", false, false) == std::vector<int32_t>{1});
  CHECK(tokenizer.encode("aff", false, false) == std::vector<int32_t>{1});  // only inside a word
  CHECK(tokenizer.encode("un\u200b\x01\xff"
                         "able",
                         false, false) == std::vector<int32_t>{4, 6});
  CHECK(tokenizer.encode("[SEP]", false, false) == std::vector<int32_t>{1, 1, 1});
  CHECK(tokenizer.encode("a[SEP]a", true, false) == std::vector<int32_t>{7, 3, 7});
  CHECK(tokenizer.encode(std::string(101, 'a'), false, false) == std::vector<int32_t>{1});
  CHECK(tokenizer.decode(tokenizer.encode("unaffable a", false, false)) == "unaffable a");
}

TEST_CASE("characters: the properties that WordPiece normalises by") {
  CHECK(is_punctuation(U'¿'));
  CHECK_FALSE(is_punctuation(U'$'));
  CHECK(is_nonspacing_mark(0x301));
  CHECK(is_control_or_format(0x200B));
  CHECK_FALSE(is_control_or_format(U'a'));
  CHECK(to_lower(U'É') == U'é');
  CHECK(to_lower(U'Ā') == U'ā');
  CHECK(to_lower(U'ā') == U'ā');
  CHECK(to_lower(0x10FFFF) == 0x10FFFF);
  char32_t parts[3];
  CHECK(decompose_without_marks(U'ệ', parts) == 1);
  CHECK(parts[0] == U'e');
  CHECK(decompose_without_marks(0xD55C, parts) == 3);  // 한
  CHECK(parts[2] == 0x11AB);
  CHECK(decompose_without_marks(0xAC00, parts) == 2);
  CHECK(decompose_without_marks(0x301, parts) == 0);
  CHECK(decompose_without_marks(0x344, parts) == 0);
}

TEST_CASE("a damaged normalisation table is refused, or replaces within its bounds") {
  const std::string good = unigram_data("tokenizer_unigram.txt").charsmap;
  size_t length = 0;
  const CharsMap map(good);
  CHECK(map.replacement("ﬁx", length) == "fi");
  CHECK(length == 3);
  CHECK(map.replacement("e\u0301", length) == "é");
  CHECK(length == 3);
  CHECK(map.replacement("e", length).empty());
  CHECK(length == 0);
  CHECK(CharsMap("").replacement("ﬁ", length).empty());
  CHECK_THROWS_WITH_AS(CharsMap("ab"), doctest::Contains("precompiled_charsmap"), SetupError);
  CHECK_THROWS_WITH_AS(CharsMap(std::string("\x04\x00\x00\x00", 4)), doctest::Contains("does not fit"),
                       SetupError);
  uint64_t state = 5;
  int refused = 0;
  bool in_bounds = true;
  for (int i = 0; i < 1000; ++i) {
    std::string bad = good;
    if (i % 4 == 0) bad.resize(1 + splitmix64(state) % (bad.size() - 1));
    for (uint64_t n = splitmix64(state) % 5; n > 0; --n)
      bad[splitmix64(state) % bad.size()] = static_cast<char>(splitmix64(state));
    try {
      const CharsMap hostile(bad);
      for (size_t s = 0; s < 40; ++s) {
        const std::string& text = fixture_strings()[s * 38 % fixture_strings().size()];
        for (size_t at = 0; at < text.size(); ++at) {
          hostile.replacement(std::string_view(text).substr(at), length);
          in_bounds &= length <= text.size() - at;
        }
      }
    } catch (const SetupError&) {
      ++refused;
    }
  }
  CHECK(in_bounds);
  CHECK(refused > 50);
}

TEST_CASE("any bytes encode without harm and come back as far as they are text") {
  for (const auto& [name, tokenizer] : all_tokenizers()) {
    CAPTURE(name);
    const bool byte_level = tokenizer.pre_tokenizer() == name;
    uint64_t state = 17;
    bool sound = true;
    for (int i = 0; i < 600; ++i) {
      const std::string text = i < 300 ? random_bytes(state) : fixture_strings()[500 + i];
      CAPTURE(text);
      const std::vector<int32_t> ids = tokenizer.encode(text, i % 2 == 0, false);
      for (const int32_t id : ids) sound &= id >= 0 && id < tokenizer.vocab_size();
      std::string streamed;
      StreamDecoder decoder(tokenizer);
      for (const int32_t id : ids) {
        const std::string part = decoder.push(id);
        sound &= is_valid_utf8(part);
        streamed += part;
      }
      streamed += decoder.finish();
      sound &= is_valid_utf8(streamed);
      if (byte_level && is_valid_utf8(text)) sound &= streamed == text && tokenizer.decode(ids) == text;
      REQUIRE(sound);
    }
  }
}

TEST_CASE("any tokens decode to text, the same whether streamed or at once") {
  for (const auto& [name, tokenizer] : all_tokenizers()) {
    CAPTURE(name);
    uint64_t state = 23;
    for (int i = 0; i < 300; ++i) {
      std::vector<int32_t> ids(splitmix64(state) % 12);
      for (int32_t& id : ids)
        id = static_cast<int32_t>(splitmix64(state) % static_cast<uint64_t>(tokenizer.vocab_size() + 2)) - 1;
      std::string streamed;
      StreamDecoder decoder(tokenizer);
      bool sound = true;
      for (const int32_t id : ids) {
        const std::string part = decoder.push(id);
        sound &= is_valid_utf8(part);
        streamed += part;
      }
      streamed += decoder.finish();
      const std::string whole = tokenizer.decode(ids);
      sound &= is_valid_utf8(streamed);
      if (is_valid_utf8(whole)) sound &= streamed == whole;
      REQUIRE(sound);
    }
  }
}

TEST_CASE("every group splits one long run in about linear time") {
  for (const char* name : kOneOfEachGroup) {
    const PreTokenizer pre(name);
    for (const char* unit :
         {"a", "A", "aB", " ", "\n", " \n", "1", "1a", "'s", "é", "中", "〇", "a ", "!", "\u0301", "😀"}) {
      std::string text;
      while (text.size() < (1u << 16)) text += unit;
      CAPTURE(name);
      CAPTURE(unit);
      const auto start = std::chrono::steady_clock::now();
      CHECK(pre.split(text, false).back() == text.size());
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      CHECK(took.count() <
            30);  // milliseconds in Release; sanitized on a loaded machine some thousand times that
    }
  }
}

}  // namespace shoal
