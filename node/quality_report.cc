#include "node/quality_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "model/tokenizer.h"
#include "sharding/stage.h"

namespace shoal {
namespace {

constexpr int kRows = 64;  // of one step

// One model, whole, and the log-probabilities that it gives.
class Predictor {
 public:
  Predictor(const GgufFile& file, ThreadPool& pool)
      : config_(ModelConfig::from(file)),
        stage_(config_, load_shard(file, config_, {true, {0, config_.n_layer}, true}, pool),
               {kQualityWindow, 1, kRows, KvType::kF16}, select_kernels(), pool),
        hidden_(sizeof(float) * kRows * static_cast<size_t>(config_.n_embd)) {}

  // tokens[begin, end) at those positions: log_probability(i, token) then answers for row i.
  void run(const std::vector<int32_t>& tokens, int begin, int end) {
    std::vector<BatchRow> rows;
    for (int p = begin; p < end; ++p) rows.push_back({tokens[p], p, 0, true});
    const Result<void> done = stage_.run({}, rows, 0, hidden_.as<float>(), outputs_);
    if (!done) throw SetupError(done.error().message, kExitFailed);
    log_probabilities_.resize(rows.size() * static_cast<size_t>(config_.n_vocab));
    for (const RowOutput& output : outputs_) {
      for (const Candidate& c : output.candidates) {
        log_probabilities_[at(output.row, c.token)] = c.logit - output.log_sum_exp;
      }
    }
  }
  float log_probability(int row, int token) const { return log_probabilities_[at(row, token)]; }
  int best(int row) const { return outputs_[row].candidates.front().token; }
  int n_vocab() const { return config_.n_vocab; }

 private:
  size_t at(int row, int token) const {
    return static_cast<size_t>(row) * static_cast<size_t>(config_.n_vocab) + static_cast<size_t>(token);
  }
  ModelConfig config_;
  Stage stage_;
  AlignedBuffer hidden_;
  std::vector<RowOutput> outputs_;
  std::vector<float> log_probabilities_;
};

void add_prediction(QualityReport& sums, const Predictor& source, const Predictor& result, int row,
                    int next) {
  double divergence = 0;
  for (int token = 0; token < source.n_vocab(); ++token) {
    const double log_p = source.log_probability(row, token), log_q = result.log_probability(row, token);
    divergence += std::exp(log_p) * (log_p - log_q);
  }
  ++sums.predictions;
  sums.source_perplexity -= source.log_probability(row, next);
  sums.perplexity -= result.log_probability(row, next);
  sums.divergence += divergence;
  sums.divergence_max = std::max(sums.divergence_max, divergence);
  sums.same_best += source.best(row) == result.best(row);
}

std::vector<int32_t> report_tokens(const GgufFile& source, std::string_view text) {
  const std::vector<int32_t> all =
      Tokenizer::from(source).encode(text, /*parse_special=*/false, /*add_bos=*/true);
  if (all.size() < 2) throw SetupError("the text for the report has fewer than two tokens");
  return all;
}

}  // namespace

void check_report_text(const GgufFile& source, std::string_view text) {
  (void)report_tokens(source, text);
}

QualityReport compare_quality(const GgufFile& source_file, const GgufFile& result_file, std::string_view text,
                              ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress) {
  const std::vector<int32_t> all = report_tokens(source_file, text);
  Predictor source(source_file, pool), result(result_file, pool);
  QualityReport report;
  for (size_t start = 0; start + 1 < all.size(); start += kQualityWindow) {
    const std::vector<int32_t> window(all.begin() + start,
                                      all.begin() + std::min(all.size(), start + kQualityWindow));
    const int n = static_cast<int>(window.size()) - 1;  // the last token is only predicted
    for (int begin = 0; begin < n; begin += kRows) {
      const int end = std::min(begin + kRows, n);
      source.run(window, begin, end);
      result.run(window, begin, end);
      for (int p = begin; p < end; ++p) add_prediction(report, source, result, p - begin, window[p + 1]);
      if (progress) progress(start + static_cast<size_t>(end), all.size());
    }
  }
  const auto n = static_cast<double>(report.predictions);
  report.source_perplexity = std::exp(report.source_perplexity / n);
  report.perplexity = std::exp(report.perplexity / n);
  report.divergence /= n;
  report.same_best /= n;
  return report;
}

std::string render(const QualityReport& report) {
  return fmt::format(
      "predictions        {}\n"
      "perplexity         {:.4f}, source {:.4f} ({:+.2f} %)\n"
      "KL divergence      {:.6f} nats a token, at most {:.4f}\n"
      "same likeliest     {:.2f} %\n",
      report.predictions, report.perplexity, report.source_perplexity,
      100 * (report.perplexity / report.source_perplexity - 1), report.divergence, report.divergence_max,
      100 * report.same_best);
}

}  // namespace shoal
