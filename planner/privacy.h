// What the devices of a plan could learn of what users say, and what keeping layers on the head or on trusted
// devices costs. Pure functions.
//
// Who holds the embedding sees every token that goes in, who holds the output head every token that comes
// out. Who holds layers between them sees activations, from which prompts can be inferred: published attacks
// recover most tokens at any depth (https://arxiv.org/abs/2503.09022), so that no constraint makes such a
// device blind.
#pragma once

#include <string>

#include "planner/types.h"

namespace shoal {

struct PrivacyPrice {
  bool known = false;  // false: nothing is kept, the layers were given by hand, or there is no plan without
  double seconds = 0;  // one stream, a token: with what is kept
  double seconds_without = 0;         // the best plan where any device may hold anything
  double rate = 0, rate_without = 0;  // tokens/s of the full pipeline, of the same two plans
};
// Plans once more, for the same objective.
PrivacyPrice privacy_price(const PlanInput& input, const Plan& plan);

// A line for each device with a stage, and one for the price where it is known.
std::string privacy_text(const PlanInput& input, const Plan& plan);

}  // namespace shoal
