#include "node/peer_clocks.h"

namespace shoal {

void PeerClocks::asked(const std::string& peer, uint64_t question, double now_s) {
  peers_[peer].question = question;
  peers_[peer].asked_s = now_s;
}

void PeerClocks::answered(const std::string& peer, uint64_t question, double clock_s, double now_s) {
  const auto found = peers_.find(peer);
  if (found == peers_.end() || found->second.question != question) return;
  Peer& p = found->second;
  p.question = 0;
  const double round_trip_s = now_s - p.asked_s;
  if (p.known && round_trip_s > p.round_trip_s && now_s - p.when_s < kBelieved_s) return;
  p.known = true;
  p.round_trip_s = round_trip_s;
  p.when_s = now_s;
  p.ahead_s = clock_s - (p.asked_s + now_s) / 2;
}

std::optional<double> PeerClocks::ahead_s(const std::string& peer) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end() || !found->second.known) return std::nullopt;
  return found->second.ahead_s;
}

}  // namespace shoal
