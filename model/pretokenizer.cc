#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenizer.h"

#include <pcre2.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/check.h"
#include "base/error.h"
#include "base/printable.h"
#include "model/pretokenizer_table.h"

namespace shoal {
namespace {

const PreTokenizerName& find_name(const std::string& wanted) {
  const std::string name = wanted.empty() ? "default" : wanted;
  if (wanted.empty()) {
    spdlog::warn(
        "the model file does not say how its text is split (tokenizer.ggml.pre is missing); the generic "
        "rules "
        "are used and answers may be worse: a newer conversion of the model is better");
  }
  std::string known;
  for (const PreTokenizerName& row : pre_tokenizer_names()) {
    if (name == row.name) return row;
    known += std::string(known.empty() ? "" : ", ") + row.name;
  }
  throw SetupError("unknown pre-tokenizer " + in_quotes(wanted, 80) +
                   " (tokenizer.ggml.pre); known: " + known);
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

// Appends the ends of the parts that `cut` makes of `piece`, which begins at `offset` of the text.
void append_cuts(std::string_view piece, PieceCut cut, size_t offset, std::vector<size_t>& ends) {
  if (cut == PieceCut::kNone) {
    ends.push_back(offset + piece.size());
    return;
  }
  const auto begins_character = [&](size_t i) { return (static_cast<uint8_t>(piece[i]) & 0xC0) != 0x80; };
  size_t left = 0;  // characters
  for (size_t i = 0; i < piece.size(); ++i) left += begins_character(i) ? 1 : 0;
  const auto part = [&] {
    if (cut == PieceCut::kThreesFromEnd) return left % 3 == 0 ? size_t{3} : left % 3;
    return std::bit_floor(std::min<size_t>(left, 512));
  };
  size_t until_end = part() + 1;
  for (size_t i = 0; i < piece.size(); ++i) {
    if (!begins_character(i)) continue;
    if (--until_end == 0) {
      ends.push_back(offset + i);
      until_end = part();
    }
    --left;
  }
  ends.push_back(offset + piece.size());
}

}  // namespace

struct PreTokenizer::Impl {
  struct Step {
    Code code;
    PieceCut cut;
  };
  const PreTokenizerName* name;
  const PreTokenizerGroup* group;
  std::vector<Step> steps;
  std::unique_ptr<pcre2_match_context, MatchContextFree> context;

  // Appends the ends of the words that `step` makes of text[begin, end).
  void split_piece(const Step& step, pcre2_match_data* data, std::string_view text, size_t begin, size_t end,
                   std::vector<size_t>& ends) const {
    // The piece alone is the subject: look-ahead stops at its end.
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + begin);
    const size_t length = end - begin;
    size_t at = 0;
    while (at < length) {
      int found = pcre2_match(step.code.get(), subject, length, at, PCRE2_NO_UTF_CHECK, data, context.get());
      if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
        found = pcre2_match(step.code.get(), subject, length, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                            context.get());
      }
      if (found < 0) break;  // no match: the rest is one piece
      const size_t* span = pcre2_get_ovector_pointer(data);
      if (span[0] > at) ends.push_back(begin + span[0]);
      append_cuts(text.substr(begin + span[0], span[1] - span[0]), step.cut, begin + span[0], ends);
      at = span[1];  // no expression matches the empty string
    }
    if (at < length) ends.push_back(end);
  }
};

PreTokenizer::PreTokenizer(const std::string& name) : impl_(std::make_unique<Impl>()) {
  impl_->name = &find_name(name);
  impl_->group = &pre_tokenizer_group(impl_->name->group);
  for (const SplitStep& step : impl_->group->steps) {
    if (step.expression != nullptr) impl_->steps.push_back({compile(step.expression), step.cut});
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
bool PreTokenizer::strips_before_mask() const {
  return impl_->name->strips_before_mask;
}

std::vector<std::string> PreTokenizer::known_names() {
  std::vector<std::string> names;
  for (const PreTokenizerName& row : pre_tokenizer_names()) names.emplace_back(row.name);
  return names;
}

std::vector<size_t> PreTokenizer::split(std::string_view text, bool has_surrogates) const {
  const std::string copy = has_surrogates ? without_surrogates(text) : std::string();
  const std::string_view subject = has_surrogates ? std::string_view(copy) : text;
  std::vector<size_t> ends, next;
  if (!subject.empty()) ends.push_back(subject.size());
  for (const Impl::Step& step : impl_->steps) {
    const std::unique_ptr<pcre2_match_data, MatchDataFree> data(
        pcre2_match_data_create_from_pattern(step.code.get(), nullptr));
    SHOAL_CHECK(data != nullptr);
    next.clear();
    next.reserve(ends.size());
    size_t begin = 0;
    for (const size_t end : ends) {
      impl_->split_piece(step, data.get(), subject, begin, end, next);
      begin = end;
    }
    ends.swap(next);
  }
  return ends;
}

}  // namespace shoal
