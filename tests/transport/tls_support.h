// What the tests of TLS share.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "tests/transport/support.h"
#include "transport/certificates.h"
#include "transport/tls.h"

namespace shoal::test {

inline NodeCredentials credentials_of(const CertificateAuthority& authority, const std::string& node,
                                      int days = 1) {
  NodeKey key = NodeKey::create();
  const std::string certificate =
      authority.sign(key.request(node, "home"), node, std::chrono::days(days)).value();
  return {std::move(key), certificate, authority.certificate()};
}

inline ChannelOptions tls_options(const NodeCredentials& credentials) {
  ChannelOptions options;
  options.tls = std::make_shared<TlsContext>(credentials);
  return options;
}

}  // namespace shoal::test
