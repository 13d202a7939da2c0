#include "planner/chain.h"

#include <algorithm>

namespace shoal {

UnitRange end_on_head(const PlanInput& input) {
  const int n = input.model.n_layer;
  return {false, n - input.constraints.keep_on_head.last, n, true};
}

// The head holds the embedding already, so a tied output head adds no matrix, but it is one stage more.
uint64_t end_on_head_bytes(const PlanInput& input, const CostModel& cost) {
  return cost.stage_memory(end_on_head(input)).total() -
         (input.model.tied_output ? input.model.embedding_bytes : 0);
}

namespace {

bool usable(const PlanInput& input, int device) {
  const std::vector<int>& excluded = input.constraints.excluded;
  return input.devices[static_cast<size_t>(device)].allowed &&
         std::find(excluded.begin(), excluded.end(), device) == excluded.end();
}

bool same_profile(const DeviceProfile& a, const DeviceProfile& b) {
  DeviceProfile renamed = b;
  renamed.name = a.name;
  renamed.type = a.type;
  renamed.load_bytes_per_s = a.load_bytes_per_s;  // no plan depends on it
  return a == renamed;
}

// Swapping a and b changes nothing. Over all devices this is an equivalence: if a swaps with b and b with c,
// then a with c.
bool interchangeable(const PlanInput& input, int a, int b) {
  if (a == input.constraints.head || b == input.constraints.head) return false;
  if (!same_profile(input.devices[static_cast<size_t>(a)], input.devices[static_cast<size_t>(b)]))
    return false;
  const LinkTable& links = input.links;
  if (links.at(a, b) != links.at(b, a)) return false;
  for (int other = 0; other < links.devices(); ++other) {
    if (other == a || other == b) continue;
    if (links.at(a, other) != links.at(b, other) || links.at(other, a) != links.at(other, b)) return false;
  }
  return true;
}

void collect_types(const PlanInput& input, Chain& chain) {
  for (int device = 0; device < static_cast<int>(input.devices.size()); ++device) {
    if (!usable(input, device)) continue;
    const auto group = std::find_if(
        chain.members.begin(), chain.members.end(),
        [&](const std::vector<int>& members) { return interchangeable(input, members.front(), device); });
    if (device == input.constraints.head) chain.head_type = static_cast<int>(chain.members.size());
    if (group == chain.members.end()) {
      chain.members.push_back({device});
    } else {
      group->push_back(device);
    }
  }
  chain.types = static_cast<int>(chain.members.size());
}

// Units [begin, end) as a stage.
UnitRange range_of(const PlanInput& input, int begin, int end) {
  const int n = input.model.n_layer;
  return {begin == 0 && end > 0, std::clamp(begin - 1, 0, n), std::clamp(end - 1, 0, n), end == n + 2};
}

// May `device` hold units [begin, end)? Memory, number of layers, trust.
bool segment_fits(const PlanInput& input, const CostModel& cost, int device, int begin, int end) {
  const DeviceProfile& profile = input.devices[static_cast<size_t>(device)];
  const Constraints& constraints = input.constraints;
  const UnitRange range = range_of(input, begin, end);
  const int n = input.model.n_layer;
  const KeepOnHead& keep = constraints.keep_on_head;
  const bool has_end_too = keep.ends() && device == constraints.head;
  if (profile.layers_max > 0 && range.layer_end - range.layer_begin > profile.layers_max) return false;
  if (!profile.trusted) {
    if (constraints.trusted_first_layers > 0 && begin <= constraints.trusted_first_layers) return false;
    if (constraints.trusted_last_layers > 0 && (has_end_too || end > n + 1 - constraints.trusted_last_layers))
      return false;
  }
  uint64_t bytes = cost.stage_memory(range).total() + input.model.base_bytes;
  if (has_end_too) bytes += end_on_head_bytes(input, cost);
  return bytes <= profile.memory_bytes;
}

void fill_costs(const PlanInput& input, const CostModel& cost, int rows, Chain& chain) {
  const int head = input.constraints.head, types = chain.types;
  const bool ends = input.constraints.keep_on_head.ends();
  const ModelProfile& model = input.model;
  const auto row_count = static_cast<uint64_t>(rows);
  const uint64_t hidden = model.hidden_bytes_per_row * row_count;
  const double end_at_head = ends ? cost.compute_seconds(head, end_on_head(input), rows) : 0;
  const uint64_t home = ends ? hidden : model.result_bytes_per_row * row_count;
  chain.hop.assign(static_cast<size_t>(types) * static_cast<size_t>(types), 0);
  chain.busy_hop = chain.hop;
  for (int t = 0; t < types; ++t) {
    const std::vector<int>& members = chain.members[static_cast<size_t>(t)];
    const int device = members.front();
    for (int u = 0; u <= chain.units; ++u)
      chain.compute.push_back(cost.compute_seconds(device, range_of(input, 0, u), rows));
    chain.entry.push_back(cost.message_seconds(head, device, model.token_bytes_per_row * row_count));
    chain.busy_entry.push_back(cost.occupancy_seconds(head, device, model.token_bytes_per_row * row_count));
    // Where ends are kept a chain that ends on the head would be a single stage; the planner tries that by
    // itself.
    const bool closed = ends && t == chain.head_type;
    chain.finish.push_back(closed ? kUnusable : cost.message_seconds(device, head, home) + end_at_head);
    chain.busy_finish.push_back(closed ? kUnusable : cost.occupancy_seconds(device, head, home));
    chain.busy_extra.push_back(closed ? end_at_head : 0);
    for (int to = 0; to < types; ++to) {
      const std::vector<int>& targets = chain.members[static_cast<size_t>(to)];
      if (t == to && members.size() < 2) continue;
      const int target = t == to ? members[1] : targets.front();
      chain.hop[Chain::at(t, to, types)] = cost.message_seconds(device, target, hidden);
      chain.busy_hop[Chain::at(t, to, types)] = cost.occupancy_seconds(device, target, hidden);
    }
  }
}

std::vector<Segment> backtrack(const std::vector<int>& order, const std::vector<std::vector<int>>& cut,
                               int units) {
  std::vector<Segment> segments(order.size());
  int end = units;
  for (size_t i = order.size(); i-- > 0;) {
    const int begin = cut[i][static_cast<size_t>(end)];
    segments[i] = {order[i], begin, end};
    end = begin;
  }
  return segments;
}

// Least value over all cuts along `order`, where `join(value so far, segment's value)` accumulates and never
// decreases.
template <class SegmentValue, class Join>
std::optional<std::vector<Segment>> best_cuts(const Chain& chain, const std::vector<int>& order,
                                              SegmentValue value, Join join) {
  const auto width = static_cast<size_t>(chain.units) + 1;
  std::vector<double> best(width, kUnusable), next(width);
  std::vector<std::vector<int>> cut(order.size(), std::vector<int>(width, -1));
  best[0] = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    std::fill(next.begin(), next.end(), kUnusable);
    const int type = order[i];
    const int units_min = i == 0 ? chain.first_units_min() : 1;
    for (int begin = 0; begin < chain.units; ++begin) {
      const double before = best[static_cast<size_t>(begin)];
      if (before == kUnusable) continue;
      for (int end = begin + units_min; end <= chain.reach_of(type, begin); ++end) {
        const double joined = join(before, value(type, begin, end));
        if (joined >= next[static_cast<size_t>(end)]) continue;
        next[static_cast<size_t>(end)] = joined;
        cut[i][static_cast<size_t>(end)] = begin;
      }
    }
    best.swap(next);
  }
  if (best.back() == kUnusable) return std::nullopt;
  return backtrack(order, cut, chain.units);
}

bool links_usable(const Chain& chain, const std::vector<int>& order) {
  const auto first = static_cast<size_t>(order.front()), last = static_cast<size_t>(order.back());
  if (!chain.may_begin(order.front()) || chain.entry[first] == kUnusable || chain.finish[last] == kUnusable)
    return false;
  for (size_t i = 1; i < order.size(); ++i)
    if (chain.hop_of(order[i - 1], order[i]) == kUnusable) return false;
  return true;
}

}  // namespace

Chain make_chain(const PlanInput& input, const CostModel& cost, int rows) {
  Chain chain;
  const KeepOnHead& keep = input.constraints.keep_on_head;
  chain.units = input.model.n_layer + (keep.ends() ? 1 - keep.last : 2);
  chain.head_first = keep.begins();
  chain.head_units = 1 + keep.first;
  collect_types(input, chain);
  fill_costs(input, cost, rows, chain);
  chain.unit_bytes.assign(static_cast<size_t>(chain.units), 0);
  for (size_t i = 0; i < input.model.layer_bytes.size() && i + 1 < chain.unit_bytes.size(); ++i)
    chain.unit_bytes[i + 1] = static_cast<double>(input.model.layer_bytes[i] + input.model.layer_kv_bytes[i]);
  for (int t = 0; t < chain.types; ++t) {
    const int device = chain.members[static_cast<size_t>(t)].front();
    int end = 0;
    for (int begin = 0; begin < chain.units; ++begin) {
      end = std::max(end, begin);
      while (end < chain.units && segment_fits(input, cost, device, begin, end + 1)) ++end;
      chain.reach.push_back(end);
    }
  }
  return chain;
}

Chain limit_busy(Chain chain, double seconds) {
  for (int t = 0; t < chain.types; ++t) {
    const auto index = static_cast<size_t>(t);
    for (int begin = 0; begin < chain.units; ++begin) {
      int& reach = chain.reach[Chain::at(t, begin, chain.units)];
      while (reach > begin && chain.busy(t, begin, reach) > seconds) --reach;
    }
    if (chain.busy_entry[index] > seconds) chain.entry[index] = kUnusable;
    if (chain.busy_finish[index] > seconds) chain.finish[index] = kUnusable;
  }
  for (size_t i = 0; i < chain.hop.size(); ++i)
    if (chain.busy_hop[i] > seconds) chain.hop[i] = kUnusable;
  return chain;
}

double lap_seconds(const Chain& chain, const std::vector<Segment>& segments) {
  double lap = chain.entry[static_cast<size_t>(segments.front().type)];
  for (size_t i = 0; i < segments.size(); ++i) {
    if (i > 0) lap += chain.hop_of(segments[i - 1].type, segments[i].type);
    lap += chain.seconds(segments[i].type, segments[i].begin, segments[i].end);
  }
  return lap + chain.finish[static_cast<size_t>(segments.back().type)];
}

double busiest_seconds(const Chain& chain, const std::vector<Segment>& segments) {
  double busiest = std::max(chain.busy_entry[static_cast<size_t>(segments.front().type)],
                            chain.busy_finish[static_cast<size_t>(segments.back().type)]);
  for (size_t i = 0; i < segments.size(); ++i) {
    if (i > 0) busiest = std::max(busiest, chain.busy_hop_of(segments[i - 1].type, segments[i].type));
    busiest = std::max(busiest, chain.busy(segments[i].type, segments[i].begin, segments[i].end));
  }
  return busiest;
}

std::optional<std::vector<Segment>> cut_for_lap(const Chain& chain, const std::vector<int>& order) {
  if (!links_usable(chain, order)) return std::nullopt;
  return best_cuts(
      chain, order, [&](int type, int begin, int end) { return chain.seconds(type, begin, end); },
      [](double before, double segment) { return before + segment; });
}

std::optional<std::vector<Segment>> cut_for_busiest(const Chain& chain, const std::vector<int>& order) {
  if (!links_usable(chain, order)) return std::nullopt;
  return best_cuts(
      chain, order, [&](int type, int begin, int end) { return chain.busy(type, begin, end); },
      [](double before, double segment) { return std::max(before, segment); });
}

CountIndex::CountIndex(const Chain& chain) {
  for (int t = 0; t < chain.types; ++t) {
    stride.push_back(sets);
    radix.push_back(static_cast<size_t>(chain.later_count(t)) + 1);
    sets *= radix.back();
    fits = fits && sets * static_cast<size_t>(chain.types) <= kSearchStatesMax;
    if (!fits) return;
  }
  room.resize(sets);
  used.resize(sets);
  for (size_t t = 0; t < stride.size(); ++t) room[0] |= static_cast<uint32_t>(radix[t] > 1) << t;
  for (size_t t = 0; t < stride.size(); ++t) {  // sets with devices of type t from those without
    const uint32_t bit = uint32_t{1} << t;
    for (size_t set = stride[t]; set < stride[t] * radix[t]; ++set) {
      const bool full = set >= stride[t] * (radix[t] - 1);
      used[set] = used[set - stride[t]] | bit;
      room[set] = full ? room[set - stride[t]] & ~bit : room[set - stride[t]];
    }
  }
}

bool search_fits(const Chain& chain) {
  size_t states = static_cast<size_t>(chain.types);
  for (int t = 0; t < chain.types && states <= kSearchStatesMax; ++t)
    states *= static_cast<size_t>(chain.later_count(t)) + 1;
  return states <= kSearchStatesMax;
}

}  // namespace shoal
