// What the tests of nodes with certificates share.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "transport/tls.h"

namespace shoal::test {

inline NodeCredentials credentials_for(const CertificateAuthority& authority, const std::string& name,
                                       CertificateRole role = CertificateRole::kNode,
                                       std::chrono::seconds life = std::chrono::hours(1)) {
  const NodeKey key = NodeKey::create();
  return {key, authority.sign(key.request(name, authority.cluster()), name, life, role).value(),
          authority.certificate()};
}

inline std::shared_ptr<TlsContext> tls_of(const CertificateAuthority& authority, const std::string& name,
                                          CertificateRole role = CertificateRole::kNode,
                                          std::chrono::seconds life = std::chrono::hours(1)) {
  return std::make_shared<TlsContext>(credentials_for(authority, name, role, life));
}

}  // namespace shoal::test
