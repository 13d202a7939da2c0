#include "model/charsmap.h"

#include "base/error.h"

namespace shoal {
namespace {

[[noreturn]] void damaged(const std::string& what) {
  throw SetupError("tokenizer.ggml.precompiled_charsmap: " + what +
                   ": the model file is damaged, download or convert it again");
}

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i])) << 8 * i;
  return value;
}

}  // namespace

CharsMap::CharsMap(std::string_view bytes) {
  if (bytes.empty()) return;
  if (bytes.size() < 4) damaged("it has " + std::to_string(bytes.size()) + " bytes, too few for a length");
  const size_t trie_bytes = read_u32(bytes, 0);
  if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > bytes.size() - 4) {
    damaged("its trie of " + std::to_string(trie_bytes) + " bytes does not fit into " +
            std::to_string(bytes.size()));
  }
  units_.reserve(trie_bytes / 4);
  for (size_t at = 0; at < trie_bytes; at += 4) units_.push_back(read_u32(bytes, 4 + at));
  replacements_ = bytes.substr(4 + trie_bytes);
  check_reachable();
}

// Every replacement that a text can lead to must begin inside the list, and the list must end.
void CharsMap::check_reachable() const {
  std::vector<bool> seen(units_.size(), false);
  std::vector<uint32_t> open = {0};
  while (!open.empty()) {
    const uint32_t node = open.back();
    open.pop_back();
    const uint32_t children = node ^ offset(units_[node]);
    if (has_replacement(units_[node])) {
      if (children >= units_.size()) damaged("a replacement lies outside its trie");
      const uint32_t position = units_[children] & ~kIsPosition;
      if (position >= replacements_.size()) damaged("a replacement lies outside its list");
    }
    for (uint32_t byte = 1; byte < 256; ++byte) {
      const uint32_t child = children ^ byte;
      if (child >= units_.size() || (units_[child] & (kIsPosition | 0xFF)) != byte || seen[child]) continue;
      seen[child] = true;
      open.push_back(child);
    }
  }
  if (!replacements_.empty() && replacements_.back() != '\0') damaged("its last replacement has no end");
}

std::string_view CharsMap::replacement(std::string_view text, size_t& length) const {
  length = 0;
  if (units_.empty()) return {};
  uint32_t position = 0;
  uint32_t children = offset(units_[0]);
  for (size_t at = 0; at < text.size() && text[at] != '\0'; ++at) {
    const auto byte = static_cast<uint8_t>(text[at]);
    const uint32_t child = children ^ byte;
    if (child >= units_.size() || (units_[child] & (kIsPosition | 0xFF)) != byte) break;
    children = child ^ offset(units_[child]);
    if (has_replacement(units_[child])) {
      length = at + 1;
      position = units_[children] & ~kIsPosition;
    }
  }
  if (length == 0) return {};
  return std::string_view(replacements_.data() + position);
}

}  // namespace shoal
