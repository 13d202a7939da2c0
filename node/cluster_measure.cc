#include "node/cluster_measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "node/probe.h"
#include "node/process_memory.h"
#include "node/progress.h"

namespace shoal {
namespace {

const LinkConfig* find_link(const ClusterConfig& config, const std::string& a, const std::string& b) {
  for (const LinkConfig& link : config.links) {
    if ((link.a == a && link.b == b) || (link.a == b && link.b == a)) return &link;
  }
  return nullptr;
}

// Whom node `me` meets in a round of a tournament of `players` (an even number), by the circle method: the
// last one stays, the others turn. In players - 1 rounds everyone meets everyone once.
int opponent(int me, int round, int players) {
  const int turning = players - 1;
  if (me == turning) return round * (players / 2) % turning;
  const int other = ((round - me) % turning + turning) % turning;
  return other == me ? turning : other;
}

// From this node to `peer`: stated, measured, or half of each.
LinkProfile measure_one(Cluster& cluster, const std::string& peer, const Endpoint& endpoint,
                        std::string& error) {
  const LinkConfig* stated = find_link(cluster.config, cluster.name, peer);
  LinkProfile link;
  if (stated == nullptr || !stated->bytes_per_second || !stated->latency_s) {
    const Result<LinkProfile> measured = cluster.node->measure_link(peer, endpoint);
    if (measured.has_error()) {
      error = fmt::format("node {} cannot reach {} at {}:{}: {}", cluster.name, peer, endpoint.address,
                          endpoint.port, measured.error().message);
      return link;
    }
    link = *measured;
  }
  if (stated != nullptr && stated->bytes_per_second) link.bytes_per_s = *stated->bytes_per_second;
  if (stated != nullptr && stated->latency_s) link.latency_s = *stated->latency_s;
  return link;
}

}  // namespace

// Ranks of one host measure in turns, since they would disturb each other; hosts measure at the same time.
std::vector<DeviceProfile> measure_devices(Cluster& cluster, Bootstrap& bootstrap, int threads) {
  const std::vector<std::string> hosts = bootstrap.all_gather(host_name());
  int my_turn = 0, turns = 1;
  for (int rank = 0; rank < bootstrap.size(); ++rank) {
    const std::string& host = hosts[static_cast<size_t>(rank)];
    if (rank < bootstrap.rank() && host == hosts[static_cast<size_t>(bootstrap.rank())]) ++my_turn;
    turns = std::max(turns, static_cast<int>(std::count(hosts.begin(), hosts.end(), host)));
  }
  RankReport report;
  ProgressLine progress("measuring the nodes", bootstrap.rank() == 0);
  for (int turn = 0; turn < turns; ++turn) {
    progress.update(static_cast<uint64_t>(turn), static_cast<uint64_t>(turns));
    if (turn == my_turn) {
      try {
        const bool made_up = cluster.weights && !cluster.weights->has_file();
        const ProbeOptions options{threads, cluster.this_node().memory_bytes, made_up};
        DeviceProfile profile = probe_device(*cluster.file, cluster.model, *cluster.kernels, options);
        profile.name = cluster.name;
        profile.idle_watts = cluster.this_node().idle_watts;
        profile.busy_watts = cluster.this_node().busy_watts;
        report.payload = device_profile_to_json(profile);
      } catch (const SetupError& error) {
        report = {"", fmt::format("node {}: {}", cluster.name, error.what()), error.exit_code()};
      }
    }
    bootstrap.barrier();
  }
  std::vector<DeviceProfile> profiles(cluster.config.nodes.size());
  for (const std::string& text : agree(bootstrap, report)) {
    Result<DeviceProfile> profile = device_profile_from_json(text);
    if (profile.has_error()) {
      throw SetupError("a node sent no valid profile: " + profile.error().message, kExitFailed);
    }
    profiles[static_cast<size_t>(cluster.config.node_index(profile->name))] = *profile;
  }
  return profiles;
}

// The pairs of one round share no node, so that no measurement disturbs another.
LinkTable measure_links(Cluster& cluster, Bootstrap& bootstrap,
                        const std::map<std::string, Endpoint>& endpoints) {
  const ClusterConfig& config = cluster.config;
  const int n = static_cast<int>(config.nodes.size()), players = n + n % 2;
  const int me = config.node_index(cluster.name);
  boost::json::array mine;
  std::string error;
  ProgressLine progress("measuring the links", bootstrap.rank() == 0);
  for (int round = 0; round < players - 1; ++round) {
    progress.update(static_cast<uint64_t>(round), static_cast<uint64_t>(players - 1));
    const int other = opponent(me, round, players);
    for (const bool lower_first : {true, false}) {
      if (other < n && (me < other) == lower_first) {
        const std::string& peer = config.nodes[static_cast<size_t>(other)].name;
        const LinkProfile link = measure_one(cluster, peer, endpoints.at(peer), error);
        mine.push_back(
            {{"from", me}, {"to", other}, {"latency", link.latency_s}, {"rate", link.bytes_per_s}});
      }
      bootstrap.barrier();
    }
  }
  LinkTable links(n, LinkProfile{});
  const RankReport report{boost::json::serialize(mine), error, error.empty() ? 0 : kExitFailed};
  for (const std::string& text : agree(bootstrap, report)) {
    const boost::json::value measured = boost::json::parse(text);
    for (const boost::json::value& value : measured.as_array()) {
      links.set(static_cast<int>(value.at("from").as_int64()), static_cast<int>(value.at("to").as_int64()),
                {value.at("latency").to_number<double>(), value.at("rate").to_number<double>()});
    }
  }
  return links;
}

}  // namespace shoal
