#include "node/ahead_fetch.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "base/units.h"
#include "node/foresight.h"
#include "node/node.h"
#include "node/weight_fetch.h"

namespace shoal {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

namespace {

constexpr auto kPatience = 2000ms;  // for a connection to the head
constexpr auto kAgain = 5s;         // after the head gave nothing
constexpr auto kLook = 10ms;        // whether something better is to be done
constexpr int kWrongMax = 2;        // blocks in a row that are not what the manifest says

}  // namespace

AheadFetch::AheadFetch(NodeWeights& weights, WeightAsker asker, WeightPeer head, const ModelConfig& model)
    : weights_(weights),
      cache_(*weights.cache()),
      asker_(std::move(asker)),
      head_(std::move(head)),
      model_(model),
      thread_([this] { run(); }) {}

AheadFetch::~AheadFetch() {
  end();
}

void AheadFetch::want(std::vector<ShardSpec> shards, Report report) {
  const std::lock_guard lock(mutex_);
  ++number_;
  next_ = Order{std::move(shards), std::move(report)};
  changed_.notify_all();
}

void AheadFetch::stop() {
  const std::lock_guard lock(mutex_);
  ++number_;
  next_.reset();
  changed_.notify_all();
}

void AheadFetch::end() {
  stop();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void AheadFetch::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || next_; });
    if (ending_) break;
    const Order order = *std::exchange(next_, std::nullopt);
    const uint64_t number = number_;
    lock.unlock();
    const std::optional<FetchedAhead> fetched = carry_out(order, number);
    link_.reset();
    if (fetched) order.report(*fetched);
    lock.lock();
  }
}

std::vector<size_t> AheadFetch::tensors_of(const std::vector<ShardSpec>& shards) const {
  const WeightManifest& manifest = weights_.manifest();
  std::vector<size_t> tensors;
  for (const ShardSpec& shard : shards) {
    for (const std::string& name : shard_tensors(manifest.model(), model_, shard)) {
      const std::optional<size_t> index = manifest.find(name);
      if (index && std::find(tensors.begin(), tensors.end(), *index) == tensors.end())
        tensors.push_back(*index);
    }
  }
  return tensors;
}

// Nothing where it was stopped.
std::optional<FetchedAhead> AheadFetch::carry_out(const Order& order, uint64_t number) {
  const WeightManifest& manifest = weights_.manifest();
  const std::vector<size_t> wanted = tensors_of(order.shards);
  const auto held = [&](size_t tensor) {
    return cache_.has(manifest.tensor_digest(tensor), manifest.tensor(tensor).bytes);
  };
  std::set<Sha256> digests;
  FetchedAhead outcome;
  uint64_t missing_bytes = 0;
  for (const size_t tensor : wanted) {
    digests.insert(manifest.tensor_digest(tensor));
    outcome.wanted_bytes += manifest.tensor(tensor).bytes;
    if (!held(tensor)) missing_bytes += manifest.tensor(tensor).bytes;
  }
  {
    const std::lock_guard lock(mutex_);  // what a plan needs is not replaced after stop()
    if (!current(number)) return std::nullopt;
    cache_.use(digests);
  }
  fetched_bytes_ = 0;
  uint64_t room = missing_bytes > 0 ? cache_.make_room(missing_bytes) : 0;
  for (const size_t tensor : wanted) {
    const uint64_t bytes = manifest.tensor(tensor).bytes;
    if (held(tensor) || bytes > room) continue;
    room -= bytes;
    if (!fetch(tensor, number)) break;
  }
  if (!current(number)) return std::nullopt;
  for (const size_t tensor : wanted) {
    if (held(tensor)) outcome.held_bytes += manifest.tensor(tensor).bytes;
  }
  if (outcome.wanted_bytes > 0)
    spdlog::info("node {} would get {} of weights if another were lost: {} fetched ahead, {} on its disk",
                 asker_.node, format_bytes(outcome.wanted_bytes), format_bytes(fetched_bytes_),
                 format_bytes(outcome.held_bytes));
  return outcome;
}

// False where there is no use in going on with others. Another process that is at it is left alone.
bool AheadFetch::fetch(size_t tensor, uint64_t number) {
  Result<std::unique_ptr<WeightCache::Filling>> filling =
      cache_.fill(weights_.manifest().tensor_digest(tensor));
  if (filling.has_error() && filling.error().code == Errc::kQueueFull) return current(number);
  if (filling.has_error()) {
    spdlog::warn("node {} fetches nothing ahead: {}", asker_.node, filling.error().message);
    return false;
  }
  return fetch_blocks(tensor, **filling, number);
}

bool AheadFetch::fetch_blocks(size_t tensor, WeightCache::Filling& filling, uint64_t number) {
  const WeightManifest& manifest = weights_.manifest();
  const TensorInfo& info = manifest.tensor(tensor);
  for (uint64_t block = keep_right_blocks(manifest, tensor, filling); block < block_count(info); ++block) {
    const steady_clock::time_point began = steady_clock::now();
    const std::optional<PayloadBuffer> bytes = ask(tensor, block, number);
    if (!bytes) return false;
    const Result<void> written = filling.append(bytes->bytes);
    if (written.has_error()) {
      filling.discard();
      spdlog::warn("node {} fetches nothing more ahead: {}", asker_.node, written.error().message);
      return false;
    }
    rest(steady_clock::now() - began, number);
    if (!current(number)) return false;
  }
  return filling.finish().has_value();
}

// Asks until it has the block, or there is something better to do, or the head sends another's bytes.
std::optional<PayloadBuffer> AheadFetch::ask(size_t tensor, uint64_t block, uint64_t number) {
  const WeightManifest& manifest = weights_.manifest();
  const TensorInfo& info = manifest.tensor(tensor);
  for (int wrong = 0; current(number) && wrong < kWrongMax;) {
    if (!connect()) {
      rest(kAgain, number);
      continue;
    }
    std::future<Result<WeightLink::Answer>> asked =
        link_->ask(static_cast<uint32_t>(tensor), block * block_bytes(info),
                   static_cast<uint32_t>(bytes_of_block(info, block)));
    while (asked.wait_for(kLook) != std::future_status::ready) {
      if (!current(number)) return std::nullopt;
    }
    Result<WeightLink::Answer> answer = asked.get();
    if (answer.has_error()) {
      link_.reset();
      rest(kAgain, number);
    } else if (manifest.vouches_for(tensor, block, answer->bytes.bytes)) {
      fetched_bytes_ += answer->bytes.bytes.size();
      return std::move(answer->bytes);
    } else {
      ++wrong;
      spdlog::warn("node {}: the head sent other bytes of tensor {} than the manifest says", asker_.node,
                   info.name);
    }
  }
  return std::nullopt;
}

bool AheadFetch::connect() {
  if (link_ && link_->is_open()) return true;
  link_.reset();
  Result<std::unique_ptr<WeightLink>> opened = WeightLink::open(io_, asker_, head_, kPatience);
  if (opened) {
    link_ = std::move(*opened);
    return true;
  }
  const std::string& why = opened.error().message;
  if (why != said_) spdlog::warn("node {} cannot fetch weights ahead: {}", asker_.node, why);
  said_ = why;
  return false;
}

void AheadFetch::rest(steady_clock::duration length, uint64_t number) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, length, [&] { return !current(number); });
}

AheadOrders::AheadOrders(Node& node, AheadFetch* fetch, int n_layer) : node_(node), fetch_(fetch) {
  if (fetch_ == nullptr) return;
  node_.set_on_fetch_ahead([this, n_layer](const FetchAhead& order) {
    Result<std::vector<ShardSpec>> shards = shards_from_json(order.shards_json, n_layer);
    if (shards.has_error()) {
      spdlog::warn("an order to fetch weights ahead was passed over: {}", shards.error().message);
      return;
    }
    fetch_->want(std::move(*shards), [this](const FetchedAhead& fetched) { node_.tell_head(fetched); });
  });
}

AheadOrders::~AheadOrders() {
  if (fetch_ == nullptr) return;
  node_.set_on_fetch_ahead({});
  fetch_->end();
}

}  // namespace shoal
