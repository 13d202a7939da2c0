#include "node/http/stats_collector.h"

namespace shoal {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {
constexpr auto kTick = 200ms;
}  // namespace

void StatsCollector::run(const std::function<void()>& on_tick) {
  while (true) {
    on_tick();
    {
      std::unique_lock lock(mutex_);
      const bool woken = asked_changed_.wait_for(lock, kTick, [&] { return asked_ || stopping_; });
      if (stopping_) return;
      if (!woken) continue;
      asked_ = false;
    }
    auto sample = std::make_shared<StatsSample>();
    sample->nodes = node_.collect_stats();
    sample->when = steady_clock::now();
    node_.io().call([&] {
      previous_ = std::exchange(newest_, std::move(sample));
      for (const std::shared_ptr<Notifier>& waiter : waiting_) waiter->notify();
      waiting_.clear();
      return 0;
    });
  }
}

void StatsCollector::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_changed_.notify_one();
}

boost::asio::awaitable<std::shared_ptr<const StatsSample>> StatsCollector::newest(
    std::chrono::milliseconds age_max) {
  if (newest_ && steady_clock::now() - newest_->when < age_max) co_return newest_;
  {
    const std::lock_guard lock(mutex_);
    asked_ = true;
  }
  asked_changed_.notify_one();
  const auto waiter = std::make_shared<Notifier>(node_.io().executor());
  waiting_.push_back(waiter);
  co_await waiter->wait_until(steady_clock::now() + 1s);
  std::erase(waiting_, waiter);
  co_return newest_;
}

}  // namespace shoal
