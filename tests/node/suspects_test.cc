#include "node/suspects.h"

#include <doctest/doctest.h>

namespace shoal {
namespace {

using Verdict = Suspects::Verdict;

Suspects::Fault computed(const std::string& node, int begin, int end) {
  Suspects::Fault fault;
  fault.nodes = {node};
  fault.computed = true;
  fault.layer_begin = begin, fault.layer_end = end;
  fault.where = node;
  fault.text = "node " + node + " computed what is not finite";
  return fault;
}

Suspects::Fault damaged(const std::vector<std::string>& nodes) {
  Suspects::Fault fault;
  fault.nodes = nodes;
  fault.text = "a frame came damaged";
  return fault;
}

}  // namespace

TEST_CASE("once is chance, twice within a while is the node's doing, twice in a day is chance again") {
  Suspects suspects;
  CHECK(suspects.judge(computed("a", 0, 4), 100) == Verdict::kAgain);
  CHECK(suspects.judge(computed("b", 4, 8), 101) == Verdict::kAgain);
  CHECK(suspects.judge(computed("a", 0, 4), 101 + Suspects::kAgain_s) == Verdict::kAgain);
  CHECK(suspects.judge(computed("a", 0, 4), 200 + Suspects::kAgain_s) == Verdict::kNode);
  CHECK(suspects.accused() == "a");
  CHECK(suspects.out("a"));
  CHECK_FALSE(suspects.out("b"));
  CHECK(suspects.why("a").find("not finite") != std::string::npos);
}

TEST_CASE("a hop counts against both ends; while they look alike the link is left out, then the worse one") {
  Suspects suspects;
  CHECK(suspects.judge(damaged({"a", "b"}), 1) == Verdict::kAgain);
  CHECK(suspects.judge(damaged({"a", "b"}), 2) == Verdict::kLink);
  CHECK_FALSE(suspects.out("a"));
  CHECK_FALSE(suspects.out("b"));
  CHECK(suspects.judge(damaged({"b", "c"}), 3) == Verdict::kNode);
  CHECK(suspects.accused() == "b");
  // The head is never among the nodes of a hop: its other end answers alone.
  CHECK(suspects.judge(damaged({"d"}), 4) == Verdict::kAgain);
  CHECK(suspects.judge(damaged({"d"}), 5) == Verdict::kNode);
}

TEST_CASE("a suspect comes in again when it has rested and gives the known answers") {
  Suspects suspects;
  CHECK(suspects.judge(computed("a", 0, 4), 0) == Verdict::kAgain);
  CHECK(suspects.judge(computed("a", 0, 4), 1) == Verdict::kNode);
  CHECK(suspects.due(2 + Suspects::kRest_s / 2).empty());
  const double rested_s = 2 + Suspects::kRest_s;
  CHECK(suspects.due(rested_s) == std::vector<std::string>{"a"});
  CHECK(suspects.due(rested_s + 1).empty());  // it has been asked
  CHECK(suspects.due(rested_s + Suspects::kExamPatience_s + 1).size() == 1);
  CHECK_FALSE(suspects.examined("a", false, rested_s + 12));
  CHECK(suspects.out("a"));
  CHECK(suspects.due(rested_s + 12 + 1.5 * Suspects::kRest_s).empty());  // the second rest is longer
  CHECK(suspects.due(rested_s + 13 + 2 * Suspects::kRest_s).size() == 1);
  CHECK(suspects.examined("a", true, 200));
  CHECK_FALSE(suspects.out("a"));
  CHECK_FALSE(suspects.examined("a", true, 201));  // it is in already
  // What it did is not forgotten.
  CHECK(suspects.judge(computed("a", 0, 4), 210) == Verdict::kNode);
  suspects.hurry("a", 211);
  CHECK(suspects.due(211).size() == 1);
}

TEST_CASE("the same layers that are not finite on another node are the model's doing, or the prompt's") {
  Suspects suspects;
  CHECK(suspects.judge(computed("a", 4, 8), 0) == Verdict::kAgain);
  CHECK(suspects.judge(computed("a", 4, 8), 1) == Verdict::kNode);
  CHECK(suspects.judge(computed("b", 0, 4), 2) == Verdict::kAgain);  // other layers
  CHECK(suspects.judge(computed("c", 6, 12), 3) == Verdict::kModel);
  CHECK(suspects.due(3) == std::vector<std::string>{"a"});  // without a rest
  CHECK(suspects.examined("a", true, 3.1));
  CHECK(suspects.judge(computed("a", 4, 8), 4) == Verdict::kAgain);
  CHECK(suspects.judge(computed("c", 6, 12), 5) == Verdict::kAgain);
}

TEST_CASE("what was proven by another's computation needs no second time") {
  Suspects suspects;
  Suspects::Fault fault = computed("a", 0, 4);
  fault.computed = false;
  fault.proven = true;
  CHECK(suspects.judge(fault, 0) == Verdict::kNode);
  CHECK(suspects.out("a"));
  CHECK(suspects.all_out() == std::vector<std::string>{"a"});
}

}  // namespace shoal
