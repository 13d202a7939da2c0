#include "model/lora.h"

#include <algorithm>

#include "base/check.h"

namespace shoal {
namespace {

// Rows that pass through an adapter at once: enough to make use of a weight that was fetched, few enough to
// lie in a near cache.
constexpr int kLoraRows = 32;

size_t rounded(size_t floats) {
  return (floats + 15) / 16 * 16;
}

}  // namespace

uint64_t LoraWeights::bytes() const {
  uint64_t total = 0;
  for (const std::vector<LoraPair>& pairs : layers) {
    for (const LoraPair& pair : pairs) total += pair.a.bytes() + pair.b.bytes();
  }
  return total;
}

void LoraSizes::include(int64_t in, int64_t out, int64_t low) {
  n_in = std::max(n_in, static_cast<int>(in));
  n_out = std::max(n_out, static_cast<int>(out));
  rank = std::max(rank, static_cast<int>(low));
}

LoraSizes LoraStage::sizes(const std::vector<LoraWeights>& adapters) {
  LoraSizes sizes;
  for (const LoraWeights& adapter : adapters) {
    for (const std::vector<LoraPair>& pairs : adapter.layers) {
      for (const LoraPair& pair : pairs) sizes.include(pair.a.cols(), pair.b.rows(), pair.a.rows());
    }
  }
  return sizes;
}

uint64_t LoraStage::bytes(const LoraSizes& s, int rows_max) {
  if (s.rank == 0) return 0;
  const size_t floats = rounded(static_cast<size_t>(s.n_in)) + rounded(static_cast<size_t>(s.rank)) +
                        rounded(static_cast<size_t>(s.n_out));
  return kLoraRows * floats * sizeof(float) + static_cast<uint64_t>(rows_max) * sizeof(int32_t);
}

LoraStage::LoraStage(const std::vector<LoraWeights>& adapters, int rows_max)
    : adapters_(adapters),
      sizes_(sizes(adapters)),
      starts_(adapters.size() + 1, 0),
      full_(sizes_.rank > 0 ? kLoraRows : 0, sizes_.n_in),
      reduced_(sizes_.rank > 0 ? kLoraRows : 0, sizes_.rank) {
  if (sizes_.rank == 0) return;
  order_.reserve(static_cast<size_t>(rows_max));
  const size_t n_in = rounded(static_cast<size_t>(sizes_.n_in)),
               rank = rounded(static_cast<size_t>(sizes_.rank));
  memory_ =
      AlignedBuffer(kLoraRows * (n_in + rank + rounded(static_cast<size_t>(sizes_.n_out))) * sizeof(float));
  x_ = memory_.as<float>();
  low_ = x_ + kLoraRows * n_in;
  added_ = low_ + kLoraRows * rank;
}

void LoraStage::begin_step(std::span<const BatchRow> rows) {
  rows_ = rows;
  order_.clear();
  if (sizes_.rank == 0) return;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    starts_[i] = static_cast<int32_t>(order_.size());
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].adapter == static_cast<int32_t>(i) + 1) order_.push_back(static_cast<int32_t>(r));
    }
  }
  starts_.back() = static_cast<int32_t>(order_.size());
}

void LoraStage::add(const Kernels& kernels, ThreadPool& pool, size_t layer, const float* x, int n_in,
                    std::initializer_list<LoraTarget> targets) {
  if (order_.empty()) return;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const std::vector<LoraPair>& pairs = adapters_[i].layers[layer];
    for (int32_t begin = starts_[i]; begin < starts_[i + 1] && !pairs.empty(); begin += kLoraRows) {
      const size_t n = static_cast<size_t>(std::min<int32_t>(kLoraRows, starts_[i + 1] - begin));
      const std::span<const int32_t> rows(order_.data() + begin, n);
      bool gathered = false;
      for (const LoraTarget& target : targets) {
        for (const LoraPair& pair : pairs) {
          if (pair.target != target.target) continue;
          if (!gathered) {
            for (size_t r = 0; r < n; ++r)
              std::copy_n(x + int64_t{rows[r]} * n_in, n_in, x_ + r * static_cast<size_t>(n_in));
            full_.assign(kernels, pool, x_, n_in, static_cast<int>(n), n_in);
            gathered = true;
          }
          add_pair(kernels, pool, pair, rows, target);
        }
      }
    }
  }
}

// y += scale * B (A x) of the gathered rows.
void LoraStage::add_pair(const Kernels& kernels, ThreadPool& pool, const LoraPair& pair,
                         std::span<const int32_t> rows, const LoraTarget& target) {
  const int rank = static_cast<int>(pair.a.rows()), n = static_cast<int>(rows.size());
  matmul(kernels, pool, full_, {{&pair.a, low_, rank}});
  reduced_.assign(kernels, pool, low_, rank, n, rank);
  matmul(kernels, pool, reduced_, {{&pair.b, added_, target.n_out}});
  for (int r = 0; r < n; ++r) {
    const int32_t row = rows[static_cast<size_t>(r)];
    kernels.floats->add_scaled(target.y + int64_t{row} * target.n_out, added_ + int64_t{r} * target.n_out,
                               pair.scale * rows_[static_cast<size_t>(row)].adapter_scale, target.n_out);
  }
}

}  // namespace shoal
