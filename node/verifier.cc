#include "node/verifier.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "node/coordinator.h"
#include "tensor/aligned_buffer.h"

namespace shoal {
namespace {

constexpr int kNice = 10;  // what is answered goes first: about nine tenths of a processor that both want
constexpr int kRowsAtOnce = 32;  // between two looks whether it is to end

struct Stopped {};  // thrown where it is

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

Verifier::Verifier(PipelineHost& host, const Source& source, double share,
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
  spdlog::info("--verify: {} steps ({} rows) computed again in {:.1f} s, {} of them differed", counts_.steps,
               counts_.rows, counts_.seconds, counts_.different);
}

void Verifier::sample_steps_of(Coordinator& coordinator) {
  coordinator_ = &coordinator;
  host_.call([this] { coordinator_->set_verifier(this); });
}

uint64_t Verifier::bytes(const ModelProfile& profile, const ModelConfig& config, KvType kv_cache,
                         int context) {
  const int positions = std::min(context, kPositionsMax);  // of the cache's memory no more is touched
  const StageOptions options{positions, 1, kRowsAtOnce, kv_cache};
  const uint64_t layer = *std::max_element(profile.layer_bytes.begin(), profile.layer_bytes.end());
  const uint64_t kv = Stage::kv_bytes(config, {0, 1}, options);
  const uint64_t ends = std::max(profile.embedding_bytes, profile.output_bytes);
  const uint64_t hidden =
      uint64_t{sizeof(float)} * static_cast<uint64_t>(positions) * static_cast<uint64_t>(config.n_embd);
  return std::max(layer + kv, ends) + hidden +
         Stage::scratch_bytes(config, {false, {0, 1}, true}, options, 1);
}

// So that on average `share_` of the rows is computed again: a step costs its whole history.
bool Verifier::wants(int rows, int end) {
  if (busy_ || end > kPositionsMax) return false;
  return alert_ > 0 || std::uniform_real_distribution<double>(0, 1)(random_) < share_ * rows / end;
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
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
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
    } catch (const Stopped&) {
      return;
    } catch (const std::exception& error) {  // the file cannot be read, or memory not be had
      const std::string failure = error.what();
      const std::lock_guard lock(mutex_);
      ++counts_.failed;
      if (std::exchange(last_failure_, failure) != failure)
        spdlog::warn("--verify: a step could not be computed again: {}", failure);
    }
    busy_ = false;
  }
}

// The rows through one part of the model, as many at once as fit. hidden: [rows, n_embd].
void Verifier::pass(const ShardSpec& shard, const SampledStep& step, std::span<const BatchRow> rows,
                    float* hidden, std::vector<RowOutput>& outputs) {
  // The context chooses rope's factors, so it is the layout's.
  const StageOptions options{step.layout.context, 1, kRowsAtOnce, source_.kv_cache};
  Stage stage(source_.model,
              load_shard(source_.file, source_.model, shard, pool_, {}, nullptr, source_.blocks), options,
              source_.kernels, pool_);
  for (size_t done = 0; done < rows.size(); done += kRowsAtOnce) {
    if (stop_) throw Stopped();
    const std::span<const BatchRow> some =
        rows.subspan(done, std::min<size_t>(kRowsAtOnce, rows.size() - done));
    const Result<void> ran = stage.run({}, some, step.candidates,
                                       hidden + done * static_cast<size_t>(source_.model.n_embd), outputs);
    if (ran.has_error()) throw SetupError(ran.error().message, kExitFailed);
  }
}

// All layers, each on its own, with a look at the rows where a stage ends.
Verifier::Computed Verifier::compute(const SampledStep& step) {
  const int n_layer = source_.model.n_layer;
  const size_t end = step.tokens.size(), first = static_cast<size_t>(step.first);
  const size_t n_embd = static_cast<size_t>(source_.model.n_embd);
  std::vector<BatchRow> rows;
  for (size_t i = 0; i < end; ++i) rows.push_back({step.tokens[i], static_cast<int32_t>(i), 0, false});
  AlignedBuffer buffer(end * n_embd * sizeof(float));
  float* const hidden = buffer.as<float>();
  std::vector<RowOutput> outputs;
  Computed computed;
  const auto look = [&](int layers) {
    const std::vector<ShardSpec>& shards = step.layout.shard_of_stage;
    while (computed.digests.size() < shards.size() && shards[computed.digests.size()].layers.end == layers)
      computed.digests.push_back(
          digest_of(hidden + first * n_embd, source_.model.n_embd, std::span(rows).subspan(first), 0));
  };
  pass({true, {0, 0}, false}, step, rows, hidden, outputs);
  look(0);
  for (int layer = 0; layer < n_layer; ++layer) {
    pass({false, {layer, layer + 1}, false}, step, rows, hidden, outputs);
    look(layer + 1);
  }
  if (!step.output) return computed;
  // The output head takes the last row alone, and there is no position to it.
  std::copy_n(hidden + (end - 1) * n_embd, n_embd, hidden);
  const BatchRow last{step.tokens.back(), 0, 0, true};
  pass({false, {n_layer, n_layer}, true}, step, std::span(&last, 1), hidden, outputs);
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

// Who computed something else, if anybody. Was it the head that erred? Then it hardly errs the same way
// again.
std::optional<Suspects::Fault> Verifier::compare(const SampledStep& step) {
  const Computed once = compute(step);
  const size_t stage = first_difference(step, once.digests, once.output);
  if (stage == step.digests.size()) return std::nullopt;
  const Computed twice = compute(step);
  if (first_difference(step, twice.digests, twice.output) != stage) return own_fault(step);
  return fault_of(step, stage);
}

void Verifier::verify(const SampledStep& step) {
  const auto begin = std::chrono::steady_clock::now();
  const std::optional<Suspects::Fault> fault = compare(step);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  last_failure_.clear();
  alert_ = fault ? kAlertSteps : std::max(0, alert_ - 1);
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
  fault.epoch = step.epoch;
  fault.answered = true;
  fault.proven = step.first == 0;
  fault.nodes = {step.layout.node_of_stage[stage]};
  fault.where = fault.nodes.front();
  const LayerRange& layers = step.layout.shard_of_stage[stage].layers;
  fault.layer_begin = layers.begin, fault.layer_end = layers.end;
  fault.text =
      fmt::format("{} computed other numbers than the head (--verify, positions {} to {})",
                  step.layout.stage_text(static_cast<int>(stage)), step.first, step.tokens.size() - 1);
  return fault;
}

Suspects::Fault Verifier::own_fault(const SampledStep& step) const {
  Suspects::Fault fault;
  fault.epoch = step.epoch;
  fault.nodes = {step.layout.head};
  fault.where = step.layout.head;
  fault.text = fmt::format("node {} computed {} rows twice from its file (--verify), and not the same",
                           step.layout.head, step.tokens.size());
  return fault;
}

}  // namespace shoal
