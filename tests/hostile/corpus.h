// Hostile inputs as recipes: each row of a corpus says what is written, and what the door that it is given to
// must answer. A row passes when the refusal has all its words, came within kSecondsMax, and took no more
// than kMemoryMax: nothing may be allocated because an input claims a size. The memory is that of the
// process, so it is not looked at under AddressSanitizer, which keeps freed memory.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace shoal::test {

inline constexpr uint64_t kMemoryMax = uint64_t{64} << 20;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr double kSecondsMax = 10;  // sanitized code is slower, unevenly
#else
inline constexpr double kSecondsMax = 1;
#endif

struct HostileRow {
  std::string id;                        // of the corpus and its row, and what is sent
  std::function<std::string()> refusal;  // gives the input to its door; empty: it was taken
  std::vector<std::string> says;         // empty: it must be taken, and do no harm
};

// The most memory that this process had since the last call of forget_peak(), in bytes; 0 where the system
// does not tell.
inline uint64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    uint64_t kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib << 10;
  }
  return 0;
}
inline void forget_peak() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

inline void check_hostile(const std::vector<HostileRow>& rows) {
  for (const HostileRow& row : rows) {
    CAPTURE(row.id);
    forget_peak();
    [[maybe_unused]] const uint64_t before = peak_memory();
    const auto start = std::chrono::steady_clock::now();
    const std::string refusal = row.refusal();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    CHECK(took.count() < kSecondsMax);
#ifndef __SANITIZE_ADDRESS__
    CHECK(peak_memory() - before <= kMemoryMax);
#endif
    CAPTURE(refusal);
    CHECK(refusal.empty() == row.says.empty());
    for (const std::string& word : row.says) {
      CHECK_MESSAGE(refusal.find(word) != std::string::npos, "'" << word << "' is missing in: " << refusal);
    }
  }
}

}  // namespace shoal::test
