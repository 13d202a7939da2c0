#include "node/probe.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "sharding/stage.h"
#include "tensor/thread_pool.h"

namespace shoal {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr uint64_t kProbeWeightBytes = 48u << 20;  // enough layers that caches do not flatter the measurement
constexpr int kProbeContext = 256;                 // positions: attention costs what it does in a short chat
constexpr double kMeasureSeconds = 0.08;
constexpr int kRunsMin = 3;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

// Median seconds of one call, after one that warms up.
template <class Body>
double median_seconds(Body&& body) {
  body(0);
  std::vector<double> times;
  const auto begin = SteadyClock::now();
  for (int run = 1; static_cast<int>(times.size()) < kRunsMin || seconds_since(begin) < kMeasureSeconds;
       ++run) {
    const auto start = SteadyClock::now();
    body(run);
    times.push_back(seconds_since(start));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Layers [0, n) that together outgrow the caches but stay inside the device's budget.
int layers_to_probe(const GgufFile& file, const ModelConfig& config, uint64_t memory_bytes) {
  const UnitBytes units = unit_bytes(file, config);
  const uint64_t budget = std::min(kProbeWeightBytes, std::max<uint64_t>(memory_bytes / 3, 1));
  uint64_t bytes = 0;
  int n = 0;
  while (n < config.n_layer && (n == 0 || bytes + units.layers[static_cast<size_t>(n)] <= budget)) {
    bytes += units.layers[static_cast<size_t>(n)];
    ++n;
  }
  return n;
}

std::vector<BatchRow> decode_rows(int rows, int position) {
  std::vector<BatchRow> batch;
  for (int i = 0; i < rows; ++i) batch.push_back({-1, position, i, false});
  return batch;
}

std::vector<BatchRow> prompt_rows(int rows) {
  std::vector<BatchRow> batch;
  for (int i = 0; i < rows; ++i) batch.push_back({-1, i, 0, false});
  return batch;
}

void run_checked(Stage& stage, std::span<const BatchRow> rows, int candidates, float* hidden,
                 std::vector<RowOutput>& outputs) {
  const Result<void> result = stage.run({}, rows, candidates, hidden, outputs);
  if (result.has_error()) throw SetupError("the probe failed: " + result.error().message, kExitFailed);
}

void probe_layers(const GgufFile& file, const ModelConfig& config, const Kernels& kernels,
                  const ProbeOptions& options, ThreadPool& pool, DeviceProfile& profile) {
  const int n = layers_to_probe(file, config, options.memory_bytes);
  constexpr int kSlots = 16;
  const StageOptions stage_options{kProbeContext, kSlots, kPrefillChunkRows};
  Stage stage(config, load_shard(file, config, {false, {0, n}, false}, pool), stage_options, kernels, pool);
  AlignedBuffer hidden(static_cast<size_t>(kPrefillChunkRows) * static_cast<size_t>(config.n_embd) *
                       sizeof(float));
  std::vector<RowOutput> outputs;
  auto fill = [&] {  // small steady values: a stage works in place, so its input is made anew each time
    float* x = hidden.as<float>();
    for (size_t i = 0; i < hidden.size() / sizeof(float); ++i)
      x[i] = 0.01f * static_cast<float>(i % 37) - 0.18f;
  };
  // Fill the caches of the decode rows to half, so that attention has something to walk over.
  for (int slot = 0; slot < kSlots; ++slot) {
    for (int first = 0; first < kProbeContext / 2; first += kPrefillChunkRows) {
      std::vector<BatchRow> rows;
      for (int i = 0; i < kPrefillChunkRows; ++i) rows.push_back({-1, first + i, slot, false});
      fill();
      if (slot == 0) run_checked(stage, rows, 1, hidden.as<float>(), outputs);
    }
  }
  for (const int rows : {1, 2, 4, 8, 16}) {
    // Slot 0 decodes at position 128; the others, for larger batches, from the start of their caches.
    std::vector<BatchRow> batch = decode_rows(rows, 0);
    batch[0].position = kProbeContext / 2;
    const double seconds = median_seconds([&](int) {
      fill();
      run_checked(stage, batch, 1, hidden.as<float>(), outputs);
    });
    profile.decode_layer.push_back({rows, seconds / n});
  }
  const std::vector<BatchRow> chunk = prompt_rows(kPrefillChunkRows);
  const double seconds = median_seconds([&](int) {
    fill();
    run_checked(stage, chunk, 1, hidden.as<float>(), outputs);
  });
  profile.prefill_layer_row_seconds = seconds / n / kPrefillChunkRows;
}

void probe_ends(const GgufFile& file, const ModelConfig& config, const Kernels& kernels, ThreadPool& pool,
                DeviceProfile& profile) {
  const StageOptions stage_options{kProbeContext, 16, kPrefillChunkRows};
  Stage stage(config, load_shard(file, config, {false, {config.n_layer, config.n_layer}, true}, pool),
              stage_options, kernels, pool);
  AlignedBuffer hidden(static_cast<size_t>(kPrefillChunkRows) * static_cast<size_t>(config.n_embd) *
                       sizeof(float));
  std::fill_n(hidden.as<float>(), hidden.size() / sizeof(float), 0.1f);
  std::vector<RowOutput> outputs;
  for (const int rows : {1, 4, 16}) {
    std::vector<BatchRow> batch = decode_rows(rows, 0);
    for (BatchRow& row : batch) row.wants_logits = true;
    const double seconds =
        median_seconds([&](int) { run_checked(stage, batch, 1, hidden.as<float>(), outputs); });
    profile.output_head.push_back({rows, seconds});
  }
}

}  // namespace

DeviceProfile probe_device(const GgufFile& file, const ModelConfig& config, const Kernels& kernels,
                           const ProbeOptions& options) {
  DeviceProfile profile;
  profile.memory_bytes = options.memory_bytes;
  profile.type = kernels.name;
  ThreadPool pool(options.threads);
  probe_layers(file, config, kernels, options, pool, profile);
  probe_ends(file, config, kernels, pool, profile);
  profile.embedding_row_seconds = 2e-6;  // decoding one row of n_embd weights: far below the clock's noise
  return profile;
}

double probe_memory_read(int threads) {
  constexpr size_t kBytes = 256u << 20;
  ThreadPool pool(threads);
  AlignedBuffer buffer(kBytes);
  std::memset(buffer.data(), 1, kBytes);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const double seconds = median_seconds([&](int) {
    pool.run([&](int thread) {
      const int64_t lines = static_cast<int64_t>(kBytes / 64);
      const uint64_t* p = buffer.as<uint64_t>();
      uint64_t s[8] = {};
      for (int64_t i = lines * thread / threads; i < lines * (thread + 1) / threads; ++i) {
        for (int j = 0; j < 8; ++j) s[j] += p[i * 8 + j];
      }
      sums[static_cast<size_t>(thread) * 8] = std::accumulate(s, s + 8, uint64_t{0});
    });
  });
  SHOAL_CHECK(sums[0] != 0);  // the reads are used
  return static_cast<double>(kBytes) / seconds;
}

}  // namespace shoal
