// The words for objectives and for what the head keeps.
#include <charconv>
#include <optional>

#include "planner/planner.h"

namespace shoal {

std::string_view to_string(Objective objective) {
  switch (objective) {
    case Objective::kLatency:
      return "latency";
    case Objective::kThroughput:
      return "throughput";
    case Objective::kEnergy:
      return "energy";
  }
  return "latency";
}

std::string to_string(const KeepOnHead& keep) {
  if (keep == KeepOnHead::kNone) return "none";
  if (keep == KeepOnHead::kFirstLayer) return "first-layer";
  if (keep == KeepOnHead::kEnds) return "ends";
  return "first:" + std::to_string(keep.first) + (keep.ends() ? ",last:" + std::to_string(keep.last) : "");
}

Objective parse_objective(std::string_view text) {
  for (Objective objective : kObjectives)
    if (text == to_string(objective)) return objective;
  throw SetupError("objective \"" + std::string(text) +
                   "\" is not known; it is latency, throughput or energy");
}

KeepOnHead parse_keep_on_head(std::string_view text) {
  for (const KeepOnHead& keep : {KeepOnHead::kNone, KeepOnHead::kFirstLayer, KeepOnHead::kEnds})
    if (text == to_string(keep)) return keep;
  // "first:K" or "first:K,last:L": reading it back says whether it was one.
  KeepOnHead keep = KeepOnHead::kFirstLayer;
  const size_t comma = text.find(',');
  const auto number = [](std::string_view part, std::string_view name, int least) -> std::optional<int> {
    if (!part.starts_with(name)) return std::nullopt;
    part.remove_prefix(name.size());
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < least || value > kPlanLayersMax)
      return std::nullopt;
    return value;
  };
  const std::optional<int> first = number(text.substr(0, comma), "first:", 1);
  const std::optional<int> last =
      comma == std::string_view::npos ? std::optional(-1) : number(text.substr(comma + 1), "last:", 0);
  if (first && last) {
    keep.first = *first;
    keep.last = *last;
    return keep;
  }
  throw SetupError(
      "keep-on-head \"" + std::string(text) +
      "\" is not known; it is none, first-layer, ends, or layers like first:2 or first:2,last:1");
}

}  // namespace shoal
