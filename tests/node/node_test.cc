// A node among strangers, and peers that break the rules.
#include "node/node.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>

#include <chrono>
#include <cmath>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>

#include "tests/node/caller.h"
#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

using namespace std::chrono_literals;

// Node b alone, loaded; the test plays the head a, and the node before.
struct Worker {
  explicit Worker(const std::vector<std::string>& node_of_stage)
      : file(GgufFile::open(small_model_file())), pool(1) {
    spdlog::set_level(spdlog::level::off);
    ClusterShape shape;
    shape.node_of_stage = node_of_stage;
    layout = layout_of(shape);
    node = std::make_unique<Node>(NodeIdentity{"home", "b", file.fingerprint()}, "127.0.0.1", 0);
    layout.endpoints["b"] = {"127.0.0.1", node->port()};
    node->load(layout, [this] { return stages_of("b", layout, file, pool); });
    control = head.call(node->port(), hello_of("a", "b", LinkRole::kControl));
  }
  ChannelPtr feed(uint32_t stage) {
    return head.call(node->port(), hello_of("a", "b", LinkRole::kPipeline, stage));
  }
  ResultMessage result() {
    const std::optional<Message> message = head.receive(control);
    REQUIRE(message.has_value());
    REQUIRE(std::holds_alternative<ResultMessage>(*message));
    return std::get<ResultMessage>(*message);
  }

  GgufFile file;
  PipelineLayout layout;
  ThreadPool pool;
  std::unique_ptr<Node> node;
  Caller head;
  ChannelPtr control;
};

StepMessage step_of(uint64_t id, uint32_t stage, uint32_t position = 0) {
  StepMessage step;
  step.epoch = 1;
  step.step_id = id;
  step.stage = stage;
  step.candidates = 1;
  step.rows = {{0, position, true}};
  if (stage == 0) step.token_ids = {5};
  return step;
}

}  // namespace

TEST_CASE("the link between two nodes is measured; one to the wrong node is refused") {
  spdlog::set_level(spdlog::level::off);
  Node a({"home", "a", "model"}, "127.0.0.1", 0), b({"home", "b", "model"}, "127.0.0.1", 0);
  for (const auto& [from, to, name] : {std::tuple{&a, &b, "b"}, std::tuple{&b, &a, "a"}}) {
    const Result<LinkProfile> link = from->measure_link(name, {"127.0.0.1", to->port()});
    REQUIRE(link.has_value());
    CHECK(std::isfinite(link->latency_s));
    CHECK(link->latency_s > 0);
    CHECK(link->latency_s < 1);
    CHECK(std::isfinite(link->bytes_per_s));
    CHECK(link->bytes_per_s > 1e4);
  }
  const Result<LinkProfile> wrong = a.measure_link("c", {"127.0.0.1", b.port()});
  REQUIRE(wrong.has_error());
  CHECK(wrong.error().code == Errc::kRefused);
  Node other_model({"home", "c", "another model"}, "127.0.0.1", 0);
  CHECK(
      mentions(other_model.measure_link("b", {"127.0.0.1", b.port()}).error().message, "another model file"));
}

TEST_CASE("before there is a plan nobody can feed a stage or end the service") {
  spdlog::set_level(spdlog::level::off);
  Node b({"home", "b", ""}, "127.0.0.1", 0);
  Caller caller;
  const ChannelPtr feeding = caller.connect(b.port());
  REQUIRE(feeding != nullptr);
  CHECK(mentions(caller.greet(feeding, hello_of("a", "b", LinkRole::kPipeline)), "b has no plan yet"));
  const ChannelPtr control = caller.call(b.port(), hello_of("a", "b", LinkRole::kControl));
  caller.send(control, StatsRequest{});  // the head's to ask
  caller.send(control, LinkProbe{7});
  const std::optional<Message> answer = caller.receive(control);
  REQUIRE(answer.has_value());
  CHECK(std::get<LinkProbeAck>(*answer).sequence == 7);
  caller.send(control, Shutdown{"by nobody"});
  std::future<void> service = std::async(std::launch::async, [&] { b.serve_until_shutdown(); });
  CHECK(service.wait_for(200ms) == std::future_status::timeout);
  // Now the head comes.
  const GgufFile file = GgufFile::open(small_model_file());
  ThreadPool pool(1);
  ClusterShape shape;
  shape.node_of_stage = {"b"};
  PipelineLayout layout = layout_of(shape);
  b.load(layout, [&] { return stages_of("b", layout, file, pool); });
  const ChannelPtr head = caller.call(b.port(), hello_of("a", "b", LinkRole::kControl));
  caller.send(head, Shutdown{"the work is done"});
  REQUIRE(service.wait_for(10s) == std::future_status::ready);
  CHECK_NOTHROW(service.get());
}

TEST_CASE("strangers are refused with a reason, and the pipeline works on") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  LocalCluster cluster(shape);
  const uint16_t port = cluster.node("b").port();
  const std::vector<Reply> expected = answers(cluster, {greedy(prompt_of(9, 1), 20)});
  Requests under_way;
  under_way.submit(cluster.coordinator(), greedy(prompt_of(9, 1), 100));
  Caller caller;
  struct Case {
    std::function<void(Hello&)> change;
    const char* reason;
  };
  for (const Case& c : std::vector<Case>{
           {[](Hello& h) { h.model_fingerprint = "sha256:0"; }, "b has another model file than a"},
           {[](Hello& h) { h.plan_hash = "older"; }, "b follows another plan than a"},
           {[](Hello& h) { h.plan_hash = ""; }, "b follows a plan that a does not name"},
           {[](Hello& h) { h.cluster_name = "office"; },
            "a belongs to cluster 'office', b to cluster 'home'"},
           {[](Hello& h) { h.peer_node_name = "c"; }, "a called c, but this is b"},
           {[](Hello& h) { h.node_name = "b"; }, "two nodes are called b"},
           {[](Hello& h) { h.node_name = ""; }, "gave no name"},
           {[](Hello& h) { h.node_name = "mallory"; }, "stage 1 is fed by a alone"},
           {[](Hello& h) { h.numeric_class = "fast"; }, "numeric class"},
           {[](Hello& h) { h.protocol_version = 99; }, "protocol version"},
           {[](Hello& h) { h.stage = 0; }, "b does not compute stage 0"},
           {[](Hello& h) { h.stage = 4000000000u; }, "b does not compute stage"},
           {[](Hello&) {}, "over one link"},  // a feeds it already
           {[](Hello& h) { h.role = LinkRole::kControl; }, "b takes orders from the head a alone, and once"},
           {[](Hello& h) { h.role = LinkRole::kControl, h.node_name = "c"; },
            "b takes orders from the head a alone"},
       }) {
    Hello hello = hello_of("a", "b", LinkRole::kPipeline, 1);
    c.change(hello);
    const ChannelPtr channel = caller.connect(port);
    REQUIRE(channel != nullptr);
    const std::string text = caller.greet(channel, hello);
    CAPTURE(text);
    CHECK(mentions(text, c.reason));
  }
  const ChannelPtr rude = caller.connect(port);  // a step where a hello belongs
  caller.send(rude, step_of(1, 1), 256);
  CHECK_FALSE(caller.receive(rude).has_value());
  CHECK(under_way.wait_all());
  CHECK(answers(cluster, {greedy(prompt_of(9, 1), 20)})[0].tokens == expected[0].tokens);
}

TEST_CASE("garbage and silence block neither the pipeline nor those who come later") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  LocalCluster cluster(shape);
  const std::vector<Reply> expected = answers(cluster, {greedy(prompt_of(9, 1), 20)});
  boost::asio::io_context io;
  std::vector<boost::asio::ip::tcp::socket> sockets;
  for (int i = 0; i < 80; ++i) {
    sockets.emplace_back(io);
    const uint16_t port = cluster.node(i % 8 == 7 ? "a" : "b").port();
    sockets.back().connect({boost::asio::ip::make_address("127.0.0.1"), port});
    if (i % 20 != 19) continue;
    const std::string garbage(1000, static_cast<char>('a' + i));
    boost::system::error_code ignored;
    boost::asio::write(sockets.back(), boost::asio::buffer(garbage), ignored);
  }
  CHECK(answers(cluster, {greedy(prompt_of(9, 1), 20)})[0].tokens == expected[0].tokens);
  // 70 wait at b: a hello is answered all the same.
  Caller caller;
  const ChannelPtr later = caller.connect(cluster.node("b").port());
  REQUIRE(later != nullptr);
  CHECK(mentions(caller.greet(later, hello_of("c", "b", LinkRole::kControl)),
                 "b takes orders from the head a alone"));
}

TEST_CASE("a node keeps so many connections of one other, and no more") {
  spdlog::set_level(spdlog::level::off);
  Node b({"home", "b", ""}, "127.0.0.1", 0);
  Caller caller;
  for (int i = 0; i < 32; ++i) (void)caller.call(b.port(), hello_of("c", "b", LinkRole::kControl));
  const ChannelPtr more = caller.connect(b.port());
  CHECK(mentions(caller.greet(more, hello_of("c", "b", LinkRole::kControl)), "too many connections"));
  CHECK(caller.call(b.port(), hello_of("d", "b", LinkRole::kProbe)) != nullptr);  // another's
}

TEST_CASE(
    "of the connections that can hold much of its memory a node keeps fewer, also where all come at once") {
  spdlog::set_level(spdlog::level::off);
  class Nothing : public WeightProvider {
   public:
    const WeightManifest& manifest() const override { throw std::logic_error("nobody asks"); }
    Result<void> give(size_t, uint64_t, std::span<std::byte>) override { return {}; }
  };
  Node b({"home", "b", ""}, "127.0.0.1", 0);
  b.offer_weights({std::make_shared<Nothing>()});
  const auto greeted = [&](Caller& caller, LinkRole role) {
    Hello hello = hello_of("c", "b", role);
    return caller.greet(caller.connect(b.port()), hello);
  };
  constexpr int kCallers = 24;
  std::vector<std::unique_ptr<Caller>> callers;
  std::vector<std::future<std::string>> answers;
  for (int i = 0; i < kCallers; ++i) {
    Caller& caller = *callers.emplace_back(std::make_unique<Caller>());
    answers.push_back(std::async(std::launch::async, [&greeted, &caller, i] {
      return greeted(caller, i % 2 == 0 ? LinkRole::kWeights : LinkRole::kProbe);
    }));
  }
  int taken = 0;
  for (std::future<std::string>& answer : answers) {
    const std::string text = answer.get();
    taken += text.empty();
    if (!text.empty()) CHECK(mentions(text, "b has 7 connections of c for weights or measuring already"));
  }
  CHECK(taken == 7);  // of kWeightsBytesMax: 56 MiB
  Caller caller;
  CHECK(greeted(caller, LinkRole::kControl).empty());  // holds nothing
  CHECK(caller.call(b.port(), hello_of("d", "b", LinkRole::kWeights)) != nullptr);
  // Those that end make room.
  callers.clear();
  bool again = false;
  for (int i = 0; i < 100 && !again; ++i) {
    again = greeted(caller, LinkRole::kWeights).empty();
    if (!again) std::this_thread::sleep_for(20ms);
  }
  CHECK(again);
}

TEST_CASE("of more than 64 who stay silent the oldest is closed at once, and no other") {
  using boost::asio::ip::tcp;
  spdlog::set_level(spdlog::level::off);
  const Node b({"home", "b", "model"}, "127.0.0.1", 0);
  boost::asio::io_context io;
  std::vector<tcp::socket> sockets;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 65; ++i) {
    sockets.emplace_back(io);
    sockets.back().connect({boost::asio::ip::make_address("127.0.0.1"), b.port()});
  }
  const auto closed = [](tcp::socket& socket, std::chrono::milliseconds patience) {
    pollfd waiting{socket.native_handle(), POLLIN, 0};
    char byte;
    return ::poll(&waiting, 1, static_cast<int>(patience.count())) == 1 &&
           ::recv(socket.native_handle(), &byte, 1, MSG_DONTWAIT) <= 0;
  };
  // All are closed when they have not said hello in time: that is not what is looked for.
  CHECK(closed(sockets[0], kHelloDeadline - 500ms));
  CHECK_FALSE(closed(sockets[1], 0ms));
  CHECK(std::chrono::steady_clock::now() - begin < kHelloDeadline);
}

TEST_CASE(
    "a step that breaks the rules is refused with its reason; the link is closed and a new one serves") {
  Worker worker({"a", "b"});
  const size_t row_bytes = static_cast<size_t>(worker.layout.n_embd) * sizeof(float);
  struct Case {
    std::function<void(StepMessage&)> change;
    size_t payload;
    const char* reason;
  };
  const std::vector<Case> cases = {
      {[](StepMessage& s) { s.epoch = 2; }, row_bytes, "epoch 2"},
      {[](StepMessage& s) { s.step_id = 1; }, row_bytes, "step 1 came after step 1"},
      {[](StepMessage& s) { s.step_id = 3; }, row_bytes, "step 3 came after step 1"},
      {[](StepMessage& s) { s.stage = 0; }, row_bytes, "stage"},
      {[](StepMessage& s) { s.rows[0].slot = 4; }, row_bytes, "slot"},
      {[](StepMessage& s) { s.rows[0].slot = 0xffffffffu; }, row_bytes, "slot"},
      {[](StepMessage& s) { s.rows[0].position = 128; }, row_bytes, "position"},
      {[](StepMessage& s) { s.rows[0].position = 7; }, row_bytes,
       "node b (layers 3-5), in a step from node a (layers 0-2): row 0 (slot 0, position 7): the slot holds "
       "only"},  // a gap, found by the stage
      {[](StepMessage&) {}, row_bytes - 8, "payload"},
      {[](StepMessage&) {}, row_bytes + 8, "payload"},
      {[](StepMessage&) {}, 0, "payload"},
      {[](StepMessage& s) {
         s.rows.assign(33, {0, 1, false});
       },
       row_bytes, "rows"},
      {[](StepMessage& s) { s.token_ids = {5}; }, row_bytes, "token"},
      {[](StepMessage& s) {
         s.cache_ops = {{WireCacheOp::Kind::kFork, 1, 9, 1}};
       },
       row_bytes, "slot"},
      {[](StepMessage& s) { s.rows.clear(); }, 0, "nothing to do"},
  };
  ChannelPtr link = worker.feed(1);
  for (const Case& c : cases) {
    CAPTURE(c.reason);
    worker.head.send(link, step_of(1, 1), row_bytes);
    const ResultMessage good = worker.result();
    CAPTURE(good.failure_text);
    REQUIRE_FALSE(good.failed);
    CHECK(good.step_id == 1);
    REQUIRE(good.rows.size() == 1);
    CHECK(good.rows[0].tokens.size() == 1);
    StepMessage step = step_of(2, 1, 1);
    c.change(step);
    worker.head.send(link, step, c.payload);
    const ResultMessage bad = worker.result();
    CAPTURE(bad.failure_text);
    CHECK(bad.failed);
    CHECK(mentions(bad.failure_text, c.reason));
    if (mentions(bad.failure_text, "holds only")) {  // well-formed: this step alone failed, the link lives
      worker.head.send(link, step_of(3, 1, 1), row_bytes);
      CHECK_FALSE(worker.result().failed);
      worker.head.send(link, StatsRequest{});
      CHECK(mentions(worker.result().failure_text, "on a link for steps"));
    }
    CHECK_FALSE(worker.head.receive(link).has_value());  // closed
    link = worker.feed(1);
  }
  // More than any buffer holds; and a payload that never comes whole when the link ends.
  worker.head.send(link, step_of(1, 1), row_bytes * 33);
  CHECK(mentions(worker.result().failure_text, "more than"));
}

TEST_CASE("cache operations alone pass, and token ids are checked where they enter") {
  Worker worker({"b", "a"});
  ChannelPtr link = worker.feed(0);
  StepMessage step = step_of(1, 0);
  step.token_ids = {384};
  worker.head.send(link, step);
  CHECK(mentions(worker.result().failure_text, "token 384"));
  link = worker.feed(0);
  step = step_of(1, 0);
  step.token_ids.clear();
  worker.head.send(link, step);
  CHECK(mentions(worker.result().failure_text, "token"));
  Worker last({"a", "b"});
  const ChannelPtr to_last = last.feed(1);
  step = step_of(1, 1);
  step.rows.clear();
  step.cache_ops = {{WireCacheOp::Kind::kFree, 2, 0, 0}};
  last.head.send(to_last, step);
  const ResultMessage result = last.result();
  CHECK_FALSE(result.failed);
  CHECK(result.rows.empty());
}

TEST_CASE("statistics count the steps of every node and the bytes of its links") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b", "c"};
  LocalCluster cluster(shape);
  const std::vector<StatsMessage> before = cluster.node("a").collect_stats();
  answers(cluster, {greedy(prompt_of(20, 1), 11)});
  const std::vector<StatsMessage> after = cluster.node("a").collect_stats();
  REQUIRE(after.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    const StatsMessage& stats = after[i];
    CHECK(stats.node_name == std::string(1, static_cast<char>('a' + i)));
    REQUIRE(stats.stages.size() == 1);
    CHECK(before[i].stages[0].steps == 0);
    CHECK(stats.stages[0].steps == 12);  // the prompt in two chunks
    CHECK(stats.stages[0].rows == 30);
    CHECK(stats.stages[0].busy_ns > 0);
    CHECK(stats.stages[0].weight_bytes > 0);
    CHECK(stats.stages[0].layer_begin == 2 * i);
    CHECK(stats.resident_bytes > 0);
    uint64_t sent = 0, sent_before = 0;
    for (const LinkReport& link : stats.links) sent += link.bytes_sent;
    for (const LinkReport& link : before[i].links) sent_before += link.bytes_sent;
    CHECK(sent - sent_before > (i < 2 ? 30u * 64 * sizeof(float) : 11u * 8));
    CHECK(sent - sent_before < 40000);
  }
}

}  // namespace shoal::test
