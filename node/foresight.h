// What nodes without layers would get if another were lost, so that they can have it on their disks by then.
//
// The head plans each single loss ahead (Recovery::look_ahead) and tells each node that has no stage the
// parts that those plans give it, the likeliest first (FetchAhead in transport/wire.capnp). Pure functions
// but for the planner's time; any thread.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "node/recovery.h"
#include "sharding/shard.h"

namespace shoal {

inline constexpr size_t kShardsAheadMax = 256;  // of one node

// Makes the plan of each order; by node, what those that are in `spares` would get, the part that most of the
// plans give first. All of `spares` are there, with nothing where no plan needs them. A loss that leaves too
// little to plan with says nothing. Ends early when it is no more `wanted`.
std::map<std::string, std::vector<ShardSpec>> shards_ahead(std::span<const Recovery::MakePlan> losses,
                                                           std::span<const std::string> spares,
                                                           const std::function<bool()>& wanted);

std::string shards_to_json(std::span<const ShardSpec> shards);
// kBadFrame: no list of parts of a model of so many layers.
Result<std::vector<ShardSpec>> shards_from_json(const std::string& text, int n_layer);

}  // namespace shoal
