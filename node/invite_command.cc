// shoal invite: on the head's machine, lets one device into the cluster.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>

#include "base/units.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/enrolment.h"
#include "node/invitation.h"
#include "node/revocation.h"

namespace shoal {

namespace {

// The first invitation may come before the head's first start. Where it does not, the name of the cluster is
// another than that of the head that runs, and a device would come with a certificate that nobody believes.
void tell_of_new_authority(const std::string& directory, const std::string& cluster, const std::string& file,
                           const std::vector<std::string>& others) {
  std::string hint;
  if (!others.empty()) {
    const std::string near = nearest_name(cluster, others);
    hint = fmt::format("\nThis machine has the authority of {} already{}.", fmt::join(others, ", "),
                       near.empty() ? "" : fmt::format(": did you mean {}?", near));
  }
  std::fputs(
      fmt::format("NEW AUTHORITY: cluster {} had none on this machine, so one was made, in {}.\n"
                  "If its head was started before, the name in {} (cluster:) or the user is not the head's, "
                  "and the head will refuse who comes with this token.{}\n",
                  cluster, directory, file, hint)
          .c_str(),
      stderr);
}

// A name is given again to a device that lost its certificate. Two that have the name keep each other out.
void tell_of_taken_name(const std::string& node, const std::string& issued) {
  std::error_code failed;
  if (node.empty() || !std::filesystem::exists(std::filesystem::path(issued) / (node + ".crt"), failed))
    return;
  std::fputs(fmt::format(
                 "{} HAS A CERTIFICATE ALREADY: go on if this is the same device. Another one would take the "
                 "name from it whenever it is away, and be kept out while it is there: give that another "
                 "--name.\n",
                 node)
                 .c_str(),
             stderr);
}

}  // namespace

int invite_command(const CommonFlags& common, const InviteFlags& flags) {
  const ClusterConfig config = load_cluster_config(common.config, "any");  // a model plays no part
  const std::string directory = authority_directory(config.cluster);
  require_kept_from_others(directory);
  const std::vector<std::string> others = clusters_with_authority();
  const bool first = !has_authority(directory);
  const CertificateAuthority authority = CertificateAuthority::in(directory, config.cluster);
  if (first) tell_of_new_authority(directory, config.cluster, common.config, others);
  const NodeConfig& head = config.nodes[static_cast<size_t>(config.head_index())];
  const std::string issued = directory + "/issued";
  tell_of_taken_name(flags.node, issued);
  Invitation invitation(authority, {head.address, static_cast<uint16_t>(flags.port), config.head, flags.node,
                                    issued, config.certificate_life(), revocations_file(directory)});
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
