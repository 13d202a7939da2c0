// Whether the answer to a step is what was asked for. The last stage's node may err or lie: its answer is
// checked whole before any of it is used. Pure function, no ownership; what is wrong is told in words, for a
// log line that names the node.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "node/pipeline_host.h"
#include "node/pipeline_layout.h"

namespace shoal {

// A row whose output was asked for.
struct AskedRow {
  int32_t row = 0;         // index in the step's rows
  size_t candidates = 1;   // at least so many, or the whole vocabulary if that has fewer
  bool embedding = false;  // instead of candidates
};

// Empty: the rows are those of `asked`, in order. Candidates are of the vocabulary, each token once, as many
// as asked for, best first, and none is NaN or above what is finite (a logit of minus infinity is a token
// that has no probability). Embeddings are finite and no longer than a hidden state, [n_embd].
std::string why_unusable(const StepOutcome& answer, std::span<const AskedRow> asked,
                         const PipelineLayout& layout);

}  // namespace shoal
