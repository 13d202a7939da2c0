#include "tensor/thread_pool.h"

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace shoal {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

void busy_wait(microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

int more_than_processors() {
  return static_cast<int>(std::thread::hardware_concurrency()) * 2 + 3;
}

TEST_CASE(
    "thread pool: every index is computed once, the caller is thread 0, threads have their own numbers") {
  for (int threads : {1, 2, 3, more_than_processors()}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (int64_t count : {0, 1, 2, 3, 100}) {
      std::vector<int> calls(static_cast<size_t>(count), 0);
      std::vector<std::atomic<std::thread::id>> ids(static_cast<size_t>(threads));
      std::atomic<int> mistaken{0};
      ids[0] = std::this_thread::get_id();
      for (int i = 0; i < 10; ++i) {
        pool.for_each(count, [&](int64_t index, int thread) {
          ++calls[static_cast<size_t>(index)];
          std::thread::id nobody;
          std::atomic<std::thread::id>& id = ids[static_cast<size_t>(thread)];
          if (!id.compare_exchange_strong(nobody, std::this_thread::get_id()))
            mistaken += id.load() != std::this_thread::get_id();
        });
      }
      CHECK(calls == std::vector<int>(static_cast<size_t>(count), 10));
      CHECK(mistaken == 0);
      for (size_t i = 1; i < ids.size(); ++i) CHECK(ids[i].load() != ids[0].load());
    }
  }
}

// Waits for `other` inside a body, so that the test only passes when another thread takes part too.
bool meet(const std::atomic<bool>& other) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!other && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return other;
}

TEST_CASE("thread pool: workers take part, inside a burst and outside") {
  ThreadPool pool(2);
  for (int i = 0; i < 20; ++i) {
    std::optional<ThreadPool::Burst> burst;
    if (i % 2 == 0) burst.emplace(pool);
    std::atomic<bool> there[2] = {false, false};
    std::atomic<int> met{0};
    pool.for_each(2, [&](int64_t index, int) {
      there[index] = true;
      met += meet(there[1 - index]);
    });
    CHECK(met == 2);
  }
}

TEST_CASE("thread pool: a thread that is held up keeps nobody from the other parts") {
  ThreadPool pool(2);
  std::atomic<int> done{0};
  std::atomic<bool> all_done{false};
  pool.for_each(100, [&](int64_t index, int) {
    if (index == 0) {
      CHECK(meet(all_done));  // the 99 others are computed meanwhile
    } else if (++done == 99) {
      all_done = true;
    }
  });
  CHECK(done == 99);
}

TEST_CASE("thread pool: for_range covers every index once, cut at multiples of the grain") {
  ThreadPool pool(3);
  for (int64_t count : {0, 1, 2, 15, 16, 17, 47, 48, 1000, 4099}) {
    for (int64_t grain : {1, 7, 16, 64}) {
      std::vector<int> seen(static_cast<size_t>(count), 0);
      std::atomic<int> badly_cut{0};
      pool.for_range(count, grain, [&](int64_t begin, int64_t end) {
        badly_cut += begin % grain != 0 || (end % grain != 0 && end != count) || begin >= end;
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      CAPTURE(count);
      CAPTURE(grain);
      CHECK(seen == std::vector<int>(static_cast<size_t>(count), 1));
      CHECK(badly_cut == 0);
    }
  }
}

TEST_CASE("thread pool: many small runs see each other's writes") {
  for (int threads : {2, more_than_processors()}) {
    ThreadPool pool(threads);
    const ThreadPool::Burst burst(pool);
    const int runs = threads == 2 ? 20000 : 1000;
    std::vector<int64_t> a(1000), b(1000);
    std::iota(a.begin(), a.end(), 0);
    for (int run = 0; run < runs; ++run) {  // each run reads what other threads wrote in the run before
      pool.for_range(1000, 8, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) b[static_cast<size_t>(i)] = a[static_cast<size_t>(999 - i)] + 1;
      });
      a.swap(b);
    }
    for (int64_t i = 0; i < 1000; ++i)
      REQUIRE(a[static_cast<size_t>(i)] == (runs % 2 == 0 ? i : 999 - i) + runs);
  }
}

TEST_CASE("thread pool: no wake-up is lost around the moment when workers fall asleep") {
  for (int threads : {2, 4}) {
    ThreadPool pool(threads);
    const int runs = 400;
    for (int i = 0; i < runs; ++i) {
      std::optional<ThreadPool::Burst> burst;
      if (i % 3 != 0) burst.emplace(pool);
      busy_wait(microseconds(150 + i % 100));  // workers spin for 200
      std::atomic<bool> there[2] = {false, false};
      std::atomic<int> met{0};
      pool.for_each(2, [&](int64_t index, int) {
        there[index] = true;
        met += meet(there[1 - index]);
      });
      REQUIRE(met == 2);
    }
  }
}

TEST_CASE("thread pool: wakes after long sleeps, and the caller sleeps while a worker is slow") {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  for (int i = 0; i < 10; ++i) {
    std::this_thread::sleep_for(milliseconds(3));
    pool.for_each(3, [&](int64_t index, int) {
      if (index == i % 3) std::this_thread::sleep_for(milliseconds(3));
      ++calls;
    });
    CHECK(calls == 3 * (i + 1));
  }
}

double processor_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST_CASE("thread pool: idle workers use no processor time") {
  ThreadPool pool(4);
  {
    const ThreadPool::Burst burst(pool);
    pool.for_each(4, [](int64_t, int) {});
  }
  const double before = processor_seconds();
  std::this_thread::sleep_for(milliseconds(300));
  const double used = processor_seconds() - before;
  CHECK(used < 0.2 * 0.3);
}

TEST_CASE("thread pool: ends at any moment") {
  for (int i = 0; i < 50; ++i) {
    ThreadPool never_used(3);
    ThreadPool used(3);
    used.for_each(3, [](int64_t, int) {});
    const ThreadPool::Burst burst(used);
    busy_wait(microseconds(i * 10));
  }
}

TEST_CASE("thread pool: pinned workers stay on one processor each, the caller keeps its own") {
  cpu_set_t before, after;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  const int processors = CPU_COUNT(&before);
  ThreadPool pool(processors, true);
  std::vector<cpu_set_t> sets(static_cast<size_t>(processors));
  std::atomic<int> here{0};
  pool.for_each(processors, [&](int64_t, int thread) {
    cpu_set_t& set = sets[static_cast<size_t>(thread)];
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    for (++here; here < processors;) std::this_thread::yield();  // so that each thread takes one
  });
  cpu_set_t all;
  CPU_ZERO(&all);
  for (size_t i = 1; i < sets.size(); ++i) {
    CHECK(CPU_COUNT(&sets[i]) == 1);
    CPU_OR(&all, &all, &sets[i]);
  }
  CHECK(CPU_COUNT(&all) == processors - 1);
  REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
  CHECK(CPU_EQUAL(&before, &after));
}

#if defined(__x86_64__)
TEST_CASE("thread pool: workers keep denormals whatever the creating thread does") {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040);  // flush to zero, denormals are zero
  ThreadPool pool(2);
  _mm_setcsr(saved);
  float result = 0;
  volatile float tiny = 1e-30f, factor = 1e-10f;
  std::atomic<bool> worker_came{false};
  pool.for_each(2, [&](int64_t, int thread) {
    if (thread == 1) {
      result = tiny * factor;
      worker_came = true;
    } else {
      CHECK(meet(worker_came));
    }
  });
  CHECK(result > 0.0f);
}
#endif

}  // namespace
}  // namespace shoal
