// Whom a node believes: its head, and those that the head has not shut out; and how it stays believed itself.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <ctime>

#include "node/node.h"

namespace shoal {

// Without TLS a name has to do.
bool Node::is_of_head(const Channel& channel) const {
  const CertificateInfo* shown = channel.peer_certificate();
  return identity_.tls == nullptr || (shown != nullptr && shown->head);
}

void Node::shut_out(const std::set<std::string>& nodes) {
  if (identity_.tls == nullptr) return;
  disbelieve(nodes, "it was shut out of the cluster (shoal revoke)");
  const std::map<std::string, ChannelPtr> all = controls_;
  for (const auto& [name, channel] : all) {
    if (nodes.contains(name)) {
      forget(name);
    } else {
      tell_revoked(channel);
    }
  }
}

void Node::disbelieve(const std::set<std::string>& nodes, const char* why) {
  if (identity_.tls == nullptr || nodes == identity_.tls->revoked()) return;
  for (const std::string& peer : identity_.tls->set_revoked(nodes))
    spdlog::warn("the connection with node {} was ended: {}", peer, why);
}

void Node::answer_request(const std::string& peer, const CertificateRequest& request) {
  if (!certificates_) return;
  const std::time_t now = std::time(nullptr);
  NewCertificate answer = certificates_->answer(peer, request, now);
  if (answer.failure.empty()) {
    const int64_t expires_s = certificate_info(answer.certificate, "a new certificate").expires_s;
    signed_until_s_[peer] = now_s() + static_cast<double>(expires_s - now);
  }
  (void)tell(peer, std::move(answer));
}

// ---- Certificates that end while there are connections ----

// Whether the certificate that the other end showed has ended, and the head has given its owner no other. The
// head's own is not asked: who has the head's key has the authority's, so another would be had for nothing.
bool Node::is_over(const ChannelPtr& channel) {
  const CertificateInfo* shown = channel->peer_certificate();
  if (shown == nullptr || shown->head) return false;
  const std::chrono::duration<double> date = std::chrono::system_clock::now().time_since_epoch();
  const double ends_s = now_s() + static_cast<double>(shown->expires_s) - date.count();
  const double shown_s = shown_until_s_.try_emplace(channel, ends_s).first->second;
  const auto renewed = signed_until_s_.find(shown->node);
  return now_s() >= (renewed == signed_until_s_.end() ? shown_s : std::max(shown_s, renewed->second));
}

// Links for weights and measurements end at the date that was shown: who has renewed comes again. Whether a
// node goes is for the head to decide, which knows what it has signed; links that bring steps end with the
// plan.
void Node::end_expired() {
  if (identity_.tls == nullptr) return;
  std::erase_if(shown_until_s_, [](const auto& known) { return known.first.expired(); });
  for (const auto& [channel, peer, role] : accepted_) {
    if (role == LinkRole::kPipeline || channel == head_ || !channel->is_open() || !is_over(channel)) continue;
    spdlog::warn("the connection with {} was ended: the certificate that it showed has ended",
                 channel->peer());
    channel->close();
  }
  std::vector<std::string> over;
  for (const auto& [name, channel] : controls_) {
    if (is_over(channel)) over.push_back(name);
  }
  for (const std::string& name : over) let_go(name);
}

// A node that is no more of the cluster: for a moment it is shut out, which ends its connections at every
// node, and then not, so that it can come with a new certificate; with the old one it cannot.
void Node::let_go(const std::string& node) {
  const CertificateInfo shown = *controls_.at(node)->peer_certificate();
  const std::set<std::string> before = identity_.tls->revoked();
  std::set<std::string> now = before;
  now.insert(node);
  for (const std::set<std::string>& nodes : {now, before}) {
    disbelieve(nodes, "its certificate has ended and was not renewed");
    const std::map<std::string, ChannelPtr> all = controls_;
    for (const auto& [name, channel] : all)
      if (name != node) tell_revoked(channel);
  }
  node_lost(node, {Errc::kRefused,
                   fmt::format("its certificate has ended and was not renewed: {}; run `shoal invite -c "
                               "CLUSTER.yaml --name {}` on the head and start {} with its token (where "
                               "mpirun starts the nodes: start them again)",
                               dates_and_clock(shown), node, node)});
}

void Node::set_authority(std::shared_ptr<const CertificateAuthority> authority, std::chrono::seconds life) {
  io_.call([&] {
    if (certificates_) certificates_->set_authority(std::move(authority), life);
    return 0;
  });
}

void Node::set_on_renewed(CertificateKeeper::OnRenewed on_renewed) {
  io_.call([&] {
    if (certificates_) certificates_->set_on_renewed(std::move(on_renewed));
    return 0;
  });
}

// A node whose head is away asks when it is back.
void Node::renew_certificate() {
  if (!certificates_ || (!head_ && !certificates_->signs())) return;
  const std::optional<CertificateRequest> request = certificates_->tend(std::time(nullptr));
  if (request) (void)head_->post({*request});
}

// A node that cannot be told must come again, and is told then.
void Node::tell_revoked(const ChannelPtr& channel) {
  if (identity_.tls == nullptr) return;
  const std::set<std::string> nodes = identity_.tls->revoked();
  const Result<void> told = channel->post({Revoked{{nodes.begin(), nodes.end()}}});
  if (told.has_error()) channel->close();
}

}  // namespace shoal
