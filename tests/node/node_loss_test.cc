// Workers that end when told, peers that vanish, and peers that answer what they were not asked.
#include "node/node.h"

#include <doctest/doctest.h>
#include <spdlog/spdlog.h>

#include <boost/asio/detached.hpp>

#include <chrono>
#include <future>
#include <limits>
#include <thread>

#include "tests/node/caller.h"
#include "tests/node/kept_cluster.h"
#include "tests/node/local_cluster.h"
#include "tests/node/log_lines.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

using namespace std::chrono_literals;

// A node that speaks the protocol and computes nothing: it takes the head's control link, and steps if it is
// given a stage, and says what `on_step` says.
class FakeNode {
 public:
  using OnStep = std::function<std::vector<ResultMessage>(const StepMessage&)>;
  FakeNode(std::string name, OnStep on_step) : name_(std::move(name)), on_step_(std::move(on_step)) {
    io_.call([this] {
      listener_ = listen_on(io_.executor());
      boost::asio::co_spawn(io_.executor(), accept_all(), boost::asio::detached);
      return 0;
    });
  }
  ~FakeNode() {
    io_.call([this] {
      listener_->close();
      for (const ChannelPtr& channel : channels_) channel->close();
      return 0;
    });
    io_.stop();
  }
  uint16_t port() const { return listener_->port(); }
  void say(ResultMessage result) {
    io_.call([&] { return control_->post({std::move(result)}).has_value(); });
  }

 private:
  boost::asio::awaitable<void> accept_all() {
    while (true) {
      Result<ChannelPtr> channel = co_await listener_->accept();
      if (channel.has_error()) co_return;
      channels_.push_back(*channel);
      boost::asio::co_spawn(io_.executor(), serve(*channel), boost::asio::detached);
    }
  }
  boost::asio::awaitable<void> serve(ChannelPtr channel) {
    ExpectedHello expected;
    expected.node_name = name_;
    const Result<PeerInfo> peer = co_await answer_hello(*channel, expected);
    if (peer.has_error()) co_return;
    if (peer->hello.role == LinkRole::kControl) control_ = channel;
    HeapBufferSource payloads(1 << 20);
    while (true) {
      Result<IncomingMessage> incoming = co_await channel->receive(payloads);
      if (incoming.has_error()) co_return;
      const auto* step = std::get_if<StepMessage>(&incoming->message);
      if (step == nullptr) continue;
      for (ResultMessage& result : on_step_(*step)) (void)control_->post({std::move(result)});
    }
  }

  const std::string name_;
  OnStep on_step_;
  IoThread io_;
  std::unique_ptr<Listener> listener_;
  std::vector<ChannelPtr> channels_;
  ChannelPtr control_;
};

ResultMessage answer_to(uint64_t step, uint64_t epoch, uint32_t token) {
  ResultMessage result;
  result.epoch = epoch;
  result.step_id = step;
  result.rows = {{0, 0, {token}, {1.0f}}};
  return result;
}

SchedulerLimits limits_of(const PipelineLayout& layout) {
  SchedulerLimits limits;
  limits.steps_in_flight_max = layout.steps_in_flight_max;
  limits.rows_max = 16;
  return limits;
}

// Node a, the head, with the first stage; a fake b with the last; a fake c without one.
struct AmongFakes {
  explicit AmongFakes(FakeNode::OnStep b_answers)
      : file(GgufFile::open(small_model_file())),
        pool(1),
        b("b", std::move(b_answers)),
        c("c", [](const StepMessage&) { return std::vector<ResultMessage>(); }) {
    spdlog::set_level(spdlog::level::off);
    ClusterShape shape;
    shape.node_of_stage = {"a", "b"};
    layout = layout_of(shape);
    a = std::make_unique<Node>(NodeIdentity{"home", "a", file.fingerprint()}, "127.0.0.1", 0);
    layout.endpoints = {
        {"a", {"127.0.0.1", a->port()}}, {"b", {"127.0.0.1", b.port()}}, {"c", {"127.0.0.1", c.port()}}};
    a->load(layout, [this] { return stages_of("a", layout, file, pool); });
    a->connect();
    coordinator = std::make_unique<Coordinator>(*a, layout, limits_of(layout), any_model(layout), nullptr);
  }
  ~AmongFakes() { coordinator.reset(); }

  GgufFile file;
  ThreadPool pool;
  PipelineLayout layout;
  FakeNode b, c;
  std::unique_ptr<Node> a;
  std::unique_ptr<Coordinator> coordinator;
};

}  // namespace

TEST_CASE("an answer of another epoch, or of a node that has none to give, is refused and counted") {
  std::promise<void> asked;
  AmongFakes fakes([&](const StepMessage& step) {
    if (step.step_id == 1) {
      asked.set_value();
      return std::vector<ResultMessage>{answer_to(1, 2, 100), answer_to(1, 0, 101)};
    }
    return std::vector<ResultMessage>{answer_to(step.step_id, 1, 9)};
  });
  Requests requests;
  requests.submit(*fakes.coordinator, greedy({5}, 3));
  REQUIRE(asked.get_future().wait_for(10s) == std::future_status::ready);
  fakes.c.say(answer_to(1, 1, 102));
  ResultMessage lie = answer_to(1, 1, 0);
  lie.rows.clear();
  lie.failed = true;
  lie.failure_text = "b is broken";
  fakes.c.say(lie);
  CHECK(comes_true([&] { return fakes.a->refused_results() == 4; }));
  CHECK_FALSE(requests.reply(0).finished);
  fakes.b.say(answer_to(1, 1, 8));
  REQUIRE(requests.wait_all());
  CHECK(requests.reply(0).tokens == std::vector<int32_t>{8, 9, 9});
  CHECK(requests.reply(0).reason == FinishReason::kLength);
  CHECK(fakes.a->refused_results() == 4);
}

TEST_CASE("answers that were under way when their epoch ended are counted, and no matter for the log") {
  LogLines log;
  AmongFakes fakes([](const StepMessage&) { return std::vector<ResultMessage>(); });
  log.listen();
  fakes.a->set_remake([](const PipelineLayout&, Engine::Stages old, const std::stop_token&) { return old; });
  const auto counted = [&](uint64_t refused) {
    return comes_true([&] { return fakes.a->refused_results() == refused; });
  };
  std::string unreachable;
  const Result<void> followed = fakes.a->io().run(fakes.a->follow(fakes.layout, 2, unreachable));
  REQUIRE_MESSAGE(followed.has_value(), followed.error().message);
  fakes.b.say(answer_to(1, 1, 9));
  ResultMessage failure = answer_to(0, 1, 0);
  failure.rows.clear();
  failure.failed = true;
  fakes.b.say(failure);
  CHECK(counted(2));
  CHECK(log.count("a result from node") == 0);
  fakes.c.say(answer_to(1, 1, 9));  // which never had a stage
  CHECK(counted(3));
  CHECK(log.count("a result from node c for step 1 of epoch 1 was refused") == 1);
  fakes.b.say(answer_to(1, 3, 9));  // of an epoch that nobody gave
  CHECK(counted(4));
  CHECK(log.count("a result from node b for step 1 of epoch 3 was refused: the present epoch is 2") == 1);
}

TEST_CASE("an answer that cannot be used names the node and its layers") {
  AmongFakes fakes([](const StepMessage& step) {
    return std::vector<ResultMessage>{answer_to(step.step_id, 1, 384)};  // beyond the vocabulary
  });
  Requests requests;
  requests.submit(*fakes.coordinator, greedy({5}, 3));
  REQUIRE(requests.wait_all());
  CHECK(requests.reply(0).error.code == Errc::kBadFrame);
  CHECK(mentions(requests.reply(0).error.message, "node b (layers 3-5)"));
}

TEST_CASE("no token is drawn from an answer of which any part is wrong") {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<RowResult> wrong = {{0, 0, {9}, {inf}},
                                        {0, inf, {9}, {1.0f}},
                                        {0, 0, {9, 384}, {1.0f, 0.5f}},
                                        {0, 0, {}, {1.0f, 2.0f, 3.0f}}};
  for (size_t i = 0; i < wrong.size(); ++i) {
    CAPTURE(i);
    AmongFakes fakes([&](const StepMessage& step) {
      ResultMessage answer = answer_to(step.step_id, 1, 9);
      answer.rows = {wrong[i]};
      return std::vector<ResultMessage>{answer};
    });
    Requests requests;
    requests.submit(*fakes.coordinator, greedy({5}, 3));
    REQUIRE(requests.wait_all());
    CHECK(requests.reply(0).error.code == Errc::kBadFrame);
    CHECK(requests.reply(0).tokens.empty());
  }
}

TEST_CASE("workers serve until the head says so") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b", "c"};
  LocalCluster cluster(shape);
  std::vector<std::future<void>> services;
  for (const char* name : {"b", "c"}) {
    services.push_back(
        std::async(std::launch::async, [&cluster, name] { cluster.node(name).serve_until_shutdown(); }));
  }
  answers(cluster, {greedy(prompt_of(5, 1), 5)});
  CHECK(services[0].wait_for(0s) == std::future_status::timeout);
  cluster.node("a").shutdown_workers();
  for (std::future<void>& service : services) {
    REQUIRE(service.wait_for(10s) == std::future_status::ready);
    CHECK_NOTHROW(service.get());
  }
}

TEST_CASE("a worker whose head is lost ends with an error") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  LocalCluster cluster(shape);
  std::future<void> service =
      std::async(std::launch::async, [&] { cluster.node("b").serve_until_shutdown(); });
  Requests requests;
  requests.submit(cluster.coordinator(), greedy(prompt_of(5, 1), 100));
  REQUIRE(requests.wait_for_tokens(0, 3));
  cluster.destroy_head();
  REQUIRE(service.wait_for(10s) == std::future_status::ready);
  try {
    service.get();
    FAIL("the worker was content");
  } catch (const SetupError& error) {
    CHECK(mentions(error.what(), "the head a is gone"));
    CHECK(error.exit_code() == kExitFailed);
  }
}

TEST_CASE("a worker lost while it generates ends every request within a second, and later ones at once") {
  for (const char* lost : {"b", "c"}) {
    CAPTURE(lost);
    ClusterShape shape;
    shape.node_of_stage = {"a", "b", "c"};
    shape.slots = 2;
    shape.context = 4096;
    LocalCluster cluster(shape);
    Requests requests;
    for (uint64_t i = 0; i < 3; ++i) requests.submit(cluster.coordinator(), greedy(prompt_of(5, i), 4000));
    REQUIRE(requests.wait_for_tokens(0, 5));
    const auto begin = std::chrono::steady_clock::now();
    cluster.destroy(lost);
    REQUIRE(requests.wait_all());
    CHECK(std::chrono::steady_clock::now() - begin < 1s);
    for (size_t i = 0; i < 3; ++i) {
      const Reply reply = requests.reply(i);
      CHECK(reply.reason == FinishReason::kError);
      CHECK(reply.error.code == Errc::kPeerLost);
      CHECK(mentions(reply.error.message, "lost"));
      CHECK(reply.ends == 1);
    }
    const size_t late = requests.submit(cluster.coordinator(), greedy({5}, 1));
    REQUIRE(requests.wait(late));
    CHECK(requests.reply(late).error.code == Errc::kPeerLost);
  }
}

TEST_CASE("a node lost before the coordinator listens is not forgotten") {
  const GgufFile file = GgufFile::open(small_model_file());
  spdlog::set_level(spdlog::level::off);
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  PipelineLayout layout = layout_of(shape);
  ThreadPool pool_a(1), pool_b(1);
  Node a({"home", "a", file.fingerprint()}, "127.0.0.1", 0);
  auto b = std::make_unique<Node>(NodeIdentity{"home", "b", file.fingerprint()}, "127.0.0.1", 0);
  layout.endpoints = {{"a", {"127.0.0.1", a.port()}}, {"b", {"127.0.0.1", b->port()}}};
  a.load(layout, [&] { return stages_of("a", layout, file, pool_a); });
  b->load(layout, [&] { return stages_of("b", layout, file, pool_b); });
  a.connect();
  b.reset();
  std::this_thread::sleep_for(100ms);  // a reads it meanwhile
  Coordinator coordinator(a, layout, limits_of(layout), any_model(layout), nullptr);
  Requests requests;
  requests.submit(coordinator, greedy({5, 6}, 3));
  REQUIRE(requests.wait_all());
  CHECK(requests.reply(0).error.code == Errc::kPeerLost);
}

TEST_CASE("a node that is ended in order tells its head, which plans without it at once") {
  KeptCluster cluster({"a", "b", "c", "d"});
  const std::string leaving = cluster.stage_nodes().back();
  REQUIRE(leaving != "a");
  const auto begun = std::chrono::steady_clock::now();
  cluster.node(leaving).leave();
  cluster.node(leaving).serve_until_shutdown();
  CHECK(comes_true([&] { return cluster.counters().resumed > 0; }));
  CHECK(std::chrono::steady_clock::now() - begun < 5s);
  CHECK(cluster.told(ClusterEvent::Kind::kLost) == "node " + leaving + " is lost: it was ended in order");
  CHECK(cluster.counters().lost == 1);
  CHECK(cluster.counters().resumed == 1);
}

}  // namespace shoal::test
