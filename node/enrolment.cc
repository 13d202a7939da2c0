#include "node/enrolment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "node/revocation.h"

namespace shoal {
namespace {

// What stands in the two kinds of directories and is taken for the owner's word. Keys must be private
// besides: who reads them sees to it.
constexpr const char* kBelieved[] = {"authority.crt", "node.crt", "issued", "revoked"};

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
  if (directory.empty()) return;
  std::vector<std::string> open;
  const auto look = [&](const std::filesystem::path& path, mode_t harmless) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0 || (status.st_mode & 022) == 0) return;
    if ((status.st_mode & harmless) == 0) open.push_back(path.string());
  };
  // In a folder with the sticky bit nobody can put another directory in the place of ours.
  const std::filesystem::path folder(directory);
  for (const std::filesystem::path& above : {folder.parent_path().parent_path(), folder.parent_path()})
    look(above, S_ISVTX);
  look(folder, 0);
  for (const char* inside : kBelieved) look(folder / inside, 0);
  if (open.empty()) return;
  throw SetupError(
      fmt::format("{} can be written to by others, who could put an authority, certificates or names of "
                  "their own there: see that nobody did, then chmod go-w {}",
                  fmt::join(open, ", "), fmt::join(open, " ")));
}

void require_room_for_credentials(const std::string& directory) {
  constexpr size_t kCertificateBytes = 4 << 10;  // of P-256 it has less than one
  const std::string filler(kCertificateBytes, '\n'), room = directory + "/room";
  std::error_code ignored;
  try {
    store_credentials(room, {NodeKey::create(), filler, filler});
  } catch (const SetupError&) {
    std::filesystem::remove_all(room, ignored);
    throw;
  }
  std::filesystem::remove_all(room, ignored);
}

bool has_authority(const std::string& directory) {
  std::error_code failed;
  return std::filesystem::exists(directory + "/authority.key", failed) ||
         std::filesystem::exists(directory + "/authority.crt", failed);
}

std::vector<std::string> clusters_with_authority() {
  std::vector<std::string> names;
  std::error_code failed;
  const std::filesystem::path all = std::filesystem::path(authority_directory("any")).parent_path();
  for (std::filesystem::directory_iterator entry(all, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    if (has_authority(entry->path().string())) names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
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
