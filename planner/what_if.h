// Questions to a plan: what would one device less, one more, another link or another context change? Each
// answer is a plan made anew for the changed input by the same planner. Pure; any thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "planner/types.h"

namespace shoal {

struct WhatIfChange {
  enum class Kind { kWithout, kAdd, kLink, kContext };
  Kind kind = Kind::kWithout;
  std::string device;         // kWithout: its name; kAdd: a name or type to copy; kLink: one end
  std::string other;          // kLink: the other end
  int count = 1;              // kAdd
  double bytes_per_s = 0;     // kLink, both directions; the latency stays
  double context_factor = 1;  // kContext
};

// The command line's words; throw SetupError naming the flag.
WhatIfChange parse_add(std::string_view text);   // "type=pi5,count=2", "pi5"
WhatIfChange parse_link(std::string_view text);  // "laptop,pi-1=5Mbps"

// The input after `change`. Throws SetupError: no such device or type, the head cannot leave, ...
PlanInput apply_change(const PlanInput& input, const WhatIfChange& change);

std::string describe_change(const PlanInput& input, const WhatIfChange& change);  // "without pi-2"

// What is compared. `joules_per_token` is 0 where watts are unknown.
struct PlanFigures {
  double first_token_seconds = 0;
  double seconds_per_token = 0;
  double tokens_per_second = 0;
  double joules_per_token = 0;
};
PlanFigures figures_of(const Plan& plan);

struct WhatIfAnswer {
  std::string question;
  std::optional<PlanFigures> after;  // nullopt: no plan
  std::string problem;               // then, why
  std::vector<std::string> devices;  // then not empty: those with a stage, in pipeline order
};

// How the plan in question was made, and so each answer is: make_plan, or a choice for targets. Throws
// SetupError.
using PlanMaker = std::function<Plan(const PlanInput&)>;

WhatIfAnswer ask_what_if(const PlanInput& input, const WhatIfChange& change, const PlanMaker& maker);

// All changes together, as one question.
WhatIfAnswer ask_together(const PlanInput& input, const std::vector<WhatIfChange>& changes,
                          const PlanMaker& maker);

// What is worth asking of any plan: without each device that it uses but the head (the busiest first), one
// more like its busiest, the slowest link that it uses twice as fast, half and twice the context. At most
// `questions_max`.
std::vector<WhatIfChange> usual_questions(const PlanInput& input, const Plan& plan, int questions_max = 8);

// A table of before and after.
std::string render_answers(const Plan& before, const std::vector<WhatIfAnswer>& answers);

}  // namespace shoal
