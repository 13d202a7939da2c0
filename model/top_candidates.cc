#include "model/top_candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"
#include "tensor/exact_math.h"
#include "tensor/float_ops.h"

namespace shoal {

namespace {

constexpr int64_t kBlocksAtOnce = 16;  // that a thread claims at least

int blocks_of(int n_vocab) {
  return (n_vocab + TopCandidates::kBlock - 1) / TopCandidates::kBlock;
}

void sort_all(const float* logits, int n, std::vector<Candidate>& out) {
  for (int i = 0; i < n; ++i) {
    if (!std::isnan(logits[i])) out.push_back({i, logits[i]});
  }
  std::sort(out.begin(), out.end(), better);
}

// Adds logits [begin, end) to a heap of the `wanted` best so far, its worst on top. Ids ascend, so a later
// equal never replaces an earlier one.
void add_to_heap(const float* logits, int begin, int end, float at_least, size_t wanted,
                 std::vector<Candidate>& heap) {
  for (int i = begin; i < end; ++i) {
    if (!(logits[i] >= at_least)) continue;  // NaN too
    if (heap.size() == wanted) {
      if (logits[i] <= heap.front().logit) continue;
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = {i, logits[i]};
    } else {
      heap.push_back({i, logits[i]});
    }
    std::push_heap(heap.begin(), heap.end(), better);
  }
}

}  // namespace

TopCandidates::TopCandidates(int n_vocab, int rows_max) : n_vocab_(n_vocab), blocks_(blocks_of(n_vocab)) {
  const size_t n = static_cast<size_t>(blocks_) * static_cast<size_t>(rows_max);
  for (std::vector<float>* v : {&maxima_, &sums_, &order_}) v->resize(n);
  highest_.resize(static_cast<size_t>(rows_max));
}

uint64_t TopCandidates::bytes(int n_vocab, int rows_max) {
  return sizeof(float) * static_cast<uint64_t>(rows_max) *
         (3 * static_cast<uint64_t>(blocks_of(n_vocab)) + 1);
}

void TopCandidates::scan(const Kernels& kernels, ThreadPool& pool, const float* logits, int n_rows) {
  SHOAL_CHECK(n_rows <= static_cast<int>(highest_.size()));
  logits_ = logits;
  const int64_t items = int64_t{n_rows} * blocks_;
  const auto each_block = [&](auto&& body) {
    pool.for_range(items, kBlocksAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t row = item / blocks_, first = item % blocks_ * kBlock;
        body(item, row, logits + row * n_vocab_ + first,
             static_cast<int>(std::min<int64_t>(kBlock, n_vocab_ - first)));
      }
    });
  };
  each_block(
      [&](int64_t item, int64_t, const float* x, int n) { maxima_[item] = kernels.floats->largest(x, n); });
  for (int row = 0; row < n_rows; ++row) {
    highest_[row] = -std::numeric_limits<float>::infinity();
    for (int b = 0; b < blocks_; ++b) highest_[row] = std::max(highest_[row], maxima_[row * blocks_ + b]);
  }
  each_block([&](int64_t item, int64_t row, const float* x, int n) {
    sums_[item] = std::isfinite(highest_[row]) ? kernels.floats->sum_of_exps(x, highest_[row], n) : 0.0f;
  });
}

// The k best are no smaller than this: k blocks have a logit that is as large.
float TopCandidates::threshold(int row, size_t k) {
  const size_t blocks = static_cast<size_t>(blocks_);
  if (k == 0 || k > blocks) return -std::numeric_limits<float>::infinity();
  const auto from = maxima_.begin() + static_cast<std::ptrdiff_t>(row) * blocks_;
  const auto order = order_.begin() + static_cast<std::ptrdiff_t>(row) * blocks_;
  std::copy_n(from, blocks, order);
  const auto kth = order + static_cast<std::ptrdiff_t>(k) - 1;
  std::nth_element(order, kth, order + blocks_, std::greater<float>());
  return *kth;
}

void TopCandidates::select(int row, int k, std::vector<Candidate>& out, float& log_sum_exp) {
  const float* logits = logits_ + int64_t{row} * n_vocab_;
  const float* maxima = maxima_.data() + int64_t{row} * blocks_;
  double sum = 0;
  for (int b = 0; b < blocks_; ++b) sum += static_cast<double>(sums_[row * blocks_ + b]);
  const float highest = highest_[row];
  log_sum_exp = std::isfinite(highest)
                    ? static_cast<float>(static_cast<double>(highest) + exact_math::log_of(sum))
                    : highest;
  out.clear();
  const size_t wanted = k <= 0 ? static_cast<size_t>(n_vocab_) : std::min(k, n_vocab_);
  if (wanted > static_cast<size_t>(n_vocab_) / 8) {  // a sort of everything is faster than a heap
    sort_all(logits, n_vocab_, out);
    out.resize(std::min(wanted, out.size()));
    return;
  }
  const float at_least = threshold(row, wanted);
  for (int b = 0; b < blocks_; ++b) {
    if (!(maxima[b] >= at_least)) continue;
    add_to_heap(logits, b * kBlock, std::min((b + 1) * kBlock, n_vocab_), at_least, wanted, out);
  }
  std::sort_heap(out.begin(), out.end(), better);
}

}  // namespace shoal
