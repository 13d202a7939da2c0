// Whether the memory that a cluster file promises is there. Pure text from plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal {

struct NodeMemory {
  std::string node;
  std::string host;
  uint64_t promised_bytes = 0;  // memory: in the cluster file
  uint64_t device_bytes = 0;    // what the operating system gives the process
};

// A sentence for each node that is promised more than its device has, and for each host whose nodes together
// are. `path`: of the cluster file. Nodes of one host that see different sizes live in containers of their
// own; those are not added up.
std::vector<std::string> memory_warnings(const std::vector<NodeMemory>& nodes, const std::string& path);

}  // namespace shoal
