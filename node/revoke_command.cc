// shoal revoke: on the head's machine, shuts a device out of the cluster.
#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"
#include "base/units.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/enrolment.h"
#include "node/revocation.h"

namespace shoal {

namespace {

// Nobody has a certificate of a cluster without one, so whoever asks for this means another cluster, or
// another machine.
void require_authority(const std::string& directory, const std::string& cluster, const std::string& file) {
  if (has_authority(directory)) {
    (void)CertificateAuthority::in(directory, cluster);
    return;
  }
  const std::string near = nearest_name(cluster, clusters_with_authority());
  throw SetupError(fmt::format(
      "there is no cluster {} on this machine (no authority in {}), so nobody is shut out of it{}: see what "
      "{} says after cluster:, and run this on the head's machine as the user who runs the head",
      cluster, directory, near.empty() ? "" : fmt::format("; did you mean {}?", near), file));
}

}  // namespace

int revoke_command(const CommonFlags& common, const RevokeFlags& flags) {
  const ClusterConfig config = load_cluster_config(common.config, "any");  // a model plays no part
  if (!is_node_name(flags.node))
    throw SetupError("a node's name is 1 to 63 letters, digits, '-', '_' or '.'");
  if (flags.node == config.head)
    throw SetupError(fmt::format("{} is the head, which is the cluster: stop it instead", flags.node));
  const std::string directory = authority_directory(config.cluster);
  require_kept_from_others(directory);
  require_authority(directory, config.cluster, common.config);
  std::vector<std::string> in_file;
  for (const NodeConfig& node : config.nodes) in_file.push_back(node.name);
  if (!flags.force) require_known_node(flags.node, in_file, directory);
  const bool changed = set_revoked(revocations_file(directory), flags.node, !flags.undo);
  const char* const state = flags.undo ? "let in again" : "shut out";
  std::fputs((changed ? fmt::format("{} is {} from now on; a running head notices within a second\n",
                                    flags.node, state)
                      : fmt::format("{} was {} already\n", flags.node, state))
                 .c_str(),
             stderr);
  return kExitDone;
}

}  // namespace shoal
