// How the nodes that a launcher started get certificates: each makes a key of its own, which stays with it,
// and the head's authority signs what they ask for. The launcher is trusted to say who is who; from then on
// the links themselves are (transport/certificates.h).
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "node/bootstrap.h"
#include "transport/tls.h"

namespace shoal {

// Where the head keeps the authority of a cluster: ${XDG_DATA_HOME:-~/.local/share}/shoal/clusters/NAME.
std::string authority_directory(const std::string& cluster);

// Where a node that joined by address keeps its key and certificate: .../shoal/nodes/NAME.
std::string credentials_directory(const std::string& node);

// Throws SetupError where others may write into one of the two directories: they could put an authority of
// their own there. One that is not there yet is as good as kept.
void require_kept_from_others(const std::string& directory);

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
