#include "planner/replan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

#include "base/error.h"
#include "base/units.h"
#include "planner/checks.h"
#include "planner/cost_model.h"
#include "planner/device_kinds.h"
#include "planner/planner.h"

namespace shoal {
namespace {

int index_of(const PlanInput& live, const std::string& name) {
  for (size_t d = 0; d < live.devices.size(); ++d)
    if (live.devices[d].name == name) return static_cast<int>(d);
  return -1;
}

double value_of(const PlanInput& live, const Prediction& predicted) {
  switch (live.objective) {
    case Objective::kThroughput:
      return predicted.bottleneck.seconds;
    case Objective::kEnergy:
      return predicted.joules_per_token;
    case Objective::kLatency:
      break;
  }
  return predicted.seconds_per_token;
}

// The running stages with the live cluster's indices; empty if a device is gone.
std::vector<StageAssignment> running_stages(const PlanInput& live, const Plan& running,
                                            std::string& why_not) {
  std::vector<StageAssignment> stages = running.stages;
  for (StageAssignment& stage : stages) {
    const std::string& name = running.devices[static_cast<size_t>(stage.device)];
    stage.device = index_of(live, name);
    if (stage.device >= 0) continue;
    why_not = "node " + name + " is gone";
    return {};
  }
  why_not = why_infeasible(live, stages);
  return stages;
}

std::string holder_of_layer(const Plan& running, int layer) {
  for (const StageAssignment& stage : running.stages)
    if (layer >= stage.layer_begin && layer < stage.layer_end)
      return running.devices[static_cast<size_t>(stage.device)];
  return "";
}

// What `stage` has to load, as runs of layers with the same holder now.
void add_moves(const PlanInput& live, const Plan& running, const StageAssignment& stage,
               std::vector<LayerMove>& moves) {
  const std::string& to = live.devices[static_cast<size_t>(stage.device)].name;
  const ModelProfile& model = live.model;
  bool had_embedding = false, had_output = false;
  for (const StageAssignment& old : running.stages) {
    if (running.devices[static_cast<size_t>(old.device)] != to) continue;
    had_embedding = had_embedding || old.embedding || (old.output && model.tied_output);
    had_output = had_output || old.output;
  }
  std::vector<LayerMove> mine;
  for (int layer = stage.layer_begin; layer < stage.layer_end; ++layer) {
    const std::string from = holder_of_layer(running, layer);
    if (from == to) continue;
    if (mine.empty() || mine.back().from != from || mine.back().layer_end != layer) {
      LayerMove run;
      run.to = to, run.from = from;
      run.layer_begin = run.layer_end = layer;
      mine.push_back(run);
    }
    mine.back().layer_end = layer + 1;
    mine.back().bytes += model.layer_bytes[static_cast<size_t>(layer)];
  }
  const bool matrix = (stage.embedding || (stage.output && model.tied_output)) && !had_embedding;
  if (matrix || (stage.output && !had_output)) {
    LayerMove ends;
    ends.to = to;
    ends.embedding = matrix, ends.output = stage.output && !had_output;
    ends.bytes = (matrix ? model.embedding_bytes : 0) + (ends.output ? model.output_bytes : 0);
    mine.push_back(ends);
  }
  moves.insert(moves.end(), mine.begin(), mine.end());
}

// Seconds over the link from the holder (the head serves what nobody else holds), and from the disk into the
// stage where that rate is known: one after the other, since a shard is read once it is whole.
void price_moves(const PlanInput& live, std::vector<LayerMove>& moves) {
  const CostModel cost(live);
  for (LayerMove& move : moves) {
    int from = index_of(live, move.from);
    const int to = index_of(live, move.to);
    if (from < 0 || cost.message_seconds(from, to, move.bytes) == kUnusable) from = live.constraints.head;
    const double seconds = cost.message_seconds(from, to, move.bytes);
    move.seconds = seconds == kUnusable ? 0 : seconds;
    const double rate = live.devices[static_cast<size_t>(to)].load_bytes_per_s;
    if (rate > 0) move.seconds += static_cast<double>(move.bytes) / rate;
  }
}

uint64_t kept_bytes(const PlanInput& live, const Plan& running, const StageAssignment& stage, int device) {
  uint64_t bytes = 0;
  const std::string& name = live.devices[static_cast<size_t>(device)].name;
  for (int layer = stage.layer_begin; layer < stage.layer_end; ++layer)
    if (holder_of_layer(running, layer) == name) bytes += live.model.layer_bytes[static_cast<size_t>(layer)];
  return bytes;
}

// Devices of a kind may change places at no cost: each stage goes, in turn, to the one that holds most of it
// already.
void keep_in_place(const PlanInput& live, const Plan& running, std::vector<StageAssignment>& stages) {
  for (const std::vector<int>& members : device_kinds(live)) {
    std::vector<StageAssignment*> mine;
    for (StageAssignment& stage : stages)
      if (std::find(members.begin(), members.end(), stage.device) != members.end()) mine.push_back(&stage);
    if (members.size() < 2 || mine.empty()) continue;
    std::vector<int> free = members;
    while (!mine.empty()) {
      size_t best_stage = 0, best_device = 0;
      uint64_t most = 0;
      for (size_t s = 0; s < mine.size(); ++s) {
        for (size_t d = 0; d < free.size(); ++d) {
          const uint64_t kept = kept_bytes(live, running, *mine[s], free[d]);
          if (kept > most) most = kept, best_stage = s, best_device = d;
        }
      }
      mine[best_stage]->device = free[best_device];
      mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(best_stage));
      free.erase(free.begin() + static_cast<std::ptrdiff_t>(best_device));
    }
  }
}

double slowest_device(const std::vector<LayerMove>& moves) {
  std::map<std::string, double> seconds;
  double slowest = 0;
  for (const LayerMove& move : moves) slowest = std::max(slowest, seconds[move.to] += move.seconds);
  return slowest;
}

}  // namespace

ReplanAdvice advise_replan(const PlanInput& live, const Plan& running, const ReplanOptions& options) {
  if (running.n_layer != live.model.n_layer)
    throw SetupError("replan: the running plan has " + std::to_string(running.n_layer) +
                     " layers and the live profile's model " + std::to_string(live.model.n_layer));
  ReplanAdvice advice;
  advice.plan = make_plan(live);
  keep_in_place(live, running, advice.plan.stages);
  advice.plan.predicted = evaluate(live, advice.plan.stages);
  advice.plan.reasons.clear();  // they name devices that have changed places
  advice.new_value = value_of(live, advice.plan.predicted);
  std::vector<StageAssignment> old = running_stages(live, running, advice.why_not);
  advice.old_runs = advice.why_not.empty();
  for (const StageAssignment& stage : advice.plan.stages) add_moves(live, running, stage, advice.moves);
  price_moves(live, advice.moves);
  advice.move_seconds = slowest_device(advice.moves);
  if (!advice.old_runs) {
    advice.move = true;
    return advice;
  }
  advice.old_value = value_of(live, evaluate(live, old));
  const double ratio = advice.new_value > 0 ? advice.old_value / advice.new_value : 1;
  // Latency and throughput: tokens in the horizon. Energy: joules a token, the move's own standstill aside.
  const double kept = std::max(0.0, 1 - advice.move_seconds / options.horizon_s);
  advice.gain = ratio * kept - 1;
  advice.move = !advice.moves.empty() && advice.gain >= options.gain_min;
  return advice;
}

std::string render_advice(const PlanInput& live, const ReplanAdvice& advice, const ReplanOptions& options) {
  std::array<char, 512> line;
  std::string text;
  const auto add = [&](const char* pattern, auto... values) {
    std::snprintf(line.data(), line.size(), pattern, values...);
    text += line.data();
  };
  const char* unit = live.objective == Objective::kEnergy    ? "J a token"
                     : live.objective == Objective::kLatency ? "ms a token"
                                                             : "ms at the bottleneck";
  const double factor = live.objective == Objective::kEnergy ? 1 : 1e3;
  if (!advice.old_runs) {
    add("The running plan cannot run any more: %s\n", advice.why_not.c_str());
  } else {
    add("Running plan %.2f %s, best plan now %.2f; moving takes %s of the next %s: gain %+.0f %%\n",
        factor * advice.old_value, unit, factor * advice.new_value,
        format_seconds(advice.move_seconds).c_str(), format_seconds(options.horizon_s).c_str(),
        100 * advice.gain);
  }
  if (!advice.move) {
    add("Stay: a move is worth it from %.0f %% on.\n", 100 * options.gain_min);
    return text;
  }
  text += "Move:\n";
  for (const LayerMove& move : advice.moves) {
    std::string what = move.layer_end > move.layer_begin ? layers_text(move.layer_begin, move.layer_end) : "";
    if (move.embedding) what += std::string(what.empty() ? "" : ", ") + "the embedding";
    if (move.output) what += std::string(what.empty() ? "" : ", ") + "the output head";
    add("  %s loads %s, %s, %s%s\n", move.to.c_str(), what.c_str(), format_bytes(move.bytes).c_str(),
        format_seconds(move.seconds).c_str(),
        move.from.empty() ? "" : (" (now on " + move.from + ")").c_str());
  }
  return text;
}

}  // namespace shoal
