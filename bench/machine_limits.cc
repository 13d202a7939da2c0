#include "bench/machine_limits.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "bench/integer_peak.h"
#include "tensor/aligned_buffer.h"

namespace shoal::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<int> allowed_processors() {
  std::vector<int> processors;
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

void pin(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  sched_setaffinity(0, sizeof set, &set);
}

// Seconds from when all threads stand ready until the last one has returned from body(thread).
template <class Body>
double time_together(int threads, Body body) {
  const std::vector<int> processors = allowed_processors();
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      pin(processors[static_cast<size_t>(t) % processors.size()]);
      ready.fetch_add(1);
      while (!go.load()) std::this_thread::yield();
      body(t);
    });
  }
  while (ready.load() != threads) std::this_thread::yield();
  const auto begin = Clock::now();
  go.store(true);
  for (std::thread& worker : workers) worker.join();
  return seconds_since(begin);
}

std::atomic<uint64_t> sink;  // results end here, so that no work can be left out

double best_gops(uint64_t (*chains)(int64_t), int64_t operations_a_round, int threads, int repeats) {
  int64_t rounds = 1 << 12;
  for (;;) {  // long enough for the clock
    const auto begin = Clock::now();
    sink += chains(rounds);
    if (seconds_since(begin) > 0.01) break;
    rounds *= 2;
  }
  double best = 0;
  for (int i = 0; i < repeats; ++i) {
    const double s = time_together(threads, [&](int) { sink += chains(rounds); });
    best = std::max(best, static_cast<double>(threads * rounds * operations_a_round) / s / 1e9);
  }
  return best;
}

// Reads [begin, begin + bytes) as `kStreams` streams side by side, prefetching `ahead` bytes before use.
// kLocality is that of __builtin_prefetch (0: streaming, 3: all caches), or -1 for none.
template <int kStreams, int kLocality>
#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
uint64_t
read_streams(const std::byte* begin, size_t bytes, size_t ahead) {
  using Vector = uint64_t __attribute__((vector_size(32)));
  const size_t each = bytes / kStreams / 256 * 256;
  Vector sum[8] = {};
  for (size_t i = 0; i < each; i += 256) {
    for (int s = 0; s < kStreams; ++s) {
      const std::byte* p = begin + static_cast<size_t>(s) * each + i;
      if constexpr (kLocality >= 0) {
        for (int line = 0; line < 256; line += 64) __builtin_prefetch(p + ahead + line, 0, kLocality);
      }
      for (int v = 0; v < 8; ++v) sum[v] ^= *reinterpret_cast<const Vector*>(p + 32 * v);
    }
  }
  uint64_t total = 0;
  for (const Vector& v : sum) total ^= v[0] ^ v[1] ^ v[2] ^ v[3];
  return total;
}

struct ReadSetting {
  uint64_t (*read)(const std::byte*, size_t, size_t);
  size_t ahead;
  const char* name;
};

constexpr ReadSetting kReadSettings[] = {
    {read_streams<1, -1>, 0, "1 stream, no prefetch"},
    {read_streams<2, -1>, 0, "2 streams, no prefetch"},
    {read_streams<4, -1>, 0, "4 streams, no prefetch"},
    {read_streams<1, 0>, 1024, "1 stream, streaming prefetch 1 KiB ahead"},
    {read_streams<1, 0>, 4096, "1 stream, streaming prefetch 4 KiB ahead"},
    {read_streams<1, 0>, 8192, "1 stream, streaming prefetch 8 KiB ahead"},
    {read_streams<1, 3>, 4096, "1 stream, prefetch 4 KiB ahead"},
    {read_streams<2, 0>, 1024, "2 streams, streaming prefetch 1 KiB ahead"},
    {read_streams<2, 0>, 4096, "2 streams, streaming prefetch 4 KiB ahead"},
    {read_streams<2, 3>, 4096, "2 streams, prefetch 4 KiB ahead"},
    {read_streams<4, 0>, 1024, "4 streams, streaming prefetch 1 KiB ahead"},
    {read_streams<4, 0>, 4096, "4 streams, streaming prefetch 4 KiB ahead"},
    {read_streams<4, 3>, 1024, "4 streams, prefetch 1 KiB ahead"},
};

}  // namespace

IntegerPeak measure_integer_peak(int threads, int repeats) {
  const IntegerChains chains = best_integer_chains();
  IntegerPeak peak;
  peak.instruction = chains.instruction;
  peak.bytes_gops = best_gops(chains.bytes, chains.bytes_operations, threads, repeats);
  peak.nibbles_gops =
      std::max(peak.bytes_gops, best_gops(chains.nibbles, chains.nibbles_operations, threads, repeats));
  return peak;
}

ReadRate measure_read_rate(int threads, size_t bytes, int repeats) {
  const size_t share = bytes / static_cast<size_t>(threads) / 4096 * 4096;
  constexpr size_t kBeyond = 16 << 10;  // what a prefetch may ask for past the end
  AlignedBuffer buffer(share * static_cast<size_t>(threads) + kBeyond);
  for (size_t i = 0; i < buffer.size(); i += 8)
    buffer.as<uint64_t>()[i / 8] = i;  // real pages, not the zero page
  ReadRate best;
  for (const ReadSetting& setting : kReadSettings) {
    std::vector<double> rates;
    for (int i = 0; i < repeats; ++i) {
      const double s = time_together(threads, [&](int t) {
        sink += setting.read(buffer.data() + static_cast<size_t>(t) * share, share, setting.ahead);
      });
      rates.push_back(static_cast<double>(share) * threads / s / 1e9);
    }
    std::sort(rates.begin(), rates.end());
    const double median = rates[rates.size() / 2];
    if (median > best.gb_per_s) best = {median, setting.name};
  }
  return best;
}

double measure_ping_pong_ns() {
  if (allowed_processors().size() < 2) return 0;
  constexpr int kRounds = 100000;
  alignas(64) std::atomic<int> ball{0};
  const double s = time_together(2, [&](int thread) {
    for (int i = 0; i < kRounds; ++i) {
      while (ball.load(std::memory_order_acquire) != 2 * i + thread) {
      }
      ball.store(2 * i + thread + 1, std::memory_order_release);
    }
  });
  return s / kRounds * 1e9;
}

}  // namespace shoal::bench
