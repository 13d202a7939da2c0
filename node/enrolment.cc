#include "node/enrolment.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "node/revocation.h"

namespace shoal {
namespace {

// Texts in one, and apart again: each is followed by a zero byte, which neither a name nor PEM has.
std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += text + '\0';
  return all;
}

std::vector<std::string> parted(const std::string& all) {
  std::vector<std::string> texts;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = all.find('\0', begin);
    texts.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  return texts;
}

// The authority's certificate, then one for each rank's request, the head's first, then who was shut out.
std::string certify(const std::vector<std::string>& requests, const CertificateAuthority& authority,
                    const std::string& directory, std::chrono::seconds life) {
  const Revocations revoked(revocations_file(directory));
  std::vector<std::string> certificates{authority.certificate()};
  for (const std::string& text : requests) {
    const std::vector<std::string> request = parted(text);  // name, PEM
    if (revoked.contains(request.at(0))) {
      throw SetupError(fmt::format(
          "node {} was shut out of the cluster: let it in again (shoal revoke --undo {}), or leave "
          "it out of the cluster file",
          request[0], request[0]));
    }
    const bool head = certificates.size() == 1;
    const Result<std::string> signed_one = authority.sign(
        request.at(1), request.at(0), life, head ? CertificateRole::kHead : CertificateRole::kNode);
    if (!signed_one) {
      throw SetupError(
          fmt::format("node {} asked for a certificate with {}", request[0], signed_one.error().message),
          kExitFailed);
    }
    certificates.push_back(*signed_one);
  }
  certificates.insert(certificates.end(), revoked.names().begin(), revoked.names().end());
  return joined(certificates);
}

template <class Body>
RankReport report_of(const std::string& node, Body&& body) {
  try {
    return {body(), "", 0};
  } catch (const SetupError& error) {
    return {"", fmt::format("node {}: {}", node, error.what()), error.exit_code()};
  }
}

std::string data_directory(const char* kind, const std::string& whose) {
  const char* data = std::getenv("XDG_DATA_HOME");
  const char* home = std::getenv("HOME");
  const std::filesystem::path base = data != nullptr && *data != '\0' ? std::filesystem::path(data)
                                     : home != nullptr ? std::filesystem::path(home) / ".local/share"
                                                       : std::filesystem::path("/var/lib");
  std::string name;
  for (const char c : whose) {  // a cluster may be called anything, a directory not
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
    name += plain ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
  }
  return (base / "shoal" / kind / name).string();
}

}  // namespace

std::string authority_directory(const std::string& cluster) {
  return data_directory("clusters", cluster);
}

std::string credentials_directory(const std::string& node) {
  return data_directory("nodes", node);
}

void require_kept_from_others(const std::string& directory) {
  struct stat status;
  if (::stat(directory.c_str(), &status) != 0 || (status.st_mode & 022) == 0) return;
  throw SetupError(fmt::format(
      "{} can be written to by others, who could put an authority of their own there: chmod 700 {}",
      directory, directory));
}

Enrolment enrol(Bootstrap& bootstrap, const std::string& cluster, const std::string& node,
                const std::string& directory, std::chrono::seconds life) {
  Enrolment enrolment;
  const NodeKey key = NodeKey::create();
  const std::vector<std::string> requests = agree(bootstrap, report_of(node, [&] {
                                                    return joined({node, key.request(node, cluster)});
                                                  }));
  RankReport certified;
  if (bootstrap.rank() == 0) {
    certified = report_of(node, [&] {
      require_kept_from_others(directory);
      enrolment.authority = std::make_shared<const CertificateAuthority>(
          directory.empty() ? CertificateAuthority::create(cluster)
                            : CertificateAuthority::in(directory, cluster));
      return certify(requests, *enrolment.authority, directory, life);
    });
  }
  const std::vector<std::string> certificates = parted(agree(bootstrap, certified)[0]);
  const NodeCredentials credentials{key, certificates.at(static_cast<size_t>(bootstrap.rank()) + 1),
                                    certificates[0]};
  enrolment.tls = std::make_shared<TlsContext>(credentials);
  enrolment.tls->set_revoked({certificates.begin() + bootstrap.size() + 1, certificates.end()});
  return enrolment;
}

}  // namespace shoal
