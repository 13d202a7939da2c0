#include "node/verifier.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "node/coordinator.h"

namespace shoal {
namespace {

constexpr int kLowestPriority = 19;

bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

bool same(const RowOutput& a, const RowOutput& b) {
  return same_bits(a.log_sum_exp, b.log_sum_exp) &&
         std::equal(a.candidates.begin(), a.candidates.end(), b.candidates.begin(), b.candidates.end(),
                    [](const Candidate& x, const Candidate& y) {
                      return x.token == y.token && same_bits(x.logit, y.logit);
                    });
}

}  // namespace

Verifier::Verifier(PipelineHost& host, Source source, double share,
                   std::function<void(const Suspects::Fault&)> on_wrong)
    : host_(host), source_(source), share_(share), on_wrong_(std::move(on_wrong)), thread_([this] {
        loop();
      }) {}

Verifier::~Verifier() {
  host_.call([this] {
    alive_.reset();
    if (coordinator_ != nullptr) coordinator_->set_verifier(nullptr);
  });
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Verifier::sample_steps_of(Coordinator& coordinator) {
  coordinator_ = &coordinator;
  host_.call([this] { coordinator_->set_verifier(this); });
}

uint64_t Verifier::bytes(const ModelProfile& model, const ModelConfig& config, KvType kv_cache, int context) {
  const StageOptions options{context, 1, kPositionsMax, kv_cache};
  const uint64_t layer = *std::max_element(model.layer_bytes.begin(), model.layer_bytes.end()) +
                         Stage::kv_bytes(config, {0, 1}, options);
  const uint64_t ends = std::max(model.embedding_bytes, model.output_bytes);
  const uint64_t hidden = uint64_t{sizeof(float)} * kPositionsMax * static_cast<uint64_t>(config.n_embd);
  return std::max(layer, ends) + hidden + Stage::scratch_bytes(config, {false, {0, 1}, true}, options, 1);
}

// So that on average `share_` of the rows is computed again: a step costs its whole history.
bool Verifier::wants(int rows, int end) {
  if (busy_ || end > kPositionsMax) return false;
  return std::uniform_real_distribution<double>(0, 1)(random_) < share_ * rows / end;
}

void Verifier::take(SampledStep step) {
  if (busy_.exchange(true)) return;
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(step);
  }
  wake_.notify_one();
}

Verifier::Counts Verifier::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void Verifier::loop() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLowestPriority);
  while (true) {
    SampledStep step;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || next_; });
      if (stop_) return;
      step = std::move(*next_);
      next_.reset();
    }
    try {
      verify(step);
    } catch (const std::exception& error) {
      spdlog::warn("--verify: a step could not be computed again: {}", error.what());
    }
    busy_ = false;
  }
}

Result<void> Verifier::pass(const ShardSpec& shard, const SampledStep& step, std::vector<BatchRow>& rows,
                            float* hidden, std::vector<RowOutput>& outputs) {
  const StageOptions options{step.layout.context, 1, static_cast<int>(rows.size()), source_.kv_cache};
  Stage stage(source_.model,
              load_shard(source_.file, source_.model, shard, pool_, {}, nullptr, source_.blocks), options,
              source_.kernels, pool_);
  return stage.run({}, rows, step.candidates, hidden, outputs);
}

// All layers, each on its own, with a look at the rows where a stage ends.
Result<Verifier::Computed> Verifier::compute(const SampledStep& step) {
  const int n_layer = source_.model.n_layer;
  const size_t end = step.tokens.size(), n_embd = static_cast<size_t>(source_.model.n_embd);
  std::vector<BatchRow> rows;
  for (size_t i = 0; i < end; ++i) rows.push_back({step.tokens[i], static_cast<int32_t>(i), 0, false});
  const AlignedBuffer buffer(end * n_embd * sizeof(float));
  float* const hidden = const_cast<AlignedBuffer&>(buffer).as<float>();
  std::vector<RowOutput> outputs;
  Computed computed;
  const auto look = [&](int layers) {
    const std::vector<ShardSpec>& shards = step.layout.shard_of_stage;
    while (computed.digests.size() < shards.size() && shards[computed.digests.size()].layers.end == layers) {
      const std::span<const BatchRow> those = std::span(rows).subspan(static_cast<size_t>(step.first));
      computed.digests.push_back(
          digest_of(hidden + static_cast<size_t>(step.first) * n_embd, source_.model.n_embd, those, 0));
    }
  };
  if (const Result<void> done = pass({true, {0, 0}, false}, step, rows, hidden, outputs); !done)
    return done.error();
  look(0);
  for (int layer = 0; layer < n_layer; ++layer) {
    if (stop_) return Error{Errc::kCancelled, "stopped"};
    if (const Result<void> done = pass({false, {layer, layer + 1}, false}, step, rows, hidden, outputs);
        !done)
      return done.error();
    look(layer + 1);
  }
  if (!step.output) return computed;
  rows.back().wants_logits = true;
  if (const Result<void> done = pass({false, {n_layer, n_layer}, true}, step, rows, hidden, outputs); !done)
    return done.error();
  computed.output = outputs.front();
  return computed;
}

namespace {

// The first stage whose numbers are others, or that of the output head; their count where all are the same.
size_t first_difference(const SampledStep& step, const std::vector<Sha256>& digests,
                        const std::optional<RowOutput>& output) {
  size_t stage = 0;
  while (stage < digests.size() && digests[stage] == step.digests[stage]) ++stage;
  if (stage == digests.size() && output && !same(*output, *step.output)) return stage - 1;
  return stage;
}

}  // namespace

void Verifier::verify(const SampledStep& step) {
  const auto begin = std::chrono::steady_clock::now();
  const Result<Computed> first = compute(step);
  if (first.has_error()) {
    if (first.error().code != Errc::kCancelled)
      spdlog::warn("--verify: a step could not be computed again: {}", first.error().message);
    return;
  }
  const size_t stages = step.digests.size();
  const size_t different = first_difference(step, first->digests, first->output);
  std::optional<Suspects::Fault> fault;
  if (different < stages) {
    fault = fault_of(step, different);
    // Was it the head that erred? Then it hardly errs the same way again.
    const Result<Computed> second = compute(step);
    if (second.has_error()) return;
    if (first_difference(step, second->digests, second->output) != different) {
      fault->nodes = {step.layout.head};
      fault->where = step.layout.head;
      fault->text = fmt::format(
          "node {} computed the same layers twice from its file (--verify) and got different numbers",
          step.layout.head);
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  {
    const std::lock_guard lock(mutex_);
    ++counts_.steps;
    counts_.rows += step.tokens.size();
    counts_.different += fault.has_value();
    counts_.seconds += took.count();
  }
  if (!fault) return;
  host_.post([this, fault = *fault, alive = std::weak_ptr<int>(alive_)] {
    if (!alive.expired()) on_wrong_(fault);
  });
}

Suspects::Fault Verifier::fault_of(const SampledStep& step, size_t stage) const {
  Suspects::Fault fault;
  fault.proven = true;
  fault.nodes = {step.layout.node_of_stage[stage]};
  fault.where = fault.nodes.front();
  const LayerRange& layers = step.layout.shard_of_stage[stage].layers;
  fault.layer_begin = layers.begin, fault.layer_end = layers.end;
  fault.text =
      fmt::format("{} computed other numbers than the head from the same input (--verify, positions {}-{})",
                  step.layout.stage_text(static_cast<int>(stage)), step.first, step.tokens.size() - 1);
  return fault;
}

}  // namespace shoal
