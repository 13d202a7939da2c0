#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>

#include "base/units.h"
#include "planner/checks.h"
#include "planner/planner.h"
#include "planner/privacy.h"
#include "planner/service.h"

namespace shoal {

namespace {

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  std::array<char, 512> text;
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text.data(), text.size(), pattern, arguments);
  va_end(arguments);
  return text.data();
}

std::string table(const PlanInput& input, const Plan& plan) {
  size_t width = 4;
  for (const std::string& name : plan.devices) width = std::max(width, std::min<size_t>(name.size(), 32));
  const int column = static_cast<int>(width);
  std::string text =
      format("  %-*s %-9s %10s %10s %10s %10s %10s %6s %12s %12s\n", column, "node", "layers", "weights",
             "KV cache", "scratch", "process", "budget", "used", "a token", "hop out");
  for (const StageAssignment& stage : plan.stages) {
    const uint64_t budget = input.devices[static_cast<size_t>(stage.device)].memory_bytes;
    const uint64_t used = device_memory(plan.stages, stage.device).total();
    std::string layers = stage.layers() > 0 ? std::to_string(stage.layer_begin) : "-";
    if (stage.layers() > 1) layers.append("-").append(std::to_string(stage.layer_end - 1));
    const std::string name = plan.devices[static_cast<size_t>(stage.device)].substr(0, 32);
    text += format("  %-*s %-9s %10s %10s %10s %10s %10s %4.0f %% %12s %12s\n", column, name.c_str(),
                   layers.c_str(), format_bytes(stage.memory.weights).c_str(),
                   format_bytes(stage.memory.kv).c_str(), format_bytes(stage.memory.scratch).c_str(),
                   format_bytes(stage.memory.base).c_str(), format_bytes(budget).c_str(),
                   budget > 0 ? 100.0 * static_cast<double>(used) / static_cast<double>(budget) : 0.0,
                   format_seconds(stage.seconds).c_str(), format_seconds(stage.hop_out_seconds).c_str());
  }
  return text;
}

std::string service_text(const ServicePrediction& service) {
  std::string text =
      format("  %d at once%*s%.1f tokens/s in %d group%s, each waits %s a token", service.sequences,
             service.sequences < 10    ? 6
             : service.sequences < 100 ? 5
                                       : 4,
             "", service.tokens_per_second, service.groups, service.groups == 1 ? "" : "s",
             format_seconds(service.seconds_per_token).c_str());
  if (service.watts > 0)
    text += format("; %.3f J a token, %.1f W on average, %.1f W at most", service.joules_per_token,
                   service.watts, service.peak_watts);
  return text + "\n";
}

std::string prediction_text(const PlanInput& input, const Plan& plan) {
  const Prediction& predicted = plan.predicted;
  const Bottleneck& slowest = predicted.bottleneck;
  const auto name = [&](int device) { return plan.devices[static_cast<size_t>(device)]; };
  double computing = 0;
  for (const StageAssignment& stage : plan.stages) computing += stage.seconds;
  const double rate = predicted.seconds_per_token > 0 ? 1 / predicted.seconds_per_token : 0;
  std::string text = "  one stream     " + format_seconds(predicted.seconds_per_token) + " a token (" +
                     format_seconds(computing) + " computing, " +
                     format_seconds(std::max(0.0, predicted.seconds_per_token - computing)) + " on links), " +
                     format("%.1f tokens/s\n", rate);
  text += format("  full pipeline  %.1f tokens/s in steps of %d row%s\n", predicted.tokens_per_second,
                 input.workload.concurrency, input.workload.concurrency == 1 ? "" : "s");
  text += "  bottleneck     " +
          (slowest.link ? "the link from " + name(slowest.from) + " to " + name(slowest.to)
                        : name(slowest.from) + ", computing") +
          ", " + format_seconds(slowest.seconds) + " a step\n";
  text += "  first token    " + format_seconds(predicted.first_token_seconds) +
          format(" after a prompt of %d tokens\n", std::max(1, input.workload.prompt_tokens));
  if (predicted.joules_per_token > 0)
    text += format("  energy         %.3f J a token, one stream\n", predicted.joules_per_token);
  if (input.workload.concurrency > 1)
    text += service_text(predict_service(input, plan.stages, input.workload.concurrency));
  return text;
}

std::string goal_text(const Plan& plan) {
  const std::string goal = plan.objective == Objective::kLatency      ? "least time a token"
                           : plan.objective == Objective::kThroughput ? "most tokens/s"
                                                                      : "least energy a token";
  if (plan.manual) return "layers given by hand";
  if (plan.for_targets) return "the best of the plans tried that meet the targets";
  if (plan.gap > 0)
    return goal + format(", at most %.2f %% from the best possible (the search stopped at its limit)",
                         100 * plan.gap);
  return goal + ", proven";
}

}  // namespace

std::string render_explanation(const PlanInput& input, const Plan& plan, PictureStyle style) {
  std::string text = "Plan for " + (input.model.name.empty() ? "the model" : input.model.name) + ": " +
                     goal_text(plan) + "\n\n";
  text += render_pipeline(plan, style) + "\n" + table(input, plan) + "\nPredicted\n" +
          prediction_text(input, plan) + "\nNodes\n";
  for (const DeviceReason& reason : plan.reasons)
    text += "  " + plan.devices[static_cast<size_t>(reason.device)] + ": " + reason.text + "\n";
  return text + "\nWhat they could learn\n" + privacy_text(input, plan);
}

}  // namespace shoal
