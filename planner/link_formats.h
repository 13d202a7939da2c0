// What it would cost and save to send hidden states in fewer bytes: f32 keeps the answer byte-identical
// however the model is cut; f16 and q8 do not, and make slow links faster. Only what the runtime can do is
// ever part of a plan; the others are priced so that a person can see what they would bring. Pure; any
// thread.
#pragma once

#include <string>
#include <vector>

#include "planner/types.h"

namespace shoal {

struct LinkFormatOption {
  std::string name;        // "f32", "f16", "q8"
  double bytes_per_value;  // q8: blocks of 32 with one f16 scale
  bool runs;               // whether this version's runtime offers it
  std::string quality;     // in words
  double seconds_per_token = 0;
  double tokens_per_second = 0;
  double first_token_seconds = 0;
};

// The same stages with each format on every link.
std::vector<LinkFormatOption> link_format_options(const PlanInput& input,
                                                  const std::vector<StageAssignment>& stages);

std::string render_link_formats(const std::vector<LinkFormatOption>& options);

}  // namespace shoal
