#include "sharding/encoder_state.h"

#include <algorithm>

#include "base/check.h"
#include "model/bert.h"

namespace shoal {
namespace {

// Every encoder layer has the same heads, so one layer's room serves all; a stage without encoder layers
// keeps only the lengths.
int input_layers(const ModelConfig& config, const LayerRange& layers) {
  return layers.begin < std::min(layers.end, config.n_encoder) ? 1 : 0;
}

// Each slot's rows begin on a page.
int64_t input_cells(const StageOptions& options) {
  return int64_t{options.rows_max} + int64_t{options.slots} * kKvPageTokens;
}

std::vector<int> bias_layers(const ModelConfig& config, const LayerRange& layers) {
  std::vector<int> owners;
  if (config.relative_buckets == 0) return owners;
  for (int layer = layers.begin; layer < layers.end; ++layer) {
    const int owner = config.bias_layer[static_cast<size_t>(layer)];
    if (std::find(owners.begin(), owners.end(), owner) == owners.end()) owners.push_back(owner);
  }
  return owners;
}

int bias_positions(const ModelConfig& config, int layer, const StageOptions& options) {
  return config.is_encoder(layer) ? options.rows_max : options.context;
}

}  // namespace

LayerRange decoder_part(const ModelConfig& config, const LayerRange& layers) {
  return {std::max(layers.begin, config.n_encoder), std::max(layers.end, config.n_encoder)};
}

EncoderState::EncoderState(const ModelConfig& config, const ShardWeights& weights,
                           const StageOptions& options)
    : input_(config, 0, input_layers(config, weights.spec.layers), options.rows_max, options.slots,
             KvType::kF16, input_cells(options)),
      encoded_(config, decoder_part(config, weights.spec.layers).begin,
               decoder_part(config, weights.spec.layers).end, options.rows_max, options.slots,
               options.kv_type),
      lengths_(static_cast<size_t>(options.slots)) {
  const LayerRange& layers = weights.spec.layers;
  bias_layers_ = bias_layers(config, layers);
  for (const int owner : bias_layers_) {
    int layer = layers.begin;
    while (config.bias_layer[static_cast<size_t>(layer)] != owner) ++layer;
    biases_.emplace_back(weights.layers[static_cast<size_t>(layer - layers.begin)].relative_bias,
                         config.n_head[static_cast<size_t>(layer)], config.relative_buckets,
                         config.is_encoder(layer), bias_positions(config, layer, options));
  }
}

uint64_t EncoderState::kv_bytes(const ModelConfig& config, const LayerRange& layers,
                                const StageOptions& options) {
  const LayerRange decoder = decoder_part(config, layers);
  return KvCache::bytes(config, decoder.begin, decoder.end, options.rows_max, options.slots, options.kv_type);
}

uint64_t EncoderState::scratch_bytes(const ModelConfig& config, const LayerRange& layers,
                                     const StageOptions& options) {
  uint64_t total = KvCache::bytes(config, 0, input_layers(config, layers), options.rows_max, options.slots,
                                  KvType::kF16, input_cells(options));
  for (const int layer : bias_layers(config, layers))
    total += RelativeBias::bytes(config.n_head[static_cast<size_t>(layer)],
                                 bias_positions(config, layer, options));
  return total;
}

void EncoderState::begin_check() {
  for (size_t slot = 0; slot < lengths_.size(); ++slot)
    lengths_[slot] = encoded_.length(static_cast<int>(slot));
}

void EncoderState::play(const CacheOp& op) {
  if (op.kind == CacheOpKind::kFree) lengths_[static_cast<size_t>(op.slot)] = 0;
  if (op.kind == CacheOpKind::kFork)
    lengths_[static_cast<size_t>(op.slot)] = lengths_[static_cast<size_t>(op.from_slot)];
}

// Trimming takes back answers; the input stays.
void EncoderState::apply(const CacheOp& op) {
  if (op.kind == CacheOpKind::kFree) encoded_.free(op.slot);
  if (op.kind == CacheOpKind::kFork)
    SHOAL_CHECK(encoded_.fork(op.from_slot, op.slot, encoded_.length(op.from_slot)).has_value());
}

void EncoderState::take_inputs(std::span<const BatchRow> rows) {
  for (int slot = 0; slot < input_.slots(); ++slot) input_.free(slot);
  for (const BatchRow& row : rows) {
    if (row.position == 0) encoded_.free(row.slot);
    SHOAL_CHECK(input_.extend(row.slot, 1).has_value());
    SHOAL_CHECK(encoded_.extend(row.slot, 1).has_value());
  }
}

const RelativeBias& EncoderState::bias_of(const ModelConfig& config, int layer) const {
  const int owner = config.bias_layer[static_cast<size_t>(layer)];
  const auto found = std::find(bias_layers_.begin(), bias_layers_.end(), owner);
  return biases_[static_cast<size_t>(found - bias_layers_.begin())];
}

void EncoderState::encode(const ComputeContext& cx, const ShardWeights& weights,
                          std::span<const BatchRow> rows, float* hidden) {
  const LayerRange& layers = weights.spec.layers;
  const bool bert = cx.config->arch->layout == LayerLayout::kBert;
  if (bert && layers.size() > 0) prepare_positions(cx, rows);
  for (int layer = layers.begin; layer < layers.end; ++layer) {
    const LayerWeights& w = weights.layers[static_cast<size_t>(layer - layers.begin)];
    if (bert) {
      bert_layer(cx, layer, w, rows, input_, hidden);
    } else if (cx.config->is_encoder(layer)) {
      encoder_layer(cx, layer, w, bias_of(*cx.config, layer), rows, input_, hidden);
    } else {
      keep_encoded(cx, layer, w, rows, encoded_, hidden);
    }
  }
}

void EncoderState::decode(const ComputeContext& cx, const ShardWeights& weights,
                          std::span<const BatchRow> rows, KvCache& cache, float* hidden) const {
  const LayerRange decoder = decoder_part(*cx.config, weights.spec.layers);
  for (int layer = decoder.begin; layer < decoder.end; ++layer) {
    const LayerWeights& w = weights.layers[static_cast<size_t>(layer - weights.spec.layers.begin)];
    decoder_layer(cx, layer, w, bias_of(*cx.config, layer), rows, cache, encoded_, hidden);
  }
}

}  // namespace shoal
