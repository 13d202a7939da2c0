#include "model/ugm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/spm.h"
#include "model/utf8.h"

namespace shoal {
namespace {

// SentencePiece's penalty for a character without a token, below the worst token's score.
constexpr double kUnknownPenalty = 10;
// Longer texts are cut, so that positions fit 32 bits.
constexpr size_t kPartBytesMax = size_t{1} << 26;

}  // namespace

UnigramEncoder::UnigramEncoder(const Vocabulary& vocabulary, bool add_space_prefix, bool merge_spaces)
    : vocabulary_(&vocabulary),
      charsmap_(vocabulary.data().charsmap),
      add_space_prefix_(add_space_prefix),
      merge_spaces_(merge_spaces) {
  double least = 0;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const bool normal = vocabulary.type(id) == TokenType::kNormal && vocabulary.is_mergeable(id);
    const double score = vocabulary.score(id);
    if (normal && std::isfinite(score)) least = std::min(least, score);
    if (normal || vocabulary.type(id) == TokenType::kUserDefined) by_text_.push_back(id);
  }
  unknown_score_ = least - kUnknownPenalty;
  std::sort(by_text_.begin(), by_text_.end(),
            [&](int32_t a, int32_t b) { return vocabulary.text(a) < vocabulary.text(b); });
  for (const int32_t id : by_text_) ++first_byte_[static_cast<uint8_t>(vocabulary.text(id)[0]) + 1];
  for (int byte = 0; byte < 256; ++byte) {
    first_byte_[byte + 1] += first_byte_[byte];
    byte_tokens_[byte] = vocabulary.find_byte(static_cast<uint8_t>(byte));
    has_all_bytes_ &= byte_tokens_[byte] >= 0;
  }
}

std::string UnigramEncoder::normalise(std::string_view text) const {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + kSpmSpace.size());
  if (text.empty()) return out;
  // Merged spaces are written before the character that follows them, so that none end the text.
  bool space_before = add_space_prefix_;
  if (!merge_spaces_ && add_space_prefix_) out += kSpmSpace;
  const auto append = [&](std::string_view piece) {
    for (const char byte : piece) {
      if (byte == ' ') {
        if (!merge_spaces_) out += kSpmSpace;
        space_before |= !out.empty();
        continue;
      }
      if (merge_spaces_ && space_before) out += kSpmSpace;
      space_before = false;
      out += byte;
    }
  };
  for (size_t at = 0; at < text.size();) {
    size_t length = 0;
    std::string_view piece = charsmap_.replacement(text.substr(at), length);
    if (length == 0) {
      if (classify_utf8(text.substr(at), length) == Utf8Prefix::kComplete) {
        piece = text.substr(at, length);
      } else {
        piece = "\uFFFD";
        length = 1;
      }
    }
    append(piece);
    at += length;
  }
  // The text's own U+2581 is none of the merged spaces, but none ends the text either.
  while (merge_spaces_ && out.ends_with(kSpmSpace)) out.resize(out.size() - kSpmSpace.size());
  return out;
}

void UnigramEncoder::encode(std::string_view text, UgmScratch& scratch, std::vector<int32_t>& out) const {
  const std::string whole = normalise(text);
  std::string_view rest = whole;
  while (!rest.empty()) {
    size_t size = std::min(rest.size(), kPartBytesMax);
    while (size < rest.size() && (static_cast<uint8_t>(rest[size]) & 0xC0) == 0x80) --size;
    scratch.text.assign(rest.substr(0, size));
    encode_part(scratch, out);
    rest.remove_prefix(size);
  }
}

// Offers every token that begins at `begin` to the position where it ends, and the unknown token where none
// is just the one character.
void UnigramEncoder::offer_tokens(std::string_view text, size_t begin, UgmScratch& scratch) const {
  const double so_far = scratch.best[begin].score;
  const auto offer = [&](size_t end, int32_t token, double score) {
    UgmScratch::Best& best = scratch.best[end];
    if (so_far + score > best.score) best = {so_far + score, token, static_cast<uint32_t>(begin)};
  };
  const auto first = static_cast<uint8_t>(text[begin]);
  size_t character = 0;
  classify_utf8(text.substr(begin), character);
  bool covered = false;
  // by_text_[low, high): the tokens that agree with the text so far.
  uint32_t low = first_byte_[first], high = first_byte_[first + 1];
  for (size_t depth = 1; low < high; ++depth) {
    if (const std::string& shortest = vocabulary_->text(by_text_[low]); shortest.size() == depth) {
      const int32_t token = by_text_[low++];
      const bool user_defined = vocabulary_->type(token) == TokenType::kUserDefined;
      offer(begin + depth, token, user_defined ? 0.0 : static_cast<double>(vocabulary_->score(token)));
      covered |= depth == character;
    }
    if (begin + depth == text.size()) break;
    const auto byte = static_cast<uint8_t>(text[begin + depth]);
    const auto at = [&](int32_t id) { return static_cast<uint8_t>(vocabulary_->text(id)[depth]); };
    const auto from = by_text_.begin();
    const auto lower = std::lower_bound(from + low, from + high, byte,
                                        [&](int32_t id, uint8_t wanted) { return at(id) < wanted; });
    const auto upper = std::upper_bound(lower, from + high, byte,
                                        [&](uint8_t wanted, int32_t id) { return wanted < at(id); });
    low = static_cast<uint32_t>(lower - from);
    high = static_cast<uint32_t>(upper - from);
  }
  if (!covered) offer(begin + character, vocabulary_->unknown(), unknown_score_);
}

void UnigramEncoder::encode_part(UgmScratch& scratch, std::vector<int32_t>& out) const {
  const std::string& text = scratch.text;
  const UgmScratch::Best unreached = {-std::numeric_limits<double>::infinity(), vocabulary_->unknown(), 0};
  scratch.best.assign(text.size() + 1, unreached);
  scratch.best[0].score = 0;
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    classify_utf8(std::string_view(text).substr(at), length);
    offer_tokens(text, at, scratch);
  }
  const size_t start = out.size();
  size_t end = text.size();
  while (end > 0) {
    const UgmScratch::Best& best = scratch.best[end];
    size_t begin = best.begin;
    if (best.token != vocabulary_->unknown()) {
      out.push_back(best.token);
    } else {
      while (begin > 0 && scratch.best[begin].token == vocabulary_->unknown())
        begin = scratch.best[begin].begin;
      emit_unknown(std::string_view(text).substr(begin, end - begin), out);
    }
    end = begin;
  }
  std::reverse(out.begin() + static_cast<ptrdiff_t>(start), out.end());
}

// From the last byte to the first, as encode_part() walks.
void UnigramEncoder::emit_unknown(std::string_view text, std::vector<int32_t>& out) const {
  if (!has_all_bytes_) {
    out.push_back(vocabulary_->unknown());
    return;
  }
  for (auto byte = text.rbegin(); byte != text.rend(); ++byte)
    out.push_back(byte_tokens_[static_cast<uint8_t>(*byte)]);
}

}  // namespace shoal
