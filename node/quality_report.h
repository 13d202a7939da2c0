// How far a quantised model is from its source, on a text: perplexity of both, and the divergence of their
// predictions. Both models are in memory together. Belongs to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "model/gguf_file.h"
#include "tensor/thread_pool.h"

namespace shoal {

struct QualityReport {
  int64_t predictions = 0;
  double source_perplexity = 0, perplexity = 0;  // exp of the mean -log p of the text's next token
  double divergence = 0, divergence_max = 0;     // Kullback-Leibler, source to result, nats: mean, largest
  double same_best = 0;                          // share of predictions with the same likeliest token
};

// Throws SetupError where no report can be made of a text with this model's tokens: before long work.
void check_report_text(const GgufFile& source, std::string_view text);

// The text is read in windows of kWindow tokens, each with an empty cache; every token of a window after its
// first is a prediction. Throws SetupError if the text has fewer than two tokens.
inline constexpr int kQualityWindow = 512;
QualityReport compare_quality(const GgufFile& source, const GgufFile& result, std::string_view text,
                              ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress);

std::string render(const QualityReport& report);

}  // namespace shoal
