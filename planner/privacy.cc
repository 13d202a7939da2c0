#include "planner/privacy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "base/units.h"
#include "planner/checks.h"
#include "planner/planner.h"

namespace shoal {
namespace {

bool keeps_anything(const Constraints& constraints) {
  return constraints.keep_on_head != KeepOnHead::kNone || constraints.trusted_first_layers > 0 ||
         constraints.trusted_last_layers > 0;
}

std::string kept_text(const Constraints& constraints) {
  std::string text;
  if (constraints.keep_on_head != KeepOnHead::kNone)
    text = "keep-on-head " + to_string(constraints.keep_on_head);
  const auto add = [&](const std::string& what) { text += (text.empty() ? "" : ", ") + what; };
  if (constraints.trusted_first_layers > 0)
    add("the first " + std::to_string(constraints.trusted_first_layers) + " on trusted nodes");
  if (constraints.trusted_last_layers > 0)
    add("the last " + std::to_string(constraints.trusted_last_layers) + " on trusted nodes");
  return text;
}

std::string learns(const Plan& plan, int device) {
  if (device == plan.head) return "prompts come in and answers go out here";
  bool tokens_in = false, tokens_out = false;
  std::string layers;
  for (const StageAssignment& stage : plan.stages) {
    if (stage.device != device) continue;
    tokens_in |= stage.embedding;
    tokens_out |= stage.output;
    if (stage.layers() > 0) layers = layers_text(stage.layer_begin, stage.layer_end);
  }
  if (tokens_in && tokens_out) return "reads every prompt and every answer: their tokens pass through it";
  if (tokens_in) return "reads every prompt: its tokens come in here; answers, as they are fed back, too";
  if (tokens_out)
    return "reads every answer: it computes which tokens are likely; prompts can be inferred from what it "
           "gets";
  return "no tokens, but prompts and answers can be inferred from the activations of " + layers;
}

std::string price_text(const PlanInput& input, const Plan& plan) {
  const PrivacyPrice price = privacy_price(input, plan);
  if (!price.known) return "";
  std::array<char, 200> rates;
  std::snprintf(rates.data(), rates.size(), "; %.1f tokens/s with it in a full pipeline, %.1f without",
                price.rate, price.rate_without);
  const double more = price.seconds - price.seconds_without;
  std::array<char, 48> cost;
  std::snprintf(cost.data(), cost.size(), "%.2f ms a token %s", std::abs(more) * 1e3,
                more < 0 ? "less" : "more");
  return "  " + kept_text(input.constraints) + ": " + cost.data() + " (" + format_seconds(price.seconds) +
         " instead of " + format_seconds(price.seconds_without) + ")" + rates.data() + "\n";
}

}  // namespace

PrivacyPrice privacy_price(const PlanInput& input, const Plan& plan) {
  PrivacyPrice price;
  if (plan.manual || !keeps_anything(input.constraints)) return price;
  PlanInput open = input;
  open.constraints.keep_on_head = KeepOnHead::kNone;
  open.constraints.trusted_first_layers = open.constraints.trusted_last_layers = 0;
  Prediction without;
  try {
    without = make_plan(open).predicted;
  } catch (
      const SetupError&) {  // a head that keeps both ends has two stages, which a plan without has nowhere
    return price;
  }
  price.known = true;
  price.seconds = plan.predicted.seconds_per_token;
  price.seconds_without = without.seconds_per_token;
  price.rate = plan.predicted.tokens_per_second;
  price.rate_without = without.tokens_per_second;
  return price;
}

std::string privacy_text(const PlanInput& input, const Plan& plan) {
  std::string text;
  std::vector<int> told;
  for (const StageAssignment& stage : plan.stages) {
    if (std::find(told.begin(), told.end(), stage.device) != told.end()) continue;
    told.push_back(stage.device);
    const DeviceProfile& profile = input.devices[static_cast<size_t>(stage.device)];
    text += "  " + plan.devices[static_cast<size_t>(stage.device)] +
            (profile.trusted ? "" : " (not trusted)") + ": " + learns(plan, stage.device) + "\n";
  }
  return text + price_text(input, plan);
}

}  // namespace shoal
