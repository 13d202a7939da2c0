// What the tests of nodes with certificates share.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

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

inline bool comes_true(const std::function<bool()>& condition, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace shoal::test
