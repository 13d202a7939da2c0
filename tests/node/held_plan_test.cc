// What a node says of the plan that it follows, to a head that has forgotten it: it counts where a head of
// the cluster signed it.
#include <doctest/doctest.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "node/pipeline_keeper.h"
#include "node/pipeline_setup.h"
#include "node/signed_plan.h"
#include "planner/planner.h"
#include "tests/node/caller.h"
#include "tests/node/log_lines.h"
#include "tests/node/tls_nodes.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

using namespace std::chrono_literals;

PipelineLayout layout_under(const std::string& head) {
  ClusterShape shape;
  shape.node_of_stage = {head, "b"};
  PipelineLayout layout = layout_of(shape);
  layout.head = head;
  layout.endpoints = {{head, {"127.0.0.1", 1}}, {"b", {"127.0.0.1", 2}}};
  return layout;
}

DeviceProfile device(const std::string& name) {
  DeviceProfile device;
  device.name = name;
  device.memory_bytes = 45 << 20;
  device.decode_layer = {{1, 1e-3}};
  device.output_head = {{1, 1e-3}};
  device.prefill_layer_row_seconds = 5e-4;
  return device;
}

// A head a that has just been started and waits for b, which it knows.
struct FreshHead {
  explicit FreshHead(const NodeIdentity& identity) : node(identity, "127.0.0.1", 0) {
    node.load_nothing();
    PipelineKeeper::Settings settings;
    settings.base = layout_of({});
    settings.base.head = identity.name;
    settings.base.node_of_stage.clear(), settings.base.shard_of_stage.clear();
    settings.known.model.n_layer = small_model().n_layer;
    settings.known.model.n_embd = settings.base.n_embd;
    const auto layers = static_cast<size_t>(small_model().n_layer);
    settings.known.model.layer_bytes.assign(layers, 10 << 20);
    settings.known.model.layer_kv_bytes.assign(layers, 0);
    settings.known.model.hidden_bytes_per_row = 256;
    settings.known.devices = {device("a"), device("b")};
    settings.known.links = LinkTable(2, {1e-3, 1e8});
    settings.endpoints = {{"a", {"127.0.0.1", node.port()}}};
    coordinator.emplace(node, settings.base, scheduler_limits(settings.base),
                        pipeline_model({}, {}, settings.base.slots), nullptr);
    keeper.emplace(node, *coordinator, settings, std::nullopt, nullptr);
  }
  ~FreshHead() {
    keeper.reset();
    coordinator.reset();
  }
  // The epoch after a node has joined with this order, which it does in any case.
  uint64_t epoch_after(const std::string& name, const LoadPlan& held, std::shared_ptr<TlsContext> tls) {
    Caller caller(std::move(tls));
    Hello hello = hello_of(name, "a", LinkRole::kJoin);
    hello.model_fingerprint = hello.plan_hash = "";
    hello.epoch = 0;
    const ChannelPtr channel = caller.call(node.port(), hello);
    Join join;
    join.port = 7400;
    join.profile_json = device_profile_to_json(device(name));
    join.held = held;
    caller.send(channel, join);
    const auto joins = [&] {
      return node.io().call([&] {
        for (const PipelineKeeper::Member& member : keeper->members())
          if (member.name == name) return member.state == "joining";
        return false;
      });
    };
    CHECK(comes_true(joins, 5s));
    return node.io().call([&] { return keeper->epoch(); });
  }

  Node node;
  std::optional<Coordinator> coordinator;
  std::optional<PipelineKeeper> keeper;
};

}  // namespace

TEST_CASE("a head counts the plan that a node holds where a head of its cluster signed it, and no other") {
  const CertificateAuthority authority = CertificateAuthority::create("home"),
                             foreign = CertificateAuthority::create("home");
  const auto head = [](const CertificateAuthority& of, const std::string& name = "a",
                       CertificateRole role = CertificateRole::kHead, std::chrono::seconds life = 1h) {
    return NodeIdentity{"home", name, "model", "exact", tls_of(of, name, role, life)};
  };
  const auto signed_by = [](const NodeIdentity& signer, uint64_t epoch) {
    return signed_plan(signer, layout_under(signer.name), epoch);
  };
  LogLines log;
  FreshHead a(head(authority));
  log.listen();
  int nodes = 0;
  const auto epoch_after = [&](const LoadPlan& held) {
    const std::string name = fmt::format("n{}", ++nodes);
    return a.epoch_after(name, held, tls_of(authority, name));
  };
  CHECK(epoch_after({}) == 0);
  CHECK(epoch_after(signed_by(head(authority), 7)) == 7);
  CHECK(epoch_after(signed_by(head(authority), 5)) == 7);
  // By a head whose certificate is over, or that was another device.
  CHECK(epoch_after(signed_by(head(authority, "a", CertificateRole::kHead, -5s), 8)) == 8);
  CHECK(epoch_after(signed_by(head(authority, "c"), 9)) == 9);
  CHECK(log.count("does not count") == 0);

  LoadPlan none = signed_by(head(authority), 1000);
  none.certificate = none.signature = "";
  LoadPlan relabelled = signed_by(head(authority), 4);
  relabelled.epoch = 1000;
  LoadPlan altered = signed_by(head(authority), 4);
  const size_t at = altered.plan_json.find("\"epoch\":4");
  REQUIRE(at != std::string::npos);
  altered.plan_json.replace(at, 9, "\"epoch\":1000");
  altered.epoch = 1000;
  NodeIdentity office = head(authority);
  office.cluster = "office";
  struct Case {
    LoadPlan held;
    const char* reason;
  };
  for (const Case& c :
       {Case{none, "it is not signed"}, Case{relabelled, "it was made for epoch 4"},
        Case{altered, "the signature of node a does not hold"},
        Case{signed_by(head(foreign), 1000), "is not believed"},
        Case{signed_by(head(authority, "a", CertificateRole::kNode), 1000), "which is not the head"},
        Case{signed_by(office, 1000), "it is for cluster office"},
        Case{LoadPlan{1000, "{}", none.certificate, "00"}, "it is not signed"},
        Case{LoadPlan{1000, "", "", ""}, "it is not signed"}}) {
    CAPTURE(c.reason);
    CHECK(epoch_after(c.held) == 9);
    CHECK(log.count(fmt::format("node n{} says that it follows plan {}, which does not count: ", nodes,
                                c.held.epoch)) == 1);
    CHECK(log.count(c.reason) > 0);
  }
}

TEST_CASE("with --insecure a node's claim counts, within bounds") {
  NodeIdentity head{"home", "a", "model"};
  FreshHead a(head);
  const auto claim = [&](uint64_t epoch) { return signed_plan(head, layout_under("a"), epoch); };
  CHECK(a.epoch_after("n1", claim(7), nullptr) == 7);
  CHECK(a.epoch_after("n2", claim(kClaimMax + 1), nullptr) == 7);
  CHECK(a.epoch_after("n3", claim(~uint64_t{0}), nullptr) == 7);
  CHECK(a.epoch_after("n4", claim(kClaimMax), nullptr) == kClaimMax);
}

// Real nodes: b shows what it came by, at the start or from a head that it had.
TEST_CASE("a node that joins shows the order that it follows as it came") {
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const NodeIdentity head{"home", "a", "model", "exact", tls_of(authority, "a", CertificateRole::kHead)};
  spdlog::set_level(spdlog::level::off);
  Node a(head, "127.0.0.1", 0),
      b({"home", "b", "model", "exact", tls_of(authority, "b"), false}, "127.0.0.1", 0);
  const LoadPlan first = signed_plan(head, layout_under("a"), kFirstEpoch);
  b.load(
      layout_under("a"), [] { return Engine::Stages(); }, first);
  b.set_remake(
      [](const PipelineLayout&, Engine::Stages, const std::stop_token&) { return Engine::Stages(); });
  std::mutex mutex;
  std::optional<LoadPlan> shown;
  std::map<uint64_t, std::string> failures;  // by epoch
  NodeEvents events;
  events.may_join = [](const std::string&) { return Membership::Verdict{true, 0, ""}; };
  events.joined = [&](const std::string&, const Join& join) {
    const std::lock_guard lock(mutex);
    shown = join.held;
  };
  events.ready = [&](const std::string&, const Ready& said) {
    const std::lock_guard lock(mutex);
    failures[said.epoch] = said.failure;
  };
  a.io().call([&] { return a.set_events(events), 0; });
  const auto shows = [&](const LoadPlan& order) {
    return comes_true(
        [&] {
          const std::lock_guard lock(mutex);
          return shown == order;
        },
        10s);
  };
  Comeback comeback;
  comeback.head = {"127.0.0.1", a.port()};
  b.set_comeback(comeback, /*now=*/true);
  CHECK(shows(first));
  const LoadPlan later = signed_plan(head, layout_under("a"), 9);
  a.io().call([&] { return a.tell("b", later); });
  REQUIRE(comes_true([&] { return b.epoch() == 9; }, 10s));
  // One that is late, or by a head that does not know of this: it is told so.
  a.io().call([&] { return a.tell("b", signed_plan(head, layout_under("a"), 3)); });
  REQUIRE(comes_true(
      [&] {
        const std::lock_guard lock(mutex);
        return failures.size() == 2;
      },
      10s));
  {
    const std::lock_guard lock(mutex);
    CHECK(failures[9] == "");
    CHECK(mentions(failures[3], "the present epoch is 9"));
  }
  CHECK(b.epoch() == 9);
  a.io().call([&] { return a.forget("b"), 0; });  // b calls again at once
  CHECK(shows(later));
  a.io().call([&] { return a.set_events({}), 0; });
}

}  // namespace shoal::test
