#include "node/probe.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "sharding/stage.h"
#include "tensor/format.h"
#include "tensor/known_answers.h"
#include "tensor/thread_pool.h"

namespace shoal {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr uint64_t kProbeWeightBytes = 48u << 20;  // enough layers that caches do not flatter the measurement
constexpr int kProbeContext = 256;
constexpr int kProbePosition = 128;  // attention costs what it does in a short chat
constexpr int kProbeRowsMax = 16;    // of a decode step
constexpr double kMeasureSeconds = 0.08;
constexpr int kRunsMin = 3;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

// Median seconds of body() after prepare(), which is not timed; after one run that warms up.
template <class Prepare, class Body>
double median_seconds(Prepare&& prepare, Body&& body) {
  std::vector<double> times;
  const auto begin = SteadyClock::now();
  for (int run = 0; static_cast<int>(times.size()) < kRunsMin || seconds_since(begin) < kMeasureSeconds;
       ++run) {
    prepare();
    const auto start = SteadyClock::now();
    body();
    if (run > 0) times.push_back(seconds_since(start));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// The layers that a token passes: those of the decoder, where there is one.
int first_layer(const ModelConfig& config) {
  return config.decodes() ? config.n_encoder : 0;
}

// Layers from first_layer() on that together outgrow the caches but stay inside the device's budget.
int layers_to_probe(const GgufFile& file, const ModelConfig& config, uint64_t memory_bytes) {
  const UnitBytes units = unit_bytes(file, config);
  const uint64_t budget = std::max<uint64_t>(memory_bytes / 3, 1);
  uint64_t bytes = 0, read = 0;
  int n = 0;
  const int first = first_layer(config);
  for (; first + n < config.n_layer; ++n) {
    bytes += units.layers[static_cast<size_t>(first + n)];
    read += units.layers_read[static_cast<size_t>(first + n)];
    if (n > 0 && (bytes > budget || read > kProbeWeightBytes)) break;
  }
  return n;
}

// One decode row of each of `rows` sequences, all at one position.
std::vector<BatchRow> decode_rows(int rows, int position, bool wants_logits) {
  std::vector<BatchRow> batch;
  for (int i = 0; i < rows; ++i) batch.push_back({-1, position, i, wants_logits});
  return batch;
}

// Consecutive rows of one sequence.
std::vector<BatchRow> prompt_rows(int first, int rows) {
  std::vector<BatchRow> batch;
  for (int i = 0; i < rows; ++i) batch.push_back({-1, first + i, 0, false});
  return batch;
}

// Weights of about the size that a model's have, so that what is computed with them stays an ordinary number.
class MadeUpWeights : public BlockSource {
 public:
  void read_block(const TensorInfo& tensor, uint64_t, std::span<std::byte> out) override {
    const Format& format = format_of(tensor.type);
    std::vector<float> values(static_cast<size_t>(format.block));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = tensor.rows() == 1 ? 1.0f : 0.02f * (static_cast<float>(i * 37 % 64) / 32 - 1);
    std::vector<std::byte> one(static_cast<size_t>(format.block_bytes), std::byte{0x11});
    if (format.encode != nullptr) format.encode(values.data(), format.block, nullptr, one.data());
    for (size_t i = 0; i < out.size(); i += one.size())
      std::ranges::copy(one, out.begin() + static_cast<ptrdiff_t>(i));
  }
};

// A stage and the rows that are put through it. An encoder alone is measured by whole inputs.
struct Bench {
  Bench(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec, const Kernels& kernels,
        ThreadPool& pool, bool made_up)
      : stage(config, load(file, config, spec, pool, made_up),
              {kProbeContext, kProbeRowsMax, kPrefillChunkRows}, kernels, pool),
        hidden(static_cast<size_t>(kPrefillChunkRows) * static_cast<size_t>(config.n_embd) * sizeof(float)) {
    if (!config.decodes()) kind = StepKind::kEncode;
    if (config.encodes() && config.decodes()) encode_something();
  }

  // Every sequence gets an input for its decoder to attend to.
  void encode_something() {
    std::vector<BatchRow> rows;
    for (int i = 0; i < kPrefillChunkRows; ++i) rows.push_back({-1, i % 2, i / 2, false});
    fill();
    kind = StepKind::kEncode;
    run({}, rows);
    kind = StepKind::kDecode;
  }

  static ShardWeights load(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec,
                           ThreadPool& pool, bool made_up) {
    MadeUpWeights weights;
    return load_shard(file, config, spec, pool, {}, nullptr, made_up ? &weights : nullptr);
  }

  // Small steady values: a stage works in place, so its input is made anew each time.
  void fill() {
    float* x = hidden.as<float>();
    for (size_t i = 0; i < hidden.size() / sizeof(float); ++i)
      x[i] = 0.01f * static_cast<float>(i % 37) - 0.18f;
  }
  void run(std::span<const CacheOp> ops, std::span<const BatchRow> rows) {
    const Result<void> result = stage.run(ops, rows, 1, hidden.as<float>(), outputs, kind);
    if (result.has_error()) throw SetupError("the probe failed: " + result.error().message, kExitFailed);
  }
  double seconds(std::span<const BatchRow> rows) {
    return median_seconds([&] { fill(); }, [&] { run({}, rows); });
  }

  Stage stage;
  AlignedBuffer hidden;
  std::vector<RowOutput> outputs;
  StepKind kind = StepKind::kDecode;
};

void probe_layers(const GgufFile& file, const ModelConfig& config, const Kernels& kernels,
                  const ProbeOptions& options, ThreadPool& pool, DeviceProfile& profile) {
  const int n = layers_to_probe(file, config, options.memory_bytes);
  const auto begin = SteadyClock::now();
  const int first_probed = first_layer(config);
  Bench bench(file, config, {false, {first_probed, first_probed + n}, false}, kernels, pool, options.made_up);
  profile.load_bytes_per_s = static_cast<double>(bench.stage.weight_bytes()) / seconds_since(begin);
  const std::vector<BatchRow> chunk = prompt_rows(0, kPrefillChunkRows);
  profile.prefill_layer_row_seconds = bench.seconds(chunk) / n / kPrefillChunkRows;
  if (!config.decodes()) {
    for (const int rows : {1, 2, 4, 8, 16})
      profile.decode_layer.push_back({rows, bench.seconds(prompt_rows(0, rows)) / n});
    return;
  }
  // One sequence reads half a context, so that attention has something to walk over; the others share its
  // pages.
  for (int first = 0; first < kProbePosition; first += kPrefillChunkRows) {
    bench.fill();
    bench.run({}, prompt_rows(first, kPrefillChunkRows));
  }
  std::vector<CacheOp> forks;
  for (int slot = 1; slot < kProbeRowsMax; ++slot)
    forks.push_back({CacheOpKind::kFork, slot, 0, kProbePosition});
  bench.run(forks, {});
  for (const int rows : {1, 2, 4, 8, 16}) {
    profile.decode_layer.push_back({rows, bench.seconds(decode_rows(rows, kProbePosition, false)) / n});
  }
}

// The head's matrix alone may fit a cache that the layers share with it when the model runs, so the cache is
// filled with something else before each run.
void probe_ends(const GgufFile& file, const ModelConfig& config, const Kernels& kernels,
                const ProbeOptions& options, ThreadPool& pool, DeviceProfile& profile) {
  Bench bench(file, config, {false, {config.n_layer, config.n_layer}, true}, kernels, pool, options.made_up);
  AlignedBuffer other(std::clamp<uint64_t>(options.memory_bytes / 4, 64, kProbeWeightBytes));
  auto evict = [&] {
    bench.fill();
    std::memset(other.data(), 1, other.size());
  };
  for (const int rows : {1, 4, 16}) {
    const std::vector<BatchRow> batch = decode_rows(rows, 0, true);
    profile.output_head.push_back({rows, median_seconds(evict, [&] { bench.run({}, batch); })});
  }
}

// Where all of a layer's bytes are read for each row, the planner scales by them itself.
std::vector<double> scales_by_bytes_read(const GgufFile& file, const ModelConfig& config) {
  if (config.n_expert == 0) return {};
  const std::vector<uint64_t> read = unit_bytes(file, config).layers_read;
  double mean = 0;
  for (const uint64_t bytes : read) mean += static_cast<double>(bytes) / static_cast<double>(read.size());
  std::vector<double> scales;
  for (const uint64_t bytes : read) scales.push_back(static_cast<double>(bytes) / mean);
  return scales;
}

// A token passes the decoder's layers alone. The encoder's cost a row of a prompt, and there is about one for
// each token of an answer (planner/types.h, Workload).
void scale_encoder(const ModelConfig& config, DeviceProfile& profile) {
  if (!config.encodes() || !config.decodes()) return;
  const double row = profile.prefill_layer_row_seconds / profile.decode_layer.front().seconds;
  for (int layer = 0; layer < config.n_layer; ++layer)
    profile.layer_scale.push_back(config.is_encoder(layer) ? std::min(1.0, row) : 1.0);
}

// A step of fewer rows takes no longer than one of more: what a measurement says otherwise came from other
// work on the machine meanwhile.
void flatten_disturbances(std::vector<RowSeconds>& curve) {
  for (size_t i = curve.size(); i-- > 1;)
    curve[i - 1].seconds = std::min(curve[i - 1].seconds, curve[i].seconds);
}

}  // namespace

DeviceProfile probe_device(const GgufFile& file, const ModelConfig& config, const Kernels& kernels,
                           const ProbeOptions& options) {
  if (const std::string wrong = wrong_answer(kernels); !wrong.empty()) {
    throw SetupError(
        wrong +
            ": this device must not take part. Another table may be right (--kernels generic); a build by "
            "another compiler too; if it comes and goes, the device is faulty",
        kExitFailed);
  }
  DeviceProfile profile;
  profile.memory_bytes = options.memory_bytes;
  profile.type = kernels.name;
  ThreadPool pool(options.threads);
  probe_layers(file, config, kernels, options, pool, profile);
  probe_ends(file, config, kernels, options, pool, profile);
  flatten_disturbances(profile.decode_layer);
  flatten_disturbances(profile.output_head);
  profile.layer_scale = scales_by_bytes_read(file, config);
  scale_encoder(config, profile);
  profile.embedding_row_seconds = 2e-6;  // decoding one row of n_embd weights: far below the clock's noise
  return profile;
}

double probe_memory_read(int threads) {
  constexpr size_t kBytes = 256u << 20;
  ThreadPool pool(threads);
  AlignedBuffer buffer(kBytes);
  std::memset(buffer.data(), 1, kBytes);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const double seconds =
      median_seconds([] {},
                     [&] {
                       pool.for_each(threads, [&](int64_t part, int) {
                         const int64_t lines = static_cast<int64_t>(kBytes / 64);
                         const uint64_t* p = buffer.as<uint64_t>();
                         uint64_t s[8] = {};
                         for (int64_t i = lines * part / threads; i < lines * (part + 1) / threads; ++i) {
                           for (int j = 0; j < 8; ++j) s[j] += p[i * 8 + j];
                         }
                         sums[static_cast<size_t>(part) * 8] = std::accumulate(s, s + 8, uint64_t{0});
                       });
                     });
  SHOAL_CHECK(sums[0] != 0);  // the reads are used
  return static_cast<double>(kBytes) / seconds;
}

}  // namespace shoal
