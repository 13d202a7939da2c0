// A node comes in: what it says of itself, the links to and from it, and then it counts.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/detached.hpp>
#include <boost/json.hpp>

#include <algorithm>

#include "base/units.h"
#include "node/pipeline_keeper.h"
#include "node/pipeline_setup.h"
#include "node/signed_plan.h"
#include "planner/cost_model.h"
#include "planner/planner.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr double kMeasureDeadline_s = 15;  // for one node's links
constexpr int kRoundsMax = 4;

// What the layer takes that takes least, with the process around it.
uint64_t least_bytes(const PlanInput& input) {
  const CostModel cost(input);
  uint64_t least = UINT64_MAX;
  for (int layer = 0; layer < input.model.n_layer; ++layer)
    least = std::min(least, cost.stage_memory({false, layer, layer + 1, false}).total());
  return least + input.model.base_bytes;
}

const LinkConfig* stated_link(const ClusterConfig& config, const std::string& a, const std::string& b) {
  for (const LinkConfig& link : config.links) {
    if ((link.a == a && link.b == b) || (link.a == b && link.b == a)) return &link;
  }
  return nullptr;
}

}  // namespace

std::string PipelineKeeper::peers_json(const std::vector<std::string>& names) const {
  json::array peers;
  for (const std::string& name : names) {
    const Endpoint& endpoint = endpoints_.at(name);
    peers.push_back({{"name", name}, {"address", endpoint.address}, {"port", endpoint.port}});
  }
  return json::serialize(peers);
}

void PipelineKeeper::on_joined(const std::string& node, const Join& join) {
  membership_.joined(node, now());
  Result<DeviceProfile> device = device_profile_from_json(join.profile_json);
  if (device.has_error() || device->name != node || join.port == 0) {
    warn_of(node, fmt::format("node {} did not say what it is: {}", node,
                              device.has_error() ? device.error().message
                                                 : "its profile is another's, or it listens nowhere"));
    membership_.left(node, now());
    return node_.forget(node);
  }
  const int listed = settings_.config.node_index(node);
  const uint64_t stated = listed >= 0 ? settings_.config.nodes[static_cast<size_t>(listed)].memory_bytes : 0;
  if (const uint64_t given = join.memory_bytes > 0 ? join.memory_bytes : stated; given > 0)
    device->memory_bytes = given;  // else what the node found that it has
  // The cluster file's word, not the node's own: a stranger to it is not trusted.
  device->trusted = listed >= 0 && settings_.config.nodes[static_cast<size_t>(listed)].trusted;
  endpoints_[node] = {join.address.empty() ? node_.address_of(node) : join.address, join.port};
  memory_[node] = device->memory_bytes;
  if (const uint64_t least = least_bytes(settings_.known); device->memory_bytes < least) {
    warn_of(node, fmt::format("node {} has {} of memory to use and one layer takes {} at least: it can never "
                              "hold one; give it more (--memory, or the cluster file's `memory`)",
                              node, format_bytes(device->memory_bytes), format_bytes(least)));
  }
  remember(node, join.held);
  Joining& joining = joining_[node];
  joining = {};
  joining.device = *device;
  const std::vector<std::string> others = unmeasured(joining);
  if (others.empty()) return finish_join(node);
  measure(node, others);
}

// A plan of a head before this one, if a head of this cluster gave it: a node's own word must not push the
// number up.
void PipelineKeeper::remember(const std::string& node, const LoadPlan& held) {
  if (held == LoadPlan{}) return;
  const Result<PipelineLayout> layout = check_held(held, node_.identity());
  if (layout.has_error()) {
    return warn_of(node, fmt::format("node {} says that it follows plan {}, which does not count: {}", node,
                                     held.epoch, layout.error().message));
  }
  std::optional<Plan> plan;
  if (layout->head == head_ && layout->shard_of_stage.back().layers.end == settings_.known.model.n_layer)
    plan = plan_of(*layout);
  recovery_.remember(plan, held.epoch);
}

void PipelineKeeper::warn_of(const std::string& node, const std::string& what) {
  lines_.warn(node, what, now());
}

// Those that are there without a link from the node that joins; links that the cluster file states are added.
std::vector<std::string> PipelineKeeper::unmeasured(Joining& joining) const {
  const std::string& node = joining.device.name;
  std::vector<std::string> others;
  for (const std::string& other : recovery_.here()) {
    const bool known = std::any_of(joining.links.begin(), joining.links.end(),
                                   [&](const auto& link) { return link.from == node && link.to == other; });
    if (known) continue;
    const LinkConfig* stated = stated_link(settings_.config, node, other);
    if (stated != nullptr && stated->bytes_per_second && stated->latency_s) {
      for (const auto& [from, to] : {std::pair(node, other), std::pair(other, node)})
        joining.links.push_back({from, to, {*stated->latency_s, *stated->bytes_per_second}});
    } else {
      others.push_back(other);
    }
  }
  return others;
}

// First the ways from it, then from each of the others the way to it.
void PipelineKeeper::measure(const std::string& node, const std::vector<std::string>& others) {
  Joining& joining = joining_.at(node);
  joining.to_ask = others;
  joining.asked = node;
  joining.deadline_s = now() + kMeasureDeadline_s;
  (void)node_.tell(node, Measure{peers_json(others)});
}

void PipelineKeeper::add_link(Joining& joining, const std::string& from, const std::string& to,
                              LinkProfile link) {
  const LinkConfig* stated = stated_link(settings_.config, from, to);
  if (stated != nullptr && stated->latency_s) link.latency_s = *stated->latency_s;
  if (stated != nullptr && stated->bytes_per_second && link.bytes_per_s > 0)
    link.bytes_per_s = *stated->bytes_per_second;
  joining.links.push_back({from, to, link});
}

void PipelineKeeper::on_measured(const std::string& node, const Measured& measured) {
  const auto of = std::find_if(joining_.begin(), joining_.end(),
                               [&](const auto& entry) { return entry.second.asked == node; });
  if (of == joining_.end()) return;
  try {
    const json::value links = json::parse(measured.links_json);
    for (const json::value& value : links.as_array()) {
      const json::object& link = value.as_object();
      const LinkProfile profile{link.at("latency_s").to_number<double>(),
                                link.at("bytes_per_s").to_number<double>()};
      if (profile.latency_s < 0 || !(profile.bytes_per_s >= 0)) continue;
      add_link(of->second, node, std::string(link.at("to").as_string()), profile);
    }
  } catch (const std::exception& error) {
    warn_of(node, fmt::format("node {} measured its links and what it says cannot be read: {}", node,
                              error.what()));
  }
  ask_next(std::string(of->first));
}

// The way to the node that joins, from one after the other of those that are there.
void PipelineKeeper::ask_next(const std::string& node) {
  const auto found = joining_.find(node);
  if (found == joining_.end()) return;
  Joining& joining = found->second;
  joining.deadline_s = now() + kMeasureDeadline_s;
  while (!joining.to_ask.empty()) {
    const std::string next = joining.to_ask.back();
    joining.to_ask.pop_back();
    joining.asked = next;
    if (next == head_) {
      auto probe = [](PipelineKeeper* self, std::string name, Endpoint endpoint,
                      std::weak_ptr<int> alive) -> boost::asio::awaitable<void> {
        const Result<LinkProfile> link = co_await self->node_.probe_link(name, endpoint);
        if (!alive.expired()) self->measured_by_head(name, link);
      };
      boost::asio::co_spawn(node_.io().executor(), probe(this, node, endpoints_.at(node), alive_),
                            boost::asio::detached);
      return;
    }
    if (recovery_.is_here(next) && node_.tell(next, Measure{peers_json({node})})) return;
  }
  finish_join(node);
}

void PipelineKeeper::measured_by_head(const std::string& node, const Result<LinkProfile>& link) {
  const auto found = joining_.find(node);
  if (found == joining_.end() || found->second.asked != head_) return;
  if (link.has_error())
    warn_of(node, fmt::format("node {} cannot be reached: {}", node, link.error().message));
  add_link(found->second, head_, node, link ? *link : LinkProfile{});
  ask_next(node);
}

void PipelineKeeper::finish_join(const std::string& node) {
  const auto found = joining_.find(node);
  if (found == joining_.end()) return;
  // Others may have come in meanwhile, whose links to it nobody has measured.
  const std::vector<std::string> fresh = unmeasured(found->second);
  if (!fresh.empty() && found->second.rounds++ < kRoundsMax) return measure(node, fresh);
  const Joining joined = std::move(found->second);
  joining_.erase(found);
  recovery_.joined(joined.device, joined.links, now());
  act();
}

}  // namespace shoal
