// Who a node is: keys and certificates of a cluster.
//
// The head keeps a certificate authority (a P-256 key and a self-signed certificate). Each node makes a key
// of its own, which never leaves it, and has a certificate request signed: subject CN = the node's name, O =
// the cluster's. Two nodes of a cluster trust each other because one authority signed both, and each is who
// it says because its name is in its certificate. X.509 v3 (RFC 5280), ECDSA over P-256, PKCS#10 requests
// (RFC 2986).
//
// All values are immutable once made, and may be used from any thread. Texts are PEM. Errors: what cannot be
// made or read here is a SetupError; what another node sent is a Result.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"

// OpenSSL's own types, so that its headers stay inside the layer.
struct evp_pkey_st;
struct x509_st;

namespace shoal {

// A certificate as OpenSSL holds it.
struct FreeCertificate {
  void operator()(x509_st* certificate) const;
};
using Certificate = std::unique_ptr<x509_st, FreeCertificate>;
// The first certificate in a PEM text. `source`: the file, or whose certificate it is, which the error names.
// Throws SetupError where there is none. OpenSSL's queue of errors is empty afterwards.
Certificate read_certificate(const std::string& pem, const std::string& source);

// What a certificate says of its owner.
struct CertificateInfo {
  std::string node, cluster;            // CN and O
  bool head = false;                    // OU: its owner is the cluster's head, whom the others obey
  std::string fingerprint;              // SHA-256 of the DER form, in hexadecimal
  int64_t issued_s = 0, expires_s = 0;  // Unix time; its validity begins a day before it was issued
};
CertificateInfo certificate_info(x509_st* certificate);
CertificateInfo certificate_info(const std::string& pem, const std::string& source);  // read_certificate's
// From when to when it holds, and what this device's clock says now: a certificate that does not hold now is
// more often a clock that is wrong.
std::string dates_and_clock(const CertificateInfo& certificate);

// The key of one node.
class NodeKey {
 public:
  static NodeKey create();
  // Throws SetupError that names `source`, and never asks for a passphrase.
  static NodeKey from_pem(const std::string& pem, const std::string& source);
  std::string pem() const;  // private: to a file of mode 0600, never to a peer
  // A signed request for a certificate of this key.
  std::string request(const std::string& node, const std::string& cluster) const;
  evp_pkey_st* handle() const { return key_.get(); }

 private:
  explicit NodeKey(evp_pkey_st* key);
  std::shared_ptr<evp_pkey_st> key_;
};

inline constexpr int kCertificateDays = 90;              // of a node, unless the cluster file says otherwise
inline constexpr int kAuthorityDays = 3650;              // of the authority
inline constexpr size_t kRequestBytesMax = 4 << 10;      // of a certificate request in PEM
inline constexpr size_t kCertificateBytesMax = 4 << 10;  // of a certificate in PEM

// The name that a certificate request claims. kInvalidInput: it is none, or its signature does not hold.
Result<std::string> requested_name(const std::string& request);

enum class CertificateRole { kNode, kHead };

class CertificateAuthority {
 public:
  static CertificateAuthority create(const std::string& cluster);
  // The authority kept in a directory (authority.key of mode 0600, authority.crt); made at the first call.
  // Throws SetupError naming the file that cannot be read, written, or that others may read.
  static CertificateAuthority in(const std::string& directory, const std::string& cluster);

  const std::string& certificate() const { return certificate_; }  // PEM, for everybody
  const std::string& cluster() const { return cluster_; }
  // A certificate for the key that made the request, under the name that the caller has checked: what the
  // request itself claims to be called is not believed. kInvalidInput: no request, or its signature does not
  // hold.
  Result<std::string> sign(const std::string& request, const std::string& node,
                           std::chrono::seconds life = std::chrono::days(kCertificateDays),
                           CertificateRole role = CertificateRole::kNode) const;

 private:
  CertificateAuthority(NodeKey key, std::string certificate, std::string cluster);
  NodeKey key_;
  std::string certificate_, cluster_;
};

// What a node needs to speak to its peers.
struct NodeCredentials {
  NodeKey key;
  std::string certificate;  // of this node
  std::string authority;    // certificate of the cluster's authority
};
// Kept in a directory of mode 0700: node.key (0600: the key and, so that one never stands there without the
// other, its certificate), node.crt, authority.crt. Both throw SetupError naming the file; nothing where the
// directory has no key.
void store_credentials(const std::string& directory, const NodeCredentials& credentials);
std::optional<NodeCredentials> stored_credentials(const std::string& directory);

}  // namespace shoal
