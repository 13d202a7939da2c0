// What one operation of the thread pool costs: an empty one back to back inside a burst, and the first one
// after the workers have fallen asleep.
//
//   barrier_cost [threads]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tensor/thread_pool.h"

namespace {

using Clock = std::chrono::steady_clock;

double nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

double median(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::stoi(argv[1]) : 2;
  shoal::ThreadPool pool(threads);
  const auto operation = [&] { pool.for_each(threads, [](int64_t, int) {}); };
  std::vector<double> busy, asleep;
  for (int round = 0; round < 50; ++round) {
    const shoal::ThreadPool::Burst burst(pool);
    const auto start = Clock::now();
    for (int i = 0; i < 1000; ++i) operation();
    busy.push_back(nanoseconds_since(start) / 1000);
  }
  for (int i = 0; i < 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const auto start = Clock::now();
    operation();
    asleep.push_back(nanoseconds_since(start));
  }
  fmt::print("{} threads: {:.0f} ns back to back, {:.0f} ns with sleeping workers (medians)\n", threads,
             median(busy), median(asleep));
}
