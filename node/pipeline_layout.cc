#include "node/pipeline_layout.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "transport/messages.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr int kStagesMax = 256;     // as many as a step tells times of
constexpr int kSlotsMax = 1 << 16;  // of a cache
constexpr int kWidthMax = 1 << 20;  // n_embd
constexpr int kVocabularyMax = 1 << 24;
constexpr int kContextMax = 1 << 24;

int whole(const json::object& object, const char* key) {
  return object.at(key).to_number<int>();
}

std::string why_units_are_wrong(const PipelineLayout& layout) {
  int next_layer = 0;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    const ShardSpec& shard = layout.shard_of_stage[static_cast<size_t>(i)];
    if (shard.embedding != (i == 0)) return fmt::format("stage {}: the embedding belongs to stage 0", i);
    if (shard.output != (i == layout.last_stage()))
      return fmt::format("stage {}: the output head belongs to the last stage", i);
    if (shard.layers.begin != next_layer || shard.layers.end < shard.layers.begin)
      return fmt::format("stage {}: its layers begin at {} where {} was next", i, shard.layers.begin,
                         next_layer);
    next_layer = shard.layers.end;
  }
  return "";
}

}  // namespace

std::string PipelineLayout::stage_text(int stage) const {
  const ShardSpec& spec = shard_of_stage[static_cast<size_t>(stage)];
  const LayerRange& layers = spec.layers;
  return fmt::format("node {} ({})", node_of_stage[static_cast<size_t>(stage)],
                     layers.size() == 0   ? (spec.output ? "output head" : "embedding")
                     : layers.size() == 1 ? fmt::format("layer {}", layers.begin)
                                          : fmt::format("layers {}-{}", layers.begin, layers.end - 1));
}

std::string why_unsound(const PipelineLayout& layout) {
  const auto within = [](int value, int least, int most) { return value >= least && value <= most; };
  if (!within(layout.last_stage(), 0, kStagesMax - 1)) return "it has no stages, or too many";
  if (layout.node_of_stage.size() != layout.shard_of_stage.size()) return "its stages are not whole";
  if (!within(layout.rows_max, 1, static_cast<int>(kStepRowsMax))) return "rows_max is out of bounds";
  if (!within(layout.n_embd, 1, kWidthMax) || !within(layout.n_vocab, 1, kVocabularyMax))
    return "n_embd or n_vocab is out of bounds";
  if (!within(layout.context, 1, kContextMax) || !within(layout.slots, 1, kSlotsMax) || layout.kv_cells < 0)
    return "context, slots or kv_cells is out of bounds";
  if (!within(layout.inputs, 0, layout.rows_max) || layout.decoder_start_token >= layout.n_vocab)
    return "inputs or decoder_start_token is out of bounds";
  if (!within(layout.adapters, 0, UINT16_MAX) || layout.adapters_hash.size() > kNameBytesMax)
    return "adapters is out of bounds";
  if (!within(layout.steps_in_flight_max, 1, 4 * kStagesMax)) return "steps_in_flight_max is out of bounds";
  if (layout.plan_hash.empty() || layout.plan_hash.size() > kNameBytesMax) return "its hash is missing";
  if (!layout.endpoints.contains(layout.head)) return "the head's address is missing";
  for (const std::string& node : layout.node_of_stage) {
    if (!layout.endpoints.contains(node)) return fmt::format("the address of {} is missing", node);
  }
  return why_units_are_wrong(layout);
}

std::string layout_to_json(const PipelineLayout& layout) {
  json::array stages;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    const ShardSpec& shard = layout.shard_of_stage[static_cast<size_t>(i)];
    stages.push_back({{"node", layout.node_of_stage[static_cast<size_t>(i)]},
                      {"embedding", shard.embedding},
                      {"layer_begin", shard.layers.begin},
                      {"layer_end", shard.layers.end},
                      {"output", shard.output}});
  }
  json::object endpoints;
  for (const auto& [node, endpoint] : layout.endpoints)
    endpoints[node] = {{"address", endpoint.address}, {"port", endpoint.port}};
  return json::serialize(json::object{{"stages", std::move(stages)},
                                      {"head", layout.head},
                                      {"endpoints", std::move(endpoints)},
                                      {"plan_hash", layout.plan_hash},
                                      {"rows_max", layout.rows_max},
                                      {"n_embd", layout.n_embd},
                                      {"n_vocab", layout.n_vocab},
                                      {"context", layout.context},
                                      {"slots", layout.slots},
                                      {"inputs", layout.inputs},
                                      {"decodes", layout.decodes},
                                      {"decoder_start_token", layout.decoder_start_token},
                                      {"kv_cells", layout.kv_cells},
                                      {"kv_cache", layout.kv_cache},
                                      {"adapters", layout.adapters},
                                      {"adapters_hash", layout.adapters_hash},
                                      {"steps_in_flight_max", layout.steps_in_flight_max},
                                      {"step_deadline_s", layout.step_deadline_s}});
}

Result<PipelineLayout> layout_from_json(std::string_view text) {
  PipelineLayout layout;
  try {
    const json::value value = json::parse({text.data(), text.size()});
    const json::object& object = value.as_object();
    for (const json::value& entry : object.at("stages").as_array()) {
      const json::object& stage = entry.as_object();
      layout.node_of_stage.emplace_back(stage.at("node").as_string());
      layout.shard_of_stage.push_back({stage.at("embedding").as_bool(),
                                       {whole(stage, "layer_begin"), whole(stage, "layer_end")},
                                       stage.at("output").as_bool()});
    }
    layout.head = std::string(object.at("head").as_string());
    for (const auto& [node, entry] : object.at("endpoints").as_object()) {
      const json::object& endpoint = entry.as_object();
      layout.endpoints[std::string(node)] = {std::string(endpoint.at("address").as_string()),
                                             endpoint.at("port").to_number<uint16_t>()};
    }
    layout.plan_hash = std::string(object.at("plan_hash").as_string());
    layout.rows_max = whole(object, "rows_max");
    layout.n_embd = whole(object, "n_embd");
    layout.n_vocab = whole(object, "n_vocab");
    layout.context = whole(object, "context");
    layout.slots = whole(object, "slots");
    layout.inputs = whole(object, "inputs");
    layout.decodes = object.at("decodes").as_bool();
    layout.decoder_start_token = object.at("decoder_start_token").to_number<int32_t>();
    layout.kv_cells = object.at("kv_cells").to_number<int64_t>();
    layout.kv_cache = std::string(object.at("kv_cache").as_string());
    layout.adapters = whole(object, "adapters");
    layout.adapters_hash = std::string(object.at("adapters_hash").as_string());
    layout.steps_in_flight_max = whole(object, "steps_in_flight_max");
    layout.step_deadline_s = object.at("step_deadline_s").to_number<double>();
  } catch (const std::exception& error) {
    return Error{Errc::kBadFrame, fmt::format("a layout that cannot be read: {}", error.what())};
  }
  if (const std::string wrong = why_unsound(layout); !wrong.empty())
    return Error{Errc::kBadFrame, fmt::format("a layout that is not sound: {}", wrong)};
  return layout;
}

}  // namespace shoal
