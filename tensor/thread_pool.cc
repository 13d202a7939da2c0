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

// One side's way to sleep until the other side has changed atomics, with seq_cst. Sleeper and waker each
// write before they read what the other writes, so a wake-up cannot be lost.
class Waiter {
 public:
  template <class Ready>
  void sleep_until(Ready ready) {
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

// The gate of an operation, one word so that entering it and closing it cannot miss each other:
// operation number << 17 | open << 16 | workers inside.
constexpr uint64_t kOneOperation = uint64_t{1} << 17;
constexpr uint64_t kOpen = uint64_t{1} << 16;
constexpr uint64_t kInside = kOpen - 1;

uint64_t operation_of(uint64_t gate) {
  return gate / kOneOperation;
}

}  // namespace

struct ThreadPool::State {
  explicit State(int threads) : size(threads) {}

  const int size;
  bool crowded = false;
  // Written by the caller before it opens the gate, read by workers that have entered.
  void (*body)(void*, int) = nullptr;
  void* context = nullptr;
  alignas(64) std::atomic<uint64_t> gate{0};
  alignas(64) std::atomic<bool> running{false};
  std::atomic<uint64_t> bursts{0};  // begun + ended: odd inside one
  std::atomic<bool> stop{false};
  Waiter work_came, work_done;
  std::vector<std::thread> workers;

  // True inside an operation other than `done`; the caller of this must leave it.
  bool enter(uint64_t done) {
    uint64_t seen = gate.load();
    while ((seen & kOpen) != 0 && operation_of(seen) != done) {
      if (gate.compare_exchange_weak(seen, seen + 1)) return true;
    }
    return false;
  }

  void leave() {
    const uint64_t left = gate.fetch_sub(1) - 1;
    if ((left & (kOpen | kInside)) == 0) work_done.wake();
  }

  void work(int thread, int processor) noexcept {
    // Flushing of denormals would change results; a thread may inherit it from its creator.
    std::fesetenv(FE_DFL_ENV);
    if (processor >= 0) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(processor, &set);
      sched_setaffinity(0, sizeof set, &set);  // a refusal costs speed, nothing else
    }
    uint64_t done = 0;  // the last operation this thread took part in; they are numbered from 1
    for (;;) {
      const auto work_is_there = [&] {
        const uint64_t seen = gate.load();
        return stop.load() || ((seen & kOpen) != 0 && operation_of(seen) != done);
      };
      const uint64_t burst = bursts.load();
      const auto other_burst = [&] { return bursts.load() != burst; };
      const bool found =
          burst % 2 == 1 && spin_until(crowded, [&] { return work_is_there() || other_burst(); });
      if (!found) {
        work_came.sleep_until([&] { return work_is_there() || (other_burst() && bursts.load() % 2 == 1); });
      }
      if (stop.load()) return;
      if (!enter(done)) continue;
      done = operation_of(gate.load());  // does not change while a worker is inside
      body(context, thread);
      leave();
    }
  }

  void stop_workers() {
    stop = true;
    work_came.wake();
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(int threads, bool pin) {
  SHOAL_CHECK(threads >= 1 && static_cast<uint64_t>(threads) <= kInside);
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

void ThreadPool::begin_burst() {
  SHOAL_CHECK(state_->bursts.fetch_add(1) % 2 == 0);
  state_->work_came.wake();
}

void ThreadPool::end_burst() {
  state_->bursts.fetch_add(1);
}

void ThreadPool::join_erased(void (*body)(void*, int), void* context) {
  State& state = *state_;
  SHOAL_CHECK(!state.running.exchange(true));  // one operation at a time, not from inside a body
  state.body = body;
  state.context = context;
  // The gate is closed and nobody is inside, so nobody else writes it.
  state.gate.store((operation_of(state.gate.load()) + 1) * kOneOperation | kOpen);
  state.work_came.wake();
  // A throw here would leave the workers with a body that is gone, so it ends the program instead.
  [&]() noexcept { body(context, 0); }();
  state.gate.fetch_and(~kOpen);
  const auto all_left = [&] { return (state.gate.load() & kInside) == 0; };
  if (!all_left() && !spin_until(state.crowded, all_left)) state.work_done.sleep_until(all_left);
  state.running.store(false);
}

}  // namespace shoal
