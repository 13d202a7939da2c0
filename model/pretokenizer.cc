#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenizer.h"

#include <pcre2.h>
#include <spdlog/spdlog.h>

#include <cstdint>

#include "base/check.h"
#include "base/error.h"

namespace shoal {
namespace {

// Unicode's White_Space property, written out: PCRE2's \s also takes U+180E, which the models' tokenizers do
// not.
#define SHOAL_SPACE \
  R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define SHOAL_S "[" SHOAL_SPACE "]"
#define SHOAL_OTHER "[^" SHOAL_SPACE R"(\p{L}\p{N}])"
#define SHOAL_END_OF_SPACE SHOAL_S "+(?![^" SHOAL_SPACE "])|" SHOAL_S "+"

constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?)" SHOAL_OTHER "+|" SHOAL_END_OF_SPACE;

#define SHOAL_LLAMA3(digits)                                                                  \
  R"('[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits \
  "| ?" SHOAL_OTHER R"(+[\r\n]*|)" SHOAL_S R"(*[\r\n]+|)" SHOAL_END_OF_SPACE

constexpr const char* kLlama3 = SHOAL_LLAMA3(R"(\p{N}{1,3})");
constexpr const char* kQwen2 = SHOAL_LLAMA3(R"(\p{N})");

struct Group {
  const char* name;
  const char* expressions[4];
};

constexpr Group kGroups[] = {
    {"gpt-2", {kGpt2}},
    {"llama3", {kLlama3}},
    {"qwen2", {kQwen2}},
    {"smollm", {R"(\p{N})", kGpt2}},
    {"default", {R"([\p{P}$+<=>^~|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
};

struct Name {
  const char* name;
  const char* group;
  bool ignore_merges = false;
  bool adds_bos = false;
};

// A new name of a known group is one row here.
constexpr Name kNames[] = {
    {"default", "default"},
    {"gpt-2", "gpt-2"},
    {"phi-2", "gpt-2"},
    {"jina-es", "gpt-2"},
    {"jina-de", "gpt-2"},
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
    {"dbrx", "llama3"},
    {"smaug-bpe", "llama3"},
    {"qwen2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"megrez", "qwen2"},
    {"kormo", "qwen2"},
    {"stablelm2", "qwen2"},
    {"hunyuan", "qwen2"},
    {"solar-open", "qwen2"},
    {"grok-2", "qwen2"},
    {"smollm", "smollm"},
    {"starcoder", "smollm"},
    {"refact", "smollm"},
    {"command-r", "smollm"},
    {"codeshell", "smollm"},
    {"exaone", "smollm"},
    {"minerva-7b", "smollm"},
    {"mellum2", "smollm"},
};

const Name& find_name(const std::string& wanted) {
  const std::string name = wanted.empty() ? "default" : wanted;
  if (wanted.empty()) {
    spdlog::warn(
        "the model file does not say how its text is split (tokenizer.ggml.pre is missing); the generic "
        "rules are "
        "used and answers may be worse: a newer conversion of the model is better");
  }
  for (const Name& row : kNames) {
    if (name == row.name) return row;
  }
  std::string known;
  for (const Name& row : kNames) known += std::string(known.empty() ? "" : ", ") + row.name;
  throw SetupError("unknown pre-tokenizer '" + wanted.substr(0, 80) +
                   "' (tokenizer.ggml.pre); known: " + known);
}

const Group& find_group(const std::string_view name) {
  for (const Group& group : kGroups) {
    if (name == group.name) return group;
  }
  check_failed("every name's group exists", __FILE__, __LINE__);
}

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDataFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextFree {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeFree>;

Code compile(const char* expression) {
  int error = 0;
  size_t offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset, nullptr));
  SHOAL_CHECK(code != nullptr);
  // Where the machine or its policy allows no JIT, the interpreter does the same work slower.
  (void)pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// PCRE2 wants well-formed UTF-8. A private-use code point has a surrogate's length and none of the properties
// that the expressions ask for, as a surrogate has none.
std::string without_surrogates(std::string_view text) {
  std::string out(text);
  for (size_t i = 0; i + 2 < out.size(); ++i) {
    if (out[i] == '\xED' && static_cast<uint8_t>(out[i + 1]) >= 0xA0) {
      out[i] = '\xEE';
      out[i + 1] = '\x80';
    }
  }
  return out;
}

}  // namespace

struct PreTokenizer::Impl {
  const Name* name;
  const Group* group;
  std::vector<Code> codes;
  std::unique_ptr<pcre2_match_context, MatchContextFree> context;

  // Appends the ends of the words that `code` makes of text[begin, end).
  void split_piece(const pcre2_code* code, pcre2_match_data* data, std::string_view text, size_t begin,
                   size_t end, std::vector<size_t>& ends) const {
    // The piece alone is the subject: look-ahead stops at its end.
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + begin);
    const size_t length = end - begin;
    size_t at = 0;
    while (at < length) {
      int found = pcre2_match(code, subject, length, at, PCRE2_NO_UTF_CHECK, data, context.get());
      if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
        found =
            pcre2_match(code, subject, length, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context.get());
      }
      if (found < 0) break;  // no match: the rest is one piece
      const size_t* span = pcre2_get_ovector_pointer(data);
      if (span[0] > at) ends.push_back(begin + span[0]);
      ends.push_back(begin + span[1]);
      at = span[1];  // no expression matches the empty string
    }
    if (at < length) ends.push_back(end);
  }
};

PreTokenizer::PreTokenizer(const std::string& name) : impl_(std::make_unique<Impl>()) {
  impl_->name = &find_name(name);
  impl_->group = &find_group(impl_->name->group);
  for (const char* expression : impl_->group->expressions) {
    if (expression != nullptr) impl_->codes.push_back(compile(expression));
  }
  impl_->context.reset(pcre2_match_context_create(nullptr));
  SHOAL_CHECK(impl_->context != nullptr);
  // The expressions need no backtracking beyond one run of characters, so the work is linear without PCRE2's
  // limits.
  pcre2_set_match_limit(impl_->context.get(), UINT32_MAX);
  pcre2_set_depth_limit(impl_->context.get(), UINT32_MAX);
  pcre2_set_heap_limit(impl_->context.get(), UINT32_MAX);
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

std::string_view PreTokenizer::name() const {
  return impl_->name->name;
}
std::string_view PreTokenizer::group() const {
  return impl_->group->name;
}
bool PreTokenizer::ignore_merges() const {
  return impl_->name->ignore_merges;
}
bool PreTokenizer::adds_bos() const {
  return impl_->name->adds_bos;
}

std::vector<std::string> PreTokenizer::known_names() {
  std::vector<std::string> names;
  for (const Name& row : kNames) names.emplace_back(row.name);
  return names;
}

std::vector<size_t> PreTokenizer::split(std::string_view text, bool has_surrogates) const {
  const std::string copy = has_surrogates ? without_surrogates(text) : std::string();
  const std::string_view subject = has_surrogates ? std::string_view(copy) : text;
  std::vector<size_t> ends, next;
  if (!subject.empty()) ends.push_back(subject.size());
  for (const Code& code : impl_->codes) {
    const std::unique_ptr<pcre2_match_data, MatchDataFree> data(
        pcre2_match_data_create_from_pattern(code.get(), nullptr));
    SHOAL_CHECK(data != nullptr);
    next.clear();
    next.reserve(ends.size());
    size_t begin = 0;
    for (const size_t end : ends) {
      impl_->split_piece(code.get(), data.get(), subject, begin, end, next);
      begin = end;
    }
    ends.swap(next);
  }
  return ends;
}

}  // namespace shoal
