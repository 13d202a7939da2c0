// The head's plan: whose signature a node takes it with, and what else it must say.
#include "node/signed_plan.h"

#include <doctest/doctest.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "node/node.h"
#include "tests/node/caller.h"
#include "tests/node/tls_nodes.h"

namespace shoal::test {
namespace {

constexpr const char* kSender = "a at 10.0.0.1:7400";

PipelineLayout two_nodes() {
  ClusterShape shape;
  shape.node_of_stage = {"a", "a"};
  PipelineLayout layout = layout_of(shape);
  layout.endpoints = {{"a", {"127.0.0.1", 1}}, {"b", {"127.0.0.1", 2}}};
  return layout;
}

struct Signing {
  CertificateAuthority authority = CertificateAuthority::create("home");
  NodeIdentity head{"home", "a", "model", "exact", tls_of(authority, "a", CertificateRole::kHead)};
  NodeIdentity self{"home", "b", "model", "exact", tls_of(authority, "b")};

  // Why b does not take it; empty: it does.
  std::string refusal(const LoadPlan& order, uint64_t present_epoch = 4, Errc code = Errc::kRefused) const {
    const Result<PipelineLayout> taken = check_plan(order, self, present_epoch, kSender);
    if (taken) return "";
    CHECK(taken.error().code == code);
    CHECK(mentions(taken.error().message, "from a at 10.0.0.1:7400 was refused: "));
    return taken.error().message;
  }
};

}  // namespace

TEST_CASE("a plan is taken as the head signed it") {
  const Signing s;
  const LoadPlan order = signed_plan(s.head, two_nodes(), 5);
  const Result<PipelineLayout> taken = check_plan(order, s.self, 4, kSender);
  REQUIRE_MESSAGE(taken.has_value(), taken.error().message);
  CHECK(*taken == two_nodes());
}

TEST_CASE("a plan without the head's signature is refused, whatever it says") {
  const Signing s;
  const LoadPlan good = signed_plan(s.head, two_nodes(), 5);
  LoadPlan order = good;
  SUBCASE("none") {
    order.signature.clear();
    CHECK(mentions(s.refusal(order), "it is not signed"));
    order = good;
    order.certificate.clear();
    CHECK(mentions(s.refusal(order), "it is not signed"));
  }
  SUBCASE("of another text") {
    const size_t at = order.plan_json.find("127.0.0.1");
    REQUIRE(at != std::string::npos);
    order.plan_json[at] = '9';
    CHECK(mentions(s.refusal(order), "the signature of node a does not hold"));
    order = signed_plan(s.head, two_nodes(), 6);
    order.signature = good.signature;
    CHECK(mentions(s.refusal(order), "does not hold"));
  }
  SUBCASE("damaged, at every place") {
    for (size_t i = 0; i < good.signature.size(); ++i) {
      order.signature = good.signature;
      order.signature[i] = order.signature[i] == '0' ? '1' : '0';
      CHECK_FALSE(s.refusal(order).empty());
    }
    for (const char* other : {"0", "xx", "zz", "30450220"}) {
      order.signature = other;
      CHECK(mentions(s.refusal(order), "does not hold"));
    }
  }
  SUBCASE("of a node that is not the head") {
    NodeIdentity other = s.head;
    other.tls = tls_of(s.authority, "a");
    CHECK(mentions(s.refusal(signed_plan(other, two_nodes(), 5)), "node a signed it, which is not the head"));
    order.certificate = signed_plan(other, two_nodes(), 5).certificate;  // or only shown by it
    CHECK_FALSE(s.refusal(order).empty());
  }
  SUBCASE("of another cluster's head that has the same names") {
    const CertificateAuthority foreign = CertificateAuthority::create("home");
    NodeIdentity other = s.head;
    other.tls = tls_of(foreign, "a", CertificateRole::kHead);
    CHECK(mentions(s.refusal(signed_plan(other, two_nodes(), 5)), "is not believed"));
  }
  SUBCASE("by a certificate that has ended") {
    NodeIdentity other = s.head;
    other.tls = tls_of(s.authority, "a", CertificateRole::kHead, -std::chrono::seconds(5));
    CHECK(mentions(s.refusal(signed_plan(other, two_nodes(), 5)), "expired"));
  }
  SUBCASE("for another purpose") {
    const SignedText made = s.head.tls->sign("something else", good.plan_json);
    order.signature = made.signature;
    CHECK(mentions(s.refusal(order), "does not hold"));
  }
  SUBCASE("of a head that the plan does not name") {
    NodeIdentity other = s.head;
    other.tls = tls_of(s.authority, "c", CertificateRole::kHead);
    CHECK(mentions(s.refusal(signed_plan(other, two_nodes(), 5)),
                   "node c signed it, and it names a as the head"));
  }
}

TEST_CASE("a plan of another cluster, model, class or of an older epoch is refused, and says which") {
  const Signing s;
  struct Case {
    std::function<void(NodeIdentity&)> change;
    const char* reason;
  };
  for (const Case& c : std::vector<Case>{
           {[](NodeIdentity& head) { head.cluster = "office"; },
            "it is for cluster office, and this node's is home"},
           {[](NodeIdentity& head) { head.model_fingerprint = "another"; }, "it is for model another"},
           {[](NodeIdentity& head) { head.numeric_class = "blas"; }, "it is for numeric class blas"}}) {
    NodeIdentity head = s.head;
    c.change(head);
    CAPTURE(c.reason);
    CHECK(mentions(s.refusal(signed_plan(head, two_nodes(), 5)), c.reason));
  }
  const LoadPlan order = signed_plan(s.head, two_nodes(), 5);
  CHECK(mentions(s.refusal(order, 5), "the present epoch is 5"));  // sent twice
  CHECK(mentions(s.refusal(order, 9), "the present epoch is 9"));  // an older one again
  LoadPlan relabelled = order;
  relabelled.epoch = 10;  // which is outside the signature
  CHECK(mentions(s.refusal(relabelled, 9), "it was made for epoch 5"));
  PipelineLayout unsound = two_nodes();
  unsound.rows_max = 0;
  CHECK(mentions(s.refusal(signed_plan(s.head, unsound, 5), 4, Errc::kBadFrame), "rows_max"));
}

TEST_CASE("what a node follows is known by its head's signature, also when the certificate is over") {
  const Signing s;
  NodeIdentity before = s.head;
  before.tls = tls_of(s.authority, "a", CertificateRole::kHead, -std::chrono::seconds(5));
  const LoadPlan order = signed_plan(before, two_nodes(), 5);
  CHECK_FALSE(s.refusal(order).empty());  // it would not be followed now
  const Result<PipelineLayout> held = check_held(order, s.head);
  REQUIRE_MESSAGE(held.has_value(), held.error().message);
  CHECK(*held == two_nodes());
  NodeIdentity foreign = s.head;
  const CertificateAuthority other = CertificateAuthority::create("home");
  foreign.tls = tls_of(other, "a", CertificateRole::kHead, -std::chrono::seconds(5));
  CHECK(
      mentions(check_held(signed_plan(foreign, two_nodes(), 5), s.head).error().message, "is not believed"));
}

TEST_CASE("without TLS a plan needs no signature, and all else is checked") {
  Signing s;
  s.head.tls = s.self.tls = nullptr;
  const LoadPlan order = signed_plan(s.head, two_nodes(), 5);
  CHECK(order.signature.empty());
  CHECK(s.refusal(order).empty());
  CHECK(mentions(s.refusal(order, 5), "the present epoch is 5"));
  s.self.cluster = "office";
  CHECK(mentions(s.refusal(order), "cluster"));
  s.self.cluster.clear();  // not known yet
  CHECK(s.refusal(order).empty());
  for (size_t length = 0; length < order.plan_json.size(); length += 7) {
    LoadPlan torn = order;
    torn.plan_json.resize(length);
    CHECK_FALSE(s.refusal(torn, 4, Errc::kBadFrame).empty());
  }
}

// Over a connection: the head a is played by the test, node b is real.
TEST_CASE("a node answers an unsigned plan with its reason, follows a signed one, and follows it once") {
  spdlog::set_level(spdlog::level::off);
  const Signing s;
  Node b(s.self, "127.0.0.1", 0);
  PipelineLayout first = two_nodes();
  b.load(first, [] { return Engine::Stages(); });
  b.set_remake(
      [](const PipelineLayout&, Engine::Stages, const std::stop_token&) { return Engine::Stages(); });
  Caller head(s.head.tls);
  Hello hello = hello_of("a", "b", LinkRole::kControl);
  hello.model_fingerprint = "model";
  const ChannelPtr control = head.call(b.port(), hello);
  PipelineLayout second = first;
  second.plan_hash = "second";
  LoadPlan order = signed_plan(s.head, second, 2);
  const std::string signature = std::exchange(order.signature, "");
  head.send(control, order);
  std::optional<Message> answer = head.receive(control);
  REQUIRE(answer.has_value());
  CHECK(mentions(std::get<Ready>(*answer).failure, "the plan of epoch 2 from a at 127.0.0.1:"));
  CHECK(mentions(std::get<Ready>(*answer).failure, "it is not signed"));
  CHECK(b.epoch() == kFirstEpoch);
  order.signature = signature;
  head.send(control, order);
  answer = head.receive(control);
  REQUIRE(answer.has_value());
  CHECK(std::get<Ready>(*answer).failure == "");
  CHECK(std::get<Ready>(*answer).plan_hash == "second");
  CHECK(b.epoch() == 2);
  const uint64_t refused = b.refused_results();
  head.send(control, order);  // a replay
  head.send(control, StatsRequest{});
  answer = head.receive(control);
  REQUIRE(answer.has_value());
  CHECK(std::holds_alternative<StatsMessage>(*answer));  // and no answer to the replay
  CHECK(b.refused_results() == refused + 1);
}

// As above. Stages that take for ever to build, unless their time is over.
TEST_CASE("a plan is given up while it loads: for the next one, without a head, and when the node ends") {
  spdlog::set_level(spdlog::level::off);
  const Signing s;
  for (const bool head_dies : {true, false}) {
    std::atomic<int> begun{0}, ended{0};
    auto b = std::make_unique<Node>(s.self, "127.0.0.1", 0);
    Node* const node = b.get();
    PipelineLayout layout = two_nodes();
    b->load(layout, [] { return Engine::Stages(); });
    b->set_remake([&](const PipelineLayout& wanted, Engine::Stages, const std::stop_token& stop) {
      if (wanted.plan_hash == "quick") return Engine::Stages();
      ++begun;
      while (!stop.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      for (int i = 0; i < 20; ++i) {  // a while longer, as who reads a block does
        node->note_progress();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      ++ended;
      throw SetupError("over");
    });
    auto head = std::make_unique<Caller>(s.head.tls);
    Hello hello = hello_of("a", "b", LinkRole::kControl);
    hello.model_fingerprint = "model";
    ChannelPtr control = head->call(b->port(), hello);
    const auto send_slow = [&](uint64_t epoch) {
      layout.plan_hash = "slow";
      const int before = begun;
      head->send(control, signed_plan(s.head, layout, epoch));
      while (begun == before) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    send_slow(2);
    layout.plan_hash = "quick";
    head->send(control, signed_plan(s.head, layout, 3));
    const std::optional<Message> answer = head->receive(control);
    REQUIRE(answer.has_value());
    CHECK(std::get<Ready>(*answer).epoch == 3);
    CHECK(std::get<Ready>(*answer).failure == "");
    CHECK(ended == 1);
    send_slow(4);
    if (head_dies) control.reset(), head.reset();
    for (int i = 0; head_dies && i < 5000 && ended < 2; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(ended == (head_dies ? 2 : 1));
    control.reset();
    b.reset();
    CHECK(ended == 2);
  }
}

}  // namespace shoal::test
