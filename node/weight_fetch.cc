#include "node/weight_fetch.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/units.h"

namespace shoal {

using namespace std::chrono_literals;

namespace {

constexpr int kConnectsMax = 3;    // in a row, without a block in between
constexpr auto kBusyPause = 50ms;  // another process is filling the same tensor
constexpr auto kProgressEvery = 100ms;

}  // namespace

uint64_t keep_right_blocks(const WeightManifest& manifest, size_t tensor, WeightCache::Filling& filling) {
  const TensorInfo& info = manifest.tensor(tensor);
  std::vector<std::byte> bytes;
  uint64_t block = 0, end = 0;
  for (; block < block_count(info); ++block) {
    bytes.resize(bytes_of_block(info, block));
    if (end + bytes.size() > filling.size() || !filling.read(end, bytes) ||
        !manifest.vouches_for(tensor, block, bytes))
      break;
    end += bytes.size();
  }
  filling.cut(end);
  return block;
}

// What one thread does with one peer.
class WeightFetch::Worker {
 public:
  Worker(WeightFetch& fetch, WeightPeer peer) : fetch_(fetch), peer_(std::move(peer)) {}

  void run() {
    for (int connects = 0; connects < kConnectsMax; ++connects) {
      Result<std::unique_ptr<WeightLink>> link =
          WeightLink::open(fetch_.io_, fetch_.asker_, peer_, fetch_.patience_);
      if (link.has_error()) {
        why_ = link.error().message;
        if (link.error().code == Errc::kRefused) break;
        continue;
      }
      link_ = std::move(*link);
      const uint64_t before = blocks_;
      const bool finished = work();
      drop_all();
      link_.reset();
      if (finished) return;
      if (untrusted_) break;
      if (blocks_ > before) connects = -1;
    }
    fetch_.peer_failed(peer_.node, why_);
  }

 private:
  // A tensor being fetched.
  struct Active {
    Job job;
    std::unique_ptr<WeightCache::Filling> filling;
    uint64_t next_ask = 0, next_write = 0;  // blocks
    bool dropped = false;
  };
  struct Asked {
    std::shared_ptr<Active> active;
    uint64_t block;
    std::future<Result<WeightLink::Answer>> answer;
  };

  // True when there is nothing more to do, false where the link is no good any more.
  bool work() {
    while (true) {
      ask_ahead();
      if (asked_.empty()) {
        std::optional<Job> job = fetch_.take(peer_, true);
        if (!job) return true;
        if (!begin(std::move(*job))) std::this_thread::sleep_for(kBusyPause);
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

  void ask_ahead() {
    while (asked_.size() < kWeightsRequestsMax) {
      if (!active_ || active_->dropped || active_->next_ask == block_count(info(*active_))) {
        active_.reset();
        std::optional<Job> job = fetch_.take(peer_, false);
        if (!job || !begin(std::move(*job))) return;
        continue;
      }
      const uint64_t block = active_->next_ask++;
      asked_.push_back({active_, block, ask(*active_, block)});
    }
  }

  const TensorInfo& info(const Active& active) const { return fetch_.manifest_.tensor(active.job.tensor); }

  std::future<Result<WeightLink::Answer>> ask(const Active& active, uint64_t block) {
    return link_->ask(static_cast<uint32_t>(active.job.tensor), block * block_bytes(info(active)),
                      static_cast<uint32_t>(bytes_of_block(info(active), block)));
  }

  // False where another process is at it: the job goes back.
  bool begin(Job job) {
    const TensorInfo& tensor = fetch_.manifest_.tensor(job.tensor);
    const Sha256& digest = fetch_.manifest_.tensor_digest(job.tensor);
    if (fetch_.cache_.has(digest, tensor.bytes)) {
      fetch_.count_to(job, tensor.bytes);
      fetch_.done(job, true);
      return true;
    }
    Result<std::unique_ptr<WeightCache::Filling>> filling = fetch_.cache_.fill(digest);
    if (filling.has_error()) {
      const bool busy = filling.error().code == Errc::kQueueFull;
      if (busy) {
        fetch_.give_back(std::move(job));
      } else {
        fetch_.disk_refused(job, filling.error());
      }
      return !busy;
    }
    if (fetch_.cache_.has(digest, tensor.bytes)) {  // another process gave it its name in between
      (*filling)->discard();
      fetch_.count_to(job, tensor.bytes);
      fetch_.done(job, true);
      return true;
    }
    auto active = std::make_shared<Active>();
    active->job = std::move(job);
    active->filling = std::move(*filling);
    go_on_after(*active);
    if (active->next_write == block_count(tensor)) {
      finish(*active);
    } else {
      active_ = std::move(active);
    }
    return true;
  }

  void go_on_after(Active& active) {
    active.next_ask = active.next_write =
        keep_right_blocks(fetch_.manifest_, active.job.tensor, *active.filling);
    fetch_.count_to(active.job, active.filling->size());
  }

  // False where the link is no good any more.
  bool handle(Asked& next) {
    Active& active = *next.active;
    Result<WeightLink::Answer> answer = next.answer.get();
    if (active.dropped) return answer.has_value() || link_->is_open();
    for (int wrong = 0; answer.has_value(); ++wrong) {
      const std::span<const std::byte> bytes = answer->bytes.bytes;
      fetch_.received(bytes.size());
      if (fetch_.manifest_.vouches_for(active.job.tensor, next.block, bytes)) break;
      fetch_.bad_block(active.job.tensor, next.block, bytes, peer_.node);
      if (wrong > 0) {
        untrusted_ = true;
        why_ = fmt::format("sent other bytes of tensor {} than the manifest says, twice", info(active).name);
        return false;
      }
      answer = ask(active, next.block).get();
    }
    if (answer.has_error()) {
      why_ = answer.error().message;
      if (!link_->is_open()) return false;
      active.dropped = true;
      active.job.not_from.insert(peer_.node);
      active.filling.reset();
      fetch_.give_back(active.job);
      return true;
    }
    write(active, answer->bytes.bytes);
    return true;
  }

  void write(Active& active, std::span<const std::byte> bytes) {
    ++blocks_;
    const Result<void> written = active.filling->append(bytes);
    if (written.has_error()) {
      active.dropped = true;
      active.filling->discard();
      active.filling.reset();
      return fetch_.disk_refused(active.job, written.error());
    }
    fetch_.count_to(active.job, active.filling->size());
    if (++active.next_write == block_count(info(active))) finish(active);
  }

  void finish(Active& active) {
    active.dropped = true;
    const Result<void> finished = active.filling->finish();
    active.filling.reset();
    if (finished.has_error()) return fetch_.disk_refused(active.job, finished.error());
    fetch_.done(active.job, true);
  }

  // Gives back every tensor that was begun and not finished.
  void drop_all() {
    std::deque<Asked> asked;
    asked.swap(asked_);
    if (active_) asked.push_back({std::move(active_), 0, {}});
    active_.reset();
    for (Asked& one : asked) {
      if (std::exchange(one.active->dropped, true)) continue;
      one.active->filling.reset();
      fetch_.give_back(one.active->job);
    }
  }

  WeightFetch& fetch_;
  WeightPeer peer_;
  std::unique_ptr<WeightLink> link_;
  std::shared_ptr<Active> active_;  // asked for last
  std::deque<Asked> asked_;         // oldest first
  uint64_t blocks_ = 0;             // written
  bool untrusted_ = false;
  std::string why_;
};

WeightFetch::WeightFetch(const WeightManifest& manifest, WeightCache& cache, const WeightAsker& asker,
                         std::vector<WeightPeer> peers, IoThread& io, std::chrono::milliseconds patience)
    : manifest_(manifest),
      cache_(cache),
      asker_(asker),
      peers_(std::move(peers)),
      io_(io),
      patience_(patience) {}

// Makes room, and leaves out what does not fit.
void WeightFetch::admit(const std::vector<size_t>& tensors) {
  uint64_t needed = 0;
  for (const size_t tensor : tensors) needed += manifest_.tensor(tensor).bytes;
  uint64_t room = cache_.make_room(needed);
  if (room < needed) {
    spdlog::warn(
        "node {}: the weights that are missing take {} and {} has room for {} (bound {}): the rest is "
        "fetched at every start; free some disk, or raise cache-size",
        asker_.node, format_bytes(needed), cache_.folder(), format_bytes(room),
        format_bytes(cache_.bytes_max()));
  }
  std::vector<size_t> order = tensors;  // the largest first, so that the peers end at about the same time
  std::stable_sort(order.begin(), order.end(), [this](size_t a, size_t b) {
    return manifest_.tensor(a).bytes > manifest_.tensor(b).bytes;
  });
  for (const size_t tensor : order) {
    const uint64_t bytes = manifest_.tensor(tensor).bytes;
    if (bytes > room) {
      outcome_.not_kept_bytes += bytes;
      continue;
    }
    room -= bytes;
    total_bytes_ += bytes;
    waiting_.push_back({tensor, {}, 0});
  }
  unfinished_ = waiting_.size();
}

FetchOutcome WeightFetch::run(const std::vector<size_t>& tensors,
                              const std::function<void(uint64_t, uint64_t)>& progress) {
  const auto began = std::chrono::steady_clock::now();
  admit(tensors);
  std::vector<std::thread> threads;
  if (unfinished_ > 0) {
    std::lock_guard lock(mutex_);
    for (const WeightPeer& peer : peers_) serving_[peer.node] = &peer;
    look_for_hopeless();
    running_ = peers_.size();
    for (const WeightPeer& peer : peers_) {
      threads.emplace_back([this, peer] {
        Worker(*this, peer).run();
        std::lock_guard ended(mutex_);
        --running_;
        changed_.notify_all();
      });
    }
  }
  {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kProgressEvery, [this] { return running_ == 0; })) {
      const uint64_t done = done_bytes_, total = total_bytes_;
      lock.unlock();
      if (progress) progress(done, total);
      lock.lock();
    }
  }
  for (std::thread& thread : threads) thread.join();
  outcome_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  if (unfinished_ > 0) {
    throw SetupError(
        fmt::format("node {} cannot get the weights that it lacks: {}{}; what has come is kept, and the "
                    "next start goes on from there",
                    asker_.node, hopeless_, failures_),
        kExitFailed);
  }
  if (progress) progress(done_bytes_, total_bytes_);
  return outcome_;
}

std::optional<WeightFetch::Job> WeightFetch::take(const WeightPeer& peer, bool wait) {
  std::unique_lock lock(mutex_);
  while (unfinished_ > 0 && hopeless_.empty()) {
    const auto mine =
        std::find_if(waiting_.begin(), waiting_.end(), [&](const Job& job) { return job.for_peer(peer); });
    if (mine != waiting_.end()) {
      Job job = std::move(*mine);
      waiting_.erase(mine);
      return job;
    }
    if (!wait) break;
    changed_.wait(lock);
  }
  return std::nullopt;
}

void WeightFetch::give_back(Job job) {
  std::lock_guard lock(mutex_);
  if (disk_full_) {
    outcome_.not_kept_bytes += manifest_.tensor(job.tensor).bytes;
    --unfinished_;
  } else {
    waiting_.push_back(std::move(job));
    look_for_hopeless();
  }
  changed_.notify_all();
}

void WeightFetch::done(const Job& job, bool kept) {
  std::lock_guard lock(mutex_);
  if (!kept) outcome_.not_kept_bytes += manifest_.tensor(job.tensor).bytes;
  --unfinished_;
  changed_.notify_all();
}

void WeightFetch::count_to(Job& job, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  done_bytes_ += bytes - job.counted;  // also where it is less
  job.counted = bytes;
}

void WeightFetch::received(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  outcome_.fetched_bytes += bytes;
}

void WeightFetch::bad_block(size_t tensor, uint64_t block, std::span<const std::byte> bytes,
                            const std::string& peer) {
  std::lock_guard lock(mutex_);
  if (!std::has_single_bit(++outcome_.bad_blocks)) return;
  spdlog::warn("node {}: node {} sent a wrong block {} of tensor {}: SHA-256 {}, should be {} (so far: {})",
               asker_.node, peer, block, manifest_.tensor(tensor).name, to_hex(sha256(bytes)),
               to_hex(manifest_.block_digest(tensor, block)), outcome_.bad_blocks);
}

// What cannot be kept is fetched when it is loaded.
void WeightFetch::disk_refused(const Job& job, const Error& error) {
  done(job, false);
  std::lock_guard lock(mutex_);
  if (!std::exchange(disk_full_, true)) {
    spdlog::warn(
        "node {}: weights cannot be kept: {}; what is not on the disk is fetched at every start, until there "
        "is room (or another folder: XDG_CACHE_HOME)",
        asker_.node, error.message);
  }
  for (const Job& waiting : waiting_) outcome_.not_kept_bytes += manifest_.tensor(waiting.tensor).bytes;
  unfinished_ -= waiting_.size();
  waiting_.clear();
  changed_.notify_all();
}

void WeightFetch::peer_failed(const std::string& peer, const std::string& why) {
  std::lock_guard lock(mutex_);
  serving_.erase(peer);
  failures_ += fmt::format("; node {}: {}", peer, why);
  if (unfinished_ > 0) spdlog::warn("node {} gets no more weights from node {}: {}", asker_.node, peer, why);
  look_for_hopeless();
  changed_.notify_all();
}

void WeightFetch::look_for_hopeless() {
  for (const Job& job : waiting_) {
    const bool hope = std::any_of(serving_.begin(), serving_.end(),
                                  [&](const auto& peer) { return job.for_peer(*peer.second); });
    if (!hope) hopeless_ = fmt::format("no node can give tensor {}", manifest_.tensor(job.tensor).name);
  }
}

}  // namespace shoal
