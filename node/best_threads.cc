#include "node/best_threads.h"

#include <algorithm>

#include "base/check.h"

namespace shoal {

std::vector<ThreadCount> measure_thread_counts(const GgufFile& file, const ModelConfig& config,
                                               const Kernels& kernels, uint64_t memory_bytes,
                                               int processors) {
  std::vector<int> wanted;
  for (int power = 1; power <= processors; power *= 2) {
    wanted.push_back(power);
    if (power >= 2 && power * 3 / 2 <= processors) wanted.push_back(power * 3 / 2);
  }
  if (wanted.empty() || wanted.back() != processors) wanted.push_back(processors);
  std::vector<ThreadCount> counts;
  for (const int threads : wanted) {
    const DeviceProfile profile = probe_device(file, config, kernels, {threads, memory_bytes});
    counts.push_back({threads, profile.decode_layer.front().seconds * config.n_layer +
                                   profile.output_head.front().seconds});
  }
  return counts;
}

int best_thread_count(const std::vector<ThreadCount>& counts) {
  SHOAL_CHECK(!counts.empty());
  constexpr double kNearEnough = 1.03;
  const auto faster = [](const ThreadCount& a, const ThreadCount& b) {
    return a.token_seconds < b.token_seconds;
  };
  const double best = std::min_element(counts.begin(), counts.end(), faster)->token_seconds;
  int fewest = 0;
  for (const ThreadCount& count : counts) {
    if (count.token_seconds <= best * kNearEnough && (fewest == 0 || count.threads < fewest))
      fewest = count.threads;
  }
  return fewest;
}

}  // namespace shoal
