#include "node/node_weights.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/check.h"
#include "base/units.h"
#include "model/sha256.h"
#include "node/weight_fetch.h"

namespace shoal {

using namespace std::chrono_literals;

namespace {

constexpr int kTriesOfOnePeer = 2;  // for a block that comes wrong

// The first figures of a digest, enough to compare by eye.
std::string shortened(const Sha256& digest) {
  return to_hex(digest).substr(0, 12);
}

}  // namespace

NodeWeights::NodeWeights(std::shared_ptr<const WeightManifest> manifest, WeightAsker asker,
                         std::shared_ptr<const GgufFile> own, std::unique_ptr<WeightCache> cache)
    : manifest_(std::move(manifest)),
      asker_(std::move(asker)),
      own_(std::move(own)),
      cache_(std::move(cache)) {}

NodeWeights::~NodeWeights() {
  lines_.clear();  // while the io thread runs
}

void NodeWeights::set_peers(std::vector<WeightPeer> peers) {
  std::lock_guard lock(mutex_);
  std::erase_if(peers, [this](const WeightPeer& peer) { return peer.node == asker_.node; });
  peers_ = std::move(peers);
  lines_.clear();
}

void NodeWeights::set_stop(std::stop_token stop) {
  std::lock_guard lock(mutex_);
  stop_ = std::move(stop);
}

void NodeWeights::end_links() {
  std::lock_guard lock(mutex_);
  lines_.clear();
}

FetchReport NodeWeights::fetch_missing(const ModelConfig& config, std::span<const ShardSpec> shards,
                                       const std::function<void(uint64_t, uint64_t)>& progress) {
  std::vector<std::string> names;
  for (const ShardSpec& shard : shards) {
    for (std::string& name : shard_tensors(manifest_->model(), config, shard))
      names.push_back(std::move(name));
  }
  return fetch_missing(names, progress);
}

FetchReport NodeWeights::fetch_missing(std::span<const std::string> tensors,
                                       const std::function<void(uint64_t, uint64_t)>& progress) {
  FetchReport report;
  std::set<size_t> wanted;
  for (const std::string& name : tensors) {
    const std::optional<size_t> index = manifest_->find(name);
    if (!index) throw SetupError(fmt::format("{}: tensor {} is missing", model().path(), name));
    wanted.insert(*index);
  }
  std::set<Sha256> digests;
  for (const size_t index : wanted) {
    report.needed_bytes += manifest_->tensor(index).bytes;
    digests.insert(manifest_->tensor_digest(index));
  }
  if (own_) return report;
  if (!cache_) {
    report.not_kept_bytes = report.needed_bytes;
    return report;
  }
  cache_->use(digests);
  std::vector<size_t> missing;
  for (const size_t index : wanted) {
    const uint64_t bytes = manifest_->tensor(index).bytes;
    if (cache_->has(manifest_->tensor_digest(index), bytes)) {
      report.cached_bytes += bytes;
    } else {
      missing.push_back(index);
    }
  }
  if (missing.empty()) return report;
  std::vector<WeightPeer> peers;
  std::stop_token stop;
  {
    std::lock_guard lock(mutex_);
    peers = peers_;
    stop = stop_;
  }
  WeightFetch fetch(*manifest_, *cache_, asker_, peers, io_, patience_);
  const uint64_t before = report.needed_bytes - report.cached_bytes;
  const FetchOutcome outcome = fetch.run(missing, progress, stop);
  report.fetched_bytes = outcome.fetched_bytes;
  report.not_kept_bytes = outcome.not_kept_bytes;
  report.cached_bytes += before - std::min(before, outcome.fetched_bytes + outcome.not_kept_bytes);
  report.seconds = outcome.seconds;
  bad_blocks_ += outcome.bad_blocks;
  bytes_received_ += outcome.fetched_bytes;
  cache_->use(digests);  // those that have just come count as used now
  return report;
}

void NodeWeights::warn_of_bad_block(size_t tensor, uint64_t block, std::span<const std::byte> bytes,
                                    const std::string& where) {
  const uint64_t count = ++bad_blocks_;
  if (!std::has_single_bit(count)) return;  // a disk that fails must not fill the log
  spdlog::warn(
      "node {}: tensor {} in {} is not what the manifest says (block {}: SHA-256 {}..., should be {}...); "
      "it is taken from another node (so far: {})",
      asker_.node, manifest_->tensor(tensor).name, where, block, shortened(sha256(bytes)),
      shortened(manifest_->block_digest(tensor, block)), count);
}

void NodeWeights::read_block(const TensorInfo& info, uint64_t block, std::span<std::byte> out) {
  const std::optional<size_t> index = manifest_->find(info.name);
  if (!index || bytes_of_block(manifest_->tensor(*index), block) != out.size()) {
    throw SetupError(
        fmt::format("{}: tensor {} is not as the head's manifest says", model().path(), info.name));
  }
  const Sha256& digest = manifest_->tensor_digest(*index);
  const uint64_t offset = block * block_bytes(info);
  bool kept = false;
  if (own_) {
    own_->read(own_->tensor(info.name), offset, out);
    if (manifest_->vouches_for(*index, block, out)) return;
    own_->require_unchanged();
    std::unique_lock lock(mutex_);
    if (peers_.empty()) {
      throw SetupError(
          fmt::format("{}: tensor {} is not what the manifest says (block {}: SHA-256 {}..., should be "
                      "{}...): the file is damaged or was changed; restore it and start again",
                      own_->path(), info.name, block, shortened(sha256(out)),
                      shortened(manifest_->block_digest(*index, block))),
          kExitFailed);
    }
    lock.unlock();
    warn_of_bad_block(*index, block, out, own_->path());
  } else if (cache_ && cache_->has(digest, info.bytes) && cache_->read(digest, offset, out)) {
    if (manifest_->vouches_for(*index, block, out)) return;
    warn_of_bad_block(*index, block, out, cache_->folder());
    kept = true;
  }
  fetch_block(*index, block, out);
  if (kept) cache_->mend(digest, offset, out);
}

void NodeWeights::expect(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) {
  if (own_) own_->expect(own_->tensor(tensor.name), offset, bytes);
}

Result<void> NodeWeights::give(size_t index, uint64_t offset, std::span<std::byte> out) {
  const TensorInfo& tensor = manifest_->tensor(index);
  try {
    if (own_) {
      own_->read(own_->tensor(tensor.name), offset, out);
      own_->require_unchanged();
      return {};
    }
  } catch (const SetupError& error) {
    return Error{Errc::kIo, error.what()};
  }
  const Sha256& digest = manifest_->tensor_digest(index);
  if (cache_ && cache_->has(digest, tensor.bytes) && cache_->read(digest, offset, out)) return {};
  return Error{Errc::kRefused, fmt::format("node {} does not have tensor {}", asker_.node, tensor.name)};
}

std::string NodeWeights::inventory() const {
  if (own_) return "all";
  std::string text;
  for (size_t first = 0; first < manifest_->size(); first += 4) {
    unsigned digit = 0;
    for (size_t i = first; i < std::min(first + 4, manifest_->size()); ++i) {
      if (cache_ && cache_->has(manifest_->tensor_digest(i), manifest_->tensor(i).bytes))
        digit |= 1u << (i - first);
    }
    text += "0123456789abcdef"[digit];
  }
  return text;
}

std::vector<bool> parse_inventory(const std::string& text, size_t tensors) {
  if (text == "all") return {};
  std::vector<bool> has(tensors);
  for (size_t i = 0; i < tensors && i / 4 < text.size(); ++i) {
    const char c = text[i / 4];
    const unsigned digit = c >= 'a' ? static_cast<unsigned>(c - 'a') + 10 : static_cast<unsigned>(c - '0');
    has[i] = (digit >> (i % 4) & 1) != 0;
  }
  return has;
}

// A peer that is called must not keep those waiting that want another.
Result<std::shared_ptr<WeightLink>> NodeWeights::link_to(const WeightPeer& peer,
                                                         const std::stop_token& stop) {
  const auto came = std::chrono::steady_clock::now();
  std::shared_ptr<Line> line;
  {
    std::lock_guard lock(mutex_);
    std::shared_ptr<Line>& known = lines_[peer.node];
    if (!known) known = std::make_shared<Line>();
    line = known;
  }
  std::lock_guard lock(line->mutex);
  if (line->link && line->link->is_open()) return line->link;
  line->link.reset();
  if (line->failed_at >= came) return line->failed;  // while this one waited for it
  Result<std::unique_ptr<WeightLink>> opened = WeightLink::open(io_, asker_, peer, patience_, stop);
  if (opened.has_error()) {
    line->failed = opened.error();
    line->failed_at = std::chrono::steady_clock::now();
    return opened.error();
  }
  line->link = std::move(*opened);
  return line->link;
}

Result<void> NodeWeights::fetch_block_from(const WeightPeer& peer, size_t tensor, uint64_t block,
                                           std::span<std::byte> out, const std::stop_token& stop) {
  Error last;
  for (int i = 0; i < kTriesOfOnePeer; ++i) {
    const Result<std::shared_ptr<WeightLink>> link = link_to(peer, stop);
    if (link.has_error()) return link.error();
    const uint64_t offset = block * block_bytes(manifest_->tensor(tensor));
    const Result<WeightLink::Answer> answer =
        (*link)->ask(static_cast<uint32_t>(tensor), offset, static_cast<uint32_t>(out.size())).get();
    if (answer.has_error()) {
      last = answer.error();
      if (last.code == Errc::kRefused) return last;
      continue;
    }
    bytes_received_ += out.size();
    if (manifest_->vouches_for(tensor, block, answer->bytes.bytes)) {
      std::ranges::copy(answer->bytes.bytes, out.begin());
      return {};
    }
    warn_of_bad_block(tensor, block, answer->bytes.bytes, "what node " + peer.node + " sent");
    last = {Errc::kBadFrame, "sent other bytes than the manifest says"};
  }
  return last;
}

void NodeWeights::fetch_block(size_t tensor, uint64_t block, std::span<std::byte> out) {
  std::vector<WeightPeer> peers;
  std::stop_token stop;
  {
    std::lock_guard lock(mutex_);
    peers = peers_;
    stop = stop_;
  }
  std::string reasons;
  for (const WeightPeer& peer : peers) {
    if (stop.stop_requested()) break;
    if (!peer.may_have(tensor)) continue;
    const Result<void> fetched = fetch_block_from(peer, tensor, block, out, stop);
    if (!fetched.has_error()) return;
    reasons += fmt::format("; node {}: {}", peer.node, fetched.error().message);
  }
  if (stop.stop_requested()) throw SetupError("the plan for which it is fetched is over", kExitFailed);
  throw SetupError(
      fmt::format("node {} cannot get tensor {} of {}{}", asker_.node, manifest_->tensor(tensor).name,
                  model().path(), reasons.empty() ? ": there is no node to ask" : reasons),
      kExitFailed);
}

std::string adapters_hash(std::span<const std::shared_ptr<NodeWeights>> adapters) {
  if (adapters.empty()) return "";
  std::string digests;
  for (const std::shared_ptr<NodeWeights>& adapter : adapters) digests += adapter->manifest().digest();
  return sha256_hex(digests);
}

Result<FetchedManifest> fetch_manifest(const WeightAsker& asker, const WeightPeer& peer,
                                       const std::string& name) {
  IoThread io;
  Result<std::unique_ptr<WeightLink>> link = WeightLink::open(io, asker, peer, kWeightPatience);
  if (link.has_error()) return link.error();
  Result<std::vector<std::byte>> bytes = ask_manifest(**link);
  if (bytes.has_error()) return bytes.error();
  try {
    return FetchedManifest{
        std::make_shared<const WeightManifest>(WeightManifest::parse(std::move(*bytes), name)),
        (*link)->model_hash()};
  } catch (const SetupError& error) {
    return Error{Errc::kBadFrame, fmt::format("node {}: {}", (*link)->peer(), error.what())};
  }
}

}  // namespace shoal
