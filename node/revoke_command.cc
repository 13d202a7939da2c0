// shoal revoke: on the head's machine, shuts a device out of the cluster.
#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/enrolment.h"
#include "node/revocation.h"

namespace shoal {

int revoke_command(const CommonFlags& common, const RevokeFlags& flags) {
  const ClusterConfig config = load_cluster_config(common.config, "any");  // a model plays no part
  if (!is_node_name(flags.node))
    throw SetupError("a node's name is 1 to 63 letters, digits, '-', '_' or '.'");
  if (flags.node == config.head)
    throw SetupError(fmt::format("{} is the head, which is the cluster: stop it instead", flags.node));
  const std::string directory = authority_directory(config.cluster);
  require_kept_from_others(directory);
  (void)CertificateAuthority::in(directory, config.cluster);  // so that there is a cluster here
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
