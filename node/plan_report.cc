#include "node/plan_report.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>

#include "planner/planner.h"
#include "planner/profile_json.h"

namespace shoal {
namespace {

namespace json = boost::json;

std::string short_text(const Plan& plan) {
  std::string text;
  for (const StageAssignment& stage : plan.stages) {
    text += fmt::format("{}: {}layers {}-{}{}\n", plan.devices[static_cast<size_t>(stage.device)],
                        stage.embedding ? "embedding, " : "", stage.layer_begin, stage.layer_end - 1,
                        stage.output ? ", output" : "");
  }
  return text + fmt::format("predicted: {:.2f} ms a token alone, {:.1f} tokens/s full\n",
                            plan.predicted.seconds_per_token * 1e3, plan.predicted.tokens_per_second);
}

json::object plan_object(const PlanInput& input, const Plan& plan) {
  json::object object = json::parse(plan_to_json(plan)).as_object();
  object["profile"] = json::parse(profile_to_json(input));
  return object;
}

}  // namespace

void answer_plan_questions(std::vector<PlanInput> offers, const PlanFlags& flags) {
  const PlanInput& input = offers.front();
  const Plan plan = make_plan(input);
  if (flags.json) {
    std::fputs((json::serialize(plan_object(input, plan)) + "\n").c_str(), stdout);
    return;
  }
  std::fputs((flags.explain ? render_explanation(input, plan) : short_text(plan)).c_str(), stdout);
}

}  // namespace shoal
