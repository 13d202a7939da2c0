#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/check.h"
#include "base/error.h"
#include "base/printable.h"
#include "model/bpe.h"
#include "model/pretokenizer.h"
#include "model/spm.h"
#include "model/ugm.h"
#include "model/utf8.h"
#include "model/vocabulary.h"
#include "model/wpm.h"

namespace shoal {
namespace {

// A stretch of the text: still to be encoded (token -1), or a token found whole.
struct Fragment {
  size_t begin, end;
  int32_t token;
};

bool is_ascii_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// Ascending, disjoint byte ranges in which control tokens may be found.
struct TrustedRanges {
  std::vector<std::pair<size_t, size_t>> ranges;
  bool contain(size_t begin, size_t end) const {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), begin,
                                        [](size_t value, const auto& range) { return value < range.first; });
    return after != ranges.begin() && std::prev(after)->second >= end;
  }
};

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(VocabData data);

  std::vector<int32_t> specials_in(std::string_view text) const;
  std::vector<Fragment> partition(std::string_view text, const TrustedRanges& trusted) const;
  void encode_bpe(std::string_view text, BpeScratch& scratch, std::vector<int32_t>& out) const;
  std::vector<int32_t> encode(std::string_view text, const TrustedRanges& trusted, bool add_bos) const;
  std::string piece(int32_t token, bool show_special) const;

  Vocabulary vocabulary;
  std::optional<PreTokenizer> pre_tokenizer;  // BPE
  std::optional<BytePairEncoder> bpe;
  std::optional<SentencePieceEncoder> spm;
  std::optional<UnigramEncoder> ugm;
  std::optional<WordPieceEncoder> wpm;
  int32_t last_of_input = -1;  // what encode_input() appends
  int32_t between_pair = -1;   // what encode_pair() puts between, beside that
  bool adds_bos = false;
  bool adds_space_prefix = false;
  // First bytes of special texts that are worth looking at; indices into vocabulary.specials() by first byte.
  std::array<std::vector<uint32_t>, 256> specials_by_first_byte;
};

Tokenizer::Impl::Impl(VocabData data) : vocabulary(std::move(data)) {
  const VocabData& d = vocabulary.data();
  if (d.model == "gpt2") {
    pre_tokenizer.emplace(d.pre);
    bpe.emplace(vocabulary, pre_tokenizer->ignore_merges());
    adds_bos = d.add_bos == -1 ? pre_tokenizer->adds_bos() : d.add_bos == 1;
    if (pre_tokenizer->strips_before_mask()) vocabulary.set_strips_before(vocabulary.find("<mask>"));
    // A space prefix is SentencePiece's; byte-level vocabularies write the flag but do not mean it.
  } else if (d.model == "llama") {
    spm.emplace(vocabulary);
    adds_bos = d.add_bos != 0;
    adds_space_prefix = d.add_space_prefix != 0;
  } else if (d.model == "t5") {
    adds_space_prefix = d.add_space_prefix != 0;
    ugm.emplace(vocabulary, adds_space_prefix, d.remove_extra_whitespaces != 0);
    adds_bos = d.add_bos == 1;
  } else if (d.model == "bert") {
    const bool lower_case = d.lower_case != 0;
    wpm.emplace(vocabulary, lower_case, d.strip_accents == -1 ? lower_case : d.strip_accents == 1);
    adds_bos = true;
    adds_space_prefix = true;
  } else {
    throw SetupError("unknown tokenizer model " + in_quotes(d.model, 80) +
                     " (tokenizer.ggml.model); known: gpt2, llama, t5, bert");
  }
  if ((ugm || wpm) && vocabulary.unknown() < 0) {
    throw SetupError(
        "the vocabulary has no token for what it cannot write: tokenizer.ggml.unknown_token_id is missing; "
        "convert the model again");
  }
  if (wpm) {
    last_of_input = vocabulary.separator();
  } else if (d.add_eos == 1 || (ugm && d.add_eos == -1)) {
    last_of_input = vocabulary.eos();
  }
  // WordPiece has its separator at the end of each input already.
  if (ugm && d.add_sep == 1)
    between_pair = vocabulary.separator() >= 0 ? vocabulary.separator() : vocabulary.eos();
  if (adds_bos && vocabulary.bos() < 0) {
    throw SetupError(
        "the tokenizer is to prepend a BOS token (tokenizer.ggml.add_bos_token) but "
        "tokenizer.ggml.bos_token_id is "
        "missing: convert the model again");
  }
  for (uint32_t i = 0; i < vocabulary.specials().size(); ++i) {
    specials_by_first_byte[static_cast<uint8_t>(vocabulary.text(vocabulary.specials()[i])[0])].push_back(i);
  }
}

// The special tokens that occur somewhere in the text, longest first: usually none, found in one pass.
std::vector<int32_t> Tokenizer::Impl::specials_in(std::string_view text) const {
  const auto& specials = vocabulary.specials();
  std::vector<bool> seen(specials.size());
  for (size_t at = 0; at < text.size(); ++at) {
    for (const uint32_t i : specials_by_first_byte[static_cast<uint8_t>(text[at])]) {
      if (!seen[i] && text.substr(at).starts_with(vocabulary.text(specials[i]))) seen[i] = true;
    }
  }
  std::vector<int32_t> found;
  for (size_t i = 0; i < specials.size(); ++i) {
    if (seen[i]) found.push_back(specials[i]);
  }
  return found;
}

// Longer tokens take their places in the whole text before shorter ones are looked for.
std::vector<Fragment> Tokenizer::Impl::partition(std::string_view text, const TrustedRanges& trusted) const {
  std::vector<Fragment> fragments, next;
  if (!text.empty()) fragments.push_back({0, text.size(), -1});
  for (const int32_t special : specials_in(text)) {
    const std::string& wanted = vocabulary.text(special);
    next.clear();
    for (const Fragment& fragment : fragments) {
      size_t begin = fragment.begin;
      size_t from = begin;
      while (fragment.token < 0) {
        const size_t match = text.substr(0, fragment.end).find(wanted, from);
        if (match == std::string_view::npos) break;
        if (vocabulary.is_control(special) && !trusted.contain(match, match + wanted.size())) {
          from = match + 1;
          continue;
        }
        size_t left_end = match;
        while (vocabulary.strips_before(special) && left_end > begin && is_ascii_space(text[left_end - 1]))
          --left_end;
        if (left_end > begin) next.push_back({begin, left_end, -1});
        next.push_back({match, match + wanted.size(), special});
        begin = match + wanted.size();
        while (vocabulary.strips_after(special) && begin < fragment.end && is_ascii_space(text[begin]))
          ++begin;
        from = begin;
      }
      if (begin < fragment.end) next.push_back({begin, fragment.end, fragment.token});
    }
    fragments.swap(next);
  }
  return fragments;
}

void Tokenizer::Impl::encode_bpe(std::string_view text, BpeScratch& scratch,
                                 std::vector<int32_t>& out) const {
  bool has_surrogates = false;
  const std::string normal = normalise_lenient(text, has_surrogates);
  size_t begin = 0;
  for (const size_t end : pre_tokenizer->split(normal, has_surrogates)) {
    bpe->encode(std::string_view(normal).substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

std::vector<int32_t> Tokenizer::Impl::encode(std::string_view text, const TrustedRanges& trusted,
                                             bool add_bos) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 4);
  if (add_bos && adds_bos) out.push_back(vocabulary.bos());
  BpeScratch bpe_scratch;
  SpmScratch spm_scratch;
  UgmScratch ugm_scratch;
  bool after_special = true;
  for (const Fragment& fragment : partition(text, trusted)) {
    const std::string_view raw = text.substr(fragment.begin, fragment.end - fragment.begin);
    if (fragment.token >= 0) {
      out.push_back(fragment.token);
      after_special = true;
    } else if (bpe) {
      encode_bpe(raw, bpe_scratch, out);
    } else if (ugm) {
      ugm->encode(raw, ugm_scratch, out);
    } else if (wpm) {
      wpm->encode(raw, out);
    } else {
      const bool prefix = adds_space_prefix && after_special;
      spm->encode((prefix ? std::string(kSpmSpace) : std::string()) + escape_spaces(raw), spm_scratch, out);
      after_special = false;
    }
  }
  return out;
}

std::string Tokenizer::Impl::piece(int32_t token, bool show_special) const {
  if (token < 0 || token >= vocabulary.size()) return {};
  const std::string& text = vocabulary.text(token);
  if (vocabulary.is_control(token))
    return show_special || !vocabulary.is_hidden(token) ? text : std::string();
  switch (vocabulary.type(token)) {
    case TokenType::kUserDefined:
      return text;
    case TokenType::kByte:
      return std::string(1, static_cast<char>(Vocabulary::byte_value(text)));
    case TokenType::kNormal:
      return bpe ? decode_byte_symbols(text) : unescape_spaces(text);
    default:  // unused and undefined tokens stand for nothing
      return {};
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from(VocabData data) {
  return Tokenizer(std::make_unique<Impl>(std::move(data)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_special, bool add_bos) const {
  TrustedRanges trusted;
  if (parse_special) trusted.ranges.emplace_back(0, text.size());
  return impl_->encode(text, trusted, add_bos);
}

std::vector<int32_t> Tokenizer::encode(const std::vector<PromptPiece>& pieces, bool add_bos) const {
  std::string text;
  TrustedRanges trusted;
  for (const PromptPiece& piece : pieces) {
    const size_t begin = text.size();
    text += piece.text;
    if (!piece.trusted || piece.text.empty()) continue;
    if (!trusted.ranges.empty() && trusted.ranges.back().second == begin) {
      trusted.ranges.back().second = text.size();
    } else {
      trusted.ranges.emplace_back(begin, text.size());
    }
  }
  std::vector<int32_t> tokens = impl_->encode(text, trusted, /*add_bos=*/false);
  const bool begun = !tokens.empty() && tokens.front() == bos();
  if (add_bos && adds_bos() && !begun) tokens.insert(tokens.begin(), bos());
  return tokens;
}

std::vector<int32_t> Tokenizer::encode_input(std::string_view text, bool parse_special) const {
  std::vector<int32_t> tokens = encode(text, parse_special, /*add_bos=*/true);
  if (impl_->last_of_input >= 0) tokens.push_back(impl_->last_of_input);
  return tokens;
}

std::vector<int32_t> Tokenizer::encode_pair(std::string_view first, std::string_view second) const {
  std::vector<int32_t> tokens = encode_input(first);
  if (impl_->between_pair >= 0) tokens.push_back(impl_->between_pair);
  const std::vector<int32_t> rest = encode_input(second);
  const bool begins = adds_bos() && !rest.empty() && rest.front() == bos();
  tokens.insert(tokens.end(), rest.begin() + begins, rest.end());
  return tokens;
}

std::string Tokenizer::piece(int32_t token, bool show_special) const {
  return impl_->piece(token, show_special);
}

std::string Tokenizer::decode(const std::vector<int32_t>& tokens, bool show_special) const {
  std::string out;
  bool first = impl_->adds_space_prefix;
  for (const int32_t token : tokens) {
    const std::string text = impl_->piece(token, show_special);
    const bool drop = first && text.starts_with(' ');
    if (!text.empty()) first = false;
    out.append(text, drop ? 1 : 0);
  }
  return out;
}

bool Tokenizer::is_end_of_generation(int32_t token) const {
  return token >= 0 && token < vocab_size() && impl_->vocabulary.is_end_of_generation(token);
}
int32_t Tokenizer::vocab_size() const {
  return impl_->vocabulary.size();
}
int32_t Tokenizer::bos() const {
  return impl_->vocabulary.bos();
}
int32_t Tokenizer::eos() const {
  return impl_->vocabulary.eos();
}
int32_t Tokenizer::padding() const {
  return impl_->vocabulary.padding();
}
bool Tokenizer::adds_bos() const {
  return impl_->adds_bos;
}
bool Tokenizer::adds_space_prefix() const {
  return impl_->adds_space_prefix;
}
std::string_view Tokenizer::pre_tokenizer() const {
  if (impl_->pre_tokenizer) return impl_->pre_tokenizer->name();
  return impl_->ugm ? "unigram" : impl_->wpm ? "wordpiece" : "sentencepiece";
}

}  // namespace shoal
