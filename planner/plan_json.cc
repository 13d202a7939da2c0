// Plans and device profiles as JSON. Reading trusts nothing: sizes are bounded before parsing, depth by the
// parser, and every field is checked for kind and range; what a Plan promises of itself is checked at the
// end.
#include <boost/json.hpp>

#include "planner/json_reading.h"
#include "planner/planner.h"

namespace shoal {
namespace {

namespace json = boost::json;
using namespace json_reading;

json::object memory_json(const MemoryUse& memory) {
  return {{"weights", memory.weights}, {"kv", memory.kv}, {"scratch", memory.scratch}, {"base", memory.base}};
}

MemoryUse read_memory(const json::object& object) {
  constexpr uint64_t kMax = uint64_t{1} << 61;  // the sum of four does not overflow
  return {get_unsigned(object, "weights", kMax), get_unsigned(object, "kv", kMax),
          get_unsigned(object, "scratch", kMax), get_unsigned(object, "base", kMax)};
}

json::object decision_json(const StageAssignment& stage) {
  return {{"device", stage.device},
          {"embedding", stage.embedding},
          {"layer_begin", stage.layer_begin},
          {"layer_end", stage.layer_end},
          {"output", stage.output}};
}

json::object stage_json(const StageAssignment& stage) {
  json::object object = decision_json(stage);
  object["seconds"] = stage.seconds;
  object["full_seconds"] = stage.full_seconds;
  object["hop_in_seconds"] = stage.hop_in_seconds;
  object["hop_out_seconds"] = stage.hop_out_seconds;
  object["full_hop_in_seconds"] = stage.full_hop_in_seconds;
  object["full_hop_out_seconds"] = stage.full_hop_out_seconds;
  object["memory_bytes"] = memory_json(stage.memory);
  return object;
}

StageAssignment read_stage(const json::object& object, int devices, int n_layer) {
  StageAssignment stage;
  stage.device = get_int(object, "device", devices - 1);
  stage.embedding = get_bool(object, "embedding");
  stage.layer_begin = get_int(object, "layer_begin", n_layer);
  stage.layer_end = get_int(object, "layer_end", n_layer);
  stage.output = get_bool(object, "output");
  stage.seconds = get_number(object, "seconds");
  stage.full_seconds = get_number(object, "full_seconds");
  stage.hop_in_seconds = get_number(object, "hop_in_seconds");
  stage.hop_out_seconds = get_number(object, "hop_out_seconds");
  stage.full_hop_in_seconds = get_number(object, "full_hop_in_seconds");
  stage.full_hop_out_seconds = get_number(object, "full_hop_out_seconds");
  stage.memory = read_memory(get_object(object, "memory_bytes"));
  return stage;
}

json::object prediction_json(const Prediction& predicted) {
  const Bottleneck& slowest = predicted.bottleneck;
  return {
      {"seconds_per_token", predicted.seconds_per_token},
      {"tokens_per_second", predicted.tokens_per_second},
      {"first_token_seconds", predicted.first_token_seconds},
      {"joules_per_token", predicted.joules_per_token},
      {"bottleneck",
       {{"link", slowest.link}, {"from", slowest.from}, {"to", slowest.to}, {"seconds", slowest.seconds}}}};
}

Prediction read_prediction(const json::object& object, int devices) {
  Prediction predicted;
  predicted.seconds_per_token = get_number(object, "seconds_per_token");
  predicted.tokens_per_second = get_number(object, "tokens_per_second");
  predicted.first_token_seconds = get_number(object, "first_token_seconds");
  predicted.joules_per_token = get_number(object, "joules_per_token");
  const json::object& slowest = get_object(object, "bottleneck");
  predicted.bottleneck = {get_bool(slowest, "link"), get_int(slowest, "from", devices - 1),
                          get_int(slowest, "to", devices - 1), get_number(slowest, "seconds")};
  return predicted;
}

// Every layer once, in order; the ends once each; a device twice only where the output head comes home.
void check_stages(const Plan& plan) {
  const std::vector<StageAssignment>& stages = plan.stages;
  if (stages.empty()) bad("\"stages\" is empty");
  int next = 0;
  std::vector<bool> seen(plan.devices.size(), false);
  for (size_t i = 0; i < stages.size(); ++i) {
    const StageAssignment& stage = stages[i];
    const bool last = i + 1 == stages.size();
    if (stage.layer_begin != next || stage.layer_end < next)
      bad("the stages do not hold every layer once, in order");
    next = stage.layer_end;
    if (stage.embedding != (i == 0) || stage.output != last)
      bad("the embedding must be in the first stage and the output head in the last");
    if (stage.layers() == 0 && !stage.embedding && !stage.output) bad("a stage is empty");
    const bool home = last && i > 1 && plan.keep_on_head.ends() && stage.device == stages.front().device;
    if (seen[static_cast<size_t>(stage.device)] && !home) bad("a node has two stages");
    seen[static_cast<size_t>(stage.device)] = true;
  }
  if (next != plan.n_layer) bad("the stages do not hold every layer once, in order");
  const KeepOnHead& keep = plan.keep_on_head;
  if (keep.begins() && (stages.front().device != plan.head || stages.front().layers() < keep.first))
    bad("the first layers are not on the head, which \"keep_on_head\" demands");
  if (keep.ends() && (stages.back().device != plan.head || stages.back().layers() < keep.last))
    bad("the end is not on the head, which \"keep_on_head\" demands");
}

Objective read_objective(const json::object& object) {
  const std::string text = get_text(object, "objective", kNameBytesMax);
  for (Objective objective : kObjectives)
    if (text == to_string(objective)) return objective;
  bad("\"objective\" is not known");
}

KeepOnHead read_keep(const json::object& object) {
  const std::string text = get_text(object, "keep_on_head", kNameBytesMax);
  try {
    return parse_keep_on_head(text);
  } catch (const SetupError&) {
    bad("\"keep_on_head\" is not known");
  }
}

Plan read_plan(const json::object& object) {
  Plan plan;
  plan.objective = read_objective(object);
  plan.keep_on_head = read_keep(object);
  plan.manual = get_bool(object, "manual");
  plan.for_targets = get_bool(object, "for_targets");
  for (const json::value& name : get_array(object, "devices", kPlanDevicesMax))
    plan.devices.push_back(text_of(name, "devices", kNameBytesMax));
  if (plan.devices.empty()) bad("\"devices\" is empty");
  const int devices = static_cast<int>(plan.devices.size());
  plan.head = get_int(object, "head", devices - 1);
  plan.n_layer = get_int(object, "n_layer", kPlanLayersMax);
  plan.gap = get_number(object, "gap");
  for (const json::value& stage : get_array(object, "stages", kPlanDevicesMax + 1))
    plan.stages.push_back(read_stage(as_object(stage, "stages"), devices, plan.n_layer));
  plan.predicted = read_prediction(get_object(object, "predicted"), devices);
  for (const json::value& value : get_array(object, "reasons", kPlanDevicesMax)) {
    const json::object& reason = as_object(value, "reasons");
    plan.reasons.push_back({get_int(reason, "device", devices - 1), get_bool(reason, "used"),
                            get_text(reason, "text", kReasonBytesMax)});
  }
  check_stages(plan);
  return plan;
}

json::array points_json(const std::vector<RowSeconds>& points) {
  json::array list;
  for (const RowSeconds& point : points) list.push_back({{"rows", point.rows}, {"seconds", point.seconds}});
  return list;
}

DeviceProfile read_device(const json::object& object) {
  DeviceProfile device;
  device.name = get_text(object, "name", kNameBytesMax);
  device.type = get_text(object, "type", kNameBytesMax);
  device.memory_bytes = get_unsigned(object, "memory_bytes", uint64_t{1} << 52);
  device.decode_layer = read_points(object, "decode_layer");
  device.output_head = read_points(object, "output_head");
  device.embedding_row_seconds = get_number(object, "embedding_row_seconds");
  device.prefill_layer_row_seconds = get_number(object, "prefill_layer_row_seconds");
  for (const json::value& scale : get_array(object, "layer_scale", kPlanLayersMax))
    device.layer_scale.push_back(number_of(scale, "layer_scale"));
  device.load_bytes_per_s = get_number(object, "load_bytes_per_s");
  device.idle_watts = get_number(object, "idle_watts");
  device.busy_watts = get_number(object, "busy_watts");
  device.trusted = get_bool(object, "trusted");
  device.layers_max = get_int(object, "layers_max", kPlanLayersMax);
  device.allowed = get_bool(object, "allowed");
  return device;
}

}  // namespace

std::string plan_to_json(const Plan& plan) {
  json::array devices(plan.devices.begin(), plan.devices.end()), stages, reasons;
  for (const StageAssignment& stage : plan.stages) stages.push_back(stage_json(stage));
  for (const DeviceReason& reason : plan.reasons)
    reasons.push_back({{"device", reason.device}, {"used", reason.used}, {"text", reason.text}});
  const json::object object{{"objective", json::string(to_string(plan.objective))},
                            {"keep_on_head", json::string(to_string(plan.keep_on_head))},
                            {"manual", plan.manual},
                            {"for_targets", plan.for_targets},
                            {"head", plan.head},
                            {"n_layer", plan.n_layer},
                            {"devices", devices},
                            {"stages", stages},
                            {"predicted", prediction_json(plan.predicted)},
                            {"gap", plan.gap},
                            {"reasons", reasons}};
  return json::serialize(object);
}

Result<Plan> plan_from_json(std::string_view text) {
  return read_json<Plan>(text, "plan", kPlanJsonBytesMax, read_plan);
}

std::string device_profile_to_json(const DeviceProfile& device) {
  const json::object object{
      {"name", device.name},
      {"type", device.type},
      {"memory_bytes", device.memory_bytes},
      {"decode_layer", points_json(device.decode_layer)},
      {"output_head", points_json(device.output_head)},
      {"embedding_row_seconds", device.embedding_row_seconds},
      {"prefill_layer_row_seconds", device.prefill_layer_row_seconds},
      {"layer_scale", json::array(device.layer_scale.begin(), device.layer_scale.end())},
      {"load_bytes_per_s", device.load_bytes_per_s},
      {"idle_watts", device.idle_watts},
      {"busy_watts", device.busy_watts},
      {"trusted", device.trusted},
      {"layers_max", device.layers_max},
      {"allowed", device.allowed}};
  return json::serialize(object);
}

Result<DeviceProfile> device_profile_from_json(std::string_view text) {
  return read_json<DeviceProfile>(text, "device profile", kPlanJsonBytesMax, read_device);
}

std::string canonical_plan_text(const Plan& plan) {
  json::array devices(plan.devices.begin(), plan.devices.end()), stages;
  for (const StageAssignment& stage : plan.stages) stages.push_back(decision_json(stage));
  const json::object object{{"keep_on_head", json::string(to_string(plan.keep_on_head))},
                            {"head", plan.head},
                            {"n_layer", plan.n_layer},
                            {"devices", devices},
                            {"stages", stages}};
  return json::serialize(object);
}

}  // namespace shoal
