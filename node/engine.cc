#include "node/engine.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <future>
#include <limits>
#include <optional>

#include "base/check.h"

namespace shoal {
namespace {

uint32_t microseconds(std::chrono::steady_clock::duration duration) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(us, 0, std::numeric_limits<uint32_t>::max()));
}

// Those of a slot that overflowed in a stage before are known.
void note_overflows(StepJob& job, std::span<const int32_t> rows) {
  const auto slot_of = [&](int32_t row) { return job.rows[static_cast<size_t>(row)].slot; };
  for (const int32_t row : rows) {
    const bool known = std::any_of(job.overflowed.begin(), job.overflowed.end(),
                                   [&](int32_t other) { return slot_of(other) == slot_of(row); });
    if (!known) job.overflowed.push_back(row);
  }
}

}  // namespace

Sha256 digest_of(const float* hidden, int n_embd, std::span<const BatchRow> rows, int slot) {
  Sha256Hasher hasher;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].slot != slot) continue;
    const std::span<const float> row(hidden + r * static_cast<size_t>(n_embd), static_cast<size_t>(n_embd));
    hasher.add(std::as_bytes(row));
  }
  return hasher.finish();
}

Engine::Engine(size_t queue_max, std::function<void(std::unique_ptr<StepJob>)> on_done)
    : queue_max_(queue_max), on_done_(std::move(on_done)) {}

Engine::~Engine() {
  stop();
}

void Engine::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Engine::start(const MakeStages& make_stages) {
  std::promise<void> ready;
  std::future<void> started = ready.get_future();
  // The promise moves into the thread: one on this stack could be gone before set_value() has returned there.
  thread_ = std::thread([this, &make_stages, ready = std::move(ready)]() mutable {
    try {
      host(make_stages());
    } catch (...) {
      ready.set_exception(std::current_exception());
      return;
    }
    ready.set_value();
    loop();
  });
  try {
    started.get();
  } catch (...) {
    thread_.join();  // so that the error has one owner before anyone reads it
    throw;
  }
}

bool Engine::submit(std::unique_ptr<StepJob>& job) {
  job->queued = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= queue_max_) return false;
    queue_.push_back(std::move(job));
    working_ = true;  // from now on, not when the engine wakes: one that hangs between two steps never does
  }
  wake_.notify_one();
  return true;
}

void Engine::rebuild(RemakeStages remake, std::function<void(std::string)> done) {
  std::deque<std::unique_ptr<StepJob>> dropped;  // here: their buffers belong to the caller's thread
  {
    const std::lock_guard lock(mutex_);
    dropped.swap(queue_);
    orders_.push_back({std::move(remake), {}, std::move(done)});
    working_ = true;
  }
  wake_.notify_one();
}

void Engine::run(std::function<std::string()> work, std::function<void(std::string)> done) {
  {
    const std::lock_guard lock(mutex_);
    orders_.push_back({{}, std::move(work), std::move(done)});
    working_ = true;
  }
  wake_.notify_one();
}

void Engine::host(Stages stages) {
  const std::lock_guard lock(stages_mutex_);
  for (auto& [index, stage] : stages) {
    memory_.weights += stage->weight_bytes();
    memory_.kv += stage->kv_bytes();
    memory_.scratch += stage->scratch_bytes();
    auto hosted = std::make_unique<Hosted>();
    hosted->index = index;
    hosted->stage = std::move(stage);
    stages_.push_back(std::move(hosted));
  }
}

Engine::Stages Engine::release() {
  const std::lock_guard lock(stages_mutex_);
  Stages stages;
  for (const auto& hosted : stages_) stages.emplace_back(hosted->index, std::move(hosted->stage));
  stages_.clear();
  memory_ = {};
  return stages;
}

void Engine::carry_out(Order order) {
  std::string error;
  try {
    if (order.work) {
      error = order.work();
    } else {
      host(order.remake(release()));
    }
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  } catch (const std::exception& failed) {
    error = failed.what();
  }
  order.done(std::move(error));
}

Engine::Memory Engine::memory() const {
  const std::lock_guard lock(stages_mutex_);
  return memory_;
}

StageStats Engine::stats(int stage) const {
  const std::lock_guard lock(stages_mutex_);
  for (const auto& hosted : stages_) {
    if (hosted->index == stage) return {hosted->steps.load(), hosted->rows.load(), hosted->busy_ns.load()};
  }
  return {};
}

void Engine::loop() {
  while (true) {
    std::unique_ptr<StepJob> job;
    std::optional<Order> order;
    {
      std::unique_lock lock(mutex_);
      working_ = !queue_.empty() || !orders_.empty();
      wake_.wait(lock, [&] { return stop_ || !queue_.empty() || !orders_.empty(); });
      if (stop_) return;
      if (!orders_.empty()) {
        order = std::move(orders_.front());
        orders_.pop_front();
      } else {
        job = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (order) {
      carry_out(std::move(*order));
    } else {
      compute(*job);
      on_done_(std::move(job));
    }
    ++progress_;
    // Where both threads share one core the io thread is to send that before the next step is computed.
    std::this_thread::yield();
  }
}

void Engine::compute(StepJob& job) {
  for (const auto& hosted : stages_) {
    if (hosted->index != job.stage) continue;
    const auto begin = std::chrono::steady_clock::now();
    float* const hidden =
        job.buffer ? job.buffer->as<float>() : nullptr;  // a step of cache operations alone has none
    const Result<void> result =
        hosted->stage->run(job.ops, job.rows, job.candidates, hidden, job.outputs, job.kind);
    const auto busy = std::chrono::steady_clock::now() - begin;
    StageTime time{microseconds(begin - job.queued), microseconds(busy), 0};
    if (job.step_id % kArrivalsEvery == 0) time.arrived_us = clock_microseconds(job.queued);
    job.times.push_back(time);
    hosted->steps += 1;
    hosted->rows += job.rows.size();
    hosted->busy_ns += static_cast<uint64_t>(std::chrono::nanoseconds(busy).count());
    if (result && job.verify_slot >= 0)
      job.digests.push_back(digest_of(hidden, hosted->stage->n_embd(), job.rows, job.verify_slot));
    note_overflows(job, hosted->stage->overflowed());
    if (result.has_error()) job.failed = true, job.error = result.error(), job.fault = hosted->stage->fault();
    return;
  }
  job.failed = true;
  job.error = {Errc::kInvalidInput, "stage " + std::to_string(job.stage) + " is not on this node"};
}

}  // namespace shoal
