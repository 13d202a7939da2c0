// A stage computes its shard: hidden in, hidden out, K and V kept in its own cache.
// Belongs to one engine thread; nothing allocates inside a step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "model/batch.h"
#include "model/kv_cache.h"
#include "model/top_candidates.h"
#include "sharding/shard.h"

namespace shoal {

enum class CacheOpKind : uint8_t { kTrim, kFree, kFork };

// A change of the cache, applied before the step's rows are computed.
struct CacheOp {
  CacheOpKind kind;
  int32_t slot;       // trim, free: the slot; fork: the destination
  int32_t from_slot;  // fork: the source
  int32_t length;     // trim, fork: positions kept
};

// The output head's answer for one row.
struct RowOutput {
  int32_t row;                        // index in the step's rows
  float log_sum_exp;                  // over the whole vocabulary
  std::vector<Candidate> candidates;  // best first
  std::vector<float> embedding = {};  // of an embed step, instead: [n_embd]
};

// Numbers that nothing can be computed from or answered with: where a step's run found them.
enum class NumericFault : uint8_t {
  kNone,
  kInput,   // hidden as it came was not finite
  kOutput,  // what the stage computed of finite numbers was not, of a row that passes through no adapter
};

struct StageOptions {
  int context = 4096;
  int slots = 8;
  int rows_max = kRowsMax;
  KvType kv_type = KvType::kF16;
  int64_t kv_cells = 0;  // positions that all slots may hold together; 0: slots x context
};

class Stage {
 public:
  Stage(const ModelConfig& config, ShardWeights weights, const StageOptions& options, const Kernels& kernels,
        ThreadPool& pool);
  ~Stage();

  const ShardSpec& spec() const;
  const KvCache& cache() const;
  ShardWeights release_weights();  // for another stage; this one computes nothing any more

  // Checks a step against this stage (slots, positions contiguous with the cache after `ops`, tokens inside
  // the vocabulary, hidden finite, rows <= rows_max), then applies ops and computes. The first position of a
  // slot's rows trims what the slot holds beyond it. A step may consist of ops alone. On error
  // (kInvalidInput, kContextFull) nothing has changed, and the message names the slot, position or row; only
  // where the cache has no pages left for the rows, or where what was computed is not finite, `ops` have been
  // applied (and the rows are not in the cache).
  // hidden: [rows, n_embd], 64-byte aligned, in place; ignored as input if the shard embeds. `outputs` is
  // filled when the shard has the output head: `candidates` best for each row that wants logits (0: the whole
  // vocabulary). Reused entries of `outputs` keep their memory.
  Result<void> run(std::span<const CacheOp> ops, std::span<const BatchRow> rows, int candidates,
                   float* hidden, std::vector<RowOutput>& outputs, StepKind kind = StepKind::kDecode);
  int n_embd() const;
  // Whether that is why the last run failed.
  NumericFault fault() const;
  // Rows of the last run, of each slot the first, that came to numbers that are not finite behind an adapter:
  // a scale can make a sound one do so, so it is no fault, and the step's other rows are what they would be
  // without them. Their hidden or logits are zero instead. Nothing may be made of those, nor of what the
  // cache holds of such a slot from there on.
  std::span<const int32_t> overflowed() const;

  uint64_t weight_bytes() const;
  uint64_t kv_bytes() const;
  static uint64_t kv_bytes(const ModelConfig& config, const LayerRange& layers, const StageOptions& options);
  uint64_t scratch_bytes() const;  // activations, logits: at most a few tens of MiB, counted by the planner
  // Without adapters: LoraStage::bytes() counts theirs.
  static uint64_t scratch_bytes(const ModelConfig& config, const ShardSpec& spec, const StageOptions& options,
                                int threads);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
