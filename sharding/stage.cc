#include "sharding/stage.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/check.h"
#include "model/bert.h"
#include "sharding/encoder_state.h"
#include "sharding/pooler.h"
#include "tensor/finite.h"

namespace shoal {

namespace {

// Rows that the output head computes at once: logits for a whole prompt would be larger than the shard.
constexpr int kLogitRows = 8;

int logit_rows(const StageOptions& options) {
  return std::min(kLogitRows, options.rows_max);
}

// The buffers of the layers are not needed by a stage that has none.
int activation_rows(const ShardSpec& spec, const StageOptions& options) {
  return spec.layers.size() > 0 ? options.rows_max : logit_rows(options);
}

// The most positions that a row attends to.
int attention_positions(const ModelConfig& config, const StageOptions& options) {
  return config.encodes() ? std::max(options.context, options.rows_max) : options.context;
}

// Whether a step's rows are whole inputs of an encoder.
bool whole_inputs(const ModelConfig& config, StepKind kind) {
  return kind == StepKind::kEncode || (kind == StepKind::kEmbed && config.encodes());
}

uint64_t output_bytes(const ModelConfig& config, const ShardSpec& spec, const StageOptions& options) {
  if (!spec.output) return 0;
  if (!config.decodes()) return Pooler::bytes(config, options.slots);
  return Pooler::bytes(config, options.slots) +
         uint64_t{sizeof(float)} * logit_rows(options) * (uint64_t{0} + config.n_vocab + config.n_embd) +
         TopCandidates::bytes(config.n_vocab, logit_rows(options));
}

// All stages of a model are made for the same context, so they choose alike.
const std::vector<float>& factors_for(const ModelConfig& config, const ShardWeights& weights, int context) {
  const bool long_context = context > config.n_ctx_original && !weights.rope_factors_long.empty();
  return long_context ? weights.rope_factors_long : weights.rope_factors;
}

Error invalid(const std::string& message) {
  return {Errc::kInvalidInput, message};
}

bool is_finite(StepKind kind, const RowOutput& out, int candidates) {
  if (kind == StepKind::kEmbed)
    return all_finite(out.embedding.data(), static_cast<int64_t>(out.embedding.size()));
  // A logit that is NaN is no candidate.
  return std::isfinite(out.log_sum_exp) && out.candidates.size() == static_cast<size_t>(candidates);
}

// As if each logit, or the embedding, were zero.
void clear_output(StepKind kind, RowOutput& out, int candidates, int n_vocab) {
  if (kind == StepKind::kEmbed) {
    std::fill(out.embedding.begin(), out.embedding.end(), 0.0f);
    return;
  }
  out.log_sum_exp = std::log(static_cast<float>(n_vocab));
  out.candidates.clear();
  for (int token = 0; token < candidates; ++token) out.candidates.push_back({token, 0});
}

}  // namespace

struct Stage::Impl {
  Impl(const ModelConfig& model, ShardWeights shard, const StageOptions& stage_options,
       const Kernels& kernel_table, ThreadPool& thread_pool)
      : config(model),
        weights(std::move(shard)),
        options(stage_options),
        kernels(kernel_table),
        pool(thread_pool),
        act(config, activation_rows(weights.spec, options), attention_positions(config, options), pool.size(),
            options.kv_type),
        cache(config, decoder_part(config, weights.spec.layers).begin,
              decoder_part(config, weights.spec.layers).end, options.context, options.slots, options.kv_type,
              options.kv_cells),
        lengths(options.slots),
        in_overflow(options.slots),
        logits(weights.spec.output && config.decodes()
                   ? sizeof(float) * logit_rows(options) * (size_t{0} + config.n_vocab + config.n_embd)
                   : 0),
        top(weights.spec.output && config.decodes() ? config.n_vocab : 0, logit_rows(options)),
        frequencies(rope_frequencies(config, factors_for(config, weights, options.context))),
        lora(weights.adapters, options.rows_max),
        cx{&config,
           &kernels,
           &pool,
           &act,
           frequencies.data(),
           weights.adapters.empty() ? nullptr : &lora,
           weights.spec.layers.begin} {
    if (config.encodes()) encoder = std::make_unique<EncoderState>(config, weights, options);
    if (weights.spec.output) pooler = std::make_unique<Pooler>(config, options.slots);
    overflowed.reserve(static_cast<size_t>(options.slots));
  }

  Result<void> check_ops(std::span<const CacheOp> ops);
  Result<void> check_kind(StepKind kind, std::span<const BatchRow> rows);
  Result<void> check_rows(StepKind kind, std::span<const BatchRow> rows, const float* hidden);
  void apply(std::span<const CacheOp> ops);
  Result<void> make_room(StepKind kind, std::span<const BatchRow> rows);
  Result<void> check_computed(StepKind kind, std::span<const BatchRow> rows, int candidates, float* hidden,
                              std::vector<RowOutput>& outputs);
  bool overflow(std::span<const BatchRow> rows, int32_t row);
  void compute_layers(StepKind kind, std::span<const BatchRow> rows, float* hidden);
  void compute_outputs(std::span<const BatchRow> rows, int candidates, const float* hidden,
                       std::vector<RowOutput>& outputs);

  const ModelConfig config;
  ShardWeights weights;
  const StageOptions options;
  const Kernels& kernels;
  ThreadPool& pool;
  Activations act;
  KvCache cache;
  std::vector<int32_t> lengths;  // of the slots as the step being checked would leave them
  std::vector<int32_t> overflowed;
  std::vector<bool> in_overflow;  // by slot
  AlignedBuffer logits;           // [logit_rows, n_vocab], then [logit_rows, n_embd] of gathered hidden
  TopCandidates top;
  std::vector<double> frequencies;
  LoraStage lora;
  ComputeContext cx;
  std::unique_ptr<EncoderState> encoder;  // null: the model has none
  std::unique_ptr<Pooler> pooler;         // where the output head is
  NumericFault fault = NumericFault::kNone;
};

// Plays the operations through on `lengths`.
Result<void> Stage::Impl::check_ops(std::span<const CacheOp> ops) {
  for (int slot = 0; slot < options.slots; ++slot) lengths[slot] = cache.length(slot);
  if (encoder) encoder->begin_check();
  const auto is_slot = [&](int32_t slot) { return slot >= 0 && slot < options.slots; };
  for (const CacheOp& op : ops) {
    if (!is_slot(op.slot))
      return invalid("cache operation on slot " + std::to_string(op.slot) + ", which is not there");
    if (op.kind != CacheOpKind::kFree && op.length < 0)
      return invalid("cache operation keeps " + std::to_string(op.length) + " positions of slot " +
                     std::to_string(op.slot));
    switch (op.kind) {
      case CacheOpKind::kTrim:
        lengths[op.slot] = std::min(lengths[op.slot], op.length);
        break;
      case CacheOpKind::kFree:
        lengths[op.slot] = 0;
        break;
      case CacheOpKind::kFork:
        if (!is_slot(op.from_slot))
          return invalid("fork from slot " + std::to_string(op.from_slot) + ", which is not there");
        if (op.length > lengths[op.from_slot])
          return invalid("fork of " + std::to_string(op.length) + " positions from slot " +
                         std::to_string(op.from_slot) + ", which holds " +
                         std::to_string(lengths[op.from_slot]));
        lengths[op.slot] = op.length;
        break;
      default:
        return invalid("cache operation of unknown kind " + std::to_string(static_cast<int>(op.kind)));
    }
    if (encoder) encoder->play(op);
  }
  return {};
}

// Whether the model has such steps. Whole inputs begin their slots anew, whatever they hold.
Result<void> Stage::Impl::check_kind(StepKind kind, std::span<const BatchRow> rows) {
  if (kind == StepKind::kEncode && !encoder) return invalid("an encode step, and the model has no encoder");
  if (kind == StepKind::kEmbed && encoder && config.decodes())
    return invalid("an embed step, and the model's encoder serves its decoder");
  if (whole_inputs(config, kind)) {
    std::fill(lengths.begin(), lengths.end(), 0);
    for (size_t r = 1; r < rows.size(); ++r) {
      if (rows[r].position != 0 && rows[r].slot != rows[r - 1].slot)
        return invalid("row " + std::to_string(r) + " stands apart from the rest of its input");
    }
    return {};
  }
  if (rows.empty() || !encoder) return {};
  if (!config.decodes()) return invalid("a decode step, and the model has no decoder");
  for (const BatchRow& row : rows) {
    if (row.slot >= 0 && row.slot < options.slots && encoder->checked_length(row.slot) == 0)
      return invalid("a decode step for slot " + std::to_string(row.slot) + ", which holds no encoded input");
  }
  return {};
}

// Continues check_ops: `lengths` are those after the operations. A slot's first row may lie anywhere inside
// what the slot holds; from then on its length is kept as -1 - (next position), so that a later row is known
// to be a later one.
Result<void> Stage::Impl::check_rows(StepKind kind, std::span<const BatchRow> rows, const float* hidden) {
  if (Result<void> checked = check_kind(kind, rows); !checked) return checked;
  const int positions = whole_inputs(config, kind) ? options.rows_max : options.context;
  if (rows.size() > static_cast<size_t>(options.rows_max))
    return invalid("a step of " + std::to_string(rows.size()) + " rows; at most " +
                   std::to_string(options.rows_max));
  for (size_t r = 0; r < rows.size(); ++r) {
    const int32_t token = rows[r].token, position = rows[r].position, slot = rows[r].slot;
    const auto where = [&] {
      return "row " + std::to_string(r) + " (slot " + std::to_string(slot) + ", position " +
             std::to_string(position) + "): ";
    };
    if (slot < 0 || slot >= options.slots) return invalid(where() + "there is no such slot");
    if (position < 0) return invalid(where() + "negative position");
    if (rows[r].adapter < 0 || rows[r].adapter > static_cast<int64_t>(weights.adapters.size()))
      return invalid(where() + "there is no adapter " + std::to_string(rows[r].adapter));
    if (position >= positions)
      return Error{Errc::kContextFull, where() + "beyond the context of " + std::to_string(positions)};
    if (lengths[slot] >= 0 && position > lengths[slot])
      return invalid(where() + "the slot holds only " + std::to_string(lengths[slot]) + " positions");
    if (lengths[slot] < 0 && position != -1 - lengths[slot])
      return invalid(where() + "expected position " + std::to_string(-1 - lengths[slot]));
    lengths[slot] = -1 - (position + 1);
    if (weights.spec.embedding && (token < 0 || token >= config.n_vocab))
      return invalid(where() + "token " + std::to_string(token) + " is not in the vocabulary of " +
                     std::to_string(config.n_vocab));
    if (!weights.spec.embedding && !all_finite(hidden + r * config.n_embd, config.n_embd)) {
      fault = NumericFault::kInput;
      return invalid(where() + "hidden is not finite");
    }
  }
  return {};
}

// After the checks none of this can fail.
void Stage::Impl::apply(std::span<const CacheOp> ops) {
  for (const CacheOp& op : ops) {
    if (op.kind == CacheOpKind::kTrim) cache.trim(op.slot, op.length);
    if (op.kind == CacheOpKind::kFree) cache.free(op.slot);
    if (op.kind == CacheOpKind::kFork) SHOAL_CHECK(cache.fork(op.from_slot, op.slot, op.length).has_value());
    if (encoder) encoder->apply(op);
  }
}

Result<void> Stage::Impl::make_room(StepKind kind, std::span<const BatchRow> rows) {
  if (whole_inputs(config, kind)) {
    for (const BatchRow& row : rows) cache.free(row.slot);
    encoder->take_inputs(rows);
    return {};
  }
  // A slot's first row: `lengths` is negative until it has been seen, and then tells its length.
  for (const BatchRow& row : rows) {
    if (lengths[row.slot] < 0) cache.trim(row.slot, row.position);
  }
  for (const BatchRow& row : rows) {
    if (lengths[row.slot] >= 0) continue;
    const int length = -1 - lengths[row.slot];
    const Result<void> extended = cache.extend(row.slot, length - row.position);
    if (extended.has_error()) {  // what the step's other slots were given holds nothing
      for (const BatchRow& other : rows) cache.trim(other.slot, other.position);
      return extended;
    }
    lengths[row.slot] = length;
  }
  return {};
}

void Stage::Impl::compute_layers(StepKind kind, std::span<const BatchRow> rows, float* hidden) {
  const LayerRange& layers = weights.spec.layers;
  if (whole_inputs(config, kind)) return encoder->encode(cx, weights, rows, hidden);
  if (encoder) return encoder->decode(cx, weights, rows, cache, hidden);
  if (layers.size() > 0) prepare_positions(cx, rows);
  for (int layer = layers.begin; layer < layers.end; ++layer)
    forward_layer(cx, layer, weights.layers[layer - layers.begin], rows, cache, hidden);
}

void Stage::Impl::compute_outputs(std::span<const BatchRow> rows, int candidates, const float* hidden,
                                  std::vector<RowOutput>& outputs) {
  const int64_t n_vocab = config.n_vocab, n_embd = config.n_embd;
  float* const gathered = logits.as<float>() + n_vocab * logit_rows(options);
  outputs.resize(
      std::count_if(rows.begin(), rows.end(), [](const BatchRow& row) { return row.wants_logits; }));
  size_t next_row = 0;
  for (size_t done = 0; done < outputs.size();) {
    const int n = static_cast<int>(std::min<size_t>(logit_rows(options), outputs.size() - done));
    for (int i = 0; i < n; ++i, ++next_row) {
      while (!rows[next_row].wants_logits) ++next_row;
      outputs[done + i].row = static_cast<int32_t>(next_row);
      std::copy_n(hidden + next_row * n_embd, n_embd, gathered + i * n_embd);
    }
    output_head(cx, weights.output_norm, *weights.output, gathered, n, logits.as<float>());
    top.scan(kernels, pool, logits.as<float>(), n);
    pool.for_each(n, [&](int64_t i, int) {
      RowOutput& out = outputs[done + i];
      top.select(static_cast<int>(i), candidates, out.candidates, out.log_sum_exp);
    });
    done += n;
  }
}

// Notes a row whose numbers are not finite. False: it passes through no adapter.
bool Stage::Impl::overflow(std::span<const BatchRow> rows, int32_t row) {
  const BatchRow& at = rows[static_cast<size_t>(row)];
  if (at.adapter == 0) return false;
  if (!in_overflow[at.slot]) overflowed.push_back(row);
  in_overflow[at.slot] = true;
  return true;
}

// No token may be drawn from numbers that are not finite, and what the step left in the cache is as little
// to be trusted: where it fails it goes, and where a row overflowed behind an adapter the caller is told.
Result<void> Stage::Impl::check_computed(StepKind kind, std::span<const BatchRow> rows, int candidates,
                                         float* hidden, std::vector<RowOutput>& outputs) {
  std::string what;
  for (size_t r = 0; r < rows.size() && what.empty(); ++r) {
    float* const row = hidden + r * config.n_embd;
    if (all_finite(row, config.n_embd)) continue;
    std::fill_n(row, config.n_embd, 0.0f);
    if (!overflow(rows, static_cast<int32_t>(r)))
      what = "row " + std::to_string(r) + " (slot " + std::to_string(rows[r].slot) + ", position " +
             std::to_string(rows[r].position) + "): hidden as it was computed is not finite";
  }
  for (size_t i = 0; i < outputs.size() && what.empty(); ++i) {
    RowOutput& out = outputs[i];
    if (is_finite(kind, out, candidates)) continue;
    clear_output(kind, out, candidates, config.n_vocab);
    if (!overflow(rows, out.row))
      what = "row " + std::to_string(out.row) + ": its " +
             (kind == StepKind::kEmbed ? "embedding is" : "logits are") + " not finite";
  }
  if (what.empty()) return {};
  fault = NumericFault::kOutput;
  overflowed.clear();
  for (const BatchRow& row : rows) cache.trim(row.slot, row.position);
  outputs.clear();
  return invalid(what);
}

Stage::Stage(const ModelConfig& config, ShardWeights weights, const StageOptions& options,
             const Kernels& kernels, ThreadPool& pool) {
  SHOAL_CHECK(options.context > 0 && options.slots > 0 && options.rows_max > 0);
  impl_ = std::make_unique<Impl>(config, std::move(weights), options, kernels, pool);
}

Stage::~Stage() = default;

const ShardSpec& Stage::spec() const {
  return impl_->weights.spec;
}
const KvCache& Stage::cache() const {
  return impl_->cache;
}

Result<void> Stage::run(std::span<const CacheOp> ops, std::span<const BatchRow> rows, int candidates,
                        float* hidden, std::vector<RowOutput>& outputs, StepKind kind) {
  Impl& s = *impl_;
  const ShardSpec& spec = s.weights.spec;
  s.fault = NumericFault::kNone;
  s.overflowed.clear();
  std::fill(s.in_overflow.begin(), s.in_overflow.end(), false);
  if (candidates < 0) return invalid(std::to_string(candidates) + " candidates wanted");
  if (candidates == 0 || candidates > s.config.n_vocab) candidates = s.config.n_vocab;
  if (Result<void> checked = s.check_ops(ops); !checked) return checked;
  if (Result<void> checked = s.check_rows(kind, rows, hidden); !checked) return checked;
  s.apply(ops);
  if (Result<void> room = s.make_room(kind, rows); !room) return room;
  if (rows.empty()) {
    outputs.clear();
    return {};
  }

  const ThreadPool::Burst burst(s.pool);
  if (spec.embedding) {
    embed(s.cx, *s.weights.token_embd, rows, hidden);
    if (!s.weights.embedding.norm.empty()) embed_positions(s.cx, s.weights.embedding, rows, hidden);
  }
  s.lora.begin_step(rows);
  s.compute_layers(kind, rows, hidden);
  if (spec.output && kind == StepKind::kDecode) {
    s.compute_outputs(rows, candidates, hidden, outputs);
  } else if (spec.output && kind == StepKind::kEmbed) {
    s.pooler->run(s.cx, s.weights, rows, hidden, outputs);
  } else {
    outputs.clear();
  }
  return s.check_computed(kind, rows, candidates, hidden, outputs);
}

int Stage::n_embd() const {
  return impl_->config.n_embd;
}

NumericFault Stage::fault() const {
  return impl_->fault;
}

std::span<const int32_t> Stage::overflowed() const {
  return impl_->overflowed;
}

ShardWeights Stage::release_weights() {
  return std::move(impl_->weights);
}

uint64_t Stage::weight_bytes() const {
  return impl_->weights.bytes();
}

uint64_t Stage::kv_bytes() const {
  return kv_bytes(impl_->config, spec().layers, impl_->options);
}

uint64_t Stage::kv_bytes(const ModelConfig& config, const LayerRange& layers, const StageOptions& options) {
  const LayerRange decoder = decoder_part(config, layers);
  return KvCache::bytes(config, decoder.begin, decoder.end, options.context, options.slots, options.kv_type,
                        options.kv_cells) +
         (config.encodes() ? EncoderState::kv_bytes(config, layers, options) : 0);
}

uint64_t Stage::scratch_bytes() const {
  return scratch_bytes(impl_->config, spec(), impl_->options, impl_->pool.size()) +
         LoraStage::bytes(LoraStage::sizes(impl_->weights.adapters), impl_->options.rows_max);
}

uint64_t Stage::scratch_bytes(const ModelConfig& config, const ShardSpec& spec, const StageOptions& options,
                              int threads) {
  return Activations::bytes(config, activation_rows(spec, options), attention_positions(config, options),
                            threads, options.kv_type) +
         output_bytes(config, spec, options) +
         (config.encodes() ? EncoderState::scratch_bytes(config, spec.layers, options) : 0);
}

}  // namespace shoal
