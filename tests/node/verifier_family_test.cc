// What --verify computes again, for every family of decoders: windows, experts, soft caps and stretched
// contexts give the bits that their stages gave, and one that is another is told with its stage.
#include <doctest/doctest.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "node/verifier.h"
#include "tensor/aligned_buffer.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_families.h"

namespace shoal::test {
namespace {

// Runs what it is given where it is given it.
class Inline final : public PipelineHost {
 public:
  double now_s() const override { return 0; }
  void post(std::function<void()> work) override { work(); }
  void call(std::function<void()> work) override { work(); }
  void set_timer(Timer, double, std::function<void()>) override {}
  void send_step(std::unique_ptr<StepJob>) override {}
  StepBuffer take_buffer() override { return nullptr; }
  void set_on_outcome(std::function<void(StepOutcome)>) override {}
  void ask_clocks() override {}
  std::optional<double> clock_ahead_s(const std::string&) const override { return std::nullopt; }
};

// A family's model on three nodes, of which the last has the output head too.
struct Cut {
  explicit Cut(const TinyFamily& family) {
    write_tiny_model(dir.file("tiny.gguf"), family.options);
    file = GgufFile::open(dir.file("tiny.gguf"));
    config = ModelConfig::from(file);
    layout.node_of_stage = {"a", "b", "c"};
    layout.head = "a";
    layout.context = kFamilyContext;
    for (int i = 0; i < 3; ++i) {
      const ShardSpec spec{i == 0, {config.n_layer * i / 3, config.n_layer * (i + 1) / 3}, i == 2};
      layout.shard_of_stage.push_back(spec);
      stages.push_back(std::make_unique<Stage>(config, load_shard(file, config, spec, pool),
                                               StageOptions{kFamilyContext, 2, kFamilyPrompt},
                                               select_kernels(), pool));
    }
    for (const int token : family_prompt(family)) tokens.push_back(token);
  }

  // Rows [first, end) of the prompt as a step: what it gave, with each stage's hash.
  SampledStep compute(int first, int end) {
    SampledStep step;
    step.layout = layout;
    step.first = first;
    step.candidates = 4;
    step.tokens.assign(tokens.begin(), tokens.begin() + end);
    std::vector<BatchRow> rows;
    for (int i = first; i < end; ++i) rows.push_back({tokens[static_cast<size_t>(i)], i, 1, i + 1 == end});
    AlignedBuffer hidden(rows.size() * static_cast<size_t>(config.n_embd) * sizeof(float));
    std::vector<RowOutput> outputs;
    for (const std::unique_ptr<Stage>& stage : stages) {
      const Result<void> ran = stage->run({}, rows, step.candidates, hidden.as<float>(), outputs);
      REQUIRE_MESSAGE(ran.has_value(), ran.error().message);
      step.digests.push_back(digest_of(hidden.as<float>(), config.n_embd, rows, 1));
    }
    step.output = outputs.front();
    return step;
  }

  TempDir dir;
  GgufFile file;
  ModelConfig config;
  ThreadPool pool{1};
  PipelineLayout layout;
  std::vector<std::unique_ptr<Stage>> stages;
  std::vector<int32_t> tokens;
};

SampledStep with_another_logit(SampledStep step) {
  RowOutput output = step.output.value();
  output.candidates.at(3).logit += 1;
  step.output = std::move(output);
  return step;
}

}  // namespace

TEST_CASE("of every family the same bits are computed again, and others are told with their stage") {
  spdlog::set_level(spdlog::level::off);
  constexpr int kPrompt = 24;  // longer than the windows; the rest comes behind it, as an answer does
  for (const TinyFamily& family : tiny_families()) {
    CAPTURE(family.name);
    Cut cut(family);
    Inline host;
    std::vector<Suspects::Fault> faults;
    Verifier verifier(host, {cut.file, cut.config, select_kernels()}, /*share=*/1e6,
                      [&](const Suspects::Fault& fault) { faults.push_back(fault); });
    const auto verify = [&](SampledStep step) {
      verifier.take(std::move(step));
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (!verifier.wants(1, 1) && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      REQUIRE(verifier.wants(1, 1));
    };
    const SampledStep prompt = cut.compute(0, kPrompt), answer = cut.compute(kPrompt, kFamilyPrompt);
    verify(prompt);
    verify(answer);
    CHECK(verifier.counts().steps == 2);
    CHECK(verifier.counts().failed == 0);
    CHECK(faults.empty());

    SampledStep wrong = prompt;
    wrong.digests[1][0] ^= std::byte{1};
    verify(wrong);
    verify(with_another_logit(answer));
    REQUIRE(faults.size() == 2);
    CHECK(faults[0].nodes == std::vector<std::string>{"b"});
    CHECK(faults[0].proven);
    CHECK(faults[1].nodes == std::vector<std::string>{"c"});
    CHECK_FALSE(faults[1].proven);
    CHECK(verifier.counts().failed == 0);
  }
}

}  // namespace shoal::test
