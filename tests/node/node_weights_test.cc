#include "node/node_weights.h"

#include <doctest/doctest.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "node/cluster_weights.h"
#include "node/node.h"
#include "node/signed_plan.h"
#include "tests/node/caller.h"
#include "tests/node/local_cluster.h"
#include "tests/node/log_lines.h"
#include "tests/support/comes_true.h"
#include "tests/support/temp_dir.h"
#include "transport/hello.h"

namespace shoal::test {
namespace {

using namespace std::chrono_literals;

const ShardSpec kFirst = {true, {0, 3}, false}, kLast = {false, {3, 6}, true}, kWhole = {true, {0, 6}, true};

std::shared_ptr<const GgufFile> model_file() {
  static const auto file =
      std::make_shared<const GgufFile>(GgufFile::open(small_model_file(TensorType::kQ8_0)));
  return file;
}

const ModelConfig& model_config() {
  static const ModelConfig config = ModelConfig::from(*model_file());
  return config;
}

std::shared_ptr<const WeightManifest> the_manifest() {
  static const auto manifest = [] {
    ThreadPool pool(1);
    return std::make_shared<const WeightManifest>(WeightManifest::of(*model_file(), pool));
  }();
  return manifest;
}

// Gives from the model file, and spoils, refuses or counts on the way.
class Giver : public WeightProvider {
 public:
  const WeightManifest& manifest() const override { return *the_manifest(); }
  Result<void> give(size_t tensor, uint64_t offset, std::span<std::byte> out) override {
    ++asked;
    if (lacks && lacks(tensor)) return Error{Errc::kRefused, "it is not here"};
    std::this_thread::sleep_for(delay.load());
    while (silent) std::this_thread::sleep_for(1ms);
    model_file()->read(model_file()->tensor(manifest().tensor(tensor).name), offset, out);
    if (spoil && spoil(tensor)) out[out.size() / 2] ^= std::byte{16};
    return {};
  }
  std::atomic<int> asked{0};
  std::atomic<std::chrono::milliseconds> delay{0ms};
  std::atomic<bool> silent{false};
  std::function<bool(size_t)> lacks, spoil;
};

struct GivingNode {
  explicit GivingNode(const std::string& name) : node({"home", name, "hash"}, "127.0.0.1", 0) {
    spdlog::set_level(spdlog::level::off);
    node.offer_weights({giver});
  }
  WeightPeer peer() const { return {node.identity().name, "127.0.0.1", node.port()}; }
  std::shared_ptr<Giver> giver = std::make_shared<Giver>();
  mutable Node node;
};

std::unique_ptr<NodeWeights> fetcher(const std::string& folder, std::vector<WeightPeer> peers,
                                     uint64_t cache_bytes = 1 << 30) {
  std::unique_ptr<WeightCache> cache;
  if (!folder.empty()) cache = std::move(*WeightCache::open(folder, cache_bytes));
  auto weights = std::make_unique<NodeWeights>(the_manifest(), WeightAsker{"home", "z", "hash"}, nullptr,
                                               std::move(cache));
  weights->set_peers(std::move(peers));
  weights->set_patience(500ms);
  return weights;
}

FetchReport fetch(NodeWeights& weights, const ShardSpec& shard) {
  return weights.fetch_missing(model_config(), std::span(&shard, 1));
}

// Whether every block of a shard is as in the file.
bool right(NodeWeights& weights, const ShardSpec& shard) {
  for (const std::string& name : shard_tensors(*model_file(), model_config(), shard)) {
    const TensorInfo& tensor = model_file()->tensor(name);
    for (uint64_t block = 0; block < block_count(tensor); ++block) {
      std::vector<std::byte> got(bytes_of_block(tensor, block)), wanted(got.size());
      weights.read_block(tensor, block, got);
      model_file()->read(tensor, block * block_bytes(tensor), wanted);
      if (got != wanted) return false;
    }
  }
  return true;
}

uint64_t bytes_of(const ShardSpec& shard) {
  uint64_t total = 0;
  for (const std::string& name : shard_tensors(*model_file(), model_config(), shard))
    total += model_file()->tensor(name).bytes;
  return total;
}

std::vector<std::string> files_of(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.file_size() > 0 &&
        entry.path().string().find("in-use") == std::string::npos)
      files.push_back(entry.path().string());
  return files;
}

void flip(const std::string& path, uint64_t byte, int bit) {
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  REQUIRE(file != nullptr);
  std::fseek(file, static_cast<long>(byte), SEEK_SET);
  const int c = std::fgetc(file);
  std::fseek(file, static_cast<long>(byte), SEEK_SET);
  std::fputc(c ^ (1 << bit), file);
  std::fclose(file);
}

std::string problem(const std::function<void()>& body) {
  try {
    body();
  } catch (const SetupError& error) {
    CHECK(error.exit_code() == kExitFailed);
    return error.what();
  }
  return "";
}

TEST_CASE("a node fetches its shard and no more, keeps it, and fetches later only what it lacks") {
  GivingNode head("a");
  TempDir dir;
  {
    auto weights = fetcher(dir.file("shards"), {head.peer()});
    const FetchReport report = fetch(*weights, kFirst);
    CHECK(report.needed_bytes == bytes_of(kFirst));
    CHECK(report.fetched_bytes == bytes_of(kFirst));
    CHECK(report.cached_bytes == 0);
    CHECK(weights->bytes_received() == bytes_of(kFirst));
    CHECK(right(*weights, kFirst));
    CHECK(weights->bytes_received() == bytes_of(kFirst));  // reading them asked nobody
    ThreadPool pool(2);
    const ShardWeights loaded =
        load_shard(weights->model(), model_config(), kFirst, pool, {}, nullptr, weights.get());
    CHECK(loaded.bytes() == load_shard(*model_file(), model_config(), kFirst, pool).bytes());
  }
  const int asked = head.giver->asked;
  auto weights = fetcher(dir.file("shards"), {});
  FetchReport report = fetch(*weights, kFirst);
  CHECK(report.cached_bytes == bytes_of(kFirst));
  CHECK(report.fetched_bytes == 0);
  CHECK(right(*weights, kFirst));
  CHECK(head.giver->asked == asked);
  // A plan changes: the embedding serves both ends of a tied model.
  weights->set_peers({head.peer()});
  report = fetch(*weights, kWhole);
  CHECK(report.fetched_bytes == bytes_of(kWhole) - bytes_of(kFirst));
  CHECK(right(*weights, kWhole));
}

TEST_CASE("1,000 flipped bits on the disk: none is served, each is mended") {
  GivingNode head("a");
  TempDir dir;
  auto weights = fetcher(dir.file("shards"), {head.peer()});
  (void)fetch(*weights, kWhole);
  std::map<std::string, const TensorInfo*> tensor_of;
  for (size_t i = 0; i < the_manifest()->size(); ++i)
    tensor_of[to_hex(the_manifest()->tensor_digest(i))] = &the_manifest()->tensor(i);
  const std::vector<std::string> files = files_of(dir.file("shards"));
  std::mt19937_64 random(1128);
  int served = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string& path = files[random() % files.size()];
    const TensorInfo& tensor = *tensor_of.at(path.substr(path.rfind('/') + 1));
    const uint64_t byte = random() % tensor.bytes;
    flip(path, byte, static_cast<int>(random() % 8));
    const uint64_t block = byte / block_bytes(tensor);
    std::vector<std::byte> got(bytes_of_block(tensor, block)), wanted(got.size());
    weights->read_block(tensor, block, got);
    model_file()->read(model_file()->tensor(tensor.name), block * block_bytes(tensor), wanted);
    served += got != wanted;
  }
  CHECK(served == 0);
  CHECK(weights->bad_blocks() == 1000);
  const uint64_t received = weights->bytes_received();
  CHECK(right(*weights, kWhole));
  CHECK(weights->bytes_received() == received);  // the disk has them right again
  // With nobody to ask, a damaged tensor is an error and never weights.
  flip(files[0], 5, 1);
  auto alone = fetcher(dir.file("shards"), {});
  (void)fetch(*alone, kWhole);
  CHECK(mentions(problem([&] { (void)right(*alone, kWhole); }), "there is no node to ask"));
}

TEST_CASE("torn and shortened files are fetched again, a partial one goes on where it was right") {
  GivingNode head("a");
  TempDir dir;
  auto weights = fetcher(dir.file("shards"), {head.peer()});
  (void)fetch(*weights, kWhole);
  const std::vector<std::string> files = files_of(dir.file("shards"));
  for (size_t i = 0; i < files.size(); ++i) {
    const uint64_t size = std::filesystem::file_size(files[i]);
    if (i % 3 == 0) std::filesystem::resize_file(files[i], size / 2);  // a power cut: short
    if (i % 3 == 1) write_file(files[i], std::string(size, '\0'));     // or holes
    if (i % 3 == 2) {                                                  // or never got its name
      std::filesystem::rename(files[i], files[i] + ".partial");
      std::filesystem::resize_file(files[i] + ".partial", size - 1);
    }
  }
  auto again = fetcher(dir.file("shards"), {head.peer()});
  const FetchReport report = fetch(*again, kWhole);
  CHECK(report.fetched_bytes > 0);
  CHECK(right(*again, kWhole));
  CHECK(again->bad_blocks() > 0);
}

TEST_CASE("several nodes give at once, each what it has; one that lacks or lies is left aside") {
  GivingNode a("a"), b("b"), c("c"), liar("liar");
  TempDir dir;
  for (GivingNode* node : {&a, &b, &c, &liar}) node->giver->delay = 2ms;
  c.giver->lacks = [](size_t tensor) { return tensor % 2 == 0; };
  liar.giver->spoil = [](size_t) { return true; };
  WeightPeer listed = b.peer();
  listed.tensors.assign(the_manifest()->size(), true);
  for (size_t i = 0; i < 3; ++i) listed.tensors[i] = false;
  std::atomic<bool> asked_in_vain = false;
  b.giver->lacks = [&](size_t tensor) { return tensor < 3 && (asked_in_vain = true); };
  auto weights = fetcher(dir.file("shards"), {a.peer(), listed, c.peer(), liar.peer()});
  const FetchReport report = fetch(*weights, kWhole);
  CHECK(right(*weights, kWhole));
  CHECK(report.fetched_bytes >= bytes_of(kWhole));
  CHECK(weights->bad_blocks() == 2);  // twice, then no more of it
  CHECK(a.giver->asked > 0);
  CHECK(b.giver->asked > 0);
  CHECK_FALSE(asked_in_vain);
  CHECK(c.giver->asked > 0);
  CHECK(liar.giver->asked <= static_cast<int>(kWeightsRequestsMax) + 1);
  // Alone it is no source at all.
  auto deceived = fetcher(dir.file("other"), {liar.peer()});
  const std::string text = problem([&] { (void)fetch(*deceived, kFirst); });
  CHECK(mentions(text, "node liar: sent other bytes of tensor"));
  CHECK(mentions(text, "what has come is kept"));
  auto streaming = fetcher("", {liar.peer()});
  CHECK(mentions(problem([&] { (void)right(*streaming, kFirst); }), "liar: sent other bytes"));
  auto rescued = fetcher("", {liar.peer(), a.peer()});
  CHECK(right(*rescued, kFirst));
}

TEST_CASE("a node lost in the middle: the others go on, or the next start does") {
  TempDir dir;
  auto dying = std::make_unique<GivingNode>("a");
  dying->giver->delay = 3ms;
  {
    auto weights = fetcher(dir.file("shards"), {dying->peer()});
    weights->set_patience(2s);  // a machine busy with other things is not to look like a loss
    std::atomic<bool> over = false;
    std::thread killer([&] {
      while (dying->giver->asked < 20 && !over) std::this_thread::sleep_for(1ms);
      dying.reset();
    });
    const std::string text = problem([&] { (void)fetch(*weights, kWhole); });
    over = true;
    killer.join();
    CHECK(mentions(text, "node z cannot get the weights that it lacks: no node can give tensor"));
    CHECK(weights->bytes_received() == 0);  // no report of a fetch that failed
  }
  uint64_t kept = 0;
  for (const std::string& file : files_of(dir.file("shards"))) kept += std::filesystem::file_size(file);
  CHECK(kept > 0);
  GivingNode next("a");
  auto weights = fetcher(dir.file("shards"), {next.peer()});
  const FetchReport report = fetch(*weights, kWhole);
  CHECK(report.fetched_bytes == bytes_of(kWhole) - kept);
  CHECK(report.cached_bytes == kept);
  CHECK(right(*weights, kWhole));
}

TEST_CASE("a fetch is done when everything is there, whoever is still being called") {
  GivingNode head("a");
  TempDir dir;
  IoThread io;
  const auto deaf = listen_on(io.executor());  // connections are made, and nobody answers a hello
  const std::vector<WeightPeer> peers = {head.peer(), {"deaf", "127.0.0.1", deaf->port()}};
  auto weights = fetcher(dir.file("shards"), peers);
  weights->set_patience(kWeightPatience);
  const FetchReport report = fetch(*weights, kWhole);
  CHECK(report.fetched_bytes == bytes_of(kWhole));
  CHECK(report.seconds < std::chrono::duration<double>(kHelloDeadline).count());
  CHECK(right(*weights, kWhole));
  // One that cannot end well ends as soon: what the head has said is final.
  head.giver->lacks = [](size_t tensor) { return tensor % 2 == 0; };
  WeightPeer useless = peers[1];
  useless.tensors.assign(the_manifest()->size(), false);
  auto hopeless = fetcher(dir.file("other"), {head.peer(), useless});
  const auto began = std::chrono::steady_clock::now();
  const std::string text = problem([&] { (void)fetch(*hopeless, kWhole); });
  CHECK(std::chrono::steady_clock::now() - began < kHelloDeadline);
  CHECK(mentions(text, "no node can give tensor"));
  CHECK(mentions(text, "; node a: it is not here"));
}

TEST_CASE("a fetch that nobody wants any more ends at once, and the next one goes on from there") {
  GivingNode head("a"), silent("b");
  IoThread io;
  const auto deaf = listen_on(io.executor());
  TempDir dir;
  auto weights =
      fetcher(dir.file("shards"), {head.peer(), silent.peer(), {"deaf", "127.0.0.1", deaf->port()}});
  weights->set_patience(kWeightPatience);
  head.giver->delay = 2ms;
  silent.giver->silent = true;
  std::stop_source plan;
  weights->set_stop(plan.get_token());
  std::chrono::steady_clock::time_point over;
  std::thread other([&] {
    while (head.giver->asked < 20) std::this_thread::sleep_for(1ms);
    over = std::chrono::steady_clock::now();
    plan.request_stop();
  });
  const std::string text = problem([&] { (void)fetch(*weights, kWhole); });
  other.join();
  CHECK(std::chrono::steady_clock::now() - over < kWeightPatience / 5);  // before anybody is called silent
  CHECK(mentions(text, "node z fetches no more for a plan that is over; "));
  // Nor does one begin, or a single block come, for a plan that is over.
  head.giver->delay = 0ms;
  const int asked = head.giver->asked;
  CHECK(mentions(problem([&] { (void)fetch(*weights, kWhole); }), "a plan that is over"));
  auto none = fetcher("", {head.peer()});
  none->set_stop(plan.get_token());
  CHECK(mentions(problem([&] { (void)right(*none, kFirst); }), "the plan for which it is fetched is over"));
  CHECK(head.giver->asked <= asked + static_cast<int>(kWeightsRequestsMax));
  silent.giver->silent = false;
  uint64_t kept = 0;
  for (const std::string& file : files_of(dir.file("shards"))) kept += std::filesystem::file_size(file);
  CHECK(kept > 0);
  weights->set_stop({});
  const FetchReport report = fetch(*weights, kWhole);
  CHECK(report.fetched_bytes == bytes_of(kWhole) - kept);
  CHECK(right(*weights, kWhole));
}

TEST_CASE("a single block that is waited for comes no more where the plan is over") {
  GivingNode silent("b");
  silent.giver->silent = true;
  std::stop_source plan;
  auto none = fetcher("", {silent.peer()});
  none->set_stop(plan.get_token());
  std::thread other([&] {
    while (silent.giver->asked == 0) std::this_thread::sleep_for(1ms);
    plan.request_stop();
  });
  CHECK(mentions(problem([&] { (void)right(*none, kFirst); }), "the plan for which it is fetched is over"));
  other.join();
  silent.giver->silent = false;
}

TEST_CASE("who falls silent gives its tensors up to one that has nothing to do") {
  GivingNode head("a"), silent("b");
  silent.giver->silent = true;
  head.giver->lacks = [&](size_t) {  // the head waits until the other has something to be silent about
    for (int i = 0; i < 10'000 && silent.giver->asked == 0; ++i) std::this_thread::sleep_for(1ms);
    return false;
  };
  TempDir dir;
  auto weights = fetcher(dir.file("shards"), {head.peer(), silent.peer()});
  const FetchReport report = fetch(*weights, kWhole);
  CHECK(silent.giver->asked > 0);
  CHECK(report.fetched_bytes == bytes_of(kWhole));
  CHECK(report.seconds < 30);  // a link that hangs is given up after 60
  silent.giver->silent = false;
  CHECK(right(*weights, kWhole));
}

TEST_CASE("without a cache, or with one too small, weights come while loading") {
  GivingNode head("a");
  TempDir dir;
  auto none = fetcher("", {head.peer()});
  CHECK(fetch(*none, kFirst).not_kept_bytes == bytes_of(kFirst));
  CHECK(right(*none, kFirst));
  CHECK(none->bytes_received() == bytes_of(kFirst));
  const uint64_t bound = bytes_of(kFirst) / 2;
  auto small = fetcher(dir.file("shards"), {head.peer()}, bound);
  const FetchReport report = fetch(*small, kFirst);
  CHECK(report.not_kept_bytes > 0);
  CHECK(report.fetched_bytes > 0);
  CHECK(report.fetched_bytes + report.not_kept_bytes == bytes_of(kFirst));
  CHECK(right(*small, kFirst));
  uint64_t kept = 0;
  for (const std::string& file : files_of(dir.file("shards"))) kept += std::filesystem::file_size(file);
  CHECK(kept <= bound);
}

TEST_CASE("two processes that share a folder fetch each tensor once") {
  GivingNode head("a");
  head.giver->delay = 1ms;
  TempDir dir;
  auto one = fetcher(dir.file("shards"), {head.peer()}), two = fetcher(dir.file("shards"), {head.peer()});
  FetchReport first, second;
  std::thread other([&] { second = fetch(*two, kWhole); });
  first = fetch(*one, kWhole);
  other.join();
  CHECK(first.fetched_bytes + second.fetched_bytes == bytes_of(kWhole));
  CHECK(right(*one, kWhole));
  CHECK(right(*two, kWhole));
}

TEST_CASE("a model file that changes is named, by the node that loads it and by the one that gives it") {
  TempDir dir;
  const std::string path = dir.file("model.gguf");
  std::filesystem::copy_file(small_model_file(TensorType::kQ8_0), path);
  auto own = std::make_shared<const GgufFile>(GgufFile::open(path));
  auto weights = std::make_shared<NodeWeights>(the_manifest(), WeightAsker{"home", "a"}, own, nullptr);
  CHECK(fetch(*weights, kWhole).fetched_bytes == 0);
  CHECK(right(*weights, kWhole));
  CHECK(weights->inventory() == "all");
  Node node({"home", "a", "hash"}, "127.0.0.1", 0);
  node.offer_weights({weights});
  const TensorInfo& tensor = own->tensor("blk.1.ffn_up.weight");
  std::this_thread::sleep_for(20ms);  // more than a clock tick of the file system
  flip(path, tensor.offset + 100, 3);
  CHECK(
      mentions(problem([&] { (void)right(*weights, kWhole); }), path + "' was changed while it was in use"));
  auto asking = fetcher("", {{"a", "127.0.0.1", node.port()}});
  CHECK(mentions(problem([&] { (void)right(*asking, kWhole); }), path + "' was changed while it was in use"));
  TempDir shards;
  auto keeping = fetcher(shards.file("shards"), {{"a", "127.0.0.1", node.port()}});
  const std::string unkept = problem([&] { (void)fetch(*keeping, kWhole); });
  CHECK(mentions(unkept, "no node can give tensor"));
  CHECK(mentions(unkept, path + "' was changed while it was in use"));
  // Damage from before the start: taken from another node, or named.
  auto damaged = std::make_shared<const GgufFile>(GgufFile::open(path));
  NodeWeights alone(the_manifest(), {"home", "b"}, damaged, nullptr);
  const std::string text = problem([&] { (void)right(alone, kWhole); });
  CHECK(mentions(text, "tensor blk.1.ffn_up.weight is not what the manifest says"));
  GivingNode head("head");
  alone.set_peers({head.peer()});
  CHECK(right(alone, kWhole));
  CHECK(alone.bad_blocks() == 1);
}

TEST_CASE("the manifest comes over the wire, and so does what a node has") {
  LogLines log;
  GivingNode head("a");
  spdlog::set_level(spdlog::level::info);
  const auto manifest = fetch_manifest({"home", "z"}, head.peer(), "m.gguf");
  REQUIRE_MESSAGE(manifest.has_value(), manifest.error().message);
  CHECK(manifest->manifest->digest() == the_manifest()->digest());
  CHECK(comes_true([&] { return log.count("of weights were sent to z at 127.0.0.1:") == 1; }));
  head.node.offer_weights({});
  CHECK(
      mentions(fetch_manifest({"home", "z"}, head.peer(), "m").error().message, "a has no weights to give"));
  TempDir dir;
  head.node.offer_weights({head.giver});
  auto weights = fetcher(dir.file("shards"), {head.peer()});
  CHECK(parse_inventory(weights->inventory(), the_manifest()->size()) ==
        std::vector<bool>(the_manifest()->size(), false));
  (void)fetch(*weights, kFirst);
  const std::vector<bool> has = parse_inventory(weights->inventory(), the_manifest()->size());
  for (size_t i = 0; i < has.size(); ++i) {
    const std::vector<std::string> names = shard_tensors(*model_file(), model_config(), kFirst);
    CHECK(has[i] == (std::find(names.begin(), names.end(), the_manifest()->tensor(i).name) != names.end()));
  }
  CHECK(parse_inventory("", 5) == std::vector<bool>(5, false));
  CHECK(parse_inventory("all", 5).empty());
}

TEST_CASE("a byte that the fingerprint does not sample makes another model to the others") {
  TempDir dir;
  const std::string path = dir.file("changed.gguf");
  std::filesystem::copy_file(model_file()->path(), path);
  const auto identity_now = [&] {
    const auto file = std::make_shared<const GgufFile>(GgufFile::open(path));
    CHECK(file->fingerprint() == model_file()->fingerprint());
    ThreadPool pool(1);
    return weights_identity(file->fingerprint(), WeightManifest::of(*file, pool), {});
  };
  const std::string before = identity_now();
  CHECK(fingerprint_in(before) == model_file()->fingerprint());
  const TensorInfo& largest = *std::ranges::max_element(model_file()->tensors(), {}, &TensorInfo::bytes);
  flip(path, largest.offset, 3);
  const std::string after = identity_now();
  CHECK(before == weights_identity(model_file()->fingerprint(), *the_manifest(), {}));
  CHECK(after != before);
  const std::shared_ptr<const WeightManifest> adapter = the_manifest();
  CHECK(weights_identity("f", *the_manifest(), {&adapter, 1}) != weights_identity("f", *the_manifest(), {}));
  // Who holds the one is not let in by a node that has the other, and gets no plan of it.
  Node head({"home", "head", after}, "127.0.0.1", 0), stale({"home", "b", before}, "127.0.0.1", 0);
  const Error refused = stale.measure_link("head", {"127.0.0.1", head.port()}).error();
  CHECK(refused.code == Errc::kOtherModel);
  PipelineLayout layout = layout_of({});
  layout.endpoints[layout.head] = {"127.0.0.1", 1};
  const LoadPlan order = signed_plan(head.identity(), layout, 1);
  CHECK(check_plan(order, head.identity(), 0, "the head").has_value());
  CHECK(mentions(check_plan(order, stale.identity(), 0, "the head").error().message, "it is for model"));
}

TEST_CASE("requests that lie are answered in words or end the link, and the giver gives on") {
  GivingNode head("a");
  Caller caller;
  Hello hello = hello_of("z", "a", LinkRole::kWeights);
  hello.plan_hash = hello.numeric_class = "";
  hello.epoch = 0;
  hello.model_fingerprint = "hash";
  const ChannelPtr link = caller.call(head.node.port(), hello);
  const uint64_t bytes = the_manifest()->tensor(0).bytes;
  for (const WeightsRequest& request :
       {WeightsRequest{1, 100'000, 8, 0}, WeightsRequest{2, 0, 8, bytes},
        WeightsRequest{3, 0, 8, UINT64_MAX - 3},
        WeightsRequest{4, 0, static_cast<uint32_t>(kWeightsBytesMax), bytes - 1},
        WeightsRequest{5, WeightsRequest::kManifest, 8, UINT64_MAX}}) {
    caller.send(link, request);
    const std::optional<Message> answer = caller.receive(link);
    REQUIRE(answer.has_value());
    const auto& data = std::get<WeightsData>(*answer);
    CHECK(data.id == request.id);
    CHECK_FALSE(data.failure.empty());
  }
  for (const Message& message :
       {Message(WeightsRequest{6, 0, 0, 0}),
        Message(WeightsRequest{7, 0, static_cast<uint32_t>(kWeightsBytesMax) + 1, 0}),
        Message(Shutdown{"you"}), Message(WeightsData{8, 9, ""})}) {
    const ChannelPtr bad = caller.call(head.node.port(), hello);
    caller.send(bad, message);
    CHECK_FALSE(caller.receive(bad).has_value());
  }
  Hello other = hello;
  other.model_fingerprint = "another";
  CHECK(mentions(caller.greet(caller.connect(head.node.port()), other), "another model file"));
  TempDir dir;
  auto weights = fetcher(dir.file("shards"), {head.peer()});
  CHECK(fetch(*weights, kFirst).fetched_bytes == bytes_of(kFirst));
}

TEST_CASE("a node that breaks the rules again and again does not fill the giver's log") {
  LogLines log;
  GivingNode head("a");
  log.listen();
  Caller caller;
  Hello hello = hello_of("z", "a", LinkRole::kWeights);
  hello.plan_hash = hello.numeric_class = "";
  hello.epoch = 0;
  hello.model_fingerprint = "hash";
  for (int i = 0; i < 60; ++i) {
    const ChannelPtr bad = caller.call(head.node.port(), hello);
    caller.send(bad, Shutdown{"you"});
    REQUIRE_FALSE(caller.receive(bad).has_value());
  }
  const long said = log.count("a link for weights from z at 127.0.0.1:");
  CHECK(said >= StrangerLines::kOfAddressPerMinute);
  CHECK(said < StrangerLines::kOfAddressPerMinute + 15);  // some more as the seconds go
}

}  // namespace
}  // namespace shoal::test
