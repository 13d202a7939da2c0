#include "planner/link_formats.h"

#include <array>
#include <cstdio>

#include "planner/planner.h"

namespace shoal {

std::vector<LinkFormatOption> link_format_options(const PlanInput& input,
                                                  const std::vector<StageAssignment>& stages) {
  std::vector<LinkFormatOption> options = {
      {"f32", 4, true, "byte-identical to one device"},
      {"f16", 2, false, "each value within 0.05 % (11 bits); no longer byte-identical"},
      {"q8", 34.0 / 32, false, "each value within 0.4 % of its block's largest; no longer byte-identical"}};
  for (LinkFormatOption& option : options) {
    PlanInput priced = input;
    const double values = static_cast<double>(input.model.hidden_bytes_per_row) / 4;
    priced.model.hidden_bytes_per_row = static_cast<uint64_t>(values * option.bytes_per_value);
    std::vector<StageAssignment> filled = stages;
    const Prediction predicted = evaluate(priced, filled);
    option.seconds_per_token = predicted.seconds_per_token;
    option.tokens_per_second = predicted.tokens_per_second;
    option.first_token_seconds = predicted.first_token_seconds;
  }
  return options;
}

std::string render_link_formats(const std::vector<LinkFormatOption>& options) {
  std::string text;
  std::array<char, 512> line;
  for (const LinkFormatOption& option : options) {
    std::snprintf(line.data(), line.size(),
                  "  %-4s first token %.3f s, %.2f ms/token, full %.1f tokens/s; %s%s\n", option.name.c_str(),
                  option.first_token_seconds, option.seconds_per_token * 1e3, option.tokens_per_second,
                  option.quality.c_str(),
                  option.runs ? "" : " (this version does not send it: for comparison only)");
    text += line.data();
  }
  return text;
}

}  // namespace shoal
