#include "tensor/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

namespace shoal {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(200);
constexpr auto kSpinAloneTime = std::chrono::microseconds(20);  // then let other threads have the processor

std::vector<int> allowed_processors() {
  std::vector<int> processors;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &set)) processors.push_back(i);
    }
  }
  return processors;
}

void relax_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or kSpinTime is over. `crowded`: more threads than processors, so always let others
// run.
template <class Ready>
bool spin_until(bool crowded, Ready ready) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax_processor();
    }
    const auto spun = std::chrono::steady_clock::now() - start;
    if (spun >= kSpinTime) return ready();
    if (crowded || spun >= kSpinAloneTime) std::this_thread::yield();
  }
}

// One side's way to wait for a change of atomics that the other side makes with seq_cst: spin, then sleep.
// Sleeper and waker each write before they read what the other writes, so a wake-up cannot be lost.
class Waiter {
 public:
  template <class Ready>
  void wait(bool crowded, Ready ready) {
    if (spin_until(crowded, ready)) return;
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    changed_.wait(lock, ready);
    sleepers_.fetch_sub(1);
  }

  void wake() {
    if (sleepers_.load() == 0) return;
    {
      std::lock_guard lock(mutex_);
    }  // whoever counted itself is asleep now, not between its check and its sleep
    changed_.notify_all();
  }

 private:
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace

struct ThreadPool::State {
  explicit State(int threads) : size(threads) {}

  const int size;
  bool crowded = false;
  // Written by the caller before it advances `epoch`, read by workers after they see it advance.
  void (*body)(void*, int) = nullptr;
  void* context = nullptr;
  bool stop = false;
  alignas(64) std::atomic<uint32_t> epoch{0};
  alignas(64) std::atomic<int> unfinished{0};
  alignas(64) std::atomic<bool> running{false};
  Waiter work_came, work_done;
  std::vector<std::thread> workers;

  void work(int thread, int processor) noexcept {
    // Flushing of denormals would change results; a thread may inherit it from its creator.
    std::fesetenv(FE_DFL_ENV);
    if (processor >= 0) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(processor, &set);
      sched_setaffinity(0, sizeof set, &set);  // a refusal costs speed, nothing else
    }
    for (uint32_t seen = 0;;) {
      work_came.wait(crowded, [&] { return epoch.load() != seen; });
      ++seen;
      if (stop) return;
      body(context, thread);
      if (unfinished.fetch_sub(1) == 1) work_done.wake();
    }
  }

  void start_epoch() {
    epoch.fetch_add(1);
    work_came.wake();
  }

  void stop_workers() {
    stop = true;
    start_epoch();
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(int threads, bool pin) {
  SHOAL_CHECK(threads >= 1);
  state_ = std::make_unique<State>(threads);
  const std::vector<int> processors = allowed_processors();
  state_->crowded = processors.size() < static_cast<size_t>(threads);
  const bool bind = pin && !state_->crowded;
  state_->workers.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) {
      const int processor = bind ? processors[static_cast<size_t>(i)] : -1;
      state_->workers.emplace_back([state = state_.get(), i, processor] { state->work(i, processor); });
    }
  } catch (...) {  // the system refused a thread: those that started must end before their state does
    state_->stop_workers();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  state_->stop_workers();
}

int ThreadPool::size() const {
  return state_->size;
}

void ThreadPool::run_erased(void (*body)(void*, int), void* context) {
  State& state = *state_;
  if (state.size == 1) {
    body(context, 0);
    return;
  }
  SHOAL_CHECK(!state.running.exchange(true));  // one run at a time, not from inside a body
  state.body = body;
  state.context = context;
  state.unfinished.store(state.size - 1);
  state.start_epoch();
  // A throw here would leave the workers with a body that is gone, so it ends the program instead.
  [&]() noexcept { body(context, 0); }();
  state.work_done.wait(state.crowded, [&] { return state.unfinished.load() == 0; });
  state.running.store(false);
}

}  // namespace shoal
