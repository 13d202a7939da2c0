// Whom a node believes: what the head says of those that were shut out, and only the head.
#include <doctest/doctest.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

#include "node/node.h"
#include "tests/node/caller.h"
#include "tests/node/log_lines.h"
#include "tests/node/tls_nodes.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

using namespace std::chrono_literals;

// Node a may be joined; node b calls it once it is told to.
struct Pair {
  explicit Pair(CertificateRole role = CertificateRole::kHead)
      : a({"home", "a", "model", "exact", tls_of(authority, "a", role)}, "127.0.0.1", 0),
        b({"home", "b", "model", "exact", tls_of(authority, "b"), /*knows_revoked=*/false}, "127.0.0.1", 0) {
    spdlog::set_level(spdlog::level::off);
    NodeEvents events;
    events.may_join = [this](const std::string&) { return Membership::Verdict{admits, 0, "not now"}; };
    events.joined = [this](const std::string&, const Join&) { joined = true; };
    a.io().call([&] { return a.set_events(events), 0; });
  }
  ~Pair() {
    a.io().call([&] { return a.set_events({}), 0; });
  }
  void b_joins() {
    Comeback comeback;
    comeback.head = {"127.0.0.1", a.port()};
    b.set_comeback(comeback, /*now=*/true);
  }
  void shut_out(const std::set<std::string>& nodes) {
    a.io().call([&] { return a.shut_out(nodes), 0; });
  }
  Hello hello(const std::string& from, LinkRole role = LinkRole::kProbe) {
    Hello hello;
    hello.role = role;
    hello.cluster_name = "home";
    hello.node_name = from;
    hello.peer_node_name = "b";
    return hello;
  }
  // Why b does not take a call of that node; empty: it does.
  std::string refusal(Caller& caller, const std::string& from) {
    const ChannelPtr channel = caller.connect(b.port());
    REQUIRE(channel != nullptr);
    return caller.greet(channel, hello(from));
  }

  CertificateAuthority authority = CertificateAuthority::create("home");
  std::atomic<bool> admits{true}, joined{false};
  Node a, b;
};

}  // namespace

TEST_CASE("a node learns from its head who was shut out, and lets nobody in before") {
  Pair pair;
  Caller c(tls_of(pair.authority, "c")), d(tls_of(pair.authority, "d"));
  pair.shut_out({"c"});
  CHECK(mentions(pair.refusal(d, "d"), "b has no head that would tell it who belongs to the cluster"));
  pair.b_joins();
  REQUIRE(comes_true([&] { return pair.refusal(d, "d").empty(); }, 5s));
  CHECK(mentions(pair.refusal(c, "c"), "this node was shut out of the cluster (shoal revoke)"));
  // Undone, and done again while it has a connection.
  pair.shut_out({});
  REQUIRE(comes_true([&] { return pair.refusal(c, "c").empty(); }, 1s));
  const ChannelPtr of_c = c.call(pair.b.port(), pair.hello("c")),
                   of_d = d.call(pair.b.port(), pair.hello("d"));
  pair.shut_out({"c"});
  const auto begin = std::chrono::steady_clock::now();
  CHECK_FALSE(c.receive(of_c).has_value());
  CHECK(std::chrono::steady_clock::now() - begin < 1s);  // it ended: silence would have been waited for
  CHECK(mentions(pair.refusal(c, "c"), "shut out"));
  d.send(of_d, LinkProbe{3});
  const std::optional<Message> answer = d.receive(of_d);
  REQUIRE(answer.has_value());
  CHECK(std::get<LinkProbeAck>(*answer).sequence == 3);
  // Nor does it call that node itself.
  Node c_listens({"home", "c", "model", "exact", tls_of(pair.authority, "c")}, "127.0.0.1", 0);
  const Result<LinkProfile> link = pair.b.measure_link("c", {"127.0.0.1", c_listens.port()});
  REQUIRE(link.has_error());
  CHECK(mentions(link.error().message, "was revoked"));
}

TEST_CASE("only the head says who was shut out") {
  Pair pair;
  Caller c(tls_of(pair.authority, "c")), d(tls_of(pair.authority, "d"));
  pair.b_joins();
  REQUIRE(comes_true([&] { return pair.refusal(d, "d").empty(); }, 5s));
  const ChannelPtr of_c = c.call(pair.b.port(), pair.hello("c"));
  c.send(of_c, Revoked{{"d"}});
  c.send(of_c, LinkProbe{1});
  REQUIRE(c.receive(of_c).has_value());  // by then it has been read
  CHECK(pair.refusal(d, "d").empty());
  // A node that calls itself by the head's name shows another's certificate.
  const ChannelPtr lie = c.connect(pair.b.port());
  CHECK(mentions(c.greet(lie, pair.hello("a", LinkRole::kControl)), "its certificate is of node c"));
}

TEST_CASE("a node joins no other than the head, whoever answers at its address") {
  Pair pair(CertificateRole::kNode);  // a is of the cluster, but not its head
  pair.b_joins();
  std::this_thread::sleep_for(500ms);
  CHECK_FALSE(pair.joined);
  Caller d(tls_of(pair.authority, "d"));
  CHECK(mentions(pair.refusal(d, "d"), "b has no head"));
}

TEST_CASE("a node that loses its head lets nobody in until one says who was shut out") {
  Pair pair;
  Caller c(tls_of(pair.authority, "c"));
  pair.b_joins();
  REQUIRE(comes_true([&] { return pair.refusal(c, "c").empty(); }, 5s));
  pair.admits = false;
  pair.a.io().call([&] { return pair.a.forget("b"), 0; });  // b calls again at once
  CHECK(comes_true([&] { return mentions(pair.refusal(c, "c"), "b has no head"); }, 5s));
  pair.admits = true;
  CHECK(comes_true([&] { return pair.refusal(c, "c").empty(); }, 5s));
}

// c shows a certificate of three seconds on its way to the head, which it does not renew; d has such a one
// too, and does. A longer one, that c shows b, does not help it: the head has said that c goes.
TEST_CASE(
    "a node that lets its certificate end loses its connections everywhere; one that renews keeps them") {
  LogLines log;
  Pair pair;
  log.listen();
  pair.a.set_authority({std::shared_ptr<void>(), &pair.authority}, std::chrono::hours(1));
  std::mutex mutex;
  std::map<std::string, std::string> lost;
  NodeEvents events;
  events.may_join = [](const std::string&) { return Membership::Verdict{true, 0, ""}; };
  events.joined = [](const std::string&, const Join&) {};
  events.lost = [&](const std::string& node, const std::string& why) {
    const std::lock_guard lock(mutex);
    lost[node] = why;
  };
  const auto why_lost = [&](const std::string& node) {
    const std::lock_guard lock(mutex);
    return lost.contains(node) ? lost[node] : std::string();
  };
  pair.a.io().call([&] { return pair.a.set_events(events), 0; });
  pair.b_joins();
  Caller long_c(tls_of(pair.authority, "c"));
  REQUIRE(comes_true([&] { return pair.refusal(long_c, "c").empty(); }, 5s));
  const ChannelPtr feed_of_c = long_c.call(pair.b.port(), pair.hello("c"));
  Caller d(tls_of(pair.authority, "d", CertificateRole::kNode, 3s)),  // ends no later than c's
      c(tls_of(pair.authority, "c", CertificateRole::kNode, 3s));
  const auto join = [&](Caller& caller, const std::string& name) {
    Hello hello = pair.hello(name, LinkRole::kJoin);
    hello.peer_node_name = "a";
    const ChannelPtr channel = caller.call(pair.a.port(), hello);
    caller.send(channel, Join{});
    REQUIRE(std::holds_alternative<Revoked>(caller.receive(channel).value()));  // it is a node now
    return channel;
  };
  const ChannelPtr of_d = join(d, "d"), of_c = join(c, "c");
  Caller e(tls_of(pair.authority, "e", CertificateRole::kNode, 2s));  // of which the head knows nothing
  const ChannelPtr of_e = e.call(pair.b.port(), pair.hello("e"));
  d.send(of_d, CertificateRequest{NodeKey::create().request("d", "home")});
  const std::optional<Message> renewed = d.receive(of_d);
  REQUIRE(renewed.has_value());
  CHECK(std::get<NewCertificate>(*renewed).failure.empty());

  CHECK_FALSE(e.receive(of_e).has_value());  // ended by b itself
  CHECK(comes_true([&] { return log.count("the connection with e at 127.0.0.1:") == 1; }, 1s));
  CHECK(comes_true([&] { return !why_lost("c").empty(); }, 4s));
  CHECK(mentions(why_lost("c"), "its certificate has ended and was not renewed: it is valid from "));
  CHECK(mentions(why_lost("c"), "shoal invite -c CLUSTER.yaml --name c"));
  CHECK_FALSE(c.receive(of_c).has_value());
  CHECK_FALSE(long_c.receive(feed_of_c).has_value());  // ended by b at the head's word, which is taken back
  CHECK(comes_true([&] { return pair.refusal(long_c, "c").empty(); }, 1s));
  CHECK(mentions(pair.refusal(c, "c"), "has expired"));
  CHECK(pair.a.io().call([&] { return pair.a.address_of("d"); }) == "127.0.0.1");
  CHECK(pair.a.io().call([&] { return pair.a.address_of("c"); }).empty());
  CHECK(why_lost("d").empty());
  CHECK(why_lost("b").empty());
  pair.a.io().call([&] { return pair.a.set_events({}), 0; });
}

TEST_CASE("an address that calls again and again without a certificate waits outside") {
  Pair pair;
  const auto tls = tls_of(pair.authority, "d");
  Hello hello = pair.hello("d");
  hello.peer_node_name = "a";
  const auto refusal = [&] {
    Caller d(tls);  // closes its link: a node keeps few of one other
    const ChannelPtr channel = d.connect(pair.a.port());
    return channel == nullptr ? "not connected" : d.greet(channel, hello);
  };
  CHECK(refusal() == "");
  boost::asio::io_context io;
  const auto flood = [&](int calls) {
    for (int i = 0; i < calls; ++i) {
      boost::asio::ip::tcp::socket socket(io);
      boost::system::error_code reset;  // where it is closed before it knows that it is connected
      socket.connect({boost::asio::ip::make_address("127.0.0.1"), pair.a.port()}, reset);
    }
  };
  bool outside = false;
  for (int i = 0; i < 20 && !outside; ++i) {
    flood(100);
    outside = !refusal().empty();
  }
  CHECK(outside);
  CHECK(comes_true([&] { return refusal().empty(); }, 2s));  // ten a second come in
}

}  // namespace shoal::test
