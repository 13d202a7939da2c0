#include "planner/device_kinds.h"

#include <algorithm>

namespace shoal {
namespace {

bool alike(const PlanInput& input, int a, int b) {
  if (a == input.constraints.head || b == input.constraints.head) return false;
  DeviceProfile left = input.devices[static_cast<size_t>(a)];
  const DeviceProfile& right = input.devices[static_cast<size_t>(b)];
  left.name = right.name, left.type = right.type, left.load_bytes_per_s = right.load_bytes_per_s;
  if (!(left == right) || !(input.links.at(a, b) == input.links.at(b, a))) return false;
  for (int other = 0; other < input.links.devices(); ++other) {
    if (other == a || other == b) continue;
    if (!(input.links.at(a, other) == input.links.at(b, other)) ||
        !(input.links.at(other, a) == input.links.at(other, b)))
      return false;
  }
  return true;
}

}  // namespace

bool may_take_stage(const PlanInput& input, int device) {
  const std::vector<int>& excluded = input.constraints.excluded;
  return input.devices[static_cast<size_t>(device)].allowed &&
         std::find(excluded.begin(), excluded.end(), device) == excluded.end();
}

std::vector<std::vector<int>> device_kinds(const PlanInput& input) {
  std::vector<std::vector<int>> kinds;
  for (int device = 0; device < static_cast<int>(input.devices.size()); ++device) {
    if (!may_take_stage(input, device)) continue;
    // Alike to every member: links among the members must be the same too, or three could not change places.
    const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const std::vector<int>& members) {
      return std::all_of(members.begin(), members.end(),
                         [&](int member) { return alike(input, member, device); });
    });
    if (kind == kinds.end()) {
      kinds.push_back({device});
    } else {
      kind->push_back(device);
    }
  }
  return kinds;
}

}  // namespace shoal
