// A persistent pool of threads for the kernels of one engine thread.
//
// run(body) calls body(thread) once for each thread in [0, size()), the caller being thread 0, and returns
// when all have returned. Between calls the workers spin for at most 200 µs and are there at once, after that
// they sleep in the kernel, so an idle node uses no processor time. Work is divided by position only, never
// by who is free, so which thread computes an element never matters to the result; no element is ever
// computed by two threads. A body must not throw: an exception that leaves it on any thread ends the program.
// One run() at a time; not from inside a body. Workers run with the default floating-point environment
// (denormals kept).
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace shoal {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller. `pin` binds worker i >= 1 to the i-th allowed processor,
  // unless there are fewer processors than threads; the caller stays as it is.
  explicit ThreadPool(int threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  template <class Body>
  void run(Body&& body) {
    run_erased(
        [](void* context, int thread) { (*static_cast<std::remove_reference_t<Body>*>(context))(thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Calls body(begin, end) on contiguous parts of [0, count), each a multiple of `grain` but the last.
  // Stays on the caller when there is only one part.
  template <class Body>
  void for_range(int64_t count, int64_t grain, Body&& body) {
    const int64_t parts = (count + grain - 1) / grain;
    const int threads = size();
    if (threads == 1 || parts <= 1) {
      if (count > 0) body(int64_t{0}, count);
      return;
    }
    run([&](int thread) {
      const int64_t begin = parts * thread / threads * grain;
      const int64_t end = parts * (thread + 1) / threads * grain;
      if (begin < count && begin < end) body(begin, end < count ? end : count);
    });
  }

 private:
  void run_erased(void (*body)(void*, int), void* context);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal
