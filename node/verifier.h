// Computes steps again that nodes have computed, from the head's model file, and compares bit for bit
// (--verify): what finds a device that computes wrong numbers which look right, and weights that have changed
// in memory.
//
// Of a sampled step each stage hashes (SHA-256) the hidden states that it computed for one sequence's rows,
// and the hashes come home with the answer. Here the sequence's tokens pass once more through the layers, one
// layer at a time, each read from the file and let go; the class `exact` makes the comparison one of bits.
// The first stage whose hash is another computed something else. Where the step's rows were all that the
// sequence had so far, everything that went into that stage has been compared, and the fault is proven. Where
// K and V from before went in too, it may have been one wrong row that the stage before sent then, so it
// counts like any other fault, once as chance; and until kAlertSteps were right every step that can be is
// sampled.
//
// Only histories of up to kPositionsMax are sampled, since all of one is computed. One thread of its own, of
// low priority, with at most one step at a time; wants() and take() are for the host's thread, which
// is told what was found.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "model/gguf_file.h"
#include "model/model_config.h"
#include "model/sha256.h"
#include "node/pipeline_host.h"
#include "node/pipeline_layout.h"
#include "node/suspects.h"
#include "planner/types.h"
#include "sharding/shard.h"
#include "sharding/stage.h"
#include "tensor/kernels.h"
#include "tensor/thread_pool.h"

namespace shoal {

class Coordinator;

// Rows [first, tokens.size()) of one sequence as a step computed them.
struct SampledStep {
  PipelineLayout layout;
  uint64_t epoch = 0;           // of the layout
  std::vector<int32_t> tokens;  // of all positions so far, from 0
  int first = 0;
  int candidates = 1;
  std::vector<Sha256> digests;      // by stage: of the rows' hidden states behind it
  std::optional<RowOutput> output;  // of the last row, where it was wanted
};

class Verifier {
 public:
  static constexpr int kPositionsMax = 1024;
  static constexpr int kAlertSteps = 32;

  // Where the weights come from. All of it outlives the verifier.
  struct Source {
    const GgufFile& file;
    const ModelConfig& model;
    const Kernels& kernels;
    KvType kv_cache = KvType::kF16;
    BlockSource* blocks = nullptr;  // null: the file
  };
  struct Counts {
    uint64_t steps = 0, rows = 0, different = 0, failed = 0;
    double seconds = 0;
  };
  // `share`: of all rows that are computed, so many are computed again. `on_wrong`: a node has computed
  // something else than the head.
  Verifier(PipelineHost& host, const Source& source, double share,
           std::function<void(const Suspects::Fault&)> on_wrong);
  ~Verifier();  // gives up the step that it computes
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  // Until the verifier goes.
  void sample_steps_of(Coordinator& coordinator);

  // Whether a step with so many rows of a sequence, up to position `end`, is to be sampled.
  bool wants(int rows, int end);
  void take(SampledStep step);
  Counts counts() const;  // any thread
  double share() const { return share_; }

  // Memory that it needs beside the head's stages.
  static uint64_t bytes(const ModelProfile& profile, const ModelConfig& config, KvType kv_cache, int context);

 private:
  struct Computed {
    std::vector<Sha256> digests;
    std::optional<RowOutput> output;
  };
  void loop();
  void verify(const SampledStep& step);
  std::optional<Suspects::Fault> compare(const SampledStep& step);
  Computed compute(const SampledStep& step);
  void pass(const ShardSpec& shard, const SampledStep& step, std::span<const BatchRow> rows, float* hidden,
            std::vector<RowOutput>& outputs);
  Suspects::Fault fault_of(const SampledStep& step, size_t stage) const;
  Suspects::Fault own_fault(const SampledStep& step) const;

  PipelineHost& host_;
  Coordinator* coordinator_ = nullptr;
  const Source source_;
  const double share_;
  std::function<void(const Suspects::Fault&)> on_wrong_;
  std::mt19937_64 random_{std::random_device{}()};
  ThreadPool pool_{1};
  std::string last_failure_;  // its own thread's, as what follows is not
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<SampledStep> next_;
  Counts counts_;
  std::atomic<bool> busy_{false}, stop_{false};
  std::atomic<int> alert_{0};  // steps still to be right
  std::shared_ptr<int> alive_ = std::make_shared<int>();
  std::thread thread_;
};

}  // namespace shoal
