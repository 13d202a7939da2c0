// Names of nodes in a file, one a line: who was revoked, who was drained. Any thread; who writes at the same
// time as others locks the directory first (base/directory_lock.h).
#pragma once

#include <cstddef>
#include <set>
#include <string>

namespace shoal {

struct NamesInFile {
  bool is_there = false;  // the file
  std::set<std::string> names;
  std::string fault;  // file, line and what is wrong, of the first line that is no name; empty: all are
};

// At most so many: one more is a fault. A file that is not there is as good as an empty one; throws
// SetupError where one that is there cannot be read.
NamesInFile read_node_names(const std::string& file, size_t most);

// Who is drained, beside the cluster's authority (node/enrolment.h).
std::string drained_file(const std::string& directory);

// Whole or not at all, for its owner's eyes alone. Throws SetupError (exit code 1) where it cannot.
void write_node_names(const std::string& file, const std::set<std::string>& names);

}  // namespace shoal
