// Where a token's time goes: runs the real stage (all layers and the output head) with a kernel table whose
// functions count their own time, and prints each part's share of a token.
//
//   token_profile MODEL.gguf [threads] [context ...]       e.g. token_profile MODEL.gguf 1 512 4096
//   token_profile --vocabulary N [threads]                 candidates and log-sum-exp of one row alone
//
// Parts are summed over threads and divided by threads * time, so that the remainder of a run with several
// threads is waiting: barriers, and what only one thread does. A clock is read twice a call, about 40 ns.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "sharding/stage.h"
#include "tensor/float_ops.h"
#include "tensor/product_ops.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

enum Part { kProducts, kAttention, kQuantize, kNorm, kRope, kSilu, kAdd, kStoreKv, kLogits, kParts };
constexpr std::array<const char*, kParts> kNames = {"weight products",
                                                    "attention",
                                                    "quantising activations",
                                                    "norms",
                                                    "rope",
                                                    "silu",
                                                    "residual and bias additions",
                                                    "storing K and V",
                                                    "log-sum-exp and candidates' maxima"};

thread_local std::array<double, kParts>* mine = nullptr;
std::array<std::array<double, kParts>, 64> seconds_of_thread{};
std::atomic<size_t> threads_seen{0};

std::array<double, kParts>& counters() {
  if (mine == nullptr) mine = &seconds_of_thread[threads_seen++ % seconds_of_thread.size()];
  return *mine;
}

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

const Kernels* timed_from = nullptr;

// The function `Member` of the real table, timed as `part`.
template <Part part, auto Member>
struct Timed;
template <Part part, class Return, class... Args, Return (*FloatOps::*Member)(Args...)>
struct Timed<part, Member> {
  static Return call(Args... args) {
    struct Count {
      Clock::time_point start = Clock::now();
      ~Count() { counters()[part] += since(start); }
    } count;
    return (timed_from->floats->*Member)(args...);
  }
};

void timed_multiply(const Format& format, const ProductArgs& args) {
  const auto start = Clock::now();
  timed_from->products->multiply(format, args);
  counters()[kProducts] += since(start);
}

struct TimedTable {
  explicit TimedTable(const Kernels& real)
      : floats(*real.floats), products(*real.products), kernels{real.name, &floats, &products} {
    timed_from = &real;
    floats.rms_norm = Timed<kNorm, &FloatOps::rms_norm>::call;
    floats.rope = Timed<kRope, &FloatOps::rope>::call;
    floats.silu_mul = Timed<kSilu, &FloatOps::silu_mul>::call;
    floats.gelu_mul = Timed<kSilu, &FloatOps::gelu_mul>::call;
    floats.add = Timed<kAdd, &FloatOps::add>::call;
    floats.add_scaled = Timed<kAdd, &FloatOps::add_scaled>::call;
    floats.store_k = Timed<kStoreKv, &FloatOps::store_k>::call;
    floats.store_v = Timed<kStoreKv, &FloatOps::store_v>::call;
    floats.attention = Timed<kAttention, &FloatOps::attention>::call;
    floats.quantize = Timed<kQuantize, &FloatOps::quantize>::call;
    floats.largest = Timed<kLogits, &FloatOps::largest>::call;
    floats.sum_of_exps = Timed<kLogits, &FloatOps::sum_of_exps>::call;
    products.multiply = timed_multiply;
  }
  FloatOps floats;
  ProductOps products;
  Kernels kernels;
};

// The whole model in one stage with `context` positions read.
struct Bench {
  Bench(const GgufFile& file, const ModelConfig& config, const Kernels& kernels, ThreadPool& pool,
        int context, KvType type)
      : stage(config, load_shard(file, config, {true, {0, config.n_layer}, true}, pool),
              {context + 1, 1, kRows, type}, kernels, pool),
        hidden(sizeof(float) * kRows * static_cast<size_t>(config.n_embd)) {
    for (int first = 0; first < context; first += kRows) {
      std::vector<BatchRow> rows;
      for (int p = first; p < std::min(first + kRows, context); ++p)
        rows.push_back({p * 131 % config.n_vocab, p, 0, false});
      run(rows);
    }
  }
  void run(const std::vector<BatchRow>& rows) {
    if (stage.run({}, rows, 40, hidden.as<float>(), outputs).has_error()) std::abort();
  }
  // Mean seconds of one token at `position`, again and again.
  double decode(int position, int runs) {
    const std::vector<BatchRow> row = {{7, position, 0, true}};
    run(row);
    seconds_of_thread = {};
    const auto start = Clock::now();
    for (int i = 0; i < runs; ++i) run(row);
    return since(start) / runs;
  }
  static constexpr int kRows = 128;
  Stage stage;
  AlignedBuffer hidden;
  std::vector<RowOutput> outputs;
};

void profile(const GgufFile& file, const ModelConfig& config, int threads, int context, KvType type) {
  constexpr int kRuns = 200;
  ThreadPool pool(threads);
  const TimedTable timed(select_kernels());
  double plain = 0;
  {
    Bench bench(file, config, select_kernels(), pool, context, type);
    plain = bench.decode(context, kRuns);
  }
  Bench bench(file, config, timed.kernels, pool, context, type);
  const double token = bench.decode(context, kRuns);
  std::array<double, kParts> parts{};
  for (const auto& thread : seconds_of_thread) {
    for (size_t i = 0; i < kParts; ++i) parts[i] += thread[i] / threads / kRuns;
  }
  fmt::print("\ncontext {}, KV cache {}, {} thread{}, {}: {:.3f} ms a token ({:.3f} with the clocks)\n\n",
             context, type == KvType::kF16 ? "f16" : "q8_0", threads, threads == 1 ? "" : "s",
             timed.kernels.name, plain * 1e3, token * 1e3);
  fmt::print("| part | µs a token | share |\n|---|---|---|\n");
  double counted = 0;
  for (size_t i = 0; i < kParts; ++i) {
    fmt::print("| {} | {:.1f} | {:.1f} % |\n", kNames[i], parts[i] * 1e6, 100 * parts[i] / token);
    counted += parts[i];
  }
  fmt::print("| the rest: waiting, rope angles, embedding, selection, the clocks | {:.1f} | {:.1f} % |\n",
             (token - counted) * 1e6, 100 * (1 - counted / token));
  fmt::print("| **all that is no weight product** | **{:.1f}** | **{:.1f} %** |\n",
             (token - parts[kProducts]) * 1e6, 100 * (1 - parts[kProducts] / token));
}

void candidates(int n_vocab, int threads) {
  ThreadPool pool(threads);
  const ThreadPool::Burst burst(pool);
  std::vector<float> logits(static_cast<size_t>(n_vocab));
  uint64_t state = 1;
  for (float& logit : logits) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    logit = static_cast<float>(state >> 40) * 1e-6f;
  }
  TopCandidates top(n_vocab, 1);
  std::vector<Candidate> out;
  float log_sum_exp = 0;
  for (const int k : {1, 40}) {
    std::vector<double> times;
    for (int i = 0; i < 201; ++i) {
      const auto start = Clock::now();
      top.scan(select_kernels(), pool, logits.data(), 1);
      top.select(0, k, out, log_sum_exp);
      times.push_back(since(start));
    }
    std::nth_element(times.begin(), times.begin() + 100, times.end());
    fmt::print("{} best of {} logits and their log-sum-exp, {} thread{}: {:.1f} µs\n", k, n_vocab, threads,
               threads == 1 ? "" : "s", times[100] * 1e6);
  }
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 1 || (arguments[0] == "--vocabulary" && arguments.size() < 2)) {
    std::fputs("usage: token_profile MODEL.gguf [threads] [context ...] | --vocabulary N [threads]\n",
               stderr);
    return 2;
  }
  if (arguments[0] == "--vocabulary") {
    candidates(std::stoi(arguments[1]), arguments.size() > 2 ? std::stoi(arguments[2]) : 1);
    return 0;
  }
  const GgufFile file = GgufFile::open(arguments[0]);
  const ModelConfig config = ModelConfig::from(file);
  const int threads = arguments.size() > 1 ? std::stoi(arguments[1]) : 1;
  std::vector<int> contexts;
  for (size_t i = 2; i < arguments.size(); ++i) contexts.push_back(std::stoi(arguments[i]));
  if (contexts.empty()) contexts = {512};
  for (const int context : contexts) {
    for (const KvType type : {KvType::kF16, KvType::kQ8_0}) profile(file, config, threads, context, type);
  }
  return 0;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  try {
    return shoal::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "token_profile: %s\n", error.what());
    return 1;
  }
}
