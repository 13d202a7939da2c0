// A connection to a node that has weights, from the side that wants them (WEIGHTS in transport/wire.capnp).
//
// Made on an IoThread of the caller's; ask() may be called from any thread, answers come as futures in the
// order of the questions. What a peer sends is checked for its length only: the caller compares it with the
// manifest. A link that is lost answers everything that waits with its error.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/error.h"
#include "node/io_thread.h"
#include "transport/channel.h"
#include "transport/messages.h"

namespace shoal {

struct WeightPeer {
  std::string node;  // empty: the head, whatever it is called
  std::string address;
  uint16_t port = 0;
  std::vector<bool> tensors = {};  // which of the manifest's it has; empty: all, or not known

  bool may_have(size_t tensor) const {
    return tensors.empty() || (tensor < tensors.size() && tensors[tensor]);
  }
};

// Who asks.
struct WeightAsker {
  std::string cluster;
  std::string node;
  std::string model = {};  // the hash that nodes compare in a hello (NodeIdentity); empty: not known
  std::shared_ptr<const TlsContext> tls = nullptr;  // as in NodeIdentity
  uint16_t adapter = 0;  // whose weights: an adapter's, counted from 1; 0: the model's
};

class WeightLink {
 public:
  // Tries until the deadline. A request to stop ends the trying, and later the link, at once:
  // Errc::kCancelled.
  static Result<std::unique_ptr<WeightLink>> open(IoThread& io, const WeightAsker& asker,
                                                  const WeightPeer& peer, std::chrono::milliseconds patience,
                                                  const std::stop_token& stop = {});
  ~WeightLink();
  WeightLink(const WeightLink&) = delete;
  WeightLink& operator=(const WeightLink&) = delete;

  struct Answer {
    PayloadBuffer bytes;
    uint64_t total_bytes = 0;
  };
  // At most kWeightsRequestsMax may wait at a time. Errc::kRefused: the peer does not have it; the link lives
  // on.
  std::future<Result<Answer>> ask(uint32_t tensor, uint64_t offset, uint32_t length);

  const std::string& peer() const { return peer_; }
  const std::string& model_hash() const { return model_hash_; }  // as the peer said in its hello
  bool is_open() const;

 private:
  struct State;
  WeightLink(IoThread& io, std::shared_ptr<State> state, const HelloAck& greeted,
             const std::stop_token& stop);

  IoThread& io_;
  std::shared_ptr<State> state_;
  std::string peer_, model_hash_;
  std::stop_callback<std::function<void()>> on_stop_;
};

// The manifest's bytes, not checked beyond their number.
Result<std::vector<std::byte>> ask_manifest(WeightLink& link);

}  // namespace shoal
