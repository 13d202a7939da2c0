// What is added to attention scores by the distance of key and query, as in T5 (Raffel et al. 2020, section
// 2.1): distances fall into buckets, fine near 0 and logarithmic up to 128, and each head has a number for
// each bucket. Laid out by distance, so that the scores of one query read a run of it. Immutable; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/aligned_buffer.h"

namespace shoal {

// The bucket of key position - query position. In both directions half of the buckets are for keys after the
// query; otherwise such keys fall into bucket 0.
int relative_bucket(int distance, int n_buckets, bool both_directions);

class RelativeBias {
 public:
  RelativeBias() = default;
  // table[n_buckets, n_head]; for positions below `positions`.
  RelativeBias(std::span<const float> table, int n_head, int n_buckets, bool both_directions, int positions);
  static uint64_t bytes(int n_head, int positions);

  // For the query at `position`: the bias of head h and key position t is at [h * stride() + t].
  const float* of_query(int position) const { return memory_.as<float>() + (positions_ - 1 - position); }
  size_t stride() const { return stride_; }

 private:
  AlignedBuffer memory_;  // [n_head, stride], entry distance + positions - 1
  size_t stride_ = 0;
  int positions_ = 0;
};

}  // namespace shoal
