// What this machine can do at most: integer products, reading memory, passing a cache line between two
// processors. Figures of a shared machine drift within minutes, so a benchmark takes them in its own run.
#pragma once

#include <cstddef>
#include <string>

namespace shoal::bench {

struct IntegerPeak {
  std::string instruction;
  double bytes_gops = 0;    // 10^9 operations a second, two a multiply-add: any bytes, widened to 32 bits
  double nibbles_gops = 0;  // weights of four bits; the same where the instruction does not care
};

// Several independent chains of the best instruction this processor has, in registers, on `threads` pinned
// threads; the best of `repeats`, about 10 ms each.
IntegerPeak measure_integer_peak(int threads, int repeats);

struct ReadRate {
  double gb_per_s = 0;  // 10^9 bytes
  std::string setting;  // streams, prefetch, distance
};

// The fastest streaming read of `bytes` in huge pages over numbers of streams, prefetch hints and distances:
// each setting `repeats` times, the best setting's median.
ReadRate measure_read_rate(int threads, size_t bytes, int repeats);

// Nanoseconds for a cache line to go from one processor to another and back; 0 with one processor.
double measure_ping_pong_ns();

}  // namespace shoal::bench
