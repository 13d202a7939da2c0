// Measuring a cluster at start-up: what each device computes in a second, and what each link carries.
// Collective: every rank calls these in the same order; where one fails, all end together (node/bootstrap.h).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "node/cluster.h"

namespace shoal {

// Profiles in the order of the cluster file, the same on every rank.
std::vector<DeviceProfile> measure_devices(Cluster& cluster, Bootstrap& bootstrap, int threads);

// Every link both ways, the same on every rank; what the cluster file states is taken from there.
LinkTable measure_links(Cluster& cluster, Bootstrap& bootstrap,
                        const std::map<std::string, Endpoint>& endpoints);

}  // namespace shoal
