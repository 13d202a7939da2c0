// The best label (partial solution) of each state of a search, by open addressing; its memory follows the
// labels made, not the states there are. Owned by one search.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

class LabelIndex {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};  // no label

  void clear() {
    slots_.assign(size_t{1} << 12, {});
    used_ = 0;
  }
  // The label whose hash is `hash` and for which `same(label)`, or kNone in a new place. Valid until the next
  // call.
  template <class Same>
  uint32_t& at(uint64_t hash, Same same) {
    if (2 * used_ >= slots_.size()) grow();
    const auto tag = static_cast<uint32_t>(hash >> 32);
    size_t i = tag & (slots_.size() - 1);
    while (slots_[i].label != kNone && !(slots_[i].tag == tag && same(slots_[i].label)))
      i = (i + 1) & (slots_.size() - 1);
    if (slots_[i].label == kNone) {
      slots_[i].tag = tag;
      ++used_;
    }
    return slots_[i].label;
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t label = kNone;
  };
  void grow() {
    std::vector<Slot> old(slots_.size() * 4);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.label == kNone) continue;
      size_t i = slot.tag & (slots_.size() - 1);
      while (slots_[i].label != kNone) i = (i + 1) & (slots_.size() - 1);
      slots_[i] = slot;
    }
  }
  std::vector<Slot> slots_;
  size_t used_ = 0;
};

}  // namespace shoal
