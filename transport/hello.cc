#include "transport/hello.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <variant>

namespace shoal {

namespace asio = boost::asio;

namespace {

// A name for a person when the peer gave none.
const std::string& named(const std::string& name, const std::string& otherwise) {
  return name.empty() ? otherwise : name;
}

bool differ(const std::string& a, const std::string& b) {
  return !a.empty() && !b.empty() && a != b;
}

// "upgrade pi-1 (speaks 1) to 2".
std::string version_text(const std::string& a, uint32_t a_version, const std::string& b, uint32_t b_version) {
  const bool a_older = a_version < b_version;
  return fmt::format("protocol version: upgrade {} (speaks {}) to {}, which {} speaks", a_older ? a : b,
                     a_older ? a_version : b_version, a_older ? b_version : a_version, a_older ? b : a);
}

constexpr size_t kDigitsShown = 12;  // of a digest: enough to compare by eye

// The first figures of each digest of several, between dots.
std::string shortened(std::string_view digests) {
  std::string text;
  while (true) {
    const size_t end = digests.find('.');
    text += digests.substr(0, std::min(end, kDigitsShown));
    if (end == std::string_view::npos) return text;
    text += '.';
    digests.remove_prefix(end + 1);
  }
}

// Of a refusal that came: those upon which the caller does something else than to say it.
Errc code_of(Refusal refusal) {
  if (refusal == Refusal::kModel) return Errc::kOtherModel;
  if (refusal == Refusal::kDuplicateName) return Errc::kNameTaken;
  return Errc::kRefused;
}

Error lost_hello(const Error& error, const std::string& peer) {
  return Error{error.code, "no hello from " + peer + ": " + error.message};
}

}  // namespace

std::optional<RefusalReason> check_hello(const Hello& hello, const ExpectedHello& expected) {
  const std::string caller = named(hello.node_name, "the calling node");
  const std::string self = named(expected.node_name, "the answering node");
  if (hello.protocol_version != expected.protocol_version) {
    return RefusalReason{Refusal::kProtocolVersion,
                         version_text(caller, hello.protocol_version, self, expected.protocol_version)};
  }
  if (differ(hello.cluster_name, expected.cluster_name)) {
    return RefusalReason{
        Refusal::kClusterName,
        fmt::format("{} belongs to cluster '{}', {} to cluster '{}': start {} with {}'s cluster file", caller,
                    hello.cluster_name, self, expected.cluster_name, caller, self)};
  }
  if (differ(hello.peer_node_name, expected.node_name)) {
    return RefusalReason{
        Refusal::kNodeName,
        fmt::format("{} called {}, but this is {}: correct the address of {} in the cluster file", caller,
                    hello.peer_node_name, expected.node_name, hello.peer_node_name)};
  }
  if (hello.node_name.empty()) {
    return RefusalReason{Refusal::kNodeName, fmt::format("the node that called {} gave no name", self)};
  }
  if (hello.node_name == expected.node_name) {
    return RefusalReason{
        Refusal::kDuplicateName,
        fmt::format("two nodes are called {}: give one of them another name (--node)", self)};
  }
  if (differ(hello.model_fingerprint, expected.model_fingerprint)) {
    return RefusalReason{
        Refusal::kModel,
        fmt::format(
            "{} has another model file than {}, or other adapters ({} and {}): give both the same, or one of "
            "them none, so that it fetches what it needs",
            self, caller, shortened(expected.model_fingerprint), shortened(hello.model_fingerprint))};
  }
  if (differ(hello.plan_hash, expected.plan_hash)) {
    return RefusalReason{
        Refusal::kPlan,
        fmt::format("{} follows another plan than {} ({} and {}): the head gives each node the present one; "
                    "where this lasts, the log of {} or {} says why it does not follow that",
                    self, caller, expected.plan_hash, hello.plan_hash, self, caller)};
  }
  if (differ(hello.numeric_class, expected.numeric_class)) {
    return RefusalReason{
        Refusal::kNumericClass,
        fmt::format("{} computes in numeric class '{}', {} in '{}': start {} with the class '{}' too", self,
                    expected.numeric_class, caller, hello.numeric_class, self, hello.numeric_class)};
  }
  if (hello.epoch != 0 && hello.epoch < expected.epoch) {
    return RefusalReason{
        Refusal::kEpoch,
        fmt::format("{} is at epoch {}, {} already at {}: {} must join again through the head", caller,
                    hello.epoch, self, expected.epoch, caller)};
  }
  return std::nullopt;
}

asio::awaitable<Result<PeerInfo>> say_hello(Channel& channel, Hello hello,
                                            std::chrono::milliseconds timeout) {
  const Deadline deadline = after(timeout);
  const std::string callee = named(hello.peer_node_name, channel.peer());
  channel.set_limits(kHandshakeLimits);
  const Result<void> shown = co_await channel.handshake(timeout);
  if (!shown) co_return lost_hello(shown.error(), callee);
  if (const CertificateInfo* peer = channel.peer_certificate();
      peer && differ(peer->node, hello.peer_node_name)) {
    const Error other{
        Errc::kRefused,
        fmt::format("{} shows the certificate of node {} where {} was expected: correct the address of {} "
                    "in the cluster file",
                    channel.peer(), peer->node, hello.peer_node_name, hello.peer_node_name)};
    channel.close();
    co_return other;
  }
  OutgoingMessage outgoing;
  outgoing.message = hello;
  const Result<void> sent = co_await channel.send(std::move(outgoing));
  if (!sent) co_return sent.error();
  HeapBufferSource no_payload(0);
  Result<IncomingMessage> incoming = co_await channel.receive(no_payload, deadline);
  if (!incoming) {
    channel.close();
    co_return lost_hello(incoming.error(), callee);
  }
  const HelloAck* ack = std::get_if<HelloAck>(&incoming->message);
  Error failure;
  if (ack == nullptr) {
    failure = {Errc::kBadFrame,
               fmt::format("{} answered the hello with a {}", callee, message_name(incoming->message))};
  } else if (!ack->accepted) {
    failure = {code_of(ack->refusal),
               fmt::format("{} refused {}: {}", named(ack->node_name, callee), hello.node_name,
                           ack->text.empty() ? "it gave no reason" : ack->text)};
  } else if (ack->protocol_version != hello.protocol_version) {
    failure = {Errc::kRefused,
               version_text(hello.node_name, hello.protocol_version, callee, ack->protocol_version)};
  } else if (differ(ack->node_name, hello.peer_node_name)) {
    failure = {
        Errc::kRefused,
        fmt::format("{} answers at {} where {} was expected: correct the address of {} in the cluster file",
                    ack->node_name, channel.peer(), hello.peer_node_name, hello.peer_node_name)};
  } else {
    channel.set_peer_name(ack->node_name);
    channel.set_limits(FrameLimits{});
    co_return PeerInfo{ack->node_name, std::move(hello), *ack};
  }
  channel.close();
  co_return failure;
}

asio::awaitable<Result<PeerInfo>> answer_hello(Channel& channel, ExpectedHello expected,
                                               ValidateHello validate, std::chrono::milliseconds timeout) {
  channel.set_limits(kHandshakeLimits);
  const Deadline deadline = after(timeout);
  const Result<void> shown = co_await channel.handshake(timeout);
  if (!shown) co_return lost_hello(shown.error(), channel.peer());
  HeapBufferSource no_payload(0);
  Result<IncomingMessage> incoming = co_await channel.receive(no_payload, deadline);
  if (!incoming) {
    channel.close();
    co_return lost_hello(incoming.error(), channel.peer());
  }
  const Hello* hello = std::get_if<Hello>(&incoming->message);
  if (hello == nullptr) {
    channel.close();
    co_return Error{Errc::kBadFrame, fmt::format("{} began with a {} instead of a hello", channel.peer(),
                                                 message_name(incoming->message))};
  }
  std::optional<RefusalReason> refusal = check_hello(*hello, expected);
  if (const CertificateInfo* peer = channel.peer_certificate();
      !refusal && peer && peer->node != hello->node_name) {
    refusal =
        RefusalReason{Refusal::kNodeName, fmt::format("{} calls itself {} and its certificate is of node {}",
                                                      channel.peer(), hello->node_name, peer->node)};
  }
  if (!refusal && validate) refusal = validate(*hello);

  OutgoingMessage answer;
  HelloAck ack;
  ack.accepted = !refusal;
  ack.protocol_version = expected.protocol_version;
  ack.node_name = expected.node_name;
  ack.model_fingerprint = expected.model_fingerprint;
  ack.plan_hash = expected.plan_hash;
  ack.epoch = expected.epoch;
  if (refusal) {
    ack.refusal = refusal->code;
    ack.text = refusal->text;
  }
  answer.message = ack;
  const Result<void> sent = co_await channel.send(std::move(answer));
  if (refusal) {
    const std::string who =
        hello->node_name.empty() ? channel.peer() : hello->node_name + " at " + channel.peer();
    channel.close();
    co_return Error{Errc::kRefused, fmt::format("refused {}: {}", who, refusal->text)};
  }
  if (!sent) co_return sent.error();
  channel.set_peer_name(hello->node_name);
  channel.set_limits(FrameLimits{});
  co_return PeerInfo{hello->node_name, *hello, std::move(ack)};
}

}  // namespace shoal
