#include "model/spm.h"

#include <algorithm>

namespace shoal {
namespace {

// Longer texts are cut, so that symbol indices fit 32 bits.
constexpr size_t kPartBytesMax = size_t{1} << 30;

// Bytes that a lead byte announces; no look at what follows, as in the reference.
size_t symbol_length(uint8_t lead) {
  return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

}  // namespace

std::string escape_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (const char byte : text) {
    if (byte == ' ') {
      out += kSpmSpace;
    } else {
      out += byte;
    }
  }
  return out;
}

std::string unescape_spaces(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at, kSpmSpace.size()) == kSpmSpace) {
      out += ' ';
      at += kSpmSpace.size();
    } else {
      out += text[at++];
    }
  }
  return out;
}

SentencePieceEncoder::SentencePieceEncoder(const Vocabulary& vocabulary) : vocabulary_(&vocabulary) {
  for (int byte = 0; byte < 256; ++byte)
    byte_tokens_[byte] = vocabulary.find_byte(static_cast<uint8_t>(byte));
}

void SentencePieceEncoder::encode(std::string_view text, SpmScratch& scratch,
                                  std::vector<int32_t>& out) const {
  while (text.size() > kPartBytesMax) {
    encode_part(text.substr(0, kPartBytesMax), scratch, out);
    text.remove_prefix(kPartBytesMax);
  }
  if (!text.empty()) encode_part(text, scratch, out);
}

void SentencePieceEncoder::encode_part(std::string_view text, SpmScratch& scratch,
                                       std::vector<int32_t>& out) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  for (size_t at = 0; at < text.size();) {
    const size_t length = std::min(symbol_length(static_cast<uint8_t>(text[at])), text.size() - at);
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(length), index - 1, index + 1});
    at += length;
  }
  symbols.back().next = -1;

  const auto worse = [](const SpmScratch::Candidate& a, const SpmScratch::Candidate& b) {
    return a.score != b.score ? a.score < b.score : a.left > b.left;
  };
  const auto propose = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return false;
    const uint32_t length = symbols[left].length + symbols[right].length;
    if (length > vocabulary_->longest_text()) return false;
    const int32_t token = vocabulary_->find(text.substr(symbols[left].offset, length));
    if (token < 0 || !vocabulary_->is_mergeable(token)) return false;
    heap.push_back({vocabulary_->score(token), left, right, length});
    return true;
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) propose(i, i + 1);
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    const SpmScratch::Candidate best = heap.back();
    heap.pop_back();
    auto& left = symbols[best.left];
    auto& right = symbols[best.right];
    if (left.length == 0 || right.length == 0 || left.length + right.length != best.length)
      continue;  // outdated
    left.length = best.length;
    right.length = 0;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].prev = best.left;
    if (propose(left.prev, best.left)) std::push_heap(heap.begin(), heap.end(), worse);
    if (propose(best.left, left.next)) std::push_heap(heap.begin(), heap.end(), worse);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next)
    emit(text.substr(symbols[i].offset, symbols[i].length), out);
}

void SentencePieceEncoder::emit(std::string_view symbol, std::vector<int32_t>& out) const {
  if (const int32_t token = vocabulary_->find(symbol); token >= 0 && vocabulary_->is_mergeable(token)) {
    out.push_back(token);
    return;
  }
  bool complete = true;
  for (const char byte : symbol) complete &= byte_tokens_[static_cast<uint8_t>(byte)] >= 0;
  if (!complete) {
    out.push_back(vocabulary_->unknown());  // one for the character
    return;
  }
  for (const char byte : symbol) out.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
}

}  // namespace shoal
