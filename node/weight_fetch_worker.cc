#include "node/weight_fetch_worker.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <utility>

namespace shoal {

using namespace std::chrono_literals;

namespace {

constexpr int kConnectsMax = 3;    // in a row, without a block in between
constexpr auto kBusyPause = 50ms;  // another process is filling the same tensor

}  // namespace

void WeightFetch::Worker::run() {
  for (int connects = 0; connects < kConnectsMax; ++connects) {
    const std::optional<std::stop_token> stop = fetch_.begin_link(seat_);
    if (!stop) return;
    Result<std::unique_ptr<WeightLink>> link =
        WeightLink::open(fetch_.io_, fetch_.asker_, peer_, fetch_.patience_, *stop);
    if (link.has_error()) {
      why_ = link.error().message;
      if (is_refusal(link.error().code)) break;
      continue;
    }
    link_ = std::move(*link);
    fetch_.linked(seat_, true);
    const uint64_t before = blocks_;
    const bool finished = work();
    fetch_.linked(seat_, false);
    drop_all();
    link_.reset();
    if (finished) return;
    if (untrusted_) break;
    if (blocks_ > before) connects = -1;
  }
  fetch_.peer_failed(seat_, why_);
}

bool WeightFetch::Worker::work() {
  while (true) {
    ask_ahead();
    if (asked_.empty()) {
      Job* job = fetch_.take(seat_, true);
      if (job == nullptr) return true;
      if (!begin(*job)) std::this_thread::sleep_for(kBusyPause);
      continue;
    }
    Asked next = std::move(asked_.front());
    asked_.pop_front();
    if (!handle(next)) {
      asked_.push_front(std::move(next));  // so that its tensor is given back
      return false;
    }
  }
}

void WeightFetch::Worker::ask_ahead() {
  while (asked_.size() < kWeightsRequestsMax) {
    if (!active_ || active_->dropped || active_->next_ask == block_count(info(*active_))) {
      active_.reset();
      Job* job = fetch_.take(seat_, false);
      if (job == nullptr || !begin(*job)) return;
      continue;
    }
    const uint64_t block = active_->next_ask++;
    asked_.push_back({active_, block, ask(*active_, block)});
  }
}

std::future<Result<WeightLink::Answer>> WeightFetch::Worker::ask(const Active& active, uint64_t block) {
  return link_->ask(static_cast<uint32_t>(active.job->tensor), block * block_bytes(info(active)),
                    static_cast<uint32_t>(bytes_of_block(info(active), block)));
}

Result<WeightLink::Answer> WeightFetch::Worker::wait_for(std::future<Result<WeightLink::Answer>>& answer) {
  fetch_.waits(seat_);
  Result<WeightLink::Answer> got = answer.get();
  fetch_.answered(seat_, got.has_value());
  return got;
}

bool WeightFetch::Worker::begin(Job& job) {
  const TensorInfo& tensor = fetch_.manifest_.tensor(job.tensor);
  const Sha256& digest = fetch_.manifest_.tensor_digest(job.tensor);
  if (fetch_.cache_.has(digest, tensor.bytes)) {
    fetch_.count_to(job, tensor.bytes);
    fetch_.done(seat_, job, true);
    return true;
  }
  Result<std::unique_ptr<WeightCache::Filling>> filling = fetch_.cache_.fill(digest);
  if (filling.has_error()) {
    const bool busy = filling.error().code == Errc::kQueueFull;
    if (busy) {
      fetch_.give_back(seat_, job);
    } else {
      fetch_.disk_refused(seat_, job, filling.error());
    }
    return !busy;
  }
  if (fetch_.cache_.has(digest, tensor.bytes)) {  // another process gave it its name in between
    (*filling)->discard();
    fetch_.count_to(job, tensor.bytes);
    fetch_.done(seat_, job, true);
    return true;
  }
  auto active = std::make_shared<Active>();
  active->job = &job;
  active->filling = std::move(*filling);
  go_on_after(*active);
  if (active->next_write == block_count(tensor)) {
    finish(*active);
  } else {
    active_ = std::move(active);
  }
  return true;
}

void WeightFetch::Worker::go_on_after(Active& active) {
  active.next_ask = active.next_write =
      keep_right_blocks(fetch_.manifest_, active.job->tensor, *active.filling);
  fetch_.count_to(*active.job, active.filling->size());
}

bool WeightFetch::Worker::handle(Asked& next) {
  Active& active = *next.active;
  Result<WeightLink::Answer> answer = wait_for(next.answer);
  if (active.dropped) return answer.has_value() || link_->is_open();
  for (int wrong = 0; answer.has_value(); ++wrong) {
    const std::span<const std::byte> bytes = answer->bytes.bytes;
    fetch_.received(bytes.size());
    if (fetch_.manifest_.vouches_for(active.job->tensor, next.block, bytes)) break;
    fetch_.bad_block(active.job->tensor, next.block, bytes, peer_.node);
    if (wrong > 0) {
      untrusted_ = true;
      why_ = fmt::format("sent other bytes of tensor {} than the manifest says, twice", info(active).name);
      return false;
    }
    std::future<Result<WeightLink::Answer>> again = ask(active, next.block);
    answer = wait_for(again);
  }
  if (answer.has_error()) {
    why_ = answer.error().message;
    if (!link_->is_open()) return false;
    active.dropped = true;
    active.filling.reset();
    fetch_.refused(seat_, *active.job, why_);
    return true;
  }
  write(active, answer->bytes.bytes);
  return true;
}

void WeightFetch::Worker::write(Active& active, std::span<const std::byte> bytes) {
  ++blocks_;
  const Result<void> written = active.filling->append(bytes);
  if (written.has_error()) {
    active.dropped = true;
    active.filling->discard();
    active.filling.reset();
    return fetch_.disk_refused(seat_, *active.job, written.error());
  }
  fetch_.count_to(*active.job, active.filling->size());
  if (++active.next_write == block_count(info(active))) finish(active);
}

void WeightFetch::Worker::finish(Active& active) {
  active.dropped = true;
  const Result<void> finished = active.filling->finish();
  active.filling.reset();
  if (finished.has_error()) return fetch_.disk_refused(seat_, *active.job, finished.error());
  fetch_.done(seat_, *active.job, true);
}

void WeightFetch::Worker::drop_all() {
  std::deque<Asked> asked;
  asked.swap(asked_);
  if (active_) asked.push_back({std::move(active_), 0, {}});
  active_.reset();
  for (Asked& one : asked) {
    if (std::exchange(one.active->dropped, true)) continue;
    one.active->filling.reset();
    fetch_.give_back(seat_, *one.active->job);
  }
}

}  // namespace shoal
