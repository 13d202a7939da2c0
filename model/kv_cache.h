// The K and V cache of a range of layers, paged: a slot (one sequence) owns a list of pages of kKvPageTokens
// positions; pages are shared by fork and copied when one side writes. All layers of the cache use the same
// page ids, each with an arena of its own. Kept as f16 or q8_0. Single-threaded: it belongs to the engine
// thread. All memory is taken at construction (the system backs a page when it is first written).
//
// Without another limit there are as many pages as the slots could own without sharing: the context is the
// only limit then. With `cells` there are fewer, and who uses the cache counts them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "model/model_config.h"
#include "tensor/aligned_buffer.h"
#include "tensor/float_ops.h"

namespace shoal {

class KvCache {
 public:
  // Room for `slots` sequences of `context` positions each, for layers [layer_begin, layer_end). An empty
  // range keeps the books (lengths, limits) of a stage without layers. Throws SetupError if the memory cannot
  // be had. `cells`: positions that all slots may hold together, rounded up to pages, at least those of one
  // slot; 0: slots x context.
  KvCache(const ModelConfig& config, int layer_begin, int layer_end, int context, int slots,
          KvType type = KvType::kF16, int64_t cells = 0);
  // Bytes such a cache takes when all its pages are used.
  static uint64_t bytes(const ModelConfig& config, int layer_begin, int layer_end, int context, int slots,
                        KvType type = KvType::kF16, int64_t cells = 0);

  KvType type() const { return type_; }
  int slots() const { return static_cast<int>(slots_.size()); }
  int length(int slot) const;  // positions stored
  int context() const { return context_; }
  static int pages_for(int positions) { return (positions + kKvPageTokens - 1) / kKvPageTokens; }
  int pages() const { return static_cast<int>(page_users_.size()); }
  int free_pages() const { return static_cast<int>(free_pages_.size()); }
  int pages_of(int slot) const { return static_cast<int>(slot_at(slot).pages.size()); }
  // Pages that extend(slot, n) would take.
  int pages_to_extend(int slot, int n) const;
  // Pages that slots with a mark hold, each counted once.
  int pages_held(const std::vector<bool>& marked_slots) const;

  // Makes positions [length, length + n) of the slot writable; pages shared with another slot are copied
  // first. An error when the context or the free pages would be exceeded; the slot is then unchanged.
  Result<void> extend(int slot, int n);
  void trim(int slot, int length);  // forget positions >= length; no-op if already shorter
  void free(int slot);              // trim to 0
  // `to` becomes the first `length` positions of `from`; what it held is forgotten. An error when `from` is
  // shorter; both are then unchanged.
  Result<void> fork(int from, int to, int length);

  KvPages view(int layer, int slot) const;
  std::byte* k_page(int layer, int slot, int position);  // page that holds position
  std::byte* v_page(int layer, int slot, int position);

 private:
  struct Slot {
    int length = 0;
    std::vector<int32_t> pages;  // capacity taken at construction
  };
  Slot& slot_at(int slot);
  const Slot& slot_at(int slot) const;
  int32_t take_page();
  void drop_page(int32_t page);
  void own_page(int32_t& page);  // a private copy if another slot uses the page too

  KvType type_;
  int layer_begin_, context_;
  std::vector<AlignedBuffer> k_, v_;  // one arena a layer
  std::vector<size_t> k_page_bytes_, v_page_bytes_;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_pages_;  // a stack: pages used before are used again first
  std::vector<int32_t> page_users_;
};

}  // namespace shoal
