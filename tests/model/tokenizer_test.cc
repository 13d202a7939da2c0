#include "model/tokenizer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "model/bpe.h"
#include "model/pretokenizer.h"
#include "model/spm.h"
#include "model/utf8.h"
#include "model/vocabulary.h"
#include "tests/model/sample_vocabularies.h"
#include "tests/model/tokenizer_strings.h"

namespace shoal {
namespace {

std::vector<int32_t> parse_ids(const std::string& text) {
  std::istringstream in(text);
  std::vector<int32_t> ids;
  for (int32_t id; in >> id;) ids.push_back(id);
  return ids;
}

struct Fixture {
  std::vector<int32_t> end_of_generation;
  std::string pieces_hash;
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> plain, parsed;
};

Fixture read_fixture(const std::string& name) {
  Fixture fixture;
  for (const std::string& hex : read_fixture_lines("tokenizer_strings.txt"))
    fixture.texts.push_back(bytes_of_hex(hex));
  const auto lines = read_fixture_lines("tokenizer_ids_" + name + ".txt");
  REQUIRE(lines.size() == fixture.texts.size() + 3);
  fixture.end_of_generation = parse_ids(lines[1].substr(lines[1].find(':') + 1));
  fixture.pieces_hash = lines[2].substr(lines[2].find(' ') + 1);
  for (size_t i = 3; i < lines.size(); ++i) {
    const size_t tab = lines[i].find('\t');
    REQUIRE(tab != std::string::npos);
    fixture.plain.push_back(parse_ids(lines[i].substr(0, tab)));
    const std::string right = lines[i].substr(tab + 1);
    fixture.parsed.push_back(right == "=" ? fixture.plain.back() : parse_ids(right));
  }
  return fixture;
}

// Ids, end-of-generation set and pieces of all tokens against what llama.cpp gave.
void check_against_oracle(const Tokenizer& tokenizer, const std::string& name) {
  const Fixture fixture = read_fixture(name);
  CHECK(fixture.texts.size() >= 250);
  // Bytes that the vocabulary cannot write (SmolLM2 has no token for 0xF3) are dropped, as llama.cpp does.
  std::array<bool, 256> writable{};
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (const std::string piece = tokenizer.piece(id); piece.size() == 1)
      writable[static_cast<uint8_t>(piece[0])] = true;
  }
  int came_back = 0;
  for (size_t i = 0; i < fixture.texts.size(); ++i) {
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer.encode(fixture.texts[i], parse_special, false);
      const auto& expected = parse_special ? fixture.parsed[i] : fixture.plain[i];
      CHECK_MESSAGE(ids == expected, name << ", string " << i << " '" << fixture.texts[i]
                                          << "', parse_special " << parse_special << ": got "
                                          << ids_as_text(ids) << " expected " << ids_as_text(expected));
    }
    // SentencePiece writes U+2581 for a space, and a space after each user-defined token.
    const bool ambiguous =
        fixture.texts[i].find("\n\n\n") != std::string::npos && tokenizer.adds_space_prefix();
    const bool lossless = std::all_of(fixture.texts[i].begin(), fixture.texts[i].end(),
                                      [&](char byte) { return writable[static_cast<uint8_t>(byte)]; });
    if (is_valid_utf8(fixture.texts[i]) && lossless && !ambiguous) {
      ++came_back;
      const auto ids = tokenizer.encode(fixture.texts[i], false, true);
      const bool spm = tokenizer.pre_tokenizer() == "sentencepiece";
      const std::string expected = spm ? unescape_spaces(fixture.texts[i]) : fixture.texts[i];
      CHECK_MESSAGE(tokenizer.decode(ids) == expected, name << ", string " << i << " does not come back");
    }
  }
  CHECK(came_back > 400);
  CHECK(check_digests("tokenizer_digest_" + name + ".txt",
                      [&](std::string_view text) { return tokenizer.encode(text, true, false); }) >= 1500);
  std::vector<int32_t> end;
  uint64_t hash = 0xCBF29CE484222325u;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_end_of_generation(id)) end.push_back(id);
    for (const char byte : tokenizer.piece(id, true) + "\xff") {
      hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3u;
    }
  }
  CHECK(ids_as_text(end) == ids_as_text(fixture.end_of_generation));
  char text[17];
  std::snprintf(text, sizeof(text), "%016lx", static_cast<unsigned long>(hash));
  CHECK(text == fixture.pieces_hash);
}

// All 256 bytes, a few merges, a control, a user-defined and an end token.
VocabData tiny_bpe_data() {
  VocabData data;
  data.model = "gpt2";
  data.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) data.tokens.emplace_back(byte_to_symbol(static_cast<uint8_t>(byte)));
  for (const char* token : {"ab", "abc", "bc", "aa", "aaaa"}) data.tokens.emplace_back(token);
  data.types.assign(data.tokens.size(), TokenType::kNormal);
  data.merges = {"b c", "a b", "ab c", "a a", "aa aa"};
  data.tokens.insert(data.tokens.end(), {"<|ctl|>", "<user>", "<|im_end|>"});
  data.types.insert(data.types.end(), {TokenType::kControl, TokenType::kUserDefined, TokenType::kControl});
  return data;
}

constexpr int32_t kAb = 256, kBc = 258, kAaaa = 260, kControl = 261, kUser = 262, kImEnd = 263;

const GgufFile& model_file() {
  static const GgufFile file = [] {
    const char* path = std::getenv("SHOAL_TEST_MODEL");
    REQUIRE_MESSAGE(path != nullptr, "SHOAL_TEST_MODEL must name SmolLM2-135M-Instruct.Q4_1.gguf");
    return GgufFile::open(path);
  }();
  return file;
}

// The model's vocabulary under another pre-tokenizer, with the merges and tokens that the fixtures were made
// with.
Tokenizer model_tokenizer(const std::string& pre) {
  VocabData data = VocabData::read(model_file());
  if (pre == "model") return Tokenizer::from(std::move(data));
  data.pre = pre;
  add_merges(data, "tokenizer_extra.txt");
  data.types.resize(data.tokens.size(), TokenType::kNormal);
  return Tokenizer::from(std::move(data));
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  const auto ids = tokenizer.encode(text, false, false);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(tokenizer.decode(ids) == text);
  return took.count();
}

}  // namespace

TEST_SUITE("model-file") {
  TEST_CASE("token ids of the model file equal llama.cpp's") {
    check_against_oracle(Tokenizer::from(model_file()), "model");
  }

  TEST_CASE("token ids under every pre-tokenizer group equal llama.cpp's") {
    for (const char* pre : {"smollm", "gpt-2", "llama-bpe", "smaug-bpe", "qwen2", "default"}) {
      check_against_oracle(model_tokenizer(pre), pre);
    }
  }

  TEST_CASE("the model file's flags") {
    const Tokenizer tokenizer = Tokenizer::from(model_file());
    CHECK(tokenizer.pre_tokenizer() == "smollm");
    CHECK(tokenizer.vocab_size() == 49152);
    CHECK(tokenizer.bos() == 1);
    CHECK(tokenizer.eos() == 2);
    CHECK_FALSE(tokenizer.adds_bos());
    CHECK(tokenizer.encode("", true, true).empty());
    CHECK(model_tokenizer("smollm").encode("", true, true).empty());
  }

  TEST_CASE("encoding keeps up on English and does not degrade on one long word") {
    const Tokenizer tokenizer = Tokenizer::from(model_file());
    std::string english;
    while (english.size() < 2'000'000) {
      english +=
          "The tide was out, and the children's boats lay tilted on the sand; nobody had been to look for 12 "
          "days.\n";
    }
    const double megabytes_per_second = english.size() / 1e6 / seconds_to_encode(tokenizer, english);
    MESSAGE("English: " << megabytes_per_second << " MB/s");
    CHECK(megabytes_per_second > 1);  // 5 and more in Release; sanitizers and loaded machines are slower
    for (const char* unit :
         {"a", " ", "\n", "1", "'", "é", "a b", "  x", "<", "<|im_end|>", "\xf0\x9f\x98\x80"}) {
      std::string text;
      while (text.size() < (1u << 20)) text += unit;
      CAPTURE(unit);
      CHECK(seconds_to_encode(tokenizer, text) < 10);
    }
  }
}

TEST_CASE("SentencePiece ids equal llama.cpp's") {
  check_against_oracle(Tokenizer::from(spm_data()), "spm");
  VocabData data = spm_data();
  data.add_space_prefix = 0;
  check_against_oracle(Tokenizer::from(std::move(data)), "spm-no-prefix");
}

TEST_CASE(
    "SentencePiece: BOS by default, unknown where there are no byte tokens, a long run in linear time") {
  const Tokenizer tokenizer = Tokenizer::from(spm_data());
  CHECK(tokenizer.adds_bos());
  CHECK(tokenizer.encode("", false, true) == std::vector<int32_t>{1});
  CHECK(tokenizer.encode("", false, false).empty());
  CHECK(seconds_to_encode(tokenizer, std::string(1 << 20, 'e')) < 10);

  VocabData data;
  data.model = "llama";
  data.tokens = {"<unk>", "<s>", "</s>", "▁", "a", "▁a"};
  data.types = {TokenType::kUnknown, TokenType::kControl, TokenType::kControl,
                TokenType::kNormal,  TokenType::kNormal,  TokenType::kNormal};
  const Tokenizer small = Tokenizer::from(std::move(data));
  CHECK(small.encode("a你a", false, false) == std::vector<int32_t>{5, 0, 4});
}

TEST_CASE("ordinary text never becomes a control token, by merging or by its spelling") {
  VocabData data = spm_data();
  data.tokens.insert(data.tokens.end(), {"<s", "</", "</s"});
  data.scores.insert(data.scores.end(), {0, 0, 0});
  data.types.insert(data.types.end(), 3, TokenType::kNormal);
  const Tokenizer spm = Tokenizer::from(std::move(data));
  for (const int32_t id : spm.encode("<s></s><|im_end|><0x41>", false, false)) CHECK(id > 2 + 256);

  VocabData bpe_data = tiny_bpe_data();
  bpe_data.types[kAb] = TokenType::kControl;
  const Tokenizer bpe = Tokenizer::from(std::move(bpe_data));
  for (const int32_t id : bpe.encode("ab", false, false)) CHECK(id != kAb);
  CHECK(bpe.encode("ab", true, false) == std::vector<int32_t>{kAb});
}

TEST_CASE("merges go by rank, the leftmost of equals first") {
  const Tokenizer tokenizer = Tokenizer::from(tiny_bpe_data());
  const int32_t a = tokenizer.encode("a", false, false).at(0);
  CHECK(tokenizer.encode("abc", false, false) == std::vector<int32_t>{a, kBc});  // "b c" ranks before "a b"
  CHECK(tokenizer.encode("ab", false, false) == std::vector<int32_t>{kAb});
  CHECK(tokenizer.encode("aaaaaaa", false, false) == std::vector<int32_t>{kAaaa, kAaaa - 1, a});
  // The same through the heap that long words take.
  auto expected = std::vector<int32_t>(25, kAaaa);
  expected.insert(expected.end(), {kAaaa - 1, a});
  CHECK(tokenizer.encode(std::string(103, 'a'), false, false) == expected);
}

TEST_CASE("special tokens: user-defined always, control only in trusted text") {
  const Tokenizer tokenizer = Tokenizer::from(tiny_bpe_data());
  CHECK(tokenizer.encode("<user>", false, false) == std::vector<int32_t>{kUser});
  CHECK(tokenizer.encode("<|ctl|>", true, false) == std::vector<int32_t>{kControl});
  CHECK(tokenizer.encode("<|ctl|>", false, false).size() == 7);
  CHECK(tokenizer.is_end_of_generation(kImEnd));
  CHECK_FALSE(tokenizer.is_end_of_generation(kControl));
  CHECK_FALSE(tokenizer.is_end_of_generation(-1));
  CHECK_FALSE(tokenizer.is_end_of_generation(1 << 20));
  CHECK(tokenizer.piece(kControl).empty());
  CHECK(tokenizer.piece(kControl, true) == "<|ctl|>");
  CHECK(tokenizer.piece(kUser) == "<user>");
  CHECK(tokenizer.piece(-1).empty());
  CHECK(tokenizer.piece(1 << 20).empty());

  const auto ids = tokenizer.encode({{"<|ctl|>", true}, {"a<|ctl|>b<|im_", false}, {"end|>", true}}, false);
  CHECK(ids.front() == kControl);
  CHECK(std::count(ids.begin(), ids.end(), kControl) == 1);
  CHECK(std::count(ids.begin(), ids.end(), kImEnd) == 0);  // half of it was the user's
  CHECK(tokenizer.decode(ids, true) == "<|ctl|>a<|ctl|>b<|im_end|>");
  // Trusted neighbours count as one, and words cross the border of the pieces.
  CHECK(tokenizer.encode({{"<|ct", true}, {"l|>", true}}, false) == std::vector<int32_t>{kControl});
  CHECK(tokenizer.encode({{"a", true}, {"b", false}}, false) == std::vector<int32_t>{kAb});
}

TEST_CASE("BOS: by pre-tokenizer, overridden by the file") {
  VocabData data = tiny_bpe_data();
  data.pre = "llama-bpe";
  data.bos = kControl;
  CHECK(Tokenizer::from(VocabData(data)).encode("a", false, true).size() == 2);
  CHECK(Tokenizer::from(VocabData(data)).encode("a", false, false).size() == 1);
  data.add_bos = 0;
  CHECK(Tokenizer::from(VocabData(data)).encode("a", false, true).size() == 1);
  data.add_bos = 1;
  data.bos = -1;
  CHECK_THROWS_WITH_AS(Tokenizer::from(VocabData(data)), doctest::Contains("bos_token_id"), SetupError);
}

TEST_CASE("a prompt whose template wrote BOS gets no second one") {
  VocabData data = tiny_bpe_data();
  data.add_bos = 1;
  data.bos = kControl;
  const Tokenizer tokenizer = Tokenizer::from(std::move(data));
  const int32_t a = tokenizer.encode("a", false, false).at(0);
  CHECK(tokenizer.encode({{"<|ctl|>a", true}}, true) == std::vector<int32_t>{kControl, a});
  CHECK(tokenizer.encode({{"a", true}}, true) == std::vector<int32_t>{kControl, a});
  CHECK(tokenizer.encode({{"a", true}}, false) == std::vector<int32_t>{a});
  CHECK(tokenizer.encode({{"<|ctl|>", false}}, true).size() == 8);  // the user's is no BOS
  CHECK(tokenizer.encode(std::vector<PromptPiece>{}, true) == std::vector<int32_t>{kControl});
}

TEST_CASE("Phi-3's control tokens swallow the spaces after them") {
  VocabData data = tiny_bpe_data();
  data.tokens.emplace_back("<s>");
  data.types.push_back(TokenType::kControl);
  const int32_t begin = static_cast<int32_t>(data.tokens.size()) - 1;
  data.strips_after_control = true;
  const Tokenizer tokenizer = Tokenizer::from(std::move(data));
  const auto encode = [&](const char* text) { return tokenizer.encode(text, true, false); };
  CHECK(encode("<|ctl|> \n\t ab") == std::vector<int32_t>{kControl, kAb});
  CHECK(encode("<user>  ab") == std::vector<int32_t>{kUser, kAb});
  CHECK(encode("<|ctl|>  ") == std::vector<int32_t>{kControl});
  CHECK(encode("<|ctl|> <|im_end|>") == std::vector<int32_t>{kControl, kImEnd});
  CHECK(encode("<s> ab") != std::vector<int32_t>{begin, kAb});
  CHECK(tokenizer.encode("<|ctl|>  ab", false, false).size() == 10);  // the user's text stays as it is
}

TEST_CASE("the spaces before a mask are dropped where the vocabulary was trained so") {
  VocabData data = tiny_bpe_data();
  data.tokens.emplace_back("<mask>");
  data.types.push_back(TokenType::kControl);
  const int32_t mask = static_cast<int32_t>(data.tokens.size()) - 1;
  data.pre = "jina-v2-code";
  CHECK(Tokenizer::from(VocabData(data)).encode("ab  <mask>", true, false) ==
        std::vector<int32_t>{kAb, mask});
  data.pre = "gpt-2";
  CHECK(Tokenizer::from(VocabData(data)).encode("ab  <mask>", true, false).size() == 4);
}

TEST_CASE("gpt-oss: <|end|> ends a part of an answer and its marks are shown") {
  VocabData data = tiny_bpe_data();
  const auto add = [&](const char* text) {
    data.tokens.emplace_back(text);
    data.types.push_back(TokenType::kControl);
    return static_cast<int32_t>(data.tokens.size()) - 1;
  };
  const int32_t end = add("<|end|>"), channel = add("<|channel|>"), give = add("<|return|>");
  const Tokenizer plain = Tokenizer::from(VocabData(data));
  CHECK(plain.is_end_of_generation(end));
  CHECK(plain.is_end_of_generation(give));
  CHECK(plain.piece(channel) == "<|channel|>");
  const int32_t call = add("<|call|>");
  const Tokenizer harmony = Tokenizer::from(VocabData(data));
  CHECK_FALSE(harmony.is_end_of_generation(end));
  CHECK(harmony.is_end_of_generation(give));
  CHECK(harmony.is_end_of_generation(call));
}

TEST_CASE("a stream shows the control tokens that it is told to") {
  const Tokenizer tokenizer = Tokenizer::from(tiny_bpe_data());
  StreamDecoder decoder(tokenizer, {kControl});
  CHECK(decoder.push(kControl) == "<|ctl|>");
  CHECK(decoder.push(kImEnd).empty());
}

TEST_CASE("a vocabulary that contradicts itself is refused with its key") {
  const auto refused = [](auto change, const char* part) {
    VocabData data = tiny_bpe_data();
    change(data);
    CHECK_THROWS_WITH_AS(Tokenizer::from(std::move(data)), doctest::Contains(part), SetupError);
  };
  refused([](VocabData& d) { d.pre = "mystery-7"; }, "unknown pre-tokenizer 'mystery-7'");
  refused([](VocabData& d) { d.pre = "mystery-7"; }, "smaug-bpe");
  refused([](VocabData& d) { d.model = "unigram"; }, "unknown tokenizer model 'unigram'");
  refused([](VocabData& d) { d.model = ""; }, "known: gpt2, llama, t5, bert");
  refused([](VocabData& d) { d.tokens.clear(); }, "tokens is empty");
  refused([](VocabData& d) { d.types.pop_back(); }, "token_type has 263 entries");
  refused([](VocabData& d) { d.scores.assign(3, 0); }, "scores has 3 entries");
  refused([](VocabData& d) { d.scores.assign(264, std::numeric_limits<float>::quiet_NaN()); },
          "not a number");
  refused([](VocabData& d) { d.tokens[5] = d.tokens[6]; }, "same text");
  refused([](VocabData& d) { d.eos = 264; }, "eos_token_id is 264");
  refused([](VocabData& d) { d.bos = INT64_MAX; }, "bos_token_id");
  refused([](VocabData& d) { d.eot = -2; }, "eot_token_id");
  refused([](VocabData& d) { d.merges[1] = "ab"; }, "entry 1");
  refused([](VocabData& d) { d.merges[1] = ""; }, "entry 1");
  refused([](VocabData& d) { d.merges[1] = "a "; }, "entry 1");
  for (const char* text : {"<0x-1>", "<0xZZ>", "<0x1>", "<0x123>", "41", ""}) {
    refused(
        [&](VocabData& d) {
          d.tokens[0] = text;
          d.types[0] = TokenType::kByte;
        },
        "of type byte");
  }
}

TEST_CASE("bytes that are no UTF-8, above U+10FFFF or NUL are taken as they come") {
  const Tokenizer bpe = Tokenizer::from(tiny_bpe_data());
  const Tokenizer spm = Tokenizer::from(spm_data());
  for (const std::string& text :
       {std::string("\xf4\x90\x80\x80"), std::string("\xf7\xbf\xbf\xbf"), std::string("a\0b", 3),
        std::string("\xff\xfe"), std::string("\xed\xa0\x80")}) {
    CHECK(spm.decode(spm.encode(text, true, false)) == text);
    CHECK_FALSE(bpe.encode(text, true, false).empty());
  }
  CHECK(bpe.decode(bpe.encode("\xf4\x90\x80\x80", false, false)) == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(bpe.decode(bpe.encode("a\xff"
                              "b",
                              false, false)) ==
        "a\uFFFD"
        "b");
  CHECK(bpe.decode(bpe.encode(std::string("a\0b", 3), false, false)) == std::string("a\0b", 3));
  // Every single byte and every pair of bytes.
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string text = {static_cast<char>(first), static_cast<char>(second)};
      const std::string back = bpe.decode(bpe.encode(text, true, false));
      if (is_valid_utf8(text)) REQUIRE(back == text);
      REQUIRE(is_valid_utf8(back));
    }
  }
}

TEST_CASE("pre-tokenizer: every listed name is usable, a missing one means default") {
  for (const std::string& name : PreTokenizer::known_names()) {
    const PreTokenizer pre(name);
    CHECK(pre.name() == name);
    CHECK(pre.split("", false).empty());
    CHECK(pre.split("Hello, world! 12", false).back() == 16);
  }
  CHECK(PreTokenizer("").group() == "default");
  CHECK(PreTokenizer("smollm").split("a  12", false) == std::vector<size_t>{1, 3, 4, 5});
  CHECK(PreTokenizer("gpt-2").split("a  12", false) == std::vector<size_t>{1, 2, 5});
  CHECK(PreTokenizer("qwen2").split("1234", false) == std::vector<size_t>{1, 2, 3, 4});
  CHECK(PreTokenizer("llama3").split("1234", false) == std::vector<size_t>{3, 4});
}

TEST_CASE("a stream never splits a code point") {
  const Tokenizer tokenizer = Tokenizer::from(tiny_bpe_data());
  const std::string text = "aé你😀 b\u0301";
  StreamDecoder decoder(tokenizer);
  std::string out;
  for (const int32_t id : tokenizer.encode(text, false, false)) {
    const std::string part = decoder.push(id);
    CHECK(is_valid_utf8(part));
    out += part;
  }
  CHECK(decoder.finish().empty());
  CHECK(out == text);

  // A broken sequence becomes U+FFFD as soon as it is known to be broken, an unfinished one at the end.
  const auto byte_token = [&](uint8_t byte) {
    for (int32_t id = 0; id < 256; ++id) {
      if (tokenizer.piece(id) == std::string(1, static_cast<char>(byte))) return id;
    }
    return -1;
  };
  CHECK(decoder.push(byte_token(0xF0)).empty());
  CHECK(decoder.push(byte_token(0x9F)).empty());
  CHECK(decoder.push(byte_token('a')) == "\uFFFDa");
  CHECK(decoder.push(byte_token(0xFF)) == "\uFFFD");
  CHECK(decoder.push(byte_token(0xC3)).empty());
  CHECK(decoder.push(kControl).empty());
  CHECK(decoder.finish() == "\uFFFD");
  CHECK(decoder.finish().empty());
}

TEST_CASE("a SentencePiece stream drops the space that the model adds in front") {
  const Tokenizer tokenizer = Tokenizer::from(spm_data());
  StreamDecoder decoder(tokenizer);
  std::string out;
  for (const int32_t id : tokenizer.encode("Hello the 你", false, true)) out += decoder.push(id);
  CHECK(out + decoder.finish() == "Hello the 你");
}

}  // namespace shoal
