#include "node/plan_report.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "base/small_file.h"
#include "node/plan_inputs.h"
#include "planner/device_kinds.h"
#include "planner/link_formats.h"
#include "planner/pareto.h"
#include "planner/planner.h"
#include "planner/profile_json.h"
#include "planner/replan.h"
#include "planner/simulate.h"
#include "planner/what_if.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr size_t kKindsOfQuickPlans = 16;
constexpr size_t kTraceBytesMax = 16u << 20;

// Box characters where the terminal's locale says UTF-8.
PictureStyle terminal_style() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string text = value;
    const bool utf8 = text.find("UTF-8") != std::string::npos || text.find("utf8") != std::string::npos;
    return utf8 ? PictureStyle::kBoxes : PictureStyle::kAscii;
  }
  return PictureStyle::kAscii;
}

void write_file(const std::string& path, const char* flag, const std::string& text) {
  std::ofstream out = open_output(path, flag);
  out << text;
  out.close();
  if (!out) throw SetupError(path + ": cannot be written", kExitFailed);
}

std::string short_text(const Plan& plan) {
  std::string text;
  for (const StageAssignment& stage : plan.stages) {
    const std::string layers = stage.layers() > 0
                                   ? fmt::format("layers {}-{}", stage.layer_begin, stage.layer_end - 1)
                                   : "no layers";
    text += fmt::format("{}: {}{}{}\n", plan.devices[static_cast<size_t>(stage.device)],
                        stage.embedding ? "embedding, " : "", layers, stage.output ? ", output" : "");
  }
  return text + fmt::format("predicted: {:.2f} ms a token alone, {:.1f} tokens/s full\n",
                            plan.predicted.seconds_per_token * 1e3, plan.predicted.tokens_per_second);
}

json::object service_json(const ServicePrediction& service) {
  return {{"sequences", service.sequences},
          {"groups", service.groups},
          {"first_token_seconds", service.first_token_seconds},
          {"seconds_per_token", service.seconds_per_token},
          {"tokens_per_second", service.tokens_per_second},
          {"joules_per_token", service.joules_per_token},
          {"watts", service.watts},
          {"peak_watts", service.peak_watts}};
}

json::object figures_json(const PlanFigures& figures) {
  return {{"first_token_seconds", figures.first_token_seconds},
          {"seconds_per_token", figures.seconds_per_token},
          {"tokens_per_second", figures.tokens_per_second},
          {"joules_per_token", figures.joules_per_token}};
}

json::object percentiles_json(const Percentiles& p) {
  return {{"p50", p.p50}, {"p95", p.p95}, {"p99", p.p99}, {"max", p.max}};
}

json::object simulation_json(const SimulationReport& report) {
  json::array places;
  for (const SimulatedPlace& place : report.places) {
    places.push_back({{"name", place.name},
                      {"link", place.link},
                      {"busy_share", place.busy_share},
                      {"steps", place.steps},
                      {"bytes", place.bytes}});
  }
  return {{"requests", report.requests},
          {"seconds", report.seconds},
          {"prompt_tokens", report.prompt_tokens},
          {"output_tokens", report.output_tokens},
          {"tokens_per_second", report.tokens_per_second},
          {"first_token_seconds", percentiles_json(report.first_token_seconds)},
          {"seconds_per_token", percentiles_json(report.seconds_per_token)},
          {"request_seconds", percentiles_json(report.request_seconds)},
          {"places", places},
          {"joules", report.joules},
          {"joules_per_token", report.joules_per_token},
          {"steps", report.steps}};
}

// Of what `shoal plan --json` printed the plan alone: a profile of many nodes is longer than any plan may be.
std::string plan_part(std::string text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object()) return text;  // plan_from_json says what is wrong
  json::object& object = value.as_object();
  for (const char* key :
       {"explanation", "profile", "service", "link_formats", "what_if", "pareto", "simulation", "replan"})
    object.erase(key);
  return json::serialize(value);
}

// The plan and its answers, gathered as text and as JSON side by side.
class Report {
 public:
  // `maker`: how `plan` was made.
  Report(const PlanInput& input, Plan plan, PlanMaker maker, const PlanFlags& flags)
      : input_(input), plan_(std::move(plan)), maker_(std::move(maker)), flags_(flags) {}

  void add_plan(const std::vector<std::string>& rejected) {
    text_ = flags_.explain ? render_explanation(input_, plan_, terminal_style()) : short_text(plan_);
    json_ = json::parse(plan_to_json(plan_)).as_object();
    if (flags_.explain) json_["explanation"] = text_;
    json_["profile"] = json::parse(profile_to_json(input_));
    json_["service"] = service_json(predict_service(input_, plan_.stages, input_.workload.concurrency));
    if (!rejected.empty()) {
      json_["rejected"] = json::array(rejected.begin(), rejected.end());
      text_ += "\nModels that miss the targets\n";
      for (const std::string& reason : rejected) text_ += "  " + reason + "\n";
    }
    if (plan_.stages.size() > 1) add_link_formats();
  }

  void add_what_if() {
    std::vector<WhatIfChange> changes;
    for (const std::string& name : flags_.without) {
      WhatIfChange change;
      change.device = name;
      changes.push_back(change);
    }
    for (const std::string& text : flags_.add) changes.push_back(parse_add(text));
    for (const std::string& text : flags_.link) changes.push_back(parse_link(text));
    std::vector<WhatIfAnswer> answers;
    for (const WhatIfChange& change : changes) answers.push_back(ask_what_if(input_, change, maker_));
    if (changes.size() > 1) answers.push_back(ask_together(input_, changes, maker_));
    // A plan a question: with many different nodes they are asked only on demand.
    const bool few = device_kinds(input_).size() <= kKindsOfQuickPlans;
    const bool usual = flags_.what_if || (flags_.explain && changes.empty() && few);
    if (usual && !plan_.manual) {
      for (const WhatIfChange& change : usual_questions(input_, plan_))
        answers.push_back(ask_what_if(input_, change, maker_));
    }
    if (answers.empty()) return;
    text_ += "\nWhat if\n" + render_answers(plan_, answers);
    json::array list;
    for (const WhatIfAnswer& answer : answers) {
      json::object one{{"question", answer.question}, {"before", figures_json(figures_of(plan_))}};
      if (answer.after) {
        one["after"] = figures_json(*answer.after);
        one["devices"] = json::array(answer.devices.begin(), answer.devices.end());
      } else {
        one["problem"] = answer.problem;
      }
      list.push_back(one);
    }
    json_["what_if"] = list;
  }

  void add_pareto() {
    const PlanCandidates candidates = candidate_plans(input_);
    const std::vector<PlanCandidate> front = pareto_front(candidates);
    text_ += "\n" + render_front(input_, front, candidates.all_sets);
    if (!flags_.csv.empty()) write_file(flags_.csv, "--csv", front_csv(front));
    if (!flags_.svg.empty()) write_file(flags_.svg, "--svg", front_svg(input_, front));
    json::array list;
    for (const PlanCandidate& candidate : front) {
      list.push_back({{"plan", json::parse(plan_to_json(candidate.plan))},
                      {"service", service_json(candidate.service)},
                      {"nodes", candidate.devices}});
    }
    json_["pareto"] = list;
  }

  void add_simulation() {
    std::vector<SimulatedRequest> requests;
    if (flags_.trace.empty()) {
      PoissonLoad load;
      load.seed = flags_.seed;
      load.requests_per_s = flags_.rate;
      load.requests = flags_.requests;
      load.prompt_tokens = input_.workload.prompt_tokens;
      load.output_tokens = input_.workload.output_tokens;
      requests = poisson_requests(load);
    } else {
      auto read = requests_from_trace(read_text_file(flags_.trace, "trace", kTraceBytesMax), flags_.trace);
      if (read.has_error()) throw SetupError(read.error().message);
      requests = std::move(*read);
    }
    const SimulationReport report = simulate(input_, plan_.stages, requests, input_.workload.concurrency);
    text_ += "\n" + render_simulation(report);
    json_["simulation"] = simulation_json(report);
  }

  void add_replan() {
    const std::string& path = flags_.replan_from;
    const Result<Plan> running =
        plan_from_json(plan_part(read_text_file(path, "plan", kProfileJsonBytesMax)));
    if (running.has_error()) throw SetupError(path + ": " + running.error().message);
    const ReplanOptions options{flags_.gain_min / 100, flags_.horizon_s};
    const ReplanAdvice advice = advise_replan(input_, *running, options);
    text_ += "\n" + render_advice(input_, advice, options);
    json::array moves;
    for (const LayerMove& move : advice.moves) {
      moves.push_back({{"to", move.to},
                       {"from", move.from},
                       {"layer_begin", move.layer_begin},
                       {"layer_end", move.layer_end},
                       {"embedding", move.embedding},
                       {"output", move.output},
                       {"bytes", move.bytes},
                       {"seconds", move.seconds}});
    }
    json_["replan"] = {{"move", advice.move},
                       {"old_runs", advice.old_runs},
                       {"old_value", advice.old_value},
                       {"new_value", advice.new_value},
                       {"move_seconds", advice.move_seconds},
                       {"gain", advice.gain},
                       {"moves", moves},
                       {"plan", json::parse(plan_to_json(advice.plan))}};
  }

  void print() const {
    const std::string out = flags_.json ? json::serialize(json_) + "\n" : text_;
    std::fputs(out.c_str(), stdout);
  }

 private:
  void add_link_formats() {
    const std::vector<LinkFormatOption> options = link_format_options(input_, plan_.stages);
    if (flags_.explain) text_ += "\nHidden states on links\n" + render_link_formats(options);
    json::array list;
    for (const LinkFormatOption& option : options) {
      list.push_back({{"format", option.name},
                      {"bytes_per_value", option.bytes_per_value},
                      {"runs", option.runs},
                      {"quality", option.quality},
                      {"seconds_per_token", option.seconds_per_token},
                      {"tokens_per_second", option.tokens_per_second},
                      {"first_token_seconds", option.first_token_seconds}});
    }
    json_["link_formats"] = list;
  }

  const PlanInput& input_;
  Plan plan_;
  PlanMaker maker_;
  const PlanFlags& flags_;
  std::string text_;
  json::object json_;
};

}  // namespace

void answer_plan_questions(std::vector<PlanInput> offers, const PlanConfig& config, const PlanFlags& flags) {
  for (PlanInput& offer : offers) {
    if (flags.prompt_tokens > 0) offer.workload.prompt_tokens = flags.prompt_tokens;
    if (flags.output_tokens > 0) offer.workload.output_tokens = flags.output_tokens;
  }
  Targets targets = targets_of(config);
  if (flags.ttft_ms > 0) targets.first_token_seconds = flags.ttft_ms / 1e3;
  if (flags.ms_per_token > 0) targets.seconds_per_token = flags.ms_per_token / 1e3;
  if (flags.power_cap > 0) targets.watts_max = flags.power_cap;
  if (offers.size() > 1 && !targets.any())
    throw SetupError(
        "several models are offered but no target to choose by: add --ttft-ms, --ms-per-token or "
        "--power-cap");
  size_t chosen = 0;
  Plan plan;
  PlanMaker maker = make_plan;
  std::vector<std::string> rejected;
  if (targets.any()) {
    maker = [targets](const PlanInput& input) {
      return choose_for_targets(std::span(&input, 1), targets).candidate.plan;
    };
    TargetChoice choice = choose_for_targets(offers, targets);
    chosen = choice.offer;
    plan = std::move(choice.candidate.plan);
    rejected = std::move(choice.rejected);
  } else {
    plan = make_plan(offers.front());
  }
  Report report(offers[chosen], std::move(plan), std::move(maker), flags);
  report.add_plan(rejected);
  report.add_what_if();
  if (flags.pareto || !flags.csv.empty() || !flags.svg.empty()) report.add_pareto();
  if (flags.simulate || !flags.trace.empty()) report.add_simulation();
  if (!flags.replan_from.empty()) report.add_replan();
  report.print();
}

}  // namespace shoal
