// cache_perplexity MODEL.gguf TEXT...: what a q8_0 KV cache costs. Reads each text (its first 2048 tokens)
// with either cache and prints the perplexities, and the mean difference of the log-probabilities with its
// standard error over the tokens, which says whether one text can tell the difference from chance.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/tokenizer.h"
#include "sharding/stage.h"

namespace shoal {
namespace {

constexpr size_t kTokensMax = 2048, kRows = 64;

// -log of the probability of each token but the first.
std::vector<double> losses(const GgufFile& file, const ModelConfig& config, ThreadPool& pool, KvType type,
                           const std::vector<int32_t>& tokens) {
  Stage stage(config, load_shard(file, config, {true, {0, config.n_layer}, true}, pool),
              {static_cast<int>(kTokensMax), 1, kRows, type}, select_kernels(), pool);
  AlignedBuffer hidden(sizeof(float) * kRows * static_cast<size_t>(config.n_embd));
  std::vector<RowOutput> outputs;
  std::vector<double> all;
  for (size_t begin = 0; begin + 1 < tokens.size(); begin += kRows) {
    std::vector<BatchRow> rows;
    for (size_t p = begin; p < std::min(begin + kRows, tokens.size() - 1); ++p)
      rows.push_back({tokens[p], static_cast<int32_t>(p), 0, true});
    const Result<void> done = stage.run({}, rows, 0, hidden.as<float>(), outputs);
    if (done.has_error()) throw SetupError(done.error().message);
    for (const RowOutput& output : outputs) {
      const int32_t next = tokens[begin + static_cast<size_t>(output.row) + 1];
      const auto found = std::find_if(output.candidates.begin(), output.candidates.end(),
                                      [&](const Candidate& c) { return c.token == next; });
      all.push_back(output.log_sum_exp - found->logit);
    }
  }
  return all;
}

void run(const std::string& model, const std::vector<std::string>& paths) {
  const GgufFile file = GgufFile::open(model);
  const ModelConfig config = ModelConfig::from(file);
  const Tokenizer tokenizer = Tokenizer::from(file);
  ThreadPool pool(2);
  double sum = 0, squares = 0, n = 0;
  fmt::print("| text | tokens | f16 | q8_0 | difference, % | standard error |\n|---|---|---|---|---|---|\n");
  const auto row = [](const std::string& name, double count, const std::string& perplexities, double total,
                      double total_squares) {
    const double mean = total / count, variance = total_squares / count - mean * mean;
    fmt::print("| {} | {} | {} | {:+.3f} | {:.3f} |\n", name, count, perplexities, 100 * std::expm1(mean),
               100 * std::sqrt(variance / count));
  };
  for (const std::string& path : paths) {
    std::ifstream in(path);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    std::vector<int32_t> tokens = tokenizer.encode(text, false, true);
    tokens.resize(std::min(tokens.size(), kTokensMax));
    if (tokens.size() < 2) throw SetupError(path + " holds no text");
    const std::vector<double> f16 = losses(file, config, pool, KvType::kF16, tokens),
                              q8 = losses(file, config, pool, KvType::kQ8_0, tokens);
    double sum_f16 = 0, sum_q8 = 0, sum_squares = 0;
    for (size_t i = 0; i < f16.size(); ++i) {
      sum_f16 += f16[i], sum_q8 += q8[i];
      sum_squares += (q8[i] - f16[i]) * (q8[i] - f16[i]);
    }
    const double count = static_cast<double>(f16.size());
    row(path.substr(path.rfind('/') + 1), count,
        fmt::format("{:.3f} | {:.3f}", std::exp(sum_f16 / count), std::exp(sum_q8 / count)), sum_q8 - sum_f16,
        sum_squares);
    std::fflush(stdout);
    sum += sum_q8 - sum_f16, squares += sum_squares, n += count;
  }
  row("all", n, "|", sum, squares);
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("cache_perplexity MODEL.gguf TEXT...\n", stderr);
    return 2;
  }
  try {
    shoal::run(argv[1], {argv + 2, argv + argc});
  } catch (const shoal::SetupError& error) {
    fmt::print(stderr, "cache_perplexity: {}\n", error.what());
    return 1;
  }
  return 0;
}
