#include "node/trace.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <boost/json.hpp>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "tests/node/local_cluster.h"
#include "tests/support/temp_dir.h"

namespace shoal::test {
namespace {

namespace json = boost::json;

json::array read_events(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return json::parse(text.str()).as_array();
}

int64_t number(const json::value& event, const char* key) {
  return event.at(key).to_number<int64_t>();
}

// What holds for every trace: each asynchronous event that begins ends, later; a stage does one thing at a
// time.
void check_sound(const json::array& events) {
  std::map<std::string, int64_t> open;
  std::map<int64_t, int64_t> busy_until;
  for (const json::value& event : events) {
    const json::string& kind = event.at("ph").get_string();
    if (kind == "X") {
      int64_t& until = busy_until.emplace(number(event, "tid"), INT64_MIN).first->second;
      CHECK(number(event, "ts") + 1 >= until);  // both are rounded to microseconds
      until = number(event, "ts") + number(event, "dur");
    }
    if (kind != "b" && kind != "e") continue;
    const std::string key = json::serialize(event.at("cat")) + json::serialize(event.at("id")) +
                            json::serialize(event.at("name"));
    if (kind == "b") {
      CHECK(open.emplace(key, number(event, "ts")).second);
    } else {
      REQUIRE_MESSAGE(open.contains(key), key);
      CHECK(number(event, "ts") >= open.at(key));
      open.erase(key);
    }
  }
  CHECK(open.empty());
}

}  // namespace

TEST_CASE("a step is laid out between its sending and its answer, the rest split over its links") {
  const TempDir folder;
  const std::string path = folder.path() + "/trace.json";
  const PipelineLayout layout = layout_of({.node_of_stage = {"a", "b", "b"}});
  {
    Trace trace(path, layout);
    TracedStep step{7, 100.0, 100.1, 2, 3, {4, 5}, {{1000, 20000}, {0, 30000}, {2000, 7000}}};
    trace.add(step);  // 60 ms in stages, 40 ms on two links
    step.times.pop_back();
    trace.add(step);  // of another pipeline: left out
  }
  const json::array events = read_events(path);
  check_sound(events);
  std::vector<int64_t> begins;
  int64_t first_link = 0, last = 0;
  for (const json::value& event : events) {
    if (event.at("ph") == "X") begins.push_back(number(event, "ts"));
    if (event.at("ph") == "b" && event.at("name") == "a to b") first_link = number(event, "ts");
    if (event.at("ph") == "e" && event.at("name") == "b to a") last = number(event, "ts");
  }
  REQUIRE(begins.size() == 3);
  CHECK(first_link - begins[0] == doctest::Approx(20000).epsilon(0.001));
  CHECK(begins[1] - first_link == doctest::Approx(20000).epsilon(0.001));
  CHECK(begins[2] - begins[1] == doctest::Approx(32000).epsilon(0.001));
  CHECK(last - begins[0] == doctest::Approx(99000).epsilon(0.001));
}

TEST_CASE("the file is whole whenever it has been written, also where nobody ends the trace") {
  const TempDir folder;
  const std::string path = folder.path() + "/trace.json";
  Trace trace(path, layout_of({.node_of_stage = {"a"}}));
  size_t before = 0;
  for (uint64_t id = 1; id <= 3; ++id) {
    trace.add(TracedStep{id, 1.0, 1.1, 1, 0, {1}, {{0, 1000}}});
    trace.write();
    const size_t now = read_events(path).size();
    CHECK(now > before);
    before = now;
  }
}

TEST_CASE("what comes faster than it is written is dropped and counted") {
  const TempDir folder;
  const std::string path = folder.path() + "/trace.json";
  {
    Trace trace(path, layout_of({}));
    for (uint64_t i = 0; i < (1 << 16) + 5; ++i) trace.add(TracedStep{i, 0, 0, 1, 0, {}, {{0, 1}}});
  }
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  CHECK(text.str().find("5 records were dropped") != std::string::npos);
  CHECK_THROWS_WITH_AS(Trace(folder.path() + "/none/trace.json", layout_of({})),
                       doctest::Contains("cannot be written (--trace): No such file"), SetupError);
  REQUIRE(::mkfifo(folder.file("fifo").c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(Trace(folder.file("fifo"), layout_of({})),
                       doctest::Contains("a FIFO that nobody reads"), SetupError);
}

TEST_CASE("a pipeline at work leaves a sound trace: each request from its arrival to its end") {
  const TempDir folder;
  const std::string path = folder.path() + "/trace.json";
  LocalCluster cluster({.node_of_stage = {"a", "b", "c"}, .slots = 2});
  {
    Trace trace(path, cluster.layout());
    cluster.coordinator().set_trace(&trace);
    std::vector<GenerationRequest> requests;
    for (uint64_t seed = 0; seed < 5; ++seed) requests.push_back(greedy(prompt_of(20, seed), 6));
    requests.back().prompt.clear();  // refused
    Requests under_way;
    for (const GenerationRequest& request : requests) under_way.submit(cluster.coordinator(), request);
    REQUIRE(under_way.wait_all());
    cluster.coordinator().set_trace(nullptr);
    trace.write();
  }
  const json::array events = read_events(path);
  check_sound(events);
  std::map<std::string, int> names;
  std::set<int64_t> tracks;
  for (const json::value& event : events) {
    if (event.at("ph") == "b") ++names[std::string(event.at("name").get_string())];
    if (event.at("ph") == "X") tracks.insert(number(event, "tid"));
  }
  CHECK(tracks == std::set<int64_t>{1, 2, 3});
  CHECK(names.at("waiting") == 4);
  CHECK(names.at("prompt") == 4);
  CHECK(names.at("generating") == 4);
  CHECK(names.at("a to b") >= 6);
  CHECK(names.at("b to c") == names.at("c to a"));
}

TEST_CASE("an answer that is taken off before its first token waits again in the trace") {
  const TempDir folder;
  const std::string path = folder.path() + "/trace.json";
  LocalCluster cluster(
      {.node_of_stage = {"a", "b"}, .context = 512, .slots = 6, .chunk_rows = 3, .kv_cells = 480});
  {
    Trace trace(path, cluster.layout());
    cluster.coordinator().set_trace(&trace);
    // Answers that grow while a long prompt, the last in rank, is read in small parts.
    std::vector<GenerationRequest> requests;
    for (uint64_t i = 0; i < 3; ++i) requests.push_back(greedy(prompt_of(4, 40 + i), 100));
    requests.push_back(greedy(prompt_of(400, 50), 4));
    (void)answers(cluster, requests);
    CHECK(cluster.coordinator().preempted() > 0);
    cluster.coordinator().set_trace(nullptr);
    trace.write();
  }
  const json::array events = read_events(path);
  check_sound(events);
  int waits = 0;
  for (const json::value& event : events)
    waits += event.at("ph") == "b" && event.at("name") == "waiting" ? 1 : 0;
  CHECK(waits > 4);
}

}  // namespace shoal::test
