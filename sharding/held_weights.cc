#include "sharding/held_weights.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace shoal {
namespace {

// What belongs to a shard with layers (rope factors) is missing from one without.
bool serves(const ShardSpec& ends, const ShardSpec& wanted) {
  return ends.embedding == wanted.embedding && ends.output == wanted.output &&
         (ends.layers.size() > 0 || wanted.layers.size() == 0);
}

std::shared_ptr<const WeightMatrix> find_embedding(const HeldWeights& held) {
  for (const ShardWeights& shard : held.ends) {
    if (shard.token_embd) return shard.token_embd;
  }
  return nullptr;
}

// The first layers of [begin, end) that are loaded in one go.
int together(const GgufFile& file, const ModelConfig& config, int begin, int end) {
  int last = begin + 1;
  while (last < end && shard_bytes(file, config, {false, {begin, last + 1}, false}) <= kLoadedTogetherBytes)
    ++last;
  return last;
}

// Counts the bytes of several loads as those of one.
class Progress {
 public:
  Progress(const std::function<void(uint64_t, uint64_t)>& report, uint64_t total)
      : report_(report), total_(total) {}
  std::function<void(uint64_t, uint64_t)> part() {
    before_ += part_;
    part_ = 0;
    return [this](uint64_t done, uint64_t) {
      part_ = done;
      if (report_) report_(std::min(before_ + done, total_), total_);
    };
  }

 private:
  const std::function<void(uint64_t, uint64_t)>& report_;
  const uint64_t total_;
  uint64_t before_ = 0, part_ = 0;
};

}  // namespace

void HeldWeights::add(ShardWeights shard) {
  int layer = shard.spec.layers.begin;
  for (LayerWeights& weights : shard.layers) layers.insert_or_assign(layer++, std::move(weights));
  shard.layers.clear();
  shard.adapters.clear();
  ends.push_back(std::move(shard));
}

void HeldWeights::keep_for(std::span<const ShardSpec> shards) {
  const auto needed = [&](int layer) {
    return std::any_of(shards.begin(), shards.end(), [&](const ShardSpec& shard) {
      return layer >= shard.layers.begin && layer < shard.layers.end;
    });
  };
  std::erase_if(layers, [&](const auto& entry) { return !needed(entry.first); });
  const bool ends_needed = std::any_of(
      shards.begin(), shards.end(), [](const ShardSpec& shard) { return shard.embedding || shard.output; });
  std::erase_if(ends, [&](const ShardWeights& held) {
    const bool whole = std::any_of(shards.begin(), shards.end(),
                                   [&](const ShardSpec& wanted) { return serves(held.spec, wanted); });
    return !whole && !(ends_needed && held.token_embd);
  });
}

std::vector<ShardSpec> HeldWeights::missing(std::span<const ShardSpec> shards) const {
  std::vector<ShardSpec> missing;
  for (const ShardSpec& shard : shards) {
    const bool has_ends = std::any_of(ends.begin(), ends.end(),
                                      [&](const ShardWeights& held) { return serves(held.spec, shard); });
    const int first = shard.layers.begin + (!has_ends && shard.layers.size() > 0 ? 1 : 0);
    if (!has_ends) missing.push_back({shard.embedding, {shard.layers.begin, first}, shard.output});
    for (int layer = first; layer < shard.layers.end; ++layer) {
      if (!layers.contains(layer)) missing.push_back({false, {layer, layer + 1}, false});
    }
  }
  return missing;
}

ShardWeights load_missing(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec,
                          ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress,
                          HeldWeights& held, std::shared_ptr<const WeightMatrix> shared,
                          BlockSource* source) {
  Progress parts(progress, shard_bytes(file, config, spec));
  const auto ends = std::find_if(held.ends.begin(), held.ends.end(),
                                 [&](const ShardWeights& shard) { return serves(shard.spec, spec); });
  const bool has_ends = ends != held.ends.end();
  // Without the ends the first layer is loaded with them: what belongs to a shard with layers comes with it.
  const int first = spec.layers.begin + (!has_ends && spec.layers.size() > 0 ? 1 : 0);
  std::optional<ShardWeights> fresh;
  std::vector<std::pair<int, ShardWeights>> loaded;
  try {
    if (!has_ends) {
      fresh = load_shard(file, config, {spec.embedding, {spec.layers.begin, first}, spec.output}, pool,
                         parts.part(), shared ? shared : find_embedding(held), source);
    }
    for (int layer = first; layer < spec.layers.end;) {
      if (held.layers.contains(layer)) {
        ++layer;
        continue;
      }
      int missing = layer + 1;
      while (missing < spec.layers.end && !held.layers.contains(missing)) ++missing;
      const int end = together(file, config, layer, missing);
      loaded.emplace_back(
          layer, load_shard(file, config, {false, {layer, end}, false}, pool, parts.part(), nullptr, source));
      layer = end;
    }
  } catch (...) {
    if (fresh) held.add(std::move(*fresh));
    for (auto& [layer, shard] : loaded) held.add(std::move(shard));
    throw;
  }
  // From here on nothing fails: what is held moves.
  std::vector<LayerWeights> layers(static_cast<size_t>(spec.layers.size()));
  const auto place = [&](int layer) -> LayerWeights& {
    return layers[static_cast<size_t>(layer - spec.layers.begin)];
  };
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    const auto found = held.layers.find(layer);
    if (found == held.layers.end()) continue;
    place(layer) = std::move(found->second);
    held.layers.erase(found);
  }
  if (first > spec.layers.begin) place(spec.layers.begin) = std::move(fresh->layers.front());
  for (auto& [begin, shard] : loaded) {
    for (LayerWeights& layer : shard.layers) place(begin++) = std::move(layer);
  }
  ShardWeights whole = has_ends ? std::move(*ends) : std::move(*fresh);
  if (has_ends) held.ends.erase(ends);
  whole.spec = spec;
  if (spec.layers.size() == 0) {  // nobody would use them
    whole.rope_factors = {};
    whole.rope_factors_long = {};
  }
  whole.layers = std::move(layers);
  return whole;
}

}  // namespace shoal
