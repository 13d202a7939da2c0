#include "node/pipeline_model.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

namespace shoal {
namespace {

StageModel straight(double fixed, double per_row) {
  std::array<double, StageModel::kRows.size()> seconds;
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = fixed + per_row * StageModel::kRows[i];
  return StageModel(seconds);
}

}  // namespace

TEST_CASE("a curve is linear between its points and continued beyond the last") {
  const StageModel stage = straight(2e-3, 1e-3);
  for (const double rows : {1.0, 3.0, 5.5, 100.0, 512.0, 2048.0})
    CHECK(stage.seconds({rows, 0}) == doctest::Approx(2e-3 + 1e-3 * rows));
}

TEST_CASE("observations find the curve and the cost of looking back, from a wrong start and through noise") {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> noise(0.95, 1.05);
  auto truth = [](const StepSize& size) {
    return std::max(5e-3, 0.4e-3 * size.rows) + 0.2e-6 * size.positions;
  };
  StageModel stage = straight(20e-3, 2e-3);
  for (int i = 0; i < 3000; ++i) {
    const double rows = std::exp2(static_cast<double>(random() % 8));
    const StepSize size{rows, rows * static_cast<double>(random() % 4000)};
    stage.observe(size, truth(size) * noise(random));
  }
  for (const double rows : {1.0, 8.0, 32.0, 128.0}) {
    for (const double position : {0.0, 500.0, 3500.0}) {
      CAPTURE(rows);
      CAPTURE(position);
      const StepSize size{rows, rows * position};
      CHECK(stage.seconds(size) == doctest::Approx(truth(size)).epsilon(0.1));
    }
  }
}

TEST_CASE("after pauses while decoding, long prompts are believed slow no longer than the pauses last") {
  auto truth = [](double rows) { return 2e-3 + 0.2e-3 * rows; };
  StageModel stage = straight(2e-3, 0.2e-3);
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {  // one step in ten waits for something else that runs on the device
    const double rows = 1.0 + static_cast<double>(random() % 4);
    stage.observe({rows, 0}, truth(rows) * (random() % 10 == 0 ? 100 : 1));
  }
  for (int i = 0; i < 30; ++i) stage.observe({2, 0}, truth(2));
  CHECK(stage.seconds({2, 0}) < 1.2 * truth(2));
  CHECK(stage.seconds({32, 0}) < 16 * 1.2 * truth(2));
}

TEST_CASE("nonsense does not break a model") {
  StageModel stage = straight(1e-3, 1e-4);
  stage.observe({0, 0}, 1);
  stage.observe({4, 0}, -1);
  for (int i = 0; i < 100; ++i) stage.observe({4, 16}, 1e9);
  for (int i = 0; i < 300; ++i) stage.observe({4, 16}, 2e-3);
  CHECK(std::isfinite(stage.seconds({64, 64})));
  CHECK(stage.seconds({4, 16}) == doctest::Approx(2e-3).epsilon(0.05));
  PipelineModel model({stage, stage}, 1e-3, 0);
  model.observe({4, 16}, {1.0}, 0);  // another number of stages
  CHECK(model.bottleneck_seconds({4, 16}) < 3e-3);
}

}  // namespace shoal
