// Why each device has the share it has, in words, and whether a set of stages is a plan at all.
#pragma once

#include "planner/chain.h"
#include "planner/planner.h"

namespace shoal {

// One a device, in device order. What including a left-out device would cost is found by trying it at every
// place of the chosen order with exact cuts: a figure that can be reached, though not always the best that
// could.
std::vector<DeviceReason> device_reasons(const PlanInput& input, const CostModel& cost, const Chain& chain,
                                         std::vector<StageAssignment> stages);
std::vector<DeviceReason> manual_reasons(const PlanInput& input, std::vector<StageAssignment> stages);
std::vector<DeviceReason> energy_reasons(const PlanInput& input, std::vector<StageAssignment> stages);

}  // namespace shoal
