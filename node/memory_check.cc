#include "node/memory_check.h"

#include <fmt/format.h>

#include <map>

#include "base/units.h"

namespace shoal {

std::vector<std::string> memory_warnings(const std::vector<NodeMemory>& nodes, const std::string& path) {
  std::vector<std::string> warnings;
  struct Host {
    std::vector<std::string> names;
    uint64_t promised = 0, device = 0;
    bool alike = true;
  };
  std::map<std::string, Host> hosts;
  for (const NodeMemory& node : nodes) {
    if (node.promised_bytes > node.device_bytes) {
      warnings.push_back(
          fmt::format("{}: nodes.{}.memory is {} and its device has {}: the plan may fill more "
                      "than there is",
                      path, node.node, format_bytes(node.promised_bytes), format_bytes(node.device_bytes)));
    }
    Host& host = hosts[node.host];
    host.alike = host.alike && (host.names.empty() || host.device == node.device_bytes);
    host.names.push_back(node.node);
    host.promised += node.promised_bytes;
    host.device = node.device_bytes;
  }
  for (const auto& [name, host] : hosts) {
    if (host.names.size() < 2 || !host.alike || host.promised <= host.device) continue;
    warnings.push_back(fmt::format("{}: nodes {} share the host {}, their memory adds up to {} and it has {}",
                                   path, fmt::join(host.names, ", "), name, format_bytes(host.promised),
                                   format_bytes(host.device)));
  }
  return warnings;
}

}  // namespace shoal
