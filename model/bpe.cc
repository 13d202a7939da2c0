#include "model/bpe.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/error.h"
#include "base/printable.h"
#include "model/utf8.h"

namespace shoal {
namespace {

// Words up to this many bytes are merged by scanning for the best pair, longer ones with a heap.
constexpr size_t kShortWord = 32;
// Longer runs are cut, so that symbol indices fit 32 bits.
constexpr size_t kWordBytesMax = size_t{1} << 30;

bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<std::string, 256> symbols;
  std::array<int16_t, 512> bytes;
  Alphabet() {
    bytes.fill(-1);
    int shifted = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const int code_point = is_printable(byte) ? byte : shifted++;
      append_utf8(static_cast<char32_t>(code_point), symbols[byte]);
      bytes[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string_view byte_to_symbol(uint8_t byte) {
  return alphabet().symbols[byte];
}

int symbol_to_byte(char32_t symbol) {
  return symbol < 512 ? alphabet().bytes[symbol] : -1;
}

std::string decode_byte_symbols(std::string_view text) {
  std::string out;
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    const int byte = symbol_to_byte(decode_lenient(text.substr(at), length));
    if (byte >= 0) {
      out += static_cast<char>(byte);
    } else {
      out += text.substr(at, length);
    }
  }
  return out;
}

MergeTable::MergeTable(size_t entries) {
  const size_t slots = std::bit_ceil(std::max<size_t>(entries * 2, 16));
  slots_.assign(slots, Slot{UINT64_MAX, {0, -1}});
  shift_ = 64 - std::countr_zero(slots);
}

size_t MergeTable::slot_of(uint64_t pair) const {
  // Fibonacci hashing; the high bits are the well mixed ones.
  size_t slot = static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> shift_);
  while (slots_[slot].pair != pair && slots_[slot].pair != UINT64_MAX)
    slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t pair =
      (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  Slot& slot = slots_[slot_of(pair)];
  if (slot.pair == UINT64_MAX) slot = {pair, merge};
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const uint64_t pair =
      (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  const Slot& slot = slots_[slot_of(pair)];
  return slot.pair == pair ? &slot.merge : nullptr;
}

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary, bool ignore_merges)
    : vocabulary_(&vocabulary), ignore_merges_(ignore_merges), merges_(vocabulary.data().merges.size()) {
  for (int byte = 0; byte < 256; ++byte)
    byte_symbols_[byte] = intern(byte_to_symbol(static_cast<uint8_t>(byte)));
  const auto& merges = vocabulary.data().merges;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view merge = merges[rank];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size()) {
      throw SetupError("tokenizer.ggml.merges: entry " + std::to_string(rank) + " " + in_quotes(merge, 80) +
                       " is not two symbols with a space between");
    }
    const auto left = merge.substr(0, space), right = merge.substr(space + 1);
    const int32_t result = intern(std::string(left) + std::string(right));
    // Ordinary text must not merge into a token of the file's control type.
    const bool token = result < vocabulary.size();
    if (token &&
        (vocabulary.type(result) == TokenType::kControl || vocabulary.type(result) == TokenType::kUnknown)) {
      continue;
    }
    merges_.insert(intern(left), intern(right), {static_cast<uint32_t>(rank), result});
  }
}

int32_t BytePairEncoder::intern(std::string_view text) {
  if (const int32_t id = vocabulary_->find(text); id >= 0) return id;
  if (const auto it = extra_index_.find(text); it != extra_index_.end()) return it->second;
  const auto id = static_cast<int32_t>(vocabulary_->size() + static_cast<int32_t>(extra_.size()));
  extra_.emplace_back(text);
  extra_index_.emplace(extra_.back(), id);
  return id;
}

void BytePairEncoder::emit(int32_t symbol, std::vector<int32_t>& out) const {
  if (symbol < vocabulary_->size()) {
    out.push_back(symbol);
    return;
  }
  // A symbol that is no token falls to the tokens of its own UTF-8 bytes, where the vocabulary has them.
  for (const char& byte : extra_[symbol - vocabulary_->size()]) {
    if (const int32_t id = vocabulary_->find(std::string_view(&byte, 1)); id >= 0) out.push_back(id);
  }
}

void BytePairEncoder::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_ && encode_whole(word, scratch, out)) return;
  while (word.size() > kWordBytesMax) {
    merge_long(word.substr(0, kWordBytesMax), scratch, out);
    word.remove_prefix(kWordBytesMax);
  }
  if (word.size() <= kShortWord) {
    merge_short(word, out);
  } else {
    merge_long(word, scratch, out);
  }
}

bool BytePairEncoder::encode_whole(std::string_view word, BpeScratch& scratch,
                                   std::vector<int32_t>& out) const {
  if (word.size() > vocabulary_->longest_text()) return false;
  scratch.word.clear();
  for (const char byte : word) scratch.word += byte_to_symbol(static_cast<uint8_t>(byte));
  const int32_t id = vocabulary_->find(scratch.word);
  if (id < 0 || !vocabulary_->is_mergeable(id)) return false;
  out.push_back(id);
  return true;
}

void BytePairEncoder::merge_short(std::string_view word, std::vector<int32_t>& out) const {
  constexpr uint32_t kNone = UINT32_MAX;
  int32_t ids[kShortWord], results[kShortWord];
  uint32_t ranks[kShortWord];  // ranks[i], results[i]: of merging ids[i] with ids[i + 1]
  size_t n = word.size();
  const auto look_up = [&](size_t i) {
    const MergeTable::Merge* merge = merges_.find(ids[i], ids[i + 1]);
    ranks[i] = merge != nullptr ? merge->rank : kNone;
    results[i] = merge != nullptr ? merge->result : -1;
  };
  for (size_t i = 0; i < n; ++i) ids[i] = byte_symbols_[static_cast<uint8_t>(word[i])];
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    const auto best = static_cast<size_t>(std::min_element(ranks, ranks + n - 1) - ranks);
    if (ranks[best] == kNone) break;
    ids[best] = results[best];
    for (size_t i = best + 1; i + 1 < n; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
      results[i] = results[i + 1];
    }
    --n;
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  for (size_t i = 0; i < n; ++i) emit(ids[i], out);
}

void BytePairEncoder::merge_long(std::string_view word, BpeScratch& scratch,
                                 std::vector<int32_t>& out) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto worse = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  };
  const auto n = static_cast<int32_t>(word.size());
  symbols.clear();
  heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    symbols.push_back({byte_symbols_[static_cast<uint8_t>(word[i])], i - 1, i + 1 < n ? i + 1 : -1});
  }
  const auto propose = [&](int32_t left) {
    const int32_t right = left < 0 ? -1 : symbols[left].next;
    if (right < 0) return false;
    const MergeTable::Merge* merge = merges_.find(symbols[left].id, symbols[right].id);
    if (merge == nullptr) return false;
    heap.push_back({merge->rank, left, symbols[left].id, symbols[right].id});
    return true;
  };
  for (int32_t i = 0; i + 1 < n; ++i) propose(i);
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    const BpeScratch::Candidate best = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[best.left];
    if (left.id != best.left_id || left.next < 0 || symbols[left.next].id != best.right_id)
      continue;  // outdated
    BpeScratch::Symbol& right = symbols[left.next];
    left.id = merges_.find(best.left_id, best.right_id)->result;
    right.id = -1;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].prev = best.left;
    if (propose(left.prev)) std::push_heap(heap.begin(), heap.end(), worse);
    if (propose(best.left)) std::push_heap(heap.begin(), heap.end(), worse);
  }
  for (int32_t i = 0; i >= 0 && n > 0; i = symbols[i].next) emit(symbols[i].id, out);
}

}  // namespace shoal
