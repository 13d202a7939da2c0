// limits [threads] [MiB]: prints what this machine can do at most, as JSON, for bench/compare.py and
// docs/benchmarks.md. Takes a few seconds and wants the machine for itself.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "bench/machine_limits.h"

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  const size_t mib = argc > 2 ? static_cast<size_t>(std::max(16, std::atoi(argv[2]))) : 512;
  try {
    const auto peak = shoal::bench::measure_integer_peak(threads, 15);
    const auto read = shoal::bench::measure_read_rate(threads, mib << 20, 5);
    std::fputs(fmt::format("{{\"threads\": {}, \"instruction\": \"{}\", \"int8_gops\": {:.1f}, "
                           "\"int4_gops\": {:.1f}, \"read_gb_per_s\": {:.2f}, \"read_setting\": \"{}\", "
                           "\"ping_pong_ns\": {:.0f}}}\n",
                           threads, peak.instruction, peak.bytes_gops, peak.nibbles_gops, read.gb_per_s,
                           read.setting, shoal::bench::measure_ping_pong_ns())
                   .c_str(),
               stdout);
  } catch (const shoal::SetupError& error) {
    std::fputs(fmt::format("limits: {}\n", error.what()).c_str(), stderr);
    return 1;
  }
  return 0;
}
