// product_speed [--format NAME]... [--threads N]... [--mib N] [--rows N]... [--kernels NAME]: speed of the
// weight products against the machine's limits taken in the same run, by format.
//
// One row over more weights than the caches hold: bytes a second against the best streaming read. 512 rows
// (or
// --rows) over the matrices of a layer of 1.1B parameters: operations a second against the integer peak. 1 to
// 32 rows, as when several sequences generate: time against the line from 1 to 32 rows.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "base/error.h"
#include "bench/machine_limits.h"
#include "tensor/format.h"
#include "tensor/matmul.h"

namespace shoal::bench {
namespace {

struct Shape {
  int64_t rows, cols;
};
constexpr Shape kLayer[] = {{2048, 2048}, {256, 2048},  {256, 2048}, {2048, 2048},
                            {5632, 2048}, {5632, 2048}, {2048, 5632}};
constexpr int kColsMax = 5632;
constexpr int64_t kOutputsMax = 5632;

struct Settings {
  std::vector<std::string> formats = {"Q4_0", "Q8_0", "Q4_K", "Q6_K", "Q4_1"};
  std::vector<int> threads = {1, 2};
  std::vector<int> batches = {1, 2, 4, 8, 16, 32};
  int mib = 384;
  int prompt = 512;
  std::string kernels;
};

// Random weights whose f16 scales are positive and finite: every byte has the bits of 0x3b at most.
std::vector<WeightMatrix> make_weights(const Format& format, size_t bytes) {
  std::mt19937_64 random(1);
  std::vector<WeightMatrix> weights;
  size_t total = 0;
  while (total < bytes) {
    for (const Shape& shape : kLayer) {
      WeightMatrix w(format.type, shape.rows, shape.cols);
      std::vector<std::byte> rows(format.row_bytes(shape.cols) * kRowGroup);
      for (size_t i = 0; i + 8 <= rows.size(); i += 8) {
        const uint64_t word = random() & 0x3b3b3b3b3b3b3b3bu;
        std::memcpy(rows.data() + i, &word, 8);
      }
      for (int64_t r = 0; r < shape.rows; r += kRowGroup) w.pack_rows(r, kRowGroup, rows);
      total += w.bytes();
      weights.push_back(std::move(w));
    }
  }
  return weights;
}

class Products {
 public:
  Products(const Kernels& kernels, ThreadPool& pool, int rows_max)
      : kernels_(kernels),
        pool_(pool),
        x_(static_cast<size_t>(rows_max) * kColsMax),
        y_(static_cast<size_t>(rows_max) * kOutputsMax),
        prepared_(rows_max, kColsMax) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    for (float& v : x_) v = normal(random);
  }

  // Seconds for `rows` rows times all of `weights`, quantising the activations not counted; the median of
  // `repeats`.
  double time(const std::vector<WeightMatrix>& weights, int rows, int repeats) {
    std::vector<double> seconds;
    for (int i = 0; i <= repeats; ++i) {  // the first one warms up
      double sum = 0;
      int64_t cols = 0;
      for (const WeightMatrix& w : weights) {
        if (w.cols() != cols) {
          cols = w.cols();
          prepared_.assign(kernels_, pool_, x_.data(), kColsMax, rows, static_cast<int>(cols));
        }
        const auto begin = std::chrono::steady_clock::now();
        matmul(kernels_, pool_, prepared_, {{&w, y_.data(), kOutputsMax}});
        sum += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      }
      if (i > 0) seconds.push_back(sum);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }

 private:
  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<float> x_, y_;
  ActivationRows prepared_;
};

void measure_format(const Settings& settings, const Kernels& kernels, ThreadPool& pool,
                    const Format& format) {
  const std::vector<WeightMatrix> weights = make_weights(format, static_cast<size_t>(settings.mib) << 20);
  size_t bytes = 0;
  for (const WeightMatrix& w : weights) bytes += w.bytes();
  Products products(kernels, pool, std::max(settings.prompt, settings.batches.back()));

  const size_t read_bytes = size_t{256} << 20;
  const double read = measure_read_rate(pool.size(), read_bytes, 3).gb_per_s;
  std::vector<double> seconds;
  for (const int rows : settings.batches) seconds.push_back(products.time(weights, rows, rows == 1 ? 5 : 2));
  const double rate = static_cast<double>(bytes) / seconds[0] / 1e9;
  std::string line =
      fmt::format("| {} | {} | {:.1f} | {:.2f} |", format.name, pool.size(), rate, rate / read);

  if (settings.prompt > 0) {
    const std::vector<WeightMatrix> layer = make_weights(format, 1);
    double operations = 0;
    for (const WeightMatrix& w : layer)
      operations += 2.0 * settings.prompt * static_cast<double>(w.rows() * w.cols());
    const IntegerPeak before = measure_integer_peak(pool.size(), 5);
    const double gops = operations / products.time(layer, settings.prompt, 3) / 1e9;
    const IntegerPeak after = measure_integer_peak(pool.size(), 5);
    line +=
        fmt::format(" {:.0f} | {:.2f} | {:.2f} |", gops, gops / std::max(before.bytes_gops, after.bytes_gops),
                    gops / std::max(before.nibbles_gops, after.nibbles_gops));
  }
  const double slope =
      (seconds.back() - seconds[0]) / std::max(1, settings.batches.back() - settings.batches[0]);
  for (size_t i = 1; i < seconds.size(); ++i) {
    const double straight = seconds[0] + slope * (settings.batches[i] - settings.batches[0]);
    line += fmt::format(" {:.2f} ({:.2f}) |", seconds[0] * settings.batches[i] / seconds[i],
                        seconds[i] / straight);
  }
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

void run(const Settings& settings) {
  const Kernels& kernels = select_kernels(settings.kernels);
  fmt::print("kernels {}, ping-pong {:.0f} ns\n", kernels.name, measure_ping_pong_ns());
  fmt::print("| format | threads | 1 row, GB/s | of read rate |");
  if (settings.prompt > 0) fmt::print(" {} rows, Gop/s | of int8 peak | of int4 peak |", settings.prompt);
  for (size_t i = 1; i < settings.batches.size(); ++i) {
    fmt::print(" {} rows: speed to 1 row (time to the line) |", settings.batches[i]);
  }
  fmt::print("\n");
  for (const std::string& name : settings.formats) {
    for (const int threads : settings.threads) {
      ThreadPool pool(threads, true);
      const Format* format = nullptr;
      for (uint32_t id = 0; id < 64; ++id) {
        const Format* candidate = find_format(id);
        if (candidate != nullptr && name == candidate->name) format = candidate;
      }
      if (format == nullptr) throw SetupError("no format '" + name + "'");
      measure_format(settings, kernels, pool, *format);
    }
  }
}

}  // namespace
}  // namespace shoal::bench

int main(int argc, char** argv) {
  shoal::bench::Settings settings;
  CLI::App app{"Speed of the weight products against the machine's limits"};
  app.add_option("--format", settings.formats, "formats");
  app.add_option("--threads", settings.threads, "numbers of threads");
  app.add_option("--batches", settings.batches, "rows of small batches, ascending from 1");
  app.add_option("--mib", settings.mib, "weights for one row, MiB");
  app.add_option("--prompt", settings.prompt, "rows of the prompt; 0: none");
  app.add_option("--kernels", settings.kernels, "kernel table instead of the best");
  CLI11_PARSE(app, argc, argv);
  try {
    shoal::bench::run(settings);
  } catch (const shoal::SetupError& error) {
    fmt::print(stderr, "product_speed: {}\n", error.what());
    return 1;
  }
  return 0;
}
