// A persistent pool of threads for the kernels of one engine thread.
//
// Work is cut into parts that threads claim one after another, finer than there are threads: a thread that
// the system takes off its processor delays the part it holds and no other, and one that does not come in
// time is not waited for, because the caller takes the parts it would have had. Which thread computes a part
// is therefore a matter of chance and must never matter to the result; no part is computed twice.
//
// Workers sleep in the kernel when there is nothing to do, so an idle node uses no processor time. While a
// Burst exists they spin for up to 200 µs first, so that the next operation of a step finds them there at
// once.
//
// A body must not throw: an exception that leaves it on any thread ends the program. One operation at a time;
// not from inside a body. Workers run with the default floating-point environment (denormals kept).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace shoal {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller. `pin` binds worker i >= 1 to the i-th processor that this process may
  // use, unless there are fewer of them than threads; the caller stays as it is.
  explicit ThreadPool(int threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // For the length of a step: wakes the workers when it begins; they sleep again soon after it ends.
  class Burst {
   public:
    explicit Burst(ThreadPool& pool) : pool_(pool) { pool_.begin_burst(); }
    ~Burst() { pool_.end_burst(); }
    Burst(const Burst&) = delete;
    Burst& operator=(const Burst&) = delete;

   private:
    ThreadPool& pool_;
  };

  // Calls body(index, thread) once for each index in [0, count). `thread` is in [0, size()) and names the
  // thread that runs it, the caller being 0: two calls at the same time have different ones.
  template <class Body>
  void for_each(int64_t count, Body&& body) {
    if (size() == 1 || count <= 1) {
      for (int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    Cursor cursor;
    join([&](int thread) {
      for (int64_t i; (i = cursor.next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i, thread);
    });
  }

  // Calls body(begin, end) on contiguous parts that cover [0, count), each a multiple of `grain` but the
  // last. Parts are large at first and become smaller, down to one grain, so that all threads end together.
  // Stays on the caller when there is only one grain.
  template <class Body>
  void for_range(int64_t count, int64_t grain, Body&& body) {
    if (size() == 1 || count <= grain) {
      if (count > 0) body(int64_t{0}, count);
      return;
    }
    Cursor cursor;
    join([&](int) {
      for (int64_t begin = cursor.next.load(std::memory_order_relaxed); begin < count;) {
        const int64_t grains = (count - begin) / (2 * size() * grain);
        const int64_t end = begin + (grains > 1 ? grains : 1) * grain;
        if (!cursor.next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
        body(begin, end < count ? end : count);
        begin = cursor.next.load(std::memory_order_relaxed);
      }
    });
  }

 private:
  struct alignas(64) Cursor {  // of the parts; a cache line of its own on the caller's stack
    std::atomic<int64_t> next{0};
  };

  // Runs body(thread) on the caller and on those workers that come before the caller's own call has ended;
  // returns when all of them have. The body takes its work from a cursor, so that it is all done whoever
  // came.
  template <class Body>
  void join(Body&& body) {
    join_erased(
        [](void* context, int thread) { (*static_cast<std::remove_reference_t<Body>*>(context))(thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }
  void join_erased(void (*body)(void*, int), void* context);
  void begin_burst();
  void end_burst();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal
