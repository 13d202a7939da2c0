// The best candidates of rows of logits and each row's log-sum-exp, with the same bits on every machine and
// for any number of threads: the vocabulary is cut into blocks, each summed by FloatOps in its fixed order,
// and the blocks' sums are added in order in double. NaN is left out of both. Belongs to one engine thread.
#pragma once

#include <cstdint>
#include <vector>

#include "model/sampler.h"
#include "tensor/kernels.h"
#include "tensor/thread_pool.h"

namespace shoal {

class TopCandidates {
 public:
  static constexpr int kBlock = 256;  // logits

  // Takes all memory for rows_max rows of n_vocab logits.
  TopCandidates(int n_vocab, int rows_max);
  static uint64_t bytes(int n_vocab, int rows_max);

  // Reads logits [n_rows, n_vocab] through the pool; they must stay until the last select().
  void scan(const Kernels& kernels, ThreadPool& pool, const float* logits, int n_rows);

  // Of row `row` of the scan: the k best, best first, ties by lower id (k = 0: all of them), and the
  // log-sum-exp over the whole vocabulary. No allocation once `out` has grown to its size. While k is small
  // it looks at no more than k blocks. Different rows may be selected by different threads at once.
  void select(int row, int k, std::vector<Candidate>& out, float& log_sum_exp);

 private:
  float threshold(int row, size_t k);

  int n_vocab_, blocks_;
  const float* logits_ = nullptr;
  std::vector<float> maxima_, sums_, order_;  // [rows_max, blocks]
  std::vector<float> highest_;                // [rows_max]
};

}  // namespace shoal
