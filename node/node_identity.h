// Who a node is to the others, and what it compares in their hello.
#pragma once

#include <memory>
#include <string>

#include "transport/tls.h"

namespace shoal {

struct NodeIdentity {
  std::string cluster;
  std::string name;
  std::string model_fingerprint;
  std::string numeric_class = "exact";        // tensor/kernels.h
  std::shared_ptr<TlsContext> tls = nullptr;  // null: plain TCP, and names are taken on trust
  bool knows_revoked = true;  // tls does; false: the head has to say first, and nobody else is let in before
};

}  // namespace shoal
