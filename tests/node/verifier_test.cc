// Steps computed again on the head: nothing to say of sound nodes, and one flipped bit is found.
#include "node/verifier.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "model/weight_manifest.h"
#include "tests/node/caller.h"
#include "tests/node/kept_cluster.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

constexpr double kAlways = 1e6;  // a share that samples each step there is time for

// The layers' bytes from the file, but for what a test does to some.
struct Tampering : BlockSource {
  explicit Tampering(const GgufFile& of) : file(of) {}
  void read_block(const TensorInfo& tensor, uint64_t block, std::span<std::byte> out) override {
    if (fails) throw SetupError("the disk is on fire", kExitFailed);
    file.read(tensor, block * block_bytes(tensor), out);
    if (tensor.name == "blk.2.ffn_norm.weight" && flips_left-- > 0) out[1] ^= std::byte{0x40};
  }
  const GgufFile& file;
  std::atomic<int> flips_left{0};
  std::atomic<bool> fails{false};
};

// A cluster in which whoever is found to be wrong is accused.
struct Verified {
  explicit Verified(const std::vector<std::string>& names, const std::string& spoiled = "")
      : cluster(names, spoiled, /*flip=*/1u << 12),
        model(ModelConfig::from(cluster.sound())),
        tampering(cluster.sound()) {}
  void begin(double share = kAlways) {
    verifier = std::make_unique<Verifier>(
        cluster.head(), Verifier::Source{cluster.sound(), model, select_kernels(), KvType::kF16, &tampering},
        share, [this](const Suspects::Fault& fault) { cluster.keeper().accuse(fault); });
    verifier->sample_steps_of(cluster.coordinator());
  }
  Reply ask(int prompt, int tokens) {
    Requests requests;
    requests.submit(cluster.coordinator(), greedy(prompt_of(prompt, 3), tokens));
    REQUIRE(requests.wait(0));
    return requests.reply(0);
  }
  // So much that something is found meanwhile; what the last was told.
  Reply ask_long() {
    constexpr size_t kRequests = 200;
    Requests requests;
    for (size_t i = 0; i < kRequests; ++i)
      requests.submit(cluster.coordinator(), greedy(prompt_of(40, 3), 80));
    REQUIRE(requests.wait(kRequests - 1));
    return requests.reply(kRequests - 1);
  }
  uint64_t failures_of(const std::string& node) {
    const auto failed = cluster.counters().failed;
    return failed.contains(node) ? failed.at(node) : 0;
  }

  KeptCluster cluster;
  ModelConfig model;
  Tampering tampering;
  std::unique_ptr<Verifier> verifier;
};

const std::vector<std::string> kNames = {"a", "b", "c"};

// The one of them that computes beside the head, whose weights are spoiled.
std::string used() {
  static const std::string which = KeptCluster(kNames).stage_nodes().back();
  return which;
}

// Batches of requests that begin alike, some given up, some behind an adapter, until `steps` were compared.
void ask_much(LocalCluster& cluster, const Verifier& verifier, uint64_t steps, int adapters) {
  for (uint64_t round = 1; verifier.counts().steps < steps; ++round) {
    REQUIRE(round < 2000);
    Requests requests;
    for (int i = 0; i < 6; ++i) {
      GenerationRequest request = greedy(prompt_of(20 + 9 * i, round / 3), 12);
      request.prompt.push_back(static_cast<int32_t>(3 + i));
      request.adapter.index = i % (adapters + 1);
      if (i == 2) request.sampling.temperature = 1;
      if (i == 4) request.logprobs = 5;
      requests.submit(cluster.coordinator(), std::move(request), i == 5 ? 3 : -1);
    }
    REQUIRE(requests.wait_all());
  }
}

}  // namespace

TEST_CASE("of sound nodes there is nothing to say, however the model is cut and its cache is used") {
  ClusterShape ends, tight, behind_adapters;
  ends.node_of_stage = {"a", "b", "c", "a"};
  ends.ends = true;
  tight.node_of_stage = {"b", "a"};
  tight.type = TensorType::kQ4_0;
  tight.kv_cells = 160;
  behind_adapters.node_of_stage = {"a", "b"};
  behind_adapters.adapters = 2;
  for (const ClusterShape& shape : {ends, tight, behind_adapters}) {
    LocalCluster cluster(shape);
    const GgufFile file = GgufFile::open(small_model_file(shape.type));
    const ModelConfig model = ModelConfig::from(file);
    std::atomic<int> found{0};
    Verifier verifier(cluster.node("a"), {file, model, select_kernels()}, kAlways,
                      [&](const Suspects::Fault&) { ++found; });
    verifier.sample_steps_of(cluster.coordinator());
    ask_much(cluster, verifier, 150, shape.adapters);
    CHECK(verifier.counts().rows > verifier.counts().steps);
    CHECK(verifier.counts().different == 0);
    CHECK(verifier.counts().failed == 0);
    CHECK(found == 0);
    if (shape.kv_cells > 0) CHECK(cluster.coordinator().preempted() > 0);
  }
}

TEST_CASE("one flipped bit of one weight in a node's memory is found, and the node is taken out") {
  const std::string bad = used();
  Verified verified(kNames, bad);
  verified.begin();
  const Reply wrong = verified.ask_long();
  CHECK(wrong.reason == FinishReason::kError);
  CHECK(mentions(wrong.error.message, "node " + bad + " (layers"));
  CHECK(verified.cluster.state_of(bad) == "suspect");
  CHECK(verified.failures_of(bad) == 1);  // all that its rows came from was compared: it is proven at once
  const std::string told = verified.cluster.told(ClusterEvent::Kind::kSuspect);
  CHECK_MESSAGE(mentions(told, "computed other numbers than the head (--verify, positions 0 to "), told);
  // The other has its layers; the answers are those of sound nodes, and so are the numbers.
  const uint64_t before = verified.verifier->counts().steps;
  Verified sound({"a", "b"});
  const std::vector<int32_t> expected = sound.ask(20, 6).tokens;
  CHECK(comes_true([&] {
    CHECK(verified.ask(20, 6).tokens == expected);
    return verified.verifier->counts().steps >= before + 3;
  }));
  CHECK(verified.verifier->counts().different <= 2);  // a step behind it may have been looked at too
}

TEST_CASE("where K and V from before went in the node goes when it differs again") {
  const std::string bad = used();
  Verified verified(kNames, bad);
  CHECK(verified.ask(40, 2).reason == FinishReason::kLength);
  verified.begin();
  CHECK(verified.ask_long().reason == FinishReason::kError);  // its prompt was in the cache
  CHECK(verified.cluster.state_of(bad) == "in use");
  CHECK(verified.failures_of(bad) == 1);
  CHECK(comes_true([&] {
    (void)verified.ask(20, 6);
    return verified.cluster.state_of(bad) == "suspect";
  }));
  CHECK(verified.failures_of(bad) == 2);
}

TEST_CASE("after a difference each step is sampled until enough were right") {
  Verified verified(kNames, used());
  verified.begin(1);
  const auto wanted = [&] {  // of steps of which one in a thousand is
    int count = 0;
    for (int i = 0; i < 100; ++i) count += verified.verifier->wants(1, Verifier::kPositionsMax);
    return count;
  };
  CHECK(wanted() < 50);
  CHECK(verified.ask_long().reason == FinishReason::kError);
  CHECK(comes_true([&] { return wanted() == 100; }));
  CHECK(comes_true([&] {
    (void)verified.ask(20, 20);
    return verified.verifier->counts().steps >= Verifier::kAlertSteps + 2 && wanted() < 50;
  }));
}

TEST_CASE("a head that errs while it computes again blames nobody else, and answers go on") {
  Verified verified({"a", "b"});
  const std::vector<int32_t> expected = verified.ask(20, 40).tokens;
  verified.tampering.flips_left = 1;
  verified.begin();
  CHECK(comes_true([&] {
    CHECK(verified.ask(20, 40).tokens == expected);
    return verified.failures_of("a") == 1;
  }));
  CHECK(verified.failures_of("b") == 0);
  CHECK(verified.cluster.counters().suspected == 0);
  CHECK(mentions(verified.cluster.told(ClusterEvent::Kind::kFailed), "and not the same"));
}

TEST_CASE("weights that cannot be read again are counted, and nobody is blamed") {
  Verified verified({"a", "b"});
  verified.tampering.fails = true;
  verified.begin();
  CHECK(comes_true([&] {
    CHECK(verified.ask(20, 4).reason == FinishReason::kLength);
    return verified.verifier->counts().failed >= 2;
  }));
  CHECK(verified.verifier->counts().steps == 0);
  CHECK(verified.cluster.counters().failed.empty());
}

TEST_CASE("samples cost their whole history, on average the share that was asked for") {
  Verified verified({"a", "b"});
  verified.begin(0.1);
  double rows = 0, again = 0;
  for (int i = 0; i < 2'000'000; ++i) {
    const int end = 1 + i % 100;
    ++rows;
    if (verified.verifier->wants(1, end)) again += end;
  }
  CHECK(again / rows > 0.08);
  CHECK(again / rows < 0.12);
  CHECK_FALSE(verified.verifier->wants(Verifier::kPositionsMax + 1, Verifier::kPositionsMax + 1));
}

}  // namespace shoal::test
