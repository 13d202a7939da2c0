// What other nodes' steady clocks show, by asking: a question and its answer enclose the moment at which the
// clock was read, and that is taken to be the middle (Cristian 1989, "Probabilistic clock synchronization").
// The error is at most half the round trip, so the quickest answer of the last while is believed. Plain
// arithmetic on times that the caller tells, in seconds; no threads.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace shoal {

class PeerClocks {
 public:
  static constexpr double kBelieved_s = 30;  // clocks drift: an answer older than this gives way to any other

  void asked(const std::string& peer, uint64_t question, double now_s);
  // `clock_s`: what the peer says. An answer to another question than the last is ignored.
  void answered(const std::string& peer, uint64_t question, double clock_s, double now_s);
  // How far the peer's clock is ahead of ours; nothing: not known.
  std::optional<double> ahead_s(const std::string& peer) const;

 private:
  struct Peer {
    uint64_t question = 0;
    double asked_s = 0;
    bool known = false;
    double ahead_s = 0, round_trip_s = 0, when_s = 0;
  };
  std::map<std::string, Peer> peers_;
};

}  // namespace shoal
