// What the nodes have done, asked for from the HTTP side and fetched by the main thread, which may wait for a
// node that is silent while the io thread may not. Keeps the last two samples, so that rates can be told.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "node/http/notifier.h"
#include "node/node.h"

namespace shoal {

struct StatsSample {
  std::chrono::steady_clock::time_point when;
  std::vector<StatsMessage> nodes;
};

class StatsCollector {
 public:
  explicit StatsCollector(Node& node) : node_(node) {}

  // The main thread: fetches whenever somebody asks, until stop(); calls `on_tick` several times a second.
  void run(const std::function<void()>& on_tick);
  void stop();  // from any thread

  // On the io thread: asks for a sample unless the newest is younger than `age_max`, and waits for it, a
  // second at most. Null where there is none yet.
  boost::asio::awaitable<std::shared_ptr<const StatsSample>> newest(std::chrono::milliseconds age_max);
  // The sample before the newest, for rates; null at first.
  std::shared_ptr<const StatsSample> previous() const { return previous_; }

 private:
  Node& node_;
  std::mutex mutex_;
  std::condition_variable asked_changed_;
  bool asked_ = false, stopping_ = false;
  // On the io thread.
  std::shared_ptr<const StatsSample> newest_, previous_;
  std::vector<std::shared_ptr<Notifier>> waiting_;
};

}  // namespace shoal
