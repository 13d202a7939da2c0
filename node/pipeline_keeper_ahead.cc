// Spares fetch ahead what they would get if another were lost (node/foresight.h).
#include <fmt/format.h>

#include <boost/asio/post.hpp>

#include "base/units.h"
#include "node/foresight.h"
#include "node/pipeline_keeper.h"

namespace shoal {

void PipelineKeeper::look_ahead() {
  std::vector<Recovery::MakePlan> losses = recovery_.look_ahead(now());
  if (losses.empty()) return;
  std::vector<std::string> spares;
  for (const std::string& node : recovery_.here()) {
    if (node != head_ && !recovery_.in_plan(node)) spares.push_back(node);
  }
  if (spares.empty()) return;
  const uint64_t look = ++looks_ahead_;
  boost::asio::post(foresight_, [this, look, losses = std::move(losses), spares = std::move(spares),
                                 alive = std::weak_ptr<int>(alive_)] {
    const auto wanted = [this, look] { return looks_ahead_ == look; };
    auto shards =
        std::make_shared<std::map<std::string, std::vector<ShardSpec>>>(shards_ahead(losses, spares, wanted));
    node_.io().post([this, look, shards, alive] {
      if (!alive.expired() && looks_ahead_ == look && recovery_.state() == Recovery::State::kRunning)
        tell_ahead(*shards);
    });
  });
}

void PipelineKeeper::tell_ahead(const std::map<std::string, std::vector<ShardSpec>>& shards) {
  for (const auto& [node, parts] : shards) {
    if (recovery_.is_here(node) && !recovery_.in_plan(node))
      (void)node_.tell(node, FetchAhead{shards_to_json(parts)});
  }
}

void PipelineKeeper::on_fetched_ahead(const std::string& node, const FetchedAhead& fetched) {
  FetchedAhead& known = ahead_[node];
  if (known == fetched) return;
  known = fetched;
  happened({ClusterEvent::Kind::kFetchedAhead, now(), node,
            fmt::format("node {} has on its disk {} of the {} that it would get if another were lost", node,
                        format_bytes(fetched.held_bytes), format_bytes(fetched.wanted_bytes))});
}

}  // namespace shoal
