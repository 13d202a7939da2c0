#include "transport/hello.h"

#include <doctest/doctest.h>

#include <string>

#include "tests/transport/support.h"

namespace shoal::test {
namespace {

ExpectedHello matching() {
  return {kProtocolVersion, "home", "pi-1", "sha256:aa", "plan:bb", "exact", 7};
}

struct Outcome {
  Result<PeerInfo> caller = Error{};
  Result<PeerInfo> answerer = Error{};
  bool caller_open = false, answerer_open = false;
};

Outcome shake(const Hello& hello, const ExpectedHello& expected, const ValidateHello& validate = {}) {
  asio::io_context io;
  const ChannelPair ends = make_tcp_channels(io);
  Outcome outcome;
  const Body caller = [&]() -> asio::awaitable<void> {
    outcome.caller = co_await say_hello(*ends.first, hello);
  };
  const Body answerer = [&]() -> asio::awaitable<void> {
    outcome.answerer = co_await answer_hello(*ends.second, expected, validate);
  };
  run(io, {caller, answerer});
  outcome.caller_open = ends.first->is_open();
  outcome.answerer_open = ends.second->is_open();
  if (outcome.caller) CHECK(ends.first->peer_name() == outcome.caller->node_name);
  return outcome;
}

TEST_CASE("a hello that fits is accepted on both sides") {
  const Outcome outcome = shake(sample_hello(), matching());
  REQUIRE(outcome.caller);
  REQUIRE(outcome.answerer);
  CHECK(outcome.caller->node_name == "pi-1");
  CHECK(outcome.answerer->node_name == "laptop");
  CHECK(outcome.answerer->hello == sample_hello());
  CHECK(outcome.caller->ack.plan_hash == "plan:bb");
  CHECK(outcome.caller_open);
  CHECK(outcome.answerer_open);
}

TEST_CASE("what is not known yet is not compared") {
  Hello hello = sample_hello();
  hello.model_fingerprint = hello.plan_hash = "";
  hello.epoch = 0;
  CHECK(shake(hello, matching()).caller);
  ExpectedHello expected = matching();
  expected.model_fingerprint = expected.plan_hash = expected.numeric_class = "";
  expected.epoch = 0;
  CHECK(shake(sample_hello(), expected).caller);
}

TEST_CASE("each mismatch is refused with both values and the side to change") {
  struct Case {
    const char* what;
    void (*change)(Hello&, ExpectedHello&);
    Refusal code;
    std::vector<const char*> parts;
  };
  const std::vector<Case> cases = {
      {"older answerer",
       [](Hello& h, ExpectedHello&) { h.protocol_version = 2; },
       Refusal::kProtocolVersion,
       {"upgrade pi-1 (speaks 1) to 2", "laptop"}},
      {"older caller",
       [](Hello&, ExpectedHello& e) { e.protocol_version = 2; },
       Refusal::kProtocolVersion,
       {"upgrade laptop (speaks 1) to 2", "pi-1"}},
      {"cluster",
       [](Hello& h, ExpectedHello&) { h.cluster_name = "office"; },
       Refusal::kClusterName,
       {"'office'", "'home'", "start laptop with pi-1's cluster file"}},
      {"node",
       [](Hello&, ExpectedHello& e) { e.node_name = "pi-2"; },
       Refusal::kNodeName,
       {"called pi-1", "this is pi-2", "correct the address of pi-1"}},
      {"no name", [](Hello& h, ExpectedHello&) { h.node_name = ""; }, Refusal::kNodeName, {"gave no name"}},
      {"duplicate",
       [](Hello& h, ExpectedHello&) { h.node_name = "pi-1"; },
       Refusal::kDuplicateName,
       {"two nodes are called pi-1", "another name"}},
      {"model",
       [](Hello& h, ExpectedHello&) { h.model_fingerprint = "sha256:zz"; },
       Refusal::kModel,
       {"pi-1 has another model file than laptop", "sha256:aa", "sha256:zz", "give both the same"}},
      {"plan",
       [](Hello& h, ExpectedHello&) { h.plan_hash = "plan:zz"; },
       Refusal::kPlan,
       {"pi-1 follows another plan than laptop", "plan:bb", "plan:zz", "the log of pi-1 or laptop"}},
      {"numeric class",
       [](Hello& h, ExpectedHello&) { h.numeric_class = "blas"; },
       Refusal::kNumericClass,
       {"'exact'", "'blas'", "start pi-1 with the class 'blas'"}},
      {"epoch",
       [](Hello& h, ExpectedHello&) { h.epoch = 6; },
       Refusal::kEpoch,
       {"laptop is at epoch 6", "pi-1 already at 7", "laptop must join again"}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    Hello hello = sample_hello();
    ExpectedHello expected = matching();
    c.change(hello, expected);
    const std::optional<RefusalReason> reason = check_hello(hello, expected);
    REQUIRE(reason);
    CHECK(reason->code == c.code);
    const Outcome outcome = shake(hello, expected);
    REQUIRE_FALSE(outcome.caller);
    REQUIRE_FALSE(outcome.answerer);
    // The caller may do something about these two.
    const Errc told = c.code == Refusal::kModel           ? Errc::kOtherModel
                      : c.code == Refusal::kDuplicateName ? Errc::kNameTaken
                                                          : Errc::kRefused;
    CHECK(outcome.caller.error().code == told);
    CHECK(outcome.answerer.error().code == Errc::kRefused);
    for (const Error& error : {outcome.caller.error(), outcome.answerer.error()}) {
      CAPTURE(error.message);
      for (const char* part : c.parts) CHECK(error.message.find(part) != std::string::npos);
    }
    // In the answering node's log stands from where it was called.
    CHECK(outcome.answerer.error().message.find(" 127.0.0.1:") != std::string::npos);
    CHECK_FALSE(outcome.caller_open);
    CHECK_FALSE(outcome.answerer_open);
  }
}

TEST_CASE("the node's own checks refuse in its own words") {
  const Outcome outcome = shake(sample_hello(), matching(), [](const Hello& hello) {
    return std::optional(RefusalReason{Refusal::kDuplicateName, hello.node_name + " is connected already"});
  });
  REQUIRE_FALSE(outcome.caller);
  CHECK(outcome.caller.error().message.find("laptop is connected already") != std::string::npos);
  CHECK_FALSE(outcome.answerer);
}

TEST_CASE("an answer from another node than the one called is refused") {
  asio::io_context io;
  const ChannelPair ends = make_tcp_channels(io);
  const Body caller = [&]() -> asio::awaitable<void> {
    const Result<PeerInfo> peer = co_await say_hello(*ends.first, sample_hello());
    REQUIRE_FALSE(peer);
    CHECK(peer.error().message.find("pi-9 answers at 127.0.0.1:") != std::string::npos);
    CHECK(peer.error().message.find("where pi-1 was expected") != std::string::npos);
  };
  const Body answerer = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(0);
    const Result<IncomingMessage> incoming = co_await ends.second->receive(heap);
    REQUIRE(incoming);
    OutgoingMessage answer{HelloAck{true, Refusal::kNone, "", kProtocolVersion, "pi-9", "", "", 0}, {}, {}};
    CHECK(ends.second->post(std::move(answer)));
  };
  run(io, {caller, answerer});
}

TEST_CASE("silence, another message first, and a peer that hangs up end the hello in time") {
  SUBCASE("nobody answers") {
    asio::io_context io;
    const ChannelPair ends = make_tcp_channels(io);
    const Body caller = [&]() -> asio::awaitable<void> {
      const Result<PeerInfo> peer = co_await say_hello(*ends.first, sample_hello(), 50ms);
      CHECK(peer.error().code == Errc::kTimeout);
      CHECK_FALSE(ends.first->is_open());
    };
    run(io, caller);
  }
  SUBCASE("nobody speaks") {
    asio::io_context io;
    const ChannelPair ends = make_tcp_channels(io);
    const Body answerer = [&]() -> asio::awaitable<void> {
      const Result<PeerInfo> peer = co_await answer_hello(*ends.second, matching(), {}, 50ms);
      CHECK(peer.error().code == Errc::kTimeout);
      CHECK_FALSE(ends.second->is_open());
    };
    run(io, answerer);
  }
  SUBCASE("a step instead of a hello") {
    asio::io_context io;
    const ChannelPair ends = make_tcp_channels(io);
    const Body answerer = [&]() -> asio::awaitable<void> {
      OutgoingMessage step{sample_step(1, true), {}, {}};
      CHECK(ends.first->post(std::move(step)));
      const Result<PeerInfo> peer = co_await answer_hello(*ends.second, matching());
      CHECK(peer.error().code == Errc::kBadFrame);
      CHECK_FALSE(ends.second->is_open());
    };
    run(io, answerer);
  }
  SUBCASE("the peer hangs up") {
    asio::io_context io;
    const ChannelPair ends = make_tcp_channels(io);
    const Body caller = [&]() -> asio::awaitable<void> {
      ends.second->close();
      const Result<PeerInfo> peer = co_await say_hello(*ends.first, sample_hello());
      CHECK(peer.error().code == Errc::kPeerLost);
    };
    run(io, caller);
  }
}

TEST_CASE("the hello works in process too") {
  asio::io_context io;
  const ChannelPair ends = make_local_channels(io.get_executor(), io.get_executor());
  const Body caller = [&]() -> asio::awaitable<void> {
    const Result<PeerInfo> peer = co_await say_hello(*ends.first, sample_hello());
    CHECK(peer);
  };
  const Body answerer = [&]() -> asio::awaitable<void> {
    const Result<PeerInfo> peer = co_await answer_hello(*ends.second, matching());
    CHECK(peer);
  };
  run(io, {caller, answerer});
}

}  // namespace
}  // namespace shoal::test
