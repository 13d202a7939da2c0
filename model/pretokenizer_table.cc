#include "model/pretokenizer_table.h"

#include "base/check.h"

namespace shoal {
namespace {

// Unicode's White_Space property, written out: PCRE2's \s also takes U+180E, which the models' tokenizers do
// not.
#define SPACES \
  R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define SPACE "[" SPACES "]"
#define NO_SPACE "[^" SPACES "]"
// Spaces, all but the last before something else.
#define END_OF_SPACES SPACE "+(?!" NO_SPACE ")|" SPACE "+"
#define LINE_ENDS SPACE R"(*[\r\n]+|)"

#define CONTRACTIONS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define NO_LETTER_OR_DIGIT R"([^\r\n\p{L}\p{N}])"
#define SIGNS " ?[^" SPACES R"(\p{L}\p{N}]+)"

#define GPT2 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|)" SIGNS "|" END_OF_SPACES
#define WORDS(contractions, digits) \
  contractions NO_LETTER_OR_DIGIT R"(?\p{L}+|)" digits "|" SIGNS R"([\r\n]*|)" LINE_ENDS END_OF_SPACES
#define LLAMA3 WORDS(CONTRACTIONS "|", R"(\p{N}{1,3})")
#define QWEN2 WORDS(CONTRACTIONS "|", R"(\p{N})")

// Words that tell capitals from small letters: HelloWorld is two. `but` may exclude characters.
#define CAPITAL R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define SMALL R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define CASED_WORDS(capital, small, contractions)                                                        \
  NO_LETTER_OR_DIGIT "?" capital "*" small "+" contractions "|" NO_LETTER_OR_DIGIT "?" capital "+" small \
                     "*" contractions "|"
#define CASED(contractions, digits)         \
  CASED_WORDS(CAPITAL, SMALL, contractions) \
  digits "|" SIGNS R"([\r\n/]*|)" LINE_ENDS END_OF_SPACES
#define NO_HAN(letters) R"((?:(?!\p{sc:Han}))" letters ")"

// DeepSeek's words: ASCII punctuation may begin one, marks belong to letters.
#define ASCII_SIGN R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])"
#define MARKED_WORDS ASCII_SIGN R"([A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+)"
#define CJK_AND_KANA R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)"
#define CJK_AND_HANGUL R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)"
#define NOT_SENTENCE_SIGNS " ?[^(" SPACES R"(|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+)"

// What \w is to the library that the published expressions were written for (Oniguruma).
#define WORD_CHARACTER                                              \
  R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})" \
  R"(\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}])"

// Letters with case as DeepSeek's first models list them.
#define CASED_LETTERS                                                                                         \
  R"(A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af})"      \
  R"(\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1})"        \
  R"(\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5})"         \
  R"(\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a})" \
  R"(\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b})"  \
  R"(\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc})"  \
  R"(\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107})"  \
  R"(\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134})"   \
  R"(\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4})"   \
  R"(\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787})"  \
  R"(\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a})" \
  R"(\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2})"        \
  R"(\x{118a0}-\x{118df}\x{1e900}-\x{1e943})"

constexpr PreTokenizerGroup kGroups[] = {
    {"default", {{R"([\p{P}$+<=>^~|]+)"}, {GPT2}, {R"(\p{N}+)"}, {"[0-9][0-9][0-9]"}}},
    {"gpt-2", {{GPT2}}},
    {"llama3", {{LLAMA3}}},
    {"qwen2", {{QWEN2}}},
    {"qwen35",
     {{CONTRACTIONS "|" NO_LETTER_OR_DIGIT R"(?[\p{L}\p{M}]+|\p{N}| ?[^)" SPACES
                    R"(\p{L}\p{M}\p{N}]+[\r\n]*|)" LINE_ENDS END_OF_SPACES}}},
    {"smollm", {{R"(\p{N})"}, {GPT2}}},
    // The published expression has \s{512}(?!\S)|\s{256}(?!\S)|... for the spaces of llama3.
    {"jais-2", {{LLAMA3}, {R"(\A)" SPACE R"(++\z(?<![\r\n]))", PieceCut::kPowersOfTwo}}},
    {"deepseek-llm",
     {{R"([\r\n])"},
      {SPACE "?[" CASED_LETTERS "]+"},
      {SPACE R"(?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+)"},
      {SPACE R"(+\z)"},
      {CJK_AND_HANGUL},
      {R"(\p{N}+)"}}},
    {"deepseek-v3",
     {{R"(\p{N}{1,3})"}, {CJK_AND_KANA}, {MARKED_WORDS R"([\r\n]*|)" LINE_ENDS END_OF_SPACES}}},
    {"spark2_5",
     {{R"(\p{N}{1,3})"}, {CJK_AND_KANA}, {MARKED_WORDS R"(|[\r\n]|)" END_OF_SPACES}, {R"(\p{N})"}}},
    {"youtu",
     {{R"([\x{ac00}-\x{d7a3}\x{3131}-\x{318e}]+|)"
       R"([\x{ff01}\x{2026}\x{201c}\x{201d}\x{2018}\x{2019}\x{2014}\x{ff1a}\x{ff1b}\x{ff0c}\x{3001}-\x{303f})"
       R"(\x{fe30}-\x{fe4f}]+|[\x{3105}-\x{312f}]+|)" CJK_AND_KANA},
      {CASED(CONTRACTIONS "?", R"(\p{N})")}}},
    {"deepseek-coder",
     {{R"([\r\n])"}, {SPACE R"(?\p{L}+)"}, {SPACE R"(?\p{P}+)"}, {CJK_AND_HANGUL}, {R"(\p{N})"}}},
    {"falcon", {{R"([\p{P}$+<=>^~|`]+)"}, {GPT2}, {"[0-9][0-9][0-9]"}}},
    {"bloom", {{NOT_SENTENCE_SIGNS}}},
    {"viking", {{NOT_SENTENCE_SIGNS}, {R"(\p{N})"}}},
    {"tekken", {{CASED("", R"(\p{N})")}}},
    {"gpt-4o", {{CASED(CONTRACTIONS "?", R"(\p{N}{1,3})")}}},
    {"chameleon",
     {{"<sentinel:[0-9]+>"},
      {"IMGIMG[A-I]{1,4}Z"},
      {R"([\t\n]|    |  )"},
      {R"(\p{N})"},
      {R"([\p{P}!-/:-@\[-`{-~])"},
      {GPT2}}},
    // Numbers in threes from their end where no letter follows: the published \d{1,3}(?=(?:\d{3})*\b).
    {"tiny_aya",
     {{R"((?<!\p{Nd})\p{Nd}++(?!)" WORD_CHARACTER ")", PieceCut::kThreesFromEnd},
      {CASED(CONTRACTIONS "?", R"(\p{N}{1,3})")}}},
    {"kimi-k2",
     {{R"(\p{sc:Han}+|)" CASED_WORDS(NO_HAN(CAPITAL), NO_HAN(SMALL),
                                     CONTRACTIONS "?") R"(\p{N}{1,3}|)" SIGNS
                                                       R"([\r\n]*|)" LINE_ENDS END_OF_SPACES}}},
    {"superbpe", {{R"(\p{N}+)"}, {R"(\p{Nd}+)", PieceCut::kThreesFromEnd}}},
    {"bailingmoe",
     {{R"('(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)" SIGNS
       R"([\r\n]*|)" SPACE R"(*[\r\n]|)" END_OF_SPACES}}},
    {"seed-coder",
     {{CONTRACTIONS "|" NO_LETTER_OR_DIGIT R"(?\p{L}+|\p{N}| ?[^)" SPACES
                    R"(\p{L}\p{N}\r\n]+|)" LINE_ENDS END_OF_SPACES}}},
    {"ufakzeka", {{WORDS("", R"(\p{N})")}}},
    {"afmoe",
     {{R"(\p{N}+)", PieceCut::kThreesFromEnd},
      {R"([\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{8c48}-\x{faff}\x{3040}-\x{309f}\x{30a0}-\x{30ff})"
       R"(\x{ff65}-\x{ff9f}\x{2f00}-\x{2fdf}\x{e40}-\x{e7f}\x{e80}-\x{eff}\x{1780}-\x{17ff}\x{1000}-\x{109f})"
       R"(\x{aa60}-\x{aa7f}\x{a9e0}-\x{a9ff}\x{ac00}-\x{d7af}\x{1100}-\x{11ff}]+)"},
      {MARKED_WORDS R"([\r\n]*|)" LINE_ENDS END_OF_SPACES}}},
    {"laguna", {{R"([^\n]+|\n+)"}, {QWEN2}}},
    {"exaone-moe",
     {{CONTRACTIONS "|" NO_LETTER_OR_DIGIT R"(?(?:\p{L}\p{M}*+(?: \p{L}\p{M}*+)*+)++|\p{N}|)" SIGNS
                    R"([\r\n/]?|)" SPACE R"(*[\r\n]|)" END_OF_SPACES}}},
    {"minicpm5", {{R"(\p{N}{1,3})"}, {WORDS(CONTRACTIONS "|", R"(\p{N}+)")}}},
};

// A new name of a known group is one row here.
constexpr PreTokenizerName kNames[] = {
    {"default", "default"},
    {"gpt-2", "gpt-2"},
    {"phi-2", "gpt-2"},
    {"jina-es", "gpt-2"},
    {"jina-de", "gpt-2"},
    {"jina-v2-es", "gpt-2", false, false, true},
    {"jina-v2-de", "gpt-2", false, false, true},
    {"jina-v1-en", "gpt-2"},
    {"jina-v2-code", "gpt-2", false, false, true},
    {"roberta-bpe", "gpt-2"},
    {"modern-bert", "gpt-2"},
    {"gigachat", "gpt-2"},
    {"a.x-4.0", "gpt-2"},
    {"mellum", "gpt-2"},
    {"mpt", "gpt-2"},
    {"olmo", "gpt-2"},
    {"jais", "gpt-2"},
    {"trillion", "gpt-2"},
    {"granite-docling", "gpt-2"},
    {"exaone4", "gpt-2"},
    {"llama3", "llama3", true, true},
    {"llama-v3", "llama3", true, true},
    {"llama-bpe", "llama3", true, true},
    {"falcon3", "llama3", true, true},
    {"falcon-h1", "llama3", true, true},
    {"pixtral", "llama3", true, true},
    {"midm-2.0", "llama3", true, true},
    {"lfm2", "llama3", true, true},
    {"jina-v5-nano", "llama3", true, true},
    {"dbrx", "llama3"},
    {"smaug-bpe", "llama3"},
    {"chatglm-bpe", "llama3"},
    {"glm4", "llama3", true},
    {"glm5", "llama3", true},
    {"qwen2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"megrez", "qwen2"},
    {"kormo", "qwen2"},
    {"f2llmv2", "qwen2"},
    {"stablelm2", "qwen2"},
    {"hunyuan", "qwen2"},
    {"solar-open", "qwen2"},
    {"grok-2", "qwen2"},
    {"qwen35", "qwen35"},
    {"smollm", "smollm"},
    {"starcoder", "smollm"},
    {"refact", "smollm"},
    {"command-r", "smollm"},
    {"codeshell", "smollm"},
    {"exaone", "smollm"},
    {"minerva-7b", "smollm"},
    {"mellum2", "smollm"},
    {"jais-2", "jais-2"},
    {"deepseek-llm", "deepseek-llm"},
    {"deepseek-v3", "deepseek-v3"},
    {"hunyuan-dense", "deepseek-v3"},
    {"joyai-llm", "deepseek-v3"},
    {"hy_v4", "deepseek-v3"},
    {"spark2_5", "spark2_5"},
    {"youtu", "youtu", true},
    {"deepseek-coder", "deepseek-coder"},
    {"falcon", "falcon"},
    {"bloom", "bloom"},
    {"poro-chat", "bloom"},
    {"gpt3-finnish", "bloom"},
    {"viking", "viking"},
    {"tekken", "tekken", true, true},
    {"gpt-4o", "gpt-4o"},
    {"llama4", "gpt-4o"},
    {"kanana2", "gpt-4o"},
    {"talkie", "gpt-4o"},
    {"minimax-m2", "gpt-4o"},
    {"granite-embed-multi-97m", "gpt-4o", true},
    {"chameleon", "chameleon", false, true},
    {"tiny_aya", "tiny_aya"},
    {"cohere2moe", "tiny_aya"},
    {"kimi-k2", "kimi-k2"},
    {"superbpe", "superbpe"},
    {"bailingmoe", "bailingmoe"},
    {"bailingmoe2", "bailingmoe"},
    {"llada-moe", "bailingmoe"},
    {"seed-coder", "seed-coder"},
    {"ufakzeka", "ufakzeka"},
    {"afmoe", "afmoe"},
    {"laguna", "laguna"},
    {"exaone-moe", "exaone-moe"},
    {"minicpm5", "minicpm5", true},
};

}  // namespace

std::span<const PreTokenizerName> pre_tokenizer_names() {
  return kNames;
}

const PreTokenizerGroup& pre_tokenizer_group(std::string_view name) {
  for (const PreTokenizerGroup& group : kGroups) {
    if (name == group.name) return group;
  }
  check_failed("every name's group exists", __FILE__, __LINE__);
}

}  // namespace shoal
