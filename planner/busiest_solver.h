// Exact search for the chain's segments whose busiest device or link is least busy: the pipeline's
// throughput.
#pragma once

#include <optional>
#include <vector>

#include "planner/chain.h"

namespace shoal {

// Segments with the least busiest_seconds(), or nullopt: there is no solution. The chain's states must not
// exceed kSearchStatesMax.
std::optional<std::vector<Segment>> solve_busiest(const Chain& chain);

// Any segments at all, or nullopt: there is no solution. The same condition.
std::optional<std::vector<Segment>> any_segments(const Chain& chain);

}  // namespace shoal
