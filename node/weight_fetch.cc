#include "node/weight_fetch.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/units.h"
#include "node/weight_fetch_worker.h"

namespace shoal {

using namespace std::chrono_literals;

namespace {

constexpr auto kProgressEvery = 100ms;
// Of the patience for a connection, and twice the longest that an answer took: who gives nothing for so long
// while another has nothing to do gives its tensors up to it. A false alarm costs the blocks on their way.
constexpr int kSilentPart = 5;
constexpr auto kStandstill = 500ms;  // of this process itself: so late may a look be

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
    waiting_.push_back(&jobs_.emplace_back(Job{tensor}));
  }
  unfinished_ = waiting_.size();
}

void WeightFetch::end_all() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  for (Seat& seat : seats_) seat.stop.request_stop();
  changed_.notify_all();
}

void WeightFetch::fetch_all(const std::function<void(uint64_t, uint64_t)>& progress,
                            const std::stop_token& stop) {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    looked_ = std::chrono::steady_clock::now();
    for (const WeightPeer& peer : peers_) seats_.push_back({&peer});
    look_for_hopeless();
    running_ = seats_.size();
    for (Seat& seat : seats_) {
      threads.emplace_back([this, &seat] {
        Worker(*this, seat).run();
        std::lock_guard ended(mutex_);
        --running_;
        changed_.notify_all();
      });
    }
  }
  const std::stop_callback on_stop(stop, [this] { end_all(); });
  {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kProgressEvery, [this] { return running_ == 0; })) {
      look_for_silent();
      const uint64_t done = done_bytes_, total = total_bytes_;
      lock.unlock();
      if (progress) progress(done, total);
      lock.lock();
    }
  }
  for (std::thread& thread : threads) thread.join();
}

FetchOutcome WeightFetch::run(const std::vector<size_t>& tensors,
                              const std::function<void(uint64_t, uint64_t)>& progress,
                              const std::stop_token& stop) {
  const auto began = std::chrono::steady_clock::now();
  admit(tensors);
  if (unfinished_ > 0) fetch_all(progress, stop);
  outcome_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  if (unfinished_ > 0 && stopped_) {
    throw SetupError(
        fmt::format("node {} fetches no more for a plan that is over; {} of {} have come and are "
                    "kept",
                    asker_.node, format_bytes(done_bytes_), format_bytes(total_bytes_)),
        kExitFailed);
  }
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

std::optional<std::stop_token> WeightFetch::begin_link(Seat& seat) {
  std::lock_guard lock(mutex_);
  if (over()) return std::nullopt;
  seat.stop = std::stop_source();
  return seat.stop.get_token();
}

void WeightFetch::linked(Seat& seat, bool is) {
  std::lock_guard lock(mutex_);
  seat.linked = is;
  changed_.notify_all();  // who was too slow for a tensor may be the only one now
}

bool WeightFetch::is_for(const Job& job, const Seat& seat) const {
  if (!seat.may_give(job)) return false;
  return !job.slow.contains(&seat) || std::none_of(seats_.begin(), seats_.end(), [&](const Seat& other) {
    return other.linked && other.may_give(job) && !job.slow.contains(&other);
  });
}

WeightFetch::Job* WeightFetch::take(Seat& seat, bool wait) {
  std::unique_lock lock(mutex_);
  while (!over()) {
    const auto mine =
        std::find_if(waiting_.begin(), waiting_.end(), [&](const Job* job) { return is_for(*job, seat); });
    if (mine != waiting_.end()) {
      Job* job = *mine;
      waiting_.erase(mine);
      seat.jobs.insert(job);
      return job;
    }
    if (!wait) break;
    seat.idle = true;
    changed_.wait(lock);
    seat.idle = false;
  }
  return nullptr;
}

void WeightFetch::put_back(Job& job) {
  if (disk_full_) {
    outcome_.not_kept_bytes += manifest_.tensor(job.tensor).bytes;
    --unfinished_;
  } else {
    waiting_.push_back(&job);
  }
  look_for_hopeless();
  stop_the_unneeded();
  changed_.notify_all();
}

void WeightFetch::give_back(Seat& seat, Job& job) {
  std::lock_guard lock(mutex_);
  seat.jobs.erase(&job);
  put_back(job);
}

void WeightFetch::refused(Seat& seat, Job& job, const std::string& why) {
  std::lock_guard lock(mutex_);
  seat.jobs.erase(&job);
  job.not_from.emplace(seat.peer->node, why);
  put_back(job);
}

void WeightFetch::done(Seat& seat, Job& job, bool kept) {
  std::lock_guard lock(mutex_);
  seat.jobs.erase(&job);
  if (!kept) outcome_.not_kept_bytes += manifest_.tensor(job.tensor).bytes;
  --unfinished_;
  stop_the_unneeded();
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
void WeightFetch::disk_refused(Seat& seat, Job& job, const Error& error) {
  std::lock_guard lock(mutex_);
  seat.jobs.erase(&job);
  if (!std::exchange(disk_full_, true)) {
    spdlog::warn(
        "node {}: weights cannot be kept: {}; what is not on the disk is fetched at every start, until that "
        "is "
        "mended (XDG_CACHE_HOME names another folder)",
        asker_.node, error.message);
  }
  waiting_.push_back(&job);
  for (const Job* waiting : waiting_) outcome_.not_kept_bytes += manifest_.tensor(waiting->tensor).bytes;
  unfinished_ -= waiting_.size();
  waiting_.clear();
  stop_the_unneeded();
  changed_.notify_all();
}

void WeightFetch::peer_failed(Seat& seat, const std::string& why) {
  std::lock_guard lock(mutex_);
  seat.gone = true;
  if (over()) return;
  failures_ += fmt::format("; node {}: {}", seat.peer->node, why);
  spdlog::warn("node {} gets no more weights from node {}: {}", asker_.node, seat.peer->node, why);
  look_for_hopeless();
  stop_the_unneeded();
  changed_.notify_all();
}

void WeightFetch::waits(Seat& seat) {
  std::lock_guard lock(mutex_);
  seat.waits_since = std::chrono::steady_clock::now();
}

void WeightFetch::answered(Seat& seat, bool well) {
  std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  const auto since = std::exchange(seat.waits_since, std::nullopt);
  if (since && well)
    longest_answer_ = std::max(longest_answer_, now - std::min(now, *since + standstill(now)));
}

void WeightFetch::look_for_hopeless() {
  for (const Job* job : waiting_) {
    const bool hope =
        std::any_of(seats_.begin(), seats_.end(), [&](const Seat& seat) { return seat.may_give(*job); });
    if (hope) continue;
    hopeless_ = fmt::format("no node can give tensor {}", manifest_.tensor(job->tensor).name);
    for (const auto& [node, why] : job->not_from) hopeless_ += fmt::format("; node {}: {}", node, why);
  }
}

// For how long this process has not run since it last looked: it was stopped, or its device busy with others.
std::chrono::steady_clock::duration WeightFetch::standstill(std::chrono::steady_clock::time_point now) const {
  const auto late = now - looked_ - kProgressEvery;
  return late > kStandstill ? late : std::chrono::steady_clock::duration::zero();
}

// A peer that is cut off or hangs is noticed by its link much later than others could have given the same.
// The time in which this process could hear nobody is not held against them.
void WeightFetch::look_for_silent() {
  const auto now = std::chrono::steady_clock::now();
  const auto deaf = standstill(now);
  looked_ = now;
  for (Seat& seat : seats_) {
    if (seat.waits_since) seat.waits_since = std::min(now, *seat.waits_since + deaf);
  }
  const auto patience = patience_ / kSilentPart + 2 * longest_answer_;
  for (Seat& silent : seats_) {
    if (!silent.waits_since || now - *silent.waits_since < patience) continue;
    const bool needed = !over() && std::none_of(silent.jobs.begin(), silent.jobs.end(), [&](const Job* job) {
      return std::any_of(seats_.begin(), seats_.end(), [&](const Seat& other) {
        return other.idle && other.may_give(*job) && !job->slow.contains(&other);
      });
    });
    if (needed) continue;
    spdlog::warn("node {}: node {} has given nothing for {:.1f} s: others give what was asked of it",
                 asker_.node, silent.peer->node,
                 std::chrono::duration<double>(now - *silent.waits_since).count());
    for (Job* job : silent.jobs) job->slow.insert(&silent);
    silent.waits_since.reset();
    silent.stop.request_stop();
  }
}

// Nobody is waited for who is only being called, or answers what has come from another.
void WeightFetch::stop_the_unneeded() {
  if (!over()) return;
  for (Seat& seat : seats_) {
    if (seat.jobs.empty()) seat.stop.request_stop();
  }
}

}  // namespace shoal
