// Keeps certificates from ending while a cluster runs: its own, and on the head those of all nodes.
//
// At two thirds of its certificate's life a node makes a new key and asks the head for another certificate,
// on the control connection, where the head knows who asks; it asks again after a while where none comes,
// each time twice as long. Connections made from then on show the new one, those that exist go on. The head's
// authority signs for the name of who asks and no other, never for one that was shut out; its own it signs
// itself. Pure logic but for keys and signatures: no sockets, no clock (`now_s` is Unix time). One thread:
// the node's io thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "node/node_identity.h"
#include "node/strangers.h"
#include "transport/messages.h"

namespace shoal {

// When to ask, and again.
class RenewalTimes {
 public:
  explicit RenewalTimes(const CertificateInfo& own);
  bool due(int64_t now_s) const { return now_s >= next_s_; }
  void asked(int64_t now_s);  // until the answer comes, the next time is later each time

 private:
  int64_t life_s_, next_s_, pause_s_;
};

class CertificateKeeper {
 public:
  // `self` has TLS.
  explicit CertificateKeeper(const NodeIdentity& self);

  // The head, from now on; `life`: of what it signs.
  void set_authority(std::shared_ptr<const CertificateAuthority> authority, std::chrono::seconds life);
  // Told of each new certificate of this node.
  using OnRenewed = std::function<void(const NodeCredentials&)>;
  void set_on_renewed(OnRenewed on_renewed) { on_renewed_ = std::move(on_renewed); }

  bool signs() const { return authority_ != nullptr; }
  // To be called often: what to send to the head now, which is there. On the head its own is renewed.
  std::optional<CertificateRequest> tend(int64_t now_s);
  // The head's answer to it.
  void take(const NewCertificate& answer);
  // The head: what it answers to the node of that name, as its certificate said.
  NewCertificate answer(const std::string& node, const CertificateRequest& request, int64_t now_s);

 private:
  Result<std::string> sign(const std::string& node, const CertificateRequest& request, int64_t now_s);

  const std::string name_, cluster_;
  const std::shared_ptr<TlsContext> tls_;
  RenewalTimes times_;
  std::optional<NodeKey> next_key_;  // of the request that was sent last
  std::shared_ptr<const CertificateAuthority> authority_;
  std::chrono::seconds life_{0};
  std::map<std::string, int64_t> answered_s_;  // when a node was last signed for
  StrangerLines lines_;                        // about requests that are refused
  OnRenewed on_renewed_;
};

}  // namespace shoal
