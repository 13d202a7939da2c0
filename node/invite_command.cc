// shoal invite: on the head's machine, lets one device into the cluster.
#include <fmt/format.h>

#include <cstdio>

#include "base/units.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/enrolment.h"
#include "node/invitation.h"
#include "node/revocation.h"

namespace shoal {

int invite_command(const CommonFlags& common, const InviteFlags& flags) {
  const ClusterConfig config = load_cluster_config(common.config, "any");  // a model plays no part
  const std::string directory = authority_directory(config.cluster);
  require_kept_from_others(directory);
  const CertificateAuthority authority = CertificateAuthority::in(directory, config.cluster);
  const NodeConfig& head = config.nodes[static_cast<size_t>(config.head_index())];
  Invitation invitation(authority,
                        {head.address, static_cast<uint16_t>(flags.port), config.head, flags.node,
                         directory + "/issued", config.certificate_life(), revocations_file(directory)});
  std::fputs(fmt::format("on the device, within {}:\n\n  shoal node --join {}:{} --token {}\n\n",
                         format_seconds(flags.wait_s), head.address,
                         head.port > 0 ? std::to_string(head.port) : "PORT", invitation.token())
                 .c_str(),
             stdout);
  std::fflush(stdout);
  const Result<std::string> came =
      invitation.wait(std::chrono::milliseconds(static_cast<int64_t>(flags.wait_s * 1e3)));
  if (came.has_error()) throw SetupError(came.error().message, kExitFailed);
  std::fputs(fmt::format("{} has its certificate\n", *came).c_str(), stdout);
  return kExitDone;
}

}  // namespace shoal
