// The hello: what two nodes tell each other before anything else on a connection, and who is refused why.
//
// The side that connected calls say_hello, the side that accepted calls answer_hello; both within
// kHelloDeadline. On success the channel knows its peer's name and takes frames of full size; on failure it
// is closed and the error (kRefused, kOtherModel or kNameTaken for a mismatch) names both sides' values and
// which side to change. The same on the io thread as every channel operation.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/error.h"
#include "transport/channel.h"
#include "transport/messages.h"

namespace shoal {

inline constexpr std::chrono::milliseconds kHelloDeadline{3000};

// What the answering node is. Empty texts and epoch 0 are "not known yet" and match anything.
struct ExpectedHello {
  uint32_t protocol_version = kProtocolVersion;
  std::string cluster_name;
  std::string node_name;
  std::string model_fingerprint;
  std::string plan_hash;
  std::string numeric_class;
  uint64_t epoch = 0;
};

// Who is at the other end.
struct PeerInfo {
  std::string node_name;
  Hello hello;   // the caller's hello
  HelloAck ack;  // the answer to it
};

struct RefusalReason {
  Refusal code = Refusal::kOther;
  std::string text;
};

// The node's own checks after the standard ones: is the name in the cluster, already connected, the stage
// mine? std::nullopt accepts.
using ValidateHello = std::function<std::optional<RefusalReason>(const Hello&)>;

// The standard checks of a hello, without a channel.
std::optional<RefusalReason> check_hello(const Hello& hello, const ExpectedHello& expected);

boost::asio::awaitable<Result<PeerInfo>> say_hello(Channel& channel, Hello hello,
                                                   std::chrono::milliseconds timeout = kHelloDeadline);
boost::asio::awaitable<Result<PeerInfo>> answer_hello(Channel& channel, ExpectedHello expected,
                                                      ValidateHello validate = {},
                                                      std::chrono::milliseconds timeout = kHelloDeadline);

}  // namespace shoal
