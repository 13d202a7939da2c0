#include "node/pipeline_layout.h"

#include <doctest/doctest.h>

#include <functional>

#include "node/pipeline_setup.h"
#include "tests/node/caller.h"
#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

PipelineLayout sound() {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b", "c"};
  PipelineLayout layout = layout_of(shape);
  for (const char* node : {"a", "b", "c"}) layout.endpoints[node] = {"10.0.0.1", 7000};
  return layout;
}

}  // namespace

TEST_CASE("a layout comes back from its text as it was") {
  PipelineLayout layout = sound();
  layout.kv_cells = int64_t{1} << 33;
  layout.kv_cache = "q8_0";
  layout.step_deadline_s = 31.25;
  layout.adapters = 3;
  layout.adapters_hash = "abc";
  const Result<PipelineLayout> read = layout_from_json(layout_to_json(layout));
  REQUIRE(read.has_value());
  CHECK(*read == layout);
}

TEST_CASE("a layout that cannot be followed is refused, whatever its text") {
  CHECK(layout_from_json("").has_error());
  CHECK(layout_from_json("[]").has_error());
  CHECK(layout_from_json(std::string(100000, '[')).has_error());
  const std::string text = layout_to_json(sound());
  for (size_t length = 0; length < text.size(); ++length)
    CHECK(layout_from_json(text.substr(0, length)).has_error());
  struct Case {
    std::function<void(PipelineLayout&)> change;
    const char* reason;
  };
  for (const Case& c : std::vector<Case>{
           {[](PipelineLayout& l) { l.node_of_stage.clear(), l.shard_of_stage.clear(); }, "no stages"},
           {[](PipelineLayout& l) { l.shard_of_stage[1].layers.begin += 1; }, "stage 1"},
           {[](PipelineLayout& l) { l.shard_of_stage[1].layers.end = -5; }, "stage 1"},
           {[](PipelineLayout& l) { l.shard_of_stage[1].embedding = true; }, "embedding"},
           {[](PipelineLayout& l) { l.shard_of_stage[2].output = false; }, "output head"},
           {[](PipelineLayout& l) { l.endpoints.erase("b"); }, "address of b"},
           {[](PipelineLayout& l) { l.head = "nobody"; }, "head"},
           {[](PipelineLayout& l) { l.rows_max = 1 << 20; }, "rows_max"},
           {[](PipelineLayout& l) { l.context = -1; }, "context"},
           {[](PipelineLayout& l) { l.slots = 1 << 30; }, "slots"},
           {[](PipelineLayout& l) { l.n_vocab = 0; }, "n_vocab"},
           {[](PipelineLayout& l) { l.adapters = -1; }, "adapters"},
           {[](PipelineLayout& l) { l.adapters = 1 << 16; }, "adapters"},
           {[](PipelineLayout& l) { l.steps_in_flight_max = 1 << 30; }, "steps_in_flight_max"},
           {[](PipelineLayout& l) { l.plan_hash.clear(); }, "hash"},
       }) {
    CAPTURE(c.reason);
    PipelineLayout layout = sound();
    c.change(layout);
    const Result<PipelineLayout> read = layout_from_json(layout_to_json(layout));
    REQUIRE(read.has_error());
    CHECK(mentions(read.error().message, c.reason));
  }
}

TEST_CASE("the plan of a layout names who computes what") {
  const Plan plan = plan_of(sound());
  REQUIRE(plan.stages.size() == 3);
  CHECK(plan.devices == std::vector<std::string>{"a", "b", "c"});
  CHECK(plan.stages[1].layer_begin == 2);
  CHECK(plan.stages[1].layer_end == 4);
  CHECK(plan.stages[2].output);
  CHECK(plan.n_layer == 6);
}

}  // namespace shoal::test
