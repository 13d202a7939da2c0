#include "sharding/pooler.h"

#include <algorithm>
#include <cmath>

#include "model/row_ops.h"
#include "tensor/exact_math.h"

namespace shoal {
namespace {

// In double by our own exp, so that every machine gets the same bits.
float tanh_of(float x) {
  const double e = exact_math::exp_of(-2 * std::min(std::abs(static_cast<double>(x)), 20.0));
  return static_cast<float>(std::copysign((1 - e) / (1 + e), static_cast<double>(x)));
}

}  // namespace

Pooler::Pooler(const ModelConfig& config, int slots)
    : n_embd_(config.n_embd), pooled_(bytes(config, slots)) {}

uint64_t Pooler::bytes(const ModelConfig& config, int slots) {
  return uint64_t{sizeof(float)} * static_cast<uint64_t>(slots) * static_cast<uint64_t>(config.n_embd);
}

void Pooler::run(const ComputeContext& cx, const ShardWeights& weights, std::span<const BatchRow> rows,
                 const float* hidden, std::vector<RowOutput>& outputs) {
  outputs.resize(static_cast<size_t>(
      std::count_if(rows.begin(), rows.end(), [](const BatchRow& row) { return row.wants_logits; })));
  const int at_once = cx.act->rows_max;
  size_t wanted = 0;
  for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(at_once)) {
    const int n = static_cast<int>(std::min(rows.size() - begin, static_cast<size_t>(at_once)));
    const float* x = hidden + begin * static_cast<size_t>(n_embd_);
    if (!weights.output_norm.empty()) {
      rms_norm_rows(cx, x, weights.output_norm, n, cx.act->normed);
      x = cx.act->normed;
    }
    for (int r = 0; r < n; ++r) {
      const BatchRow& row = rows[begin + static_cast<size_t>(r)];
      pool(*cx.config, row, x + r * n_embd_);
      if (!row.wants_logits) continue;
      RowOutput& output = outputs[wanted++];
      output.row = static_cast<int32_t>(begin) + r;
      output.candidates.clear();
      finish(cx, weights, row, output);
    }
  }
}

// What a row adds to its text's vector.
void Pooler::pool(const ModelConfig& config, const BatchRow& row, const float* x) {
  float* const pooled = pooled_.as<float>() + static_cast<size_t>(row.slot) * static_cast<size_t>(n_embd_);
  const bool first = row.position == 0;
  switch (config.pooling) {
    case Pooling::kMean:
      for (int i = 0; i < n_embd_; ++i) pooled[i] = first ? x[i] : pooled[i] + x[i];
      break;
    case Pooling::kFirst:
    case Pooling::kRank:
      if (first) std::copy_n(x, n_embd_, pooled);
      break;
    case Pooling::kLast:
      std::copy_n(x, n_embd_, pooled);
      break;
  }
}

void Pooler::finish(const ComputeContext& cx, const ShardWeights& weights, const BatchRow& row,
                    RowOutput& output) const {
  const float* const pooled =
      pooled_.as<float>() + static_cast<size_t>(row.slot) * static_cast<size_t>(n_embd_);
  if (weights.classifier) return classify(cx, *weights.classifier, pooled, output.embedding);
  output.embedding.assign(pooled, pooled + n_embd_);
  if (cx.config->pooling != Pooling::kMean) return;
  const float rows = static_cast<float>(row.position + 1);
  for (float& value : output.embedding) value /= rows;
}

void Pooler::classify(const ComputeContext& cx, const ClassifierWeights& w, const float* pooled,
                      std::vector<float>& scores) const {
  const auto add_bias = [](float* x, const std::vector<float>& bias) {
    for (size_t i = 0; i < bias.size(); ++i) x[i] += bias[i];
  };
  float* const dense = cx.act->projected;
  std::copy_n(pooled, n_embd_, dense);
  if (cx.config->classifier_dense) {
    multiply(cx, pooled, n_embd_, 1, {{&w.dense, dense, n_embd_}});
    add_bias(dense, w.dense_bias);
    for (int i = 0; i < n_embd_; ++i) dense[i] = tanh_of(dense[i]);
  }
  scores.resize(static_cast<size_t>(cx.config->n_scores));
  multiply(cx, dense, n_embd_, 1, {{&w.output, scores.data(), cx.config->n_scores}});
  add_bias(scores.data(), w.output_bias);
}

}  // namespace shoal
