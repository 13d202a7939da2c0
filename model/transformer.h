// One decoder layer, the embedding and the output head: the mathematics of the model on one page
// (transformer.cc). Everything here runs on the engine thread and its pool; nothing allocates. A row's result
// depends on the row, the weights and the cached positions of its own sequence only, bit for bit: never on
// the other rows or the threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "model/kv_cache.h"
#include "model/layer_weights.h"
#include "model/model_config.h"
#include "tensor/matmul.h"

namespace shoal {

// Buffers of one step, taken once for `rows_max` rows, reused by every layer. Two regions, each the larger of
// what attention and feed-forward need, since the one is done when the other begins.
struct Activations {
  Activations(const ModelConfig& config, int rows_max, int context, int threads,
              KvType kv_type = KvType::kF16);
  static uint64_t bytes(const ModelConfig& config, int rows_max, int context, int threads,
                        KvType kv_type = KvType::kF16);

  int rows_max;
  ActivationRows rows;  // left operand of the products
  AlignedBuffer memory;
  // All f32, [rows_max, ...], row stride the width. `projected` shares memory with `normed`; `gate` and `up`
  // share it with the four of attention.
  float* normed = nullptr;     // [n_embd]
  float* projected = nullptr;  // [n_embd] output of attention or feed-forward, to be added to hidden
  float* q = nullptr;          // [n_head, head_dim_k]
  float* k = nullptr;          // [n_head_kv, head_dim_k]
  float* v = nullptr;          // [n_head_kv, head_dim_v]
  float* attended = nullptr;   // [n_head, head_dim_v]
  float* gate = nullptr;       // [n_ff]
  float* up = nullptr;         // [n_ff]
  // Of a mixture of experts alone. A row's choices are n_expert_used entries of `chosen`, an expert each.
  float* router = nullptr;           // [n_expert]
  float* expert_in = nullptr;        // [n_embd] of the rows that chose one expert, one behind the other
  float* expert_out = nullptr;       // [n_embd] of the same
  float* mixed = nullptr;            // [n_embd]
  float* chosen_weight = nullptr;    // [n_expert_used]
  int32_t* chosen = nullptr;         // [n_expert_used]
  int32_t* choices = nullptr;        // [n_expert_used] all rows' choices, by expert
  int32_t* choices_first = nullptr;  // n_expert + 2 in all: where each expert's begin
  float* rope_cos = nullptr;         // one part of [n_rot / 2] for each of config.ropes, `rope_stride` apart
  float* rope_sin = nullptr;         // the same
  size_t rope_stride = 0;
  float* attention_scale = nullptr;    // [1]
  float* attention_scratch = nullptr;  // one part a thread
  size_t attention_scratch_stride = 0;
};

struct ComputeContext {
  const ModelConfig* config;
  const Kernels* kernels;
  ThreadPool* pool;
  Activations* act;
  const double* rope_frequencies;  // [config.ropes, n_rot / 2]
};

// What ComputeContext::rope_frequencies points to. `factors` ([n_rot / 2], or empty) divide the first rope's.
std::vector<double> rope_frequencies(const ModelConfig& config, std::span<const float> factors);

// Fills act.rope_cos/sin and act.attention_scale for the rows' positions; once a step.
void prepare_positions(const ComputeContext& cx, std::span<const BatchRow> rows);

// hidden[rows, n_embd] in place through layer `layer`; K and V of the rows are stored in the cache, whose
// slots have been extended to hold them already.
void forward_layer(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                   KvCache& cache, float* hidden);

// hidden[rows, n_embd] = embedding of the rows' tokens.
void embed(const ComputeContext& cx, const WeightMatrix& token_embd, std::span<const BatchRow> rows,
           float* hidden);

// logits[n_rows, n_vocab] of n_rows rows of hidden, gathered contiguously. n_rows <= rows_max.
void output_head(const ComputeContext& cx, std::span<const float> output_norm, const WeightMatrix& output,
                 const float* hidden, int n_rows, float* logits);

}  // namespace shoal
