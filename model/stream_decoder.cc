#include <algorithm>

#include "model/tokenizer.h"
#include "model/utf8.h"

namespace shoal {

std::string StreamDecoder::push(int32_t token) {
  const bool shown = std::find(shown_.begin(), shown_.end(), token) != shown_.end();
  std::string bytes = tokenizer_->piece(token, shown);
  if (bytes.empty()) return {};
  if (first_ && tokenizer_->adds_space_prefix() && bytes[0] == ' ') bytes.erase(0, 1);
  first_ = false;
  held_ += bytes;

  std::string out;
  size_t at = 0;
  while (at < held_.size()) {
    size_t length = 0;
    const Utf8Prefix kind = classify_utf8(std::string_view(held_).substr(at), length);
    if (kind == Utf8Prefix::kUnfinished) break;
    if (kind == Utf8Prefix::kComplete) {
      out.append(held_, at, length);
    } else {
      append_utf8(kReplacementCharacter, out);
    }
    at += length;
  }
  held_.erase(0, at);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out;
  if (!held_.empty()) append_utf8(kReplacementCharacter, out);  // the beginning of one code point
  held_.clear();
  first_ = true;
  return out;
}

}  // namespace shoal
