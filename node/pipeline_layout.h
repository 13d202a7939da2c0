// What every node knows of the running pipeline: which node computes what, where it listens, and the sizes
// that buffers are made for. Plain values; the text form is what LoadPlan carries (transport/wire.capnp).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "sharding/shard.h"

namespace shoal {

struct Endpoint {
  std::string address;
  uint16_t port = 0;
  bool operator==(const Endpoint&) const = default;
};

struct PipelineLayout {
  std::vector<std::string> node_of_stage;
  std::vector<ShardSpec> shard_of_stage;
  std::string head;
  std::map<std::string, Endpoint> endpoints;
  std::string plan_hash;
  int rows_max = 0, n_embd = 0, n_vocab = 0, context = 0, slots = 0;
  int inputs = 0;                    // rows of a whole input that the model's encoder takes; 0: it has none
  bool decodes = true;               // the model generates text
  int32_t decoder_start_token = -1;  // what answers begin after, where the encoder reads the prompt
  int64_t kv_cells = 0;          // positions that each stage's cache holds for all slots; 0: slots x context
  std::string kv_cache = "f16";  // what K and V are kept as
  int adapters = 0;              // that rows may choose from
  std::string adapters_hash;     // which they are; empty: there are none, or one process alone has them
  int steps_in_flight_max = 0;
  double step_deadline_s = 0;  // no answer to any step for so long: a node hangs. 0: not watched
  int last_stage() const { return static_cast<int>(node_of_stage.size()) - 1; }
  std::string stage_text(int stage) const;  // "node b (layers 10-19)", for messages
  bool operator==(const PipelineLayout&) const = default;
};

// Every layer once and in order, the ends where they belong, sizes within the wire's limits: what a node
// checks before it follows a layout that came from outside. Empty: it is sound; else what is wrong.
std::string why_unsound(const PipelineLayout& layout);

std::string layout_to_json(const PipelineLayout& layout);
// Refuses what is no JSON, lacks a field or is not sound.
Result<PipelineLayout> layout_from_json(std::string_view text);

}  // namespace shoal
