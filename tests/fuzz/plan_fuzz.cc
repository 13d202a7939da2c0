// Plans, device profiles and planning profiles as JSON: the first comes from the head, the second from a node
// that joins, the third from a file.
#include "planner/planner.h"
#include "planner/profile_json.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  fuzz::Input input(data, size);
  const uint8_t which = input.byte();
  const std::string_view text = input.text();
  if (which % 3 == 0) {
    const Result<Plan> plan = plan_from_json(text);
    if (!plan) {
      fuzz::require(!plan.error().message.empty(), "a refusal says why");
      return 0;
    }
    int next = 0;
    for (const StageAssignment& stage : plan->stages) {
      fuzz::require(stage.layer_begin == next && stage.layer_end >= next, "layers follow each other");
      fuzz::require(stage.device >= 0 && stage.device < static_cast<int>(plan->devices.size()),
                    "a stage has a device");
      next = stage.layer_end;
    }
    fuzz::require(next == plan->n_layer, "every layer is somewhere");
    const Result<Plan> back = plan_from_json(plan_to_json(*plan));
    fuzz::require(back && canonical_plan_text(*back) == canonical_plan_text(*plan),
                  "a plan comes back as it was");
  } else if (which % 3 == 1) {
    const Result<DeviceProfile> device = device_profile_from_json(text);
    if (device)
      fuzz::require(device_profile_from_json(device_profile_to_json(*device)).has_value(),
                    "a profile comes back");
  } else {
    const Result<PlanInput> profile = profile_from_json(text, "fuzz.json");
    if (profile)
      fuzz::require(profile->links.devices() == static_cast<int>(profile->devices.size()),
                    "links cover the devices");
  }
  return 0;
}
