// What --verify takes while a cluster starts (node/verifier.h): on the head, and nothing where it was not
// asked for.
#pragma once

#include "node/cluster.h"

namespace shoal {

// Throws SetupError where there is nothing to compare bit for bit.
void check_verify(const Cluster& cluster);

// Once the nodes are measured: the head has so much less memory for its own stages. Throws SetupError where
// none would be left.
void keep_room_to_verify(Cluster& cluster);

// When all else runs.
void start_verifier(Cluster& cluster);

}  // namespace shoal
