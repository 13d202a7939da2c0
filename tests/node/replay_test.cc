// What the coordinator computes again after a loss, with a host whose pipeline is made up: the next token is
// the position.
#include <doctest/doctest.h>

#include <algorithm>

#include "node/coordinator.h"
#include "tests/node/local_cluster.h"
#include "tests/node/made_up_host.h"

namespace shoal::test {

TEST_CASE("after a loss what answers begin alike is computed once, for the same user alone") {
  ClusterShape shape;
  shape.context = 512;
  const PipelineLayout layout = layout_of(shape);
  for (const bool same_user : {true, false}) {
    CAPTURE(same_user);
    MadeUpHost host;
    Coordinator coordinator(host, layout, {.steps_in_flight_max = 2, .rows_max = 32}, any_model(layout),
                            nullptr);
    std::vector<int> tokens(3), ends(3);
    const std::vector<int32_t> beginning = prompt_of(200, 5);
    for (size_t i = 0; i < 3; ++i) {
      GenerationRequest request = greedy(beginning, 60);
      request.prompt.push_back(static_cast<int32_t>(i));
      request.user = same_user ? "anna" : std::to_string(i);
      request.on_event = [&tokens, &ends, i](const GenerationEvent& event) {
        tokens[i] += event.token >= 0;
        ends[i] += event.finished;
      };
      coordinator.submit(std::move(request));
    }
    while (*std::min_element(tokens.begin(), tokens.end()) < 5) REQUIRE(host.compute_one());
    const int answered = tokens[0] + tokens[1] + tokens[2];
    coordinator.suspend();
    host.forget_all();
    host.rows = host.forked = 0;
    coordinator.resume(2, layout, {.steps_in_flight_max = 2, .rows_max = 32}, any_model(layout));
    while (host.compute_one()) continue;
    CHECK(tokens == std::vector<int>(3, 60));
    CHECK(ends == std::vector<int>(3, 1));
    const int prompts = same_user ? 200 + 3 : 3 * 201;
    CHECK(host.rows == prompts + 3 * 59);  // nothing follows an answer's last token
    CHECK(host.forked == (same_user ? 2 * 200 : 0));
    CHECK(coordinator.replayed() == static_cast<uint64_t>(prompts + answered));
  }
}

}  // namespace shoal::test
