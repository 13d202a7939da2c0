// Whom a node believes: its head, and those that the head has not shut out; and how it stays believed itself.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

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
  disbelieve(nodes);
  const std::map<std::string, ChannelPtr> all = controls_;
  for (const auto& [name, channel] : all) {
    if (nodes.contains(name)) {
      forget(name);
    } else {
      tell_revoked(channel);
    }
  }
}

void Node::disbelieve(const std::set<std::string>& nodes) {
  if (identity_.tls == nullptr || nodes == identity_.tls->revoked()) return;
  for (const std::string& peer : identity_.tls->set_revoked(nodes))
    spdlog::warn("the connection with node {} was ended: it was shut out of the cluster (shoal revoke)",
                 peer);
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
