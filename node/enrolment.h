// How the nodes that a launcher started get certificates: each makes a key of its own, which stays with it,
// and the head's authority signs what they ask for. The launcher is trusted to say who is who; from then on
// the links themselves are (transport/certificates.h).
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "node/bootstrap.h"
#include "transport/tls.h"

namespace shoal {

// Where the head keeps the authority of a cluster: ${XDG_DATA_HOME:-~/.local/share}/shoal/clusters/NAME.
std::string authority_directory(const std::string& cluster);

// Where a node that joined by address keeps its key and certificate: .../shoal/nodes/NAME.
std::string credentials_directory(const std::string& node);

// Throws SetupError that names all that others may write to of one of the two directories, the two folders
// above it and what stands in it: they could put an authority of their own there. What is not there yet is as
// good as kept, and so is "".
void require_kept_from_others(const std::string& directory);

// Throws SetupError where what a token gets could not be kept in such a directory now: before it is used up.
void require_room_for_credentials(const std::string& directory);

// Whether an authority was made in such a directory before, whole or not.
bool has_authority(const std::string& directory);
// The clusters that have one on this machine, as their directories are called.
std::vector<std::string> clusters_with_authority();

// Collective: every rank calls it once, after the ranks have agreed on their names. `directory`: of the
// head's authority; empty: one for this run alone. All learn who was shut out; one of them gets no
// certificate. `life`: the head's word counts. Throws as agree() does.
struct Enrolment {
  std::shared_ptr<TlsContext> tls;
  std::shared_ptr<const CertificateAuthority> authority;  // the head's
};
Enrolment enrol(Bootstrap& bootstrap, const std::string& cluster, const std::string& node,
                const std::string& directory,
                std::chrono::seconds life = std::chrono::days(kCertificateDays));

}  // namespace shoal
