// Certificates are renewed while a cluster runs: when, by whom, and for whom not.
#include "node/certificate_keeper.h"

#include <doctest/doctest.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <ctime>

#include "node/node.h"
#include "tests/node/caller.h"
#include "tests/node/log_lines.h"
#include "tests/node/tls_nodes.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

using namespace std::chrono_literals;

constexpr int64_t kLife_s = 3600;

struct Keeping {
  Keeping() {
    spdlog::set_level(spdlog::level::off);
    head.set_authority(authority, std::chrono::hours(2));
  }
  std::shared_ptr<const CertificateAuthority> authority =
      std::make_shared<const CertificateAuthority>(CertificateAuthority::create("home"));
  NodeIdentity a{"home", "a", "model", "exact", tls_of(*authority, "a", CertificateRole::kHead)};
  NodeIdentity b{"home", "b", "model", "exact", tls_of(*authority, "b")};
  NodeIdentity c{"home", "c", "model", "exact", tls_of(*authority, "c")};
  CertificateKeeper head{a}, of_b{b}, of_c{c};
  int64_t due_s = std::time(nullptr) + kLife_s * 2 / 3 + 2;
};

std::string fingerprint(const NodeIdentity& node) {
  return certificate_info(node.tls->credentials().certificate, "own").fingerprint;
}

}  // namespace

TEST_CASE("a certificate is renewed at two thirds of its life, and asked for again with ever longer pauses") {
  CertificateInfo info;
  info.issued_s = 1000000;
  info.expires_s = info.issued_s + 90 * 86400;
  RenewalTimes times(info);
  CHECK_FALSE(times.due(info.issued_s));
  CHECK_FALSE(times.due(info.issued_s + 60 * 86400 - 1));
  int64_t now_s = info.issued_s + 60 * 86400;
  CHECK(times.due(now_s));
  int64_t before = 0;
  int tries = 0;
  for (; now_s < info.expires_s; ++tries) {
    times.asked(now_s);
    int64_t pause = 1;
    while (!times.due(now_s + pause)) ++pause;
    CHECK(pause >= before);
    CHECK(pause <= 6 * 3600);
    before = pause;
    now_s += pause;
  }
  CHECK(tries > 100);  // within the last third
  info.expires_s = info.issued_s + 9;
  times = RenewalTimes(info);
  CHECK(times.due(info.issued_s + 6));
  times.asked(info.issued_s + 6);
  CHECK(times.due(info.issued_s + 7));
}

TEST_CASE("the head signs for the node that asks, which uses it from then on with a key of its own") {
  Keeping k;
  const std::string before = fingerprint(k.b), key_before = k.b.tls->credentials().key.pem();
  std::string kept;
  k.of_b.set_on_renewed([&](const NodeCredentials& fresh) { kept = fresh.certificate; });
  CHECK_FALSE(k.of_b.tend(std::time(nullptr)).has_value());
  const std::optional<CertificateRequest> request = k.of_b.tend(k.due_s);
  REQUIRE(request.has_value());
  CHECK_FALSE(k.of_b.tend(k.due_s).has_value());  // once
  const NewCertificate answer = k.head.answer("b", *request, k.due_s);
  REQUIRE_MESSAGE(answer.failure.empty(), answer.failure);
  k.of_b.take(answer);
  CHECK(fingerprint(k.b) != before);
  CHECK(k.b.tls->credentials().key.pem() != key_before);
  CHECK(kept == k.b.tls->credentials().certificate);
  const CertificateInfo info = certificate_info(kept, "kept");
  CHECK(info.node == "b");
  CHECK_FALSE(info.head);
  CHECK(info.expires_s - info.issued_s == 7200);
  CHECK_FALSE(k.of_b.tend(k.due_s).has_value());  // the new one is young
  // The head's own needs nobody else.
  const std::string heads = fingerprint(k.a);
  CHECK_FALSE(k.head.tend(k.due_s).has_value());
  CHECK(fingerprint(k.a) != heads);
  CHECK(certificate_info(k.a.tls->credentials().certificate, "own").head);
}

TEST_CASE("a renewal is refused for another's name, for one that was shut out, too often, and by others") {
  Keeping k;
  const std::string before = fingerprint(k.b);
  const std::optional<CertificateRequest> of_c = k.of_c.tend(k.due_s), of_b = k.of_b.tend(k.due_s);
  REQUIRE(of_b.has_value());
  NewCertificate answer = k.head.answer("b", *of_c, k.due_s);  // b sends what names c
  CHECK(answer.certificate.empty());
  CHECK(answer.failure == "b asked for a certificate of node c");
  answer = k.head.answer("b", CertificateRequest{NodeKey::create().request("a", "home")}, k.due_s + 10);
  CHECK(answer.failure == "b asked for a certificate of node a");
  k.of_b.take(answer);
  CHECK(fingerprint(k.b) == before);
  answer = k.head.answer("b", CertificateRequest{"nonsense"}, k.due_s + 20);
  CHECK(mentions(answer.failure, "no certificate request"));
  CHECK(mentions(k.of_c.answer("b", *of_b, k.due_s).failure, "c is not the head"));
  CHECK(k.head.answer("b", *of_b, k.due_s + 30).failure.empty());
  CHECK(mentions(k.head.answer("b", *of_b, k.due_s + 30).failure, "a moment ago"));
  k.a.tls->set_revoked({"b"});
  CHECK(mentions(k.head.answer("b", *of_b, k.due_s + 40).failure, "b was shut out of the cluster"));
  k.a.tls->set_revoked({});
  CHECK(k.head.answer("b", *of_b, k.due_s + 50).failure.empty());
}

TEST_CASE("who asks for a certificate again and again gets a bounded number of lines in the head's log") {
  LogLines log;
  Keeping k;
  log.listen();
  for (int i = 0; i < 500; ++i) (void)k.head.answer("b", CertificateRequest{"nonsense"}, k.due_s);
  CHECK(log.count("node b gets no new certificate") >= StrangerLines::kOfAddressPerMinute);
  CHECK(log.count("node b gets no new certificate") < StrangerLines::kOfAddressPerMinute + 15);
}

TEST_CASE("a node uses no certificate that is not for it, its key and from its authority") {
  Keeping k;
  const std::string before = fingerprint(k.b);
  const std::optional<CertificateRequest> of_c = k.of_c.tend(k.due_s);
  const NewCertificate for_c = k.head.answer("c", *of_c, k.due_s);
  REQUIRE(for_c.failure.empty());
  k.of_b.take(for_c);  // which did not ask
  CHECK(fingerprint(k.b) == before);
  int64_t now_s = k.due_s;
  const auto comes = [&](const std::function<std::string(const CertificateRequest&)>& certificate) {
    const std::optional<CertificateRequest> request = k.of_b.tend(now_s += 7 * 3600);
    REQUIRE(request.has_value());
    k.of_b.take({certificate(*request), ""});
    CHECK(fingerprint(k.b) == before);
  };
  comes([&](const CertificateRequest&) { return for_c.certificate; });
  comes([&](const CertificateRequest& request) { return k.authority->sign(request.pem, "c").value(); });
  comes([&](const CertificateRequest&) {  // of another key
    return k.authority->sign(NodeKey::create().request("b", "home"), "b").value();
  });
  const CertificateAuthority foreign = CertificateAuthority::create("home");
  comes([&](const CertificateRequest& request) { return foreign.sign(request.pem, "b").value(); });
  comes([&](const CertificateRequest&) { return std::string("nonsense"); });
}

// Real nodes: b's certificate ends in a few seconds, the connection on which it is renewed is there.
TEST_CASE("a node's certificate is renewed while it runs: new connections show it, the others go on") {
  Keeping k;
  k.a.tls = tls_of(*k.authority, "a", CertificateRole::kHead, 3s);
  k.b.tls = tls_of(*k.authority, "b", CertificateRole::kNode, 3s);
  k.b.knows_revoked = false;
  const std::string first_a = fingerprint(k.a), first_b = fingerprint(k.b);
  Node a(k.a, "127.0.0.1", 0), b(k.b, "127.0.0.1", 0);
  a.set_authority(k.authority, std::chrono::hours(1));
  std::atomic<int> kept{0};
  b.set_on_renewed([&](const NodeCredentials&) { ++kept; });
  NodeEvents events;
  events.may_join = [](const std::string&) { return Membership::Verdict{true, 0, ""}; };
  events.joined = [](const std::string&, const Join&) {};
  a.io().call([&] { return a.set_events(events), 0; });
  Comeback comeback;
  comeback.head = {"127.0.0.1", a.port()};
  b.set_comeback(comeback, /*now=*/true);
  Caller c(k.c.tls);
  Hello hello = hello_of("c", "b", LinkRole::kProbe);
  hello.model_fingerprint = "model";
  ChannelPtr running;
  REQUIRE(comes_true(
      [&] {
        running = c.connect(b.port());
        return c.greet(running, hello).empty();
      },
      2s));
  CHECK(running->peer_certificate()->fingerprint == first_b);
  CHECK(comes_true([&] { return kept == 1; }, 6s));
  CHECK(comes_true([&] { return fingerprint(k.a) != first_a; }, 2s));
  const ChannelPtr fresh = c.call(b.port(), hello);
  CHECK(fresh->peer_certificate()->fingerprint == fingerprint(k.b));
  CHECK(fresh->peer_certificate()->fingerprint != first_b);
  for (const ChannelPtr& channel : {running, fresh}) {
    c.send(channel, LinkProbe{7});
    CHECK(c.receive(channel).has_value());
  }
  a.io().call([&] { return a.set_events({}), 0; });
}

}  // namespace shoal::test
