// The side of a link for weights that gives them (WEIGHTS in transport/wire.capnp).
//
// serve() runs on the node's io thread; the disk is read on a thread of its own. While the node passes steps
// along, an answer waits until the one before has left and then three times as long again, so that three
// quarters of the link are the steps'.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "node/strangers.h"
#include "transport/channel.h"

namespace shoal {

class WeightManifest;

// What a node can give. Called from the server's thread.
class WeightProvider {
 public:
  virtual ~WeightProvider() = default;
  virtual const WeightManifest& manifest() const = 0;
  // Bytes [offset, offset + out.size()) of a tensor, inside it. An error says for a person why they are not
  // to be had.
  virtual Result<void> give(size_t tensor, uint64_t offset, std::span<std::byte> out) = 0;
};

class WeightServer {
 public:
  // The model's, then each adapter's. None takes back what was offered before.
  void offer(std::vector<std::shared_ptr<WeightProvider>> providers) { providers_ = std::move(providers); }
  bool offers() const { return !providers_.empty(); }

  // Until the link ends.
  boost::asio::awaitable<void> serve(ChannelPtr channel);
  // A step passed through this node now.
  void saw_step() { last_step_ = Clock::now(); }

  uint64_t bytes_given() const { return bytes_given_; }

 private:
  boost::asio::awaitable<uint64_t> answer_all(ChannelPtr channel);
  // In the log: any node of the cluster may ask for any weights.
  void note_given(const Channel& channel);
  std::shared_ptr<WeightProvider> provider_of(size_t adapter) const;
  boost::asio::awaitable<Result<void>> answer(ChannelPtr channel, const WeightsRequest& request);
  boost::asio::awaitable<void> give_way(ChannelPtr channel, Clock::time_point began);

  std::vector<std::shared_ptr<WeightProvider>> providers_;
  boost::asio::thread_pool disk_{1};
  Clock::time_point last_step_{};
  StrangerLines lines_;                    // about links that break the rules
  StrangerLines given_lines_;              // about who had what
  std::map<std::string, uint64_t> given_;  // bytes, by node
  std::atomic<uint64_t> bytes_given_{0};
};

}  // namespace shoal
