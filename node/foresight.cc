#include "node/foresight.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

namespace shoal {
namespace {

namespace json = boost::json;

struct Counted {
  ShardSpec shard;
  int plans = 0;  // that give it
};

void count(std::vector<Counted>& parts, const ShardSpec& shard) {
  const auto known =
      std::find_if(parts.begin(), parts.end(), [&](const Counted& part) { return part.shard == shard; });
  if (known != parts.end()) {
    ++known->plans;
  } else if (parts.size() < kShardsAheadMax) {
    parts.push_back({shard, 1});
  }
}

}  // namespace

std::vector<Recovery::MakePlan> Recovery::look_ahead(double now_s) {
  std::vector<MakePlan> losses;
  if (state_ != State::kRunning || !look_ahead_ || now_s < look_ahead_at_s_) return losses;
  look_ahead_ = false;
  for (const std::string& node : here_) {
    if (in_plan(node) && node != name_of(known_.constraints.head))
      losses.push_back({0, live_input(now_s, node), plan_});
  }
  return losses;
}

std::map<std::string, std::vector<ShardSpec>> shards_ahead(std::span<const Recovery::MakePlan> losses,
                                                           std::span<const std::string> spares,
                                                           const std::function<bool()>& wanted) {
  std::map<std::string, std::vector<Counted>> parts;
  for (const std::string& spare : spares) parts[spare];
  for (const Recovery::MakePlan& loss : losses) {
    if (!wanted()) break;
    const Result<ReplanAdvice> advice = carry_out(loss);
    if (advice.has_error()) continue;
    for (const StageAssignment& stage : advice->plan.stages) {
      const auto spare = parts.find(advice->plan.devices[static_cast<size_t>(stage.device)]);
      if (spare != parts.end())
        count(spare->second, {stage.embedding, {stage.layer_begin, stage.layer_end}, stage.output});
    }
  }
  std::map<std::string, std::vector<ShardSpec>> shards;
  for (auto& [spare, counted] : parts) {
    std::stable_sort(counted.begin(), counted.end(),
                     [](const Counted& a, const Counted& b) { return a.plans > b.plans; });
    std::vector<ShardSpec>& of_it = shards[spare];
    for (const Counted& part : counted) of_it.push_back(part.shard);
  }
  return shards;
}

std::string shards_to_json(std::span<const ShardSpec> shards) {
  json::array all;
  for (const ShardSpec& shard : shards) {
    json::object part;
    part["layer_begin"] = shard.layers.begin;
    part["layer_end"] = shard.layers.end;
    part["embedding"] = shard.embedding;
    part["output"] = shard.output;
    all.push_back(std::move(part));
  }
  return json::serialize(all);
}

Result<std::vector<ShardSpec>> shards_from_json(const std::string& text, int n_layer) {
  std::vector<ShardSpec> shards;
  try {
    const json::value all = json::parse(text);
    for (const json::value& value : all.as_array()) {
      const json::object& fields = value.as_object();
      const LayerRange layers{fields.at("layer_begin").to_number<int>(),
                              fields.at("layer_end").to_number<int>()};
      if (shards.size() == kShardsAheadMax) return Error{Errc::kBadFrame, "more parts than fit a message"};
      if (layers.begin < 0 || layers.end < layers.begin || layers.end > n_layer)
        return Error{Errc::kBadFrame, "a part outside the model's layers"};
      shards.push_back({fields.at("embedding").as_bool(), layers, fields.at("output").as_bool()});
    }
  } catch (const std::exception& error) {
    return Error{Errc::kBadFrame, std::string("a list of parts that cannot be read: ") + error.what()};
  }
  return shards;
}

}  // namespace shoal
