#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace shoal {

namespace {

int64_t pages_in_all(int context, int slots, int64_t cells) {
  const int64_t of_slot = KvCache::pages_for(context), all = of_slot * slots;
  return cells == 0 ? all : std::clamp((cells + kKvPageTokens - 1) / kKvPageTokens, of_slot, all);
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, int layer_begin, int layer_end, int context, int slots,
                 KvType type, int64_t cells)
    : type_(type), layer_begin_(layer_begin), context_(context) {
  SHOAL_CHECK(0 <= layer_begin && layer_begin <= layer_end && layer_end <= config.n_layer);
  SHOAL_CHECK(context > 0 && slots > 0);
  const int64_t n_pages = pages_in_all(context, slots, cells);
  SHOAL_CHECK(n_pages <= INT32_MAX);
  for (int layer = layer_begin; layer < layer_end; ++layer) {
    k_page_bytes_.push_back(kv_k_page_bytes(type, config.n_head_kv[layer], config.head_dim_k));
    v_page_bytes_.push_back(kv_v_page_bytes(type, config.n_head_kv[layer], config.head_dim_v));
    k_.emplace_back(k_page_bytes_.back() * n_pages);
    v_.emplace_back(v_page_bytes_.back() * n_pages);
  }
  slots_.resize(slots);
  for (Slot& s : slots_) s.pages.reserve(pages_for(context));
  page_users_.assign(n_pages, 0);
  free_pages_.resize(n_pages);
  for (int64_t i = 0; i < n_pages; ++i) free_pages_[i] = static_cast<int32_t>(n_pages - 1 - i);
}

uint64_t KvCache::bytes(const ModelConfig& config, int layer_begin, int layer_end, int context, int slots,
                        KvType type, int64_t cells) {
  const auto pages = static_cast<uint64_t>(pages_in_all(context, slots, cells));
  uint64_t total = 0;
  for (int layer = layer_begin; layer < layer_end; ++layer)
    total += pages * (kv_k_page_bytes(type, config.n_head_kv[layer], config.head_dim_k) +
                      kv_v_page_bytes(type, config.n_head_kv[layer], config.head_dim_v));
  return total;
}

KvCache::Slot& KvCache::slot_at(int slot) {
  SHOAL_CHECK(slot >= 0 && slot < slots());
  return slots_[slot];
}

const KvCache::Slot& KvCache::slot_at(int slot) const {
  SHOAL_CHECK(slot >= 0 && slot < slots());
  return slots_[slot];
}

int KvCache::length(int slot) const {
  return slot_at(slot).length;
}

int KvCache::pages_to_extend(int slot, int n) const {
  const Slot& s = slot_at(slot);
  const bool copies = n > 0 && s.length % kKvPageTokens != 0 && page_users_[s.pages.back()] > 1;
  return copies + pages_for(s.length + n) - static_cast<int>(s.pages.size());
}

int KvCache::pages_held(const std::vector<bool>& marked_slots) const {
  SHOAL_CHECK(marked_slots.size() == slots_.size());
  std::vector<bool> held(page_users_.size());
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!marked_slots[i]) continue;
    for (const int32_t page : slots_[i].pages) held[page] = true;
  }
  return static_cast<int>(std::count(held.begin(), held.end(), true));
}

Result<void> KvCache::extend(int slot, int n) {
  Slot& s = slot_at(slot);
  SHOAL_CHECK(n >= 0);
  if (n > context_ - s.length) {
    return Error{Errc::kContextFull, "slot " + std::to_string(slot) + " holds " + std::to_string(s.length) +
                                         " positions; " + std::to_string(n) + " more exceed the context of " +
                                         std::to_string(context_)};
  }
  if (pages_to_extend(slot, n) > free_pages()) {
    return Error{Errc::kContextFull, "slot " + std::to_string(slot) + " needs " +
                                         std::to_string(pages_to_extend(slot, n)) +
                                         " pages more and the cache has " + std::to_string(free_pages()) +
                                         " of " + std::to_string(pages()) + " left"};
  }
  if (n > 0 && s.length % kKvPageTokens != 0) own_page(s.pages.back());
  s.length += n;
  while (static_cast<int>(s.pages.size()) < pages_for(s.length)) s.pages.push_back(take_page());
  return {};
}

void KvCache::trim(int slot, int length) {
  Slot& s = slot_at(slot);
  SHOAL_CHECK(length >= 0);
  if (length >= s.length) return;
  s.length = length;
  for (; static_cast<int>(s.pages.size()) > pages_for(length); s.pages.pop_back()) drop_page(s.pages.back());
}

void KvCache::free(int slot) {
  trim(slot, 0);
}

Result<void> KvCache::fork(int from, int to, int length) {
  const Slot& source = slot_at(from);
  Slot& target = slot_at(to);
  if (length < 0 || length > source.length) {
    return Error{Errc::kInvalidInput, "fork of " + std::to_string(length) + " positions of slot " +
                                          std::to_string(from) + ", which holds " +
                                          std::to_string(source.length)};
  }
  trim(to, from == to ? length : 0);
  if (from == to) return {};
  target.pages.assign(source.pages.begin(), source.pages.begin() + pages_for(length));
  target.length = length;
  for (int32_t page : target.pages) ++page_users_[page];
  return {};
}

KvPages KvCache::view(int layer, int slot) const {
  const size_t i = layer - layer_begin_;
  return {type_, k_[i].data(), v_[i].data(), k_page_bytes_[i], v_page_bytes_[i], slot_at(slot).pages.data()};
}

std::byte* KvCache::k_page(int layer, int slot, int position) {
  const size_t i = layer - layer_begin_;
  return k_[i].data() + k_page_bytes_[i] * slot_at(slot).pages[position / kKvPageTokens];
}

std::byte* KvCache::v_page(int layer, int slot, int position) {
  const size_t i = layer - layer_begin_;
  return v_[i].data() + v_page_bytes_[i] * slot_at(slot).pages[position / kKvPageTokens];
}

int32_t KvCache::take_page() {
  SHOAL_CHECK(!free_pages_.empty());
  const int32_t page = free_pages_.back();
  free_pages_.pop_back();
  page_users_[page] = 1;
  return page;
}

void KvCache::drop_page(int32_t page) {
  if (--page_users_[page] == 0) free_pages_.push_back(page);
}

void KvCache::own_page(int32_t& page) {
  if (page_users_[page] == 1) return;
  const int32_t copy = take_page();
  const auto copy_in = [&](AlignedBuffer& arena, size_t page_bytes) {
    std::memcpy(arena.data() + page_bytes * copy, arena.data() + page_bytes * page, page_bytes);
  };
  for (size_t i = 0; i < k_.size(); ++i) {
    copy_in(k_[i], k_page_bytes_[i]);
    copy_in(v_[i], v_page_bytes_[i]);
  }
  drop_page(page);
  page = copy;
}

}  // namespace shoal
