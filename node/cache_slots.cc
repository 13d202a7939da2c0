#include "node/cache_slots.h"

#include <algorithm>
#include <map>

#include "base/check.h"

namespace shoal {
namespace {

constexpr double kKeptFree = 0.05;  // of the pages, when a sequence is admitted beside others

}  // namespace

CacheSlots::CacheSlots(int slots, int context, int64_t cells)
    : slots_(static_cast<size_t>(slots)), book_(ModelConfig{}, 0, 0, context, slots, KvType::kF16, cells) {}

// Where another slot has the better beginning it is forked, and the free slot that was used longest ago pays
// for it.
CacheSlots::Prefix CacheSlots::best_prefix(std::span<const int32_t> tokens, const std::string& user) const {
  Prefix own, other;
  int oldest = -1;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    const int here = static_cast<int>(i);
    int same = 0;
    if (slot.user == user) {
      const size_t limit = std::min(slot.tokens.size(), tokens.size() - 1);
      const auto end = slot.tokens.begin() + static_cast<long>(limit);
      same = static_cast<int>(std::mismatch(slot.tokens.begin(), end, tokens.begin()).first -
                              slot.tokens.begin());
    }
    if (!slot.used && (own.slot < 0 || same > own.length)) own = {here, here, same};
    if (slot.used && same > other.length) other = {-1, here, same};
    if (!slot.used && (oldest < 0 || slot.last_used < slots_[index(oldest)].last_used)) oldest = here;
  }
  if (own.slot < 0) return {};
  if (other.length >= own.length + kForkGain) return {oldest, other.from, other.length};
  if (own.length == 0) return {oldest, oldest, 0};  // nothing to gain: spare what others may ask for again
  return own;
}

std::vector<bool> CacheSlots::used_slots() const {
  std::vector<bool> used;
  for (const Slot& slot : slots_) used.push_back(slot.used);
  return used;
}

bool CacheSlots::has_room(const Prefix& prefix, int length) const {
  const std::vector<bool> used = used_slots();
  // Whole pages of a running sequence's beginning are there already.
  const int there = used[index(prefix.from)] ? prefix.length / kKvPageTokens : 0;
  return has_room_beside(used, KvCache::pages_for(length + 1) - there);
}

bool CacheSlots::would_have_room(int length, std::span<const int> without) const {
  std::vector<bool> used = used_slots();
  for (const int slot : without) used[index(slot)] = false;
  return has_room_beside(used, KvCache::pages_for(length + 1));
}

// Whether so many pages can be had while those of the used slots stay and get what they still need.
bool CacheSlots::has_room_beside(const std::vector<bool>& used, int pages) const {
  if (std::none_of(used.begin(), used.end(), [](bool is) { return is; })) return true;
  int wanted = pages;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int held = book_.pages_of(static_cast<int>(i));
    if (used[i]) wanted += std::max(0, KvCache::pages_for(slots_[i].length + 1) - held);
  }
  const int kept = static_cast<int>(kKeptFree * book_.pages());
  return book_.pages_held(used) + wanted + kept <= book_.pages();
}

void CacheSlots::take(const Prefix& prefix, const std::string& user, int length) {
  Slot& slot = slots_[index(prefix.slot)];
  SHOAL_CHECK(!slot.used && prefix.length < length);
  if (prefix.from != prefix.slot && prefix.length > 0) {
    ops_.push_back({CacheOpKind::kFork, prefix.slot, prefix.from, prefix.length});
    SHOAL_CHECK(book_.fork(prefix.from, prefix.slot, prefix.length).has_value());
    const Slot& from = slots_[index(prefix.from)];
    slot.tokens.assign(from.tokens.begin(), from.tokens.begin() + prefix.length);
  } else {
    trim(prefix.slot, prefix.length);
  }
  slot.user = user;
  slot.used = true;
  slot.length = length;
  slot.last_used = ++uses_;
}

// Forgets what a slot holds from `length` on, here and in all stages.
void CacheSlots::trim(int slot, int length) {
  if (book_.length(slot) <= length) return;
  ops_.push_back({CacheOpKind::kTrim, slot, 0, length});
  book_.trim(slot, length);
  slots_[index(slot)].tokens.resize(static_cast<size_t>(length));
}

// Drops what no sequence uses until so many pages are free, or nothing is left to drop.
void CacheSlots::make_free(int pages) {
  while (book_.free_pages() < pages) {
    int oldest = -1;
    for (size_t i = 0; i < slots_.size(); ++i) {
      const int here = static_cast<int>(i);
      if (slots_[i].used || book_.length(here) == 0) continue;
      if (oldest < 0 || slots_[i].last_used < slots_[index(oldest)].last_used) oldest = here;
    }
    if (oldest < 0) return;
    const int missing = pages - book_.free_pages();
    trim(oldest, std::max(0, book_.pages_of(oldest) - missing) * kKvPageTokens);
  }
}

int CacheSlots::reserve(int slot, int first, int rows) {
  SHOAL_CHECK(slots_[index(slot)].used && first <= book_.length(slot));
  trim(slot, first);
  make_free(book_.pages_to_extend(slot, rows));
  while (rows > 0 && book_.pages_to_extend(slot, rows) > book_.free_pages()) {
    const int over = book_.pages_to_extend(slot, rows) - book_.free_pages();
    const int of_last = (first + rows - 1) % kKvPageTokens + 1;  // rows in the last page
    rows = std::max(0, rows - of_last - (over - 1) * kKvPageTokens);
  }
  SHOAL_CHECK(book_.extend(slot, rows).has_value());
  return rows;
}

void CacheSlots::hold(int slot, int position, int32_t token) {
  std::vector<int32_t>& tokens = slots_[index(slot)].tokens;
  tokens.resize(static_cast<size_t>(position));
  tokens.push_back(token);
}

void CacheSlots::give_back(int slot) {
  slots_[index(slot)].used = false;
}

void CacheSlots::forget(const std::string& user) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].used && slots_[i].user == user) trim(static_cast<int>(i), 0);
  }
}

std::vector<Resident> by_rank(std::vector<Resident> running) {
  std::sort(running.begin(), running.end(), [](const Resident& a, const Resident& b) {
    return a.priority != b.priority ? a.priority > b.priority : a.id < b.id;
  });
  std::map<std::string, int> turns;  // of each user, so far
  for (Resident& resident : running) resident.turn = turns[resident.user]++;
  std::sort(running.begin(), running.end(), [](const Resident& a, const Resident& b) {
    return a.turn != b.turn ? a.turn < b.turn : a.id < b.id;
  });
  return running;
}

std::optional<uint64_t> victim(std::span<const Resident> ranked, uint64_t needy) {
  const auto own = std::find_if(ranked.begin(), ranked.end(), [&](const auto& r) { return r.id == needy; });
  SHOAL_CHECK(own != ranked.end());
  bool is_last = true;
  for (auto it = ranked.end(); it-- != own + 1;) {
    if (!it->holds) continue;
    if (!it->in_flight) return it->id;
    is_last = false;
  }
  return is_last && !own->in_flight ? std::optional(needy) : std::nullopt;
}

std::vector<uint64_t> who_makes_way(const std::vector<Resident>& ranked, const std::string& user,
                                    double waited_s, const std::function<double(uint64_t)>& again_s,
                                    const std::function<bool(std::span<const uint64_t>)>& is_enough) {
  const auto own = std::count_if(ranked.begin(), ranked.end(), [&](const auto& r) { return r.user == user; });
  double all_again_s = 0;
  std::vector<uint64_t> chosen;
  for (auto it = ranked.rbegin(); it != ranked.rend() && it->turn > own; ++it) {
    if (!it->holds || it->in_flight) continue;
    all_again_s += again_s(it->id);
    chosen.push_back(it->id);
    if (!is_enough(chosen)) continue;
    return waited_s < all_again_s ? std::vector<uint64_t>() : chosen;
  }
  return {};
}

}  // namespace shoal
