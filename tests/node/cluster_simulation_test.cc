// A thousand clusters with faults, simulated. One seed alone, with all that happened:
//   SHOAL_SIMULATION_SEED=17 test_node -tc="*simulated cluster*"
// and others than the usual thousand: SHOAL_SIMULATION_SEEDS=100000.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "tests/node/simulated_cluster.h"

namespace shoal::test {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kSeeds = 100;
#else
constexpr uint64_t kSeeds = 1000;
#endif

// Beyond those, and wrong once.
constexpr uint64_t kOnceWrong[] = {2135, 16186, 17655, 19395, 26907, 29415, 43105, 69827, 70316};

uint64_t number_of(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace

TEST_CASE("a simulated cluster gives the answers of an undisturbed run whatever befalls it") {
  const uint64_t only = number_of("SHOAL_SIMULATION_SEED", UINT64_MAX);
  const bool one = only != UINT64_MAX;
  const uint64_t begin = one ? only : 1,
                 end = one ? only + 1 : 1 + number_of("SHOAL_SIMULATION_SEEDS", kSeeds);
  int answered = 0, resumed = 0, lost = 0, stale = 0, faults_seen = 0, suspects = 0, cleared = 0;
  uint64_t replayed = 0;
  std::vector<uint64_t> seeds(end - begin);
  std::iota(seeds.begin(), seeds.end(), begin);
  if (!one) seeds.insert(seeds.end(), std::begin(kOnceWrong), std::end(kOnceWrong));
  for (const uint64_t seed : seeds) {
    const SimulatedFaults faults = faults_of(seed);
    const SimulatedClusterRun run = simulate_cluster(seed, faults);
    CAPTURE(seed);  // SHOAL_SIMULATION_SEED=... plays it again
    for (const std::string& wrong : run.wrong) FAIL_CHECK(wrong);
    CHECK(run.slowest_notice_s <= 3.0);
    if (seed % 10 == 4) CHECK(run.lost == 0);  // slow is not dead
    if (seed % 10 == 8 || seed % 10 == 9) CHECK(run.lost == 0);
    if (seed % 10 == 8 && run.faults < 2) CHECK(run.suspects == 0);  // once is chance
    faults_seen += run.faults, suspects += run.suspects, cleared += run.cleared;
    answered += run.answered, resumed += run.resumed, lost += run.lost, stale += run.stale;
    replayed += run.replayed;
    if (one)
      for (const std::string& line : run.log) std::printf("%s\n", line.c_str());
  }
  if (one) return;
  // The faults took place, and were survived.
  CHECK(answered > 5 * static_cast<int>(end - begin));
  CHECK(lost > static_cast<int>(end - begin) / 2);
  CHECK(resumed > lost / 2);
  CHECK(replayed > 1000);
  CHECK(stale > 0);
  CHECK(faults_seen > static_cast<int>(end - begin) / 4);
  CHECK(suspects > static_cast<int>(end - begin) / 20);
  CHECK(cleared > 0);
}

}  // namespace shoal::test
