// A planning profile: one JSON text that holds everything the planner reads, so that a cluster can be
// planned, questioned and simulated without its devices. `shoal plan --json` writes one as its "profile";
// people may write one by hand (configs/edgeshard-7b.json), in a shorter form:
//
//   {"model": {"name", "n_layer", "n_embd", "layer_bytes": 809500672 or one number a layer,
//              "layer_kv_bytes": likewise, "hidden_bytes_per_row", ...},
//    "devices": [{"name": "orin", "count": 12, "memory_bytes": 27200000000,
//                 "decode_layer": [{"rows": 1, "seconds": 0.0044}], "output_head": [...], ...}],
//    "links": {"default": {"bytes_per_s": 6250000, "latency_s": 0},
//              "between": [{"between": ["orin-1", "rtx3090"], "bytes_per_s": 125000}]},
//    "workload": {"prompt_tokens": 32, "output_tokens": 96, "concurrency": 1},
//    "constraints": {"head": "orin-1", "keep_on_head": "first-layer"}, "objective": "latency"}
//
// With "count" above 1 the devices are name-1, name-2, ... A link "from" one device "to" another is that
// direction alone. A key "note" may stand in any object; any other unknown key is an error that names the
// nearest known one. Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "planner/types.h"

namespace shoal {

inline constexpr size_t kProfileJsonBytesMax = 64u << 20;  // 1024 devices with all their links

std::string profile_to_json(const PlanInput& input);

// Reads a profile, or the "profile" inside what `shoal plan --json` printed. `what` names the source in
// messages. Numbers are checked for kind and range; whether they make a sound input is make_plan()'s to say.
Result<PlanInput> profile_from_json(std::string_view text, const std::string& what);

}  // namespace shoal
