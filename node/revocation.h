// Nodes that a cluster no longer believes: a device that was stolen or given away. Their names stand in a
// file beside the cluster's authority, one a line, kRevokedMax at most; `shoal revoke` writes it, the running
// head looks at it once in a while and tells the others. Names and not certificates, because a node gets new
// certificates: at each start under a launcher, and in time elsewhere. A Revocations object belongs to one
// thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "transport/messages.h"

namespace shoal {

// Of the cluster's authority directory (node/enrolment.h).
std::string revocations_file(const std::string& directory);

// Adds or takes away a name; false: it was so already. Throws SetupError where the file cannot be read or
// written.
bool set_revoked(const std::string& file, const std::string& node, bool revoked);

// Throws SetupError, with the nearest name known, unless a node is called so: one of the cluster file's, one
// that was invited (it has a certificate in the authority's directory), or one that is revoked already.
void require_known_node(const std::string& node, const std::vector<std::string>& in_cluster_file,
                        const std::string& directory);

class Revocations {
 public:
  // `file`: empty: nobody is revoked. One that is not there yet is as good as an empty one; throws SetupError
  // where one that is there cannot be read, or holds a line that is no name.
  explicit Revocations(std::string file);
  // Reads the file where it has changed; true where others are revoked now. One that cannot be read leaves
  // things as they are; one with a line that is no name adds its names alone. Either is logged.
  bool look();
  bool contains(const std::string& node) const { return names_.contains(node); }
  const std::set<std::string>& names() const { return names_; }

 private:
  std::string file_;
  std::string stamp_;  // size and time when it was read
  std::string told_;   // and when it could not be read, which was said
  std::set<std::string> names_;
};

}  // namespace shoal
