// Which sequence is in which cache slot, and whether the cache has pages for it. Every stage's cache has the
// same slots and pages and gets the same operations in the same order, so the head keeps the books of all of
// them in one KvCache without layers. Pure logic: no clock, no threads, nothing is sent; take_ops() gives
// what the next step has to tell the stages.
//
// A slot's contents stay when its sequence ends: a later prompt of the same user that begins alike need not
// be computed again. Such contents are dropped, those unused for longest first and from their end, when pages
// are needed. Pages that forked slots share count once. A sequence is admitted when there are pages for what
// all running ones hold and still have to compute, for its own tokens and one more, with a little kept free
// for the answers to grow into. When the pages run out all the same, victim() names the sequence to be taken
// off; its tokens are computed again later.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/kv_cache.h"
#include "sharding/stage.h"

namespace shoal {

class CacheSlots {
 public:
  static constexpr int kForkGain =
      32;  // positions that another slot's cache must have beyond a free one's own

  CacheSlots(int slots, int context, int64_t cells);

  struct Prefix {
    int slot = -1;  // to run in; -1: none is free
    int from = -1;  // whose cache begins like the tokens: `slot` itself or one to fork
    int length = 0;
  };
  // The free slot to run in and the cache that begins most like `tokens`: those positions need not be
  // computed again. The last token always is, for its logits.
  Prefix best_prefix(std::span<const int32_t> tokens, const std::string& user) const;
  // Whether a sequence of `length` tokens may be admitted. Always, where no other runs.
  bool has_room(const Prefix& prefix, int length) const;
  // The same for one without a cached beginning, once the sequences in these slots were taken off.
  bool would_have_room(int length, std::span<const int> without) const;
  // The slot is used from now on by a sequence of `length` tokens.
  void take(const Prefix& prefix, const std::string& user, int length);

  // Pages for the next positions [first, first + rows) of a used slot: how many of them can be had. What lies
  // from `first` on is forgotten.
  int reserve(int slot, int first, int rows);
  // What is computed at the next position.
  void hold(int slot, int position, int32_t token);
  int held(int slot) const { return static_cast<int>(slots_[index(slot)].tokens.size()); }
  // The sequence has so many tokens now.
  void grow(int slot, int length) { slots_[index(slot)].length = length; }
  void give_back(int slot);              // its sequence has ended, or was taken off
  void forget(const std::string& user);  // what unused slots hold of it

  std::vector<CacheOp> take_ops() { return std::exchange(ops_, {}); }

  int pages() const { return book_.pages(); }
  int free_pages() const { return book_.free_pages(); }

 private:
  struct Slot {
    std::vector<int32_t> tokens;
    std::string user;
    bool used = false;
    int length = 0;  // tokens of its sequence, computed or not
    uint64_t last_used = 0;
  };
  static size_t index(int slot) { return static_cast<size_t>(slot); }
  std::vector<bool> used_slots() const;
  bool has_room_beside(const std::vector<bool>& used, int pages) const;
  void trim(int slot, int length);
  void make_free(int pages);

  std::vector<Slot> slots_;
  KvCache book_;
  uint64_t uses_ = 0;
  std::vector<CacheOp> ops_;
};

// A running sequence, as far as taking it off goes.
struct Resident {
  uint64_t id = 0;  // by arrival
  std::string user;
  int priority = 0;
  bool holds = true;  // pages; false: it was taken off
  bool in_flight = false;
  int turn = 0;  // how many of the same user rank before it; by_rank() says
};

// The order in which sequences keep their pages. Users take turns: nobody's second comes before another's
// first, however urgent. Of one user the higher priority is first, then who came earlier; of one turn who
// came earlier, since a user with one urgent answer after the other would else be first for ever.
std::vector<Resident> by_rank(std::vector<Resident> running);

// Which sequence gives its pages to `needy`: of those that rank below it and are not in flight the last, and
// where it is itself the last of all, it. Nothing: one that ranks below is in flight and must come back
// first. The first in rank is never taken off, so that it always ends. `ranked`: by_rank().
std::optional<uint64_t> victim(std::span<const Resident> ranked, uint64_t needy);

// Which sequences give their places and pages to a request of `user` that finds none: those of a later turn
// than it would have, the last ones first and no more than are enough, so that nobody's many or long answers
// keep another's first one out. Nobody before it has waited for as long as they will take to be computed
// again (again_s, of one): so at least half of all work is new, however often somebody asks. `ranked`:
// by_rank(); is_enough() of ids.
std::vector<uint64_t> who_makes_way(const std::vector<Resident>& ranked, const std::string& user,
                                    double waited_s, const std::function<double(uint64_t)>& again_s,
                                    const std::function<bool(std::span<const uint64_t>)>& is_enough);

}  // namespace shoal
