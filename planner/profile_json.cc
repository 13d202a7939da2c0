#include "planner/profile_json.h"

#include <boost/json.hpp>
#include <map>
#include <tuple>

#include "planner/json_reading.h"
#include "planner/planner.h"

namespace shoal {
namespace {

namespace json = boost::json;
using namespace json_reading;

constexpr uint64_t kBytesMax = uint64_t{1} << 52;

uint64_t bytes_or(const json::object& object, const char* key, uint64_t fallback) {
  return object.contains(key) ? get_unsigned(object, key, kBytesMax) : fallback;
}

int int_or(const json::object& object, const char* key, int fallback, int max) {
  return object.contains(key) ? get_int(object, key, max) : fallback;
}

double number_or(const json::object& object, const char* key, double fallback) {
  return object.contains(key) ? get_number(object, key) : fallback;
}

bool bool_or(const json::object& object, const char* key, bool fallback) {
  return object.contains(key) ? get_bool(object, key) : fallback;
}

std::string text_or(const json::object& object, const char* key, const std::string& fallback) {
  return object.contains(key) ? get_text(object, key, kNameBytesMax) : fallback;
}

// One number for all layers, or a list of one a layer.
std::vector<uint64_t> bytes_of_layers(const json::object& object, const char* key, int n_layer) {
  const json::value& value = member(object, key);
  if (!value.is_array())
    return std::vector<uint64_t>(static_cast<size_t>(n_layer), unsigned_of(value, key, kBytesMax));
  std::vector<uint64_t> bytes;
  for (const json::value& one : get_array(object, key, kPlanLayersMax))
    bytes.push_back(unsigned_of(one, key, kBytesMax));
  if (bytes.size() != static_cast<size_t>(n_layer))
    bad(std::string("\"") + key + "\" must be one number, or one a layer: " + std::to_string(n_layer));
  return bytes;
}

ModelProfile read_model(const json::object& object) {
  check_keys(object, "model",
             {"note", "name", "n_layer", "n_embd", "context", "sequences", "embedding_bytes", "layer_bytes",
              "layer_kv_bytes", "output_bytes", "tied_output", "shared_bytes", "scratch_bytes",
              "scratch_output_bytes", "base_bytes", "hidden_bytes_per_row", "token_bytes_per_row",
              "result_bytes_per_row"});
  ModelProfile model;
  model.name = text_or(object, "name", "");
  model.n_layer = get_int(object, "n_layer", kPlanLayersMax);
  model.n_embd = int_or(object, "n_embd", 0, 1 << 24);
  model.context = int_or(object, "context", 0, 1 << 30);
  model.sequences = int_or(object, "sequences", 0, kPlanRowsMax);
  model.embedding_bytes = bytes_or(object, "embedding_bytes", 0);
  model.layer_bytes = bytes_of_layers(object, "layer_bytes", model.n_layer);
  model.layer_kv_bytes = bytes_of_layers(object, "layer_kv_bytes", model.n_layer);
  model.output_bytes = bytes_or(object, "output_bytes", 0);
  model.tied_output = bool_or(object, "tied_output", false);
  model.shared_bytes = bytes_or(object, "shared_bytes", 0);
  model.scratch_bytes = bytes_or(object, "scratch_bytes", 0);
  model.scratch_output_bytes = bytes_or(object, "scratch_output_bytes", 0);
  model.base_bytes = bytes_or(object, "base_bytes", 0);
  model.hidden_bytes_per_row = get_unsigned(object, "hidden_bytes_per_row", kBytesMax);
  model.token_bytes_per_row = bytes_or(object, "token_bytes_per_row", model.token_bytes_per_row);
  model.result_bytes_per_row = bytes_or(object, "result_bytes_per_row", model.result_bytes_per_row);
  return model;
}

json::value layers_json(const std::vector<uint64_t>& bytes) {
  for (uint64_t one : bytes)
    if (one != bytes.front()) return json::array(bytes.begin(), bytes.end());
  return bytes.empty() ? json::value(json::array()) : json::value(bytes.front());
}

json::object model_json(const ModelProfile& model) {
  return {{"name", model.name},
          {"n_layer", model.n_layer},
          {"n_embd", model.n_embd},
          {"context", model.context},
          {"sequences", model.sequences},
          {"embedding_bytes", model.embedding_bytes},
          {"layer_bytes", layers_json(model.layer_bytes)},
          {"layer_kv_bytes", layers_json(model.layer_kv_bytes)},
          {"output_bytes", model.output_bytes},
          {"tied_output", model.tied_output},
          {"shared_bytes", model.shared_bytes},
          {"scratch_bytes", model.scratch_bytes},
          {"scratch_output_bytes", model.scratch_output_bytes},
          {"base_bytes", model.base_bytes},
          {"hidden_bytes_per_row", model.hidden_bytes_per_row},
          {"token_bytes_per_row", model.token_bytes_per_row},
          {"result_bytes_per_row", model.result_bytes_per_row}};
}

// One entry of "devices": one device, or "count" alike.
void read_devices(const json::object& object, std::vector<DeviceProfile>& devices) {
  check_keys(object, "devices",
             {"note", "count", "name", "type", "memory_bytes", "decode_layer", "output_head",
              "embedding_row_seconds", "prefill_layer_row_seconds", "layer_scale", "load_bytes_per_s",
              "idle_watts", "busy_watts", "trusted", "layers_max", "allowed"});
  DeviceProfile device;
  device.name = get_text(object, "name", kNameBytesMax);
  if (device.name.empty()) bad("a device has an empty \"name\"");
  device.type = text_or(object, "type", device.name);
  device.memory_bytes = get_unsigned(object, "memory_bytes", kBytesMax);
  device.decode_layer = read_points(object, "decode_layer");
  device.output_head =
      object.contains("output_head") ? read_points(object, "output_head") : std::vector<RowSeconds>{{1, 0}};
  device.embedding_row_seconds = number_or(object, "embedding_row_seconds", 0);
  device.prefill_layer_row_seconds = get_number(object, "prefill_layer_row_seconds");
  if (object.contains("layer_scale")) {
    for (const json::value& scale : get_array(object, "layer_scale", kPlanLayersMax))
      device.layer_scale.push_back(number_of(scale, "layer_scale"));
  }
  device.load_bytes_per_s = number_or(object, "load_bytes_per_s", 0);
  device.idle_watts = number_or(object, "idle_watts", 0);
  device.busy_watts = number_or(object, "busy_watts", 0);
  device.trusted = bool_or(object, "trusted", true);
  device.layers_max = int_or(object, "layers_max", 0, kPlanLayersMax);
  device.allowed = bool_or(object, "allowed", true);
  const int count = int_or(object, "count", 1, kPlanDevicesMax);
  if (count < 1) bad("\"count\" of device \"" + device.name + "\" must be 1 or more");
  if (devices.size() + static_cast<size_t>(count) > kPlanDevicesMax)
    bad("there are more than " + std::to_string(kPlanDevicesMax) + " devices");
  const std::string name = device.name;
  for (int i = 1; i <= count; ++i) {
    if (count > 1) device.name = name + "-" + std::to_string(i);
    devices.push_back(device);
  }
}

class Names {
 public:
  explicit Names(const std::vector<DeviceProfile>& devices) {
    for (const DeviceProfile& device : devices) {
      names_.push_back(device.name);
      if (!index_.emplace(device.name, static_cast<int>(index_.size())).second)
        bad("two devices are named \"" + device.name + "\"");
    }
  }
  int index(const std::string& name) const {
    const auto found = index_.find(name);
    if (found != index_.end()) return found->second;
    const std::string near = nearest_name(name, names_);
    bad("no device is named \"" + name + "\"" + (near.empty() ? "" : "; did you mean \"" + near + "\"?"));
  }

 private:
  std::map<std::string, int> index_;
  std::vector<std::string> names_;
};

LinkProfile read_link(const json::object& object) {
  return {number_or(object, "latency_s", 0), get_number(object, "bytes_per_s")};
}

LinkTable read_links(const json::object& object, const Names& names, int devices) {
  check_keys(object, "links", {"note", "default", "between"});
  LinkProfile fallback;
  if (object.contains("default")) {
    const json::object& given = get_object(object, "default");
    check_keys(given, "links.default", {"note", "bytes_per_s", "latency_s"});
    fallback = read_link(given);
  }
  LinkTable table(devices, fallback);
  if (!object.contains("between")) return table;
  constexpr size_t kMax = static_cast<size_t>(kPlanDevicesMax) * kPlanDevicesMax;
  for (const json::value& value : get_array(object, "between", kMax)) {
    const json::object& link = as_object(value, "between");
    check_keys(link, "links.between", {"note", "between", "from", "to", "bytes_per_s", "latency_s"});
    if (link.contains("between")) {
      const json::array& ends = get_array(link, "between", 2);
      if (ends.size() != 2 || ends[0] == ends[1]) bad("\"between\" names two devices");
      table.set_both(names.index(text_of(ends[0], "between", kNameBytesMax)),
                     names.index(text_of(ends[1], "between", kNameBytesMax)), read_link(link));
    } else {
      table.set(names.index(get_text(link, "from", kNameBytesMax)),
                names.index(get_text(link, "to", kNameBytesMax)), read_link(link));
    }
  }
  return table;
}

// The link that most pairs have is the default; the others are named.
json::object links_json(const PlanInput& input) {
  const int devices = static_cast<int>(input.devices.size());
  using Key = std::tuple<double, double>;
  std::map<Key, int> times;
  const auto key = [&](int a, int b) {
    return Key{input.links.at(a, b).latency_s, input.links.at(a, b).bytes_per_s};
  };
  for (int a = 0; a < devices; ++a)
    for (int b = 0; b < devices; ++b)
      if (a != b) ++times[key(a, b)];
  Key common{0, 0};
  int most = 0;
  for (const auto& [link, count] : times)
    if (count > most) common = link, most = count;
  const auto value = [](const Key& link) {
    return json::object{{"latency_s", std::get<0>(link)}, {"bytes_per_s", std::max(0.0, std::get<1>(link))}};
  };
  json::array between;
  const auto name = [&](int device) { return json::string(input.devices[static_cast<size_t>(device)].name); };
  for (int a = 0; a < devices; ++a) {
    for (int b = a + 1; b < devices; ++b) {
      const bool same = key(a, b) == key(b, a);
      for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
        if (key(from, to) == common || (same && from == b)) continue;
        json::object link = value(key(from, to));
        if (same) {
          link["between"] = json::array{name(a), name(b)};
        } else {
          link["from"] = name(from), link["to"] = name(to);
        }
        between.push_back(link);
      }
    }
  }
  return {{"default", value(common)}, {"between", between}};
}

Constraints read_constraints(const json::object& object, const Names& names, int n_layer) {
  check_keys(
      object, "constraints",
      {"note", "head", "keep_on_head", "manual", "excluded", "trusted_first_layers", "trusted_last_layers"});
  Constraints constraints;
  if (object.contains("head")) constraints.head = names.index(get_text(object, "head", kNameBytesMax));
  if (object.contains("keep_on_head")) {
    try {
      constraints.keep_on_head = parse_keep_on_head(get_text(object, "keep_on_head", kNameBytesMax));
    } catch (const SetupError& error) {
      bad(error.what());
    }
  }
  if (object.contains("manual")) {
    for (const json::value& value : get_array(object, "manual", kPlanDevicesMax)) {
      const json::object& range = as_object(value, "manual");
      constraints.manual.push_back({names.index(get_text(range, "device", kNameBytesMax)),
                                    get_int(range, "layer_begin", n_layer),
                                    get_int(range, "layer_end", n_layer)});
    }
  }
  if (object.contains("excluded")) {
    for (const json::value& value : get_array(object, "excluded", kPlanDevicesMax))
      constraints.excluded.push_back(names.index(text_of(value, "excluded", kNameBytesMax)));
  }
  constraints.trusted_first_layers = int_or(object, "trusted_first_layers", 0, kPlanLayersMax);
  constraints.trusted_last_layers = int_or(object, "trusted_last_layers", 0, kPlanLayersMax);
  return constraints;
}

json::object constraints_json(const PlanInput& input) {
  const Constraints& constraints = input.constraints;
  const auto name = [&](int device) { return json::string(input.devices[static_cast<size_t>(device)].name); };
  json::array manual, excluded;
  for (const ManualRange& range : constraints.manual)
    manual.push_back(
        {{"device", name(range.device)}, {"layer_begin", range.layer_begin}, {"layer_end", range.layer_end}});
  for (int device : constraints.excluded) excluded.push_back(name(device));
  return {{"head", name(constraints.head)},
          {"keep_on_head", json::string(to_string(constraints.keep_on_head))},
          {"manual", manual},
          {"excluded", excluded},
          {"trusted_first_layers", constraints.trusted_first_layers},
          {"trusted_last_layers", constraints.trusted_last_layers}};
}

PlanInput read_profile(const json::object& whole) {
  if (whole.contains("profile")) return read_profile(get_object(whole, "profile"));
  check_keys(whole, "the profile",
             {"note", "model", "devices", "links", "workload", "constraints", "objective"});
  PlanInput input;
  input.model = read_model(get_object(whole, "model"));
  for (const json::value& device : get_array(whole, "devices", kPlanDevicesMax))
    read_devices(as_object(device, "devices"), input.devices);
  if (input.devices.empty()) bad("\"devices\" is empty");
  const Names names(input.devices);
  input.links = read_links(get_object(whole, "links"), names, static_cast<int>(input.devices.size()));
  if (whole.contains("workload")) {
    const json::object& load = get_object(whole, "workload");
    check_keys(load, "workload", {"note", "prompt_tokens", "output_tokens", "concurrency"});
    input.workload.prompt_tokens = int_or(load, "prompt_tokens", input.workload.prompt_tokens, kPlanRowsMax);
    input.workload.output_tokens = int_or(load, "output_tokens", input.workload.output_tokens, kPlanRowsMax);
    input.workload.concurrency = int_or(load, "concurrency", input.workload.concurrency, kPlanRowsMax);
  }
  if (whole.contains("constraints"))
    input.constraints = read_constraints(get_object(whole, "constraints"), names, input.model.n_layer);
  try {
    input.objective = parse_objective(text_or(whole, "objective", "latency"));
  } catch (const SetupError& error) {
    bad(error.what());
  }
  return input;
}

}  // namespace

std::string profile_to_json(const PlanInput& input) {
  json::array devices;
  for (const DeviceProfile& device : input.devices)
    devices.push_back(json::parse(device_profile_to_json(device)));
  const json::object object{{"model", model_json(input.model)},
                            {"devices", devices},
                            {"links", links_json(input)},
                            {"workload",
                             {{"prompt_tokens", input.workload.prompt_tokens},
                              {"output_tokens", input.workload.output_tokens},
                              {"concurrency", input.workload.concurrency}}},
                            {"constraints", constraints_json(input)},
                            {"objective", json::string(to_string(input.objective))}};
  return json::serialize(object);
}

Result<PlanInput> profile_from_json(std::string_view text, const std::string& what) {
  return read_json<PlanInput>(text, what, kProfileJsonBytesMax, read_profile);
}

}  // namespace shoal
