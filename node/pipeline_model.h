// What the scheduler believes of the pipeline's speed: for each stage the seconds a step takes by its rows
// and by how far back they look, and what the links add to a lap. It starts from the plan's prediction and
// follows what every answered step reports. Plain arithmetic: no clock, no threads.
//
// A stage's time is modelled as  curve(rows) + attention * sum of positions,  the curve linear between fixed
// row counts. Each observation moves the parameters that it depends on by a fixed share of the error, divided
// between curve and attention by their parts of the prediction: a Kaczmarz step (S. Kaczmarz 1937; known in
// adaptive filtering as normalised LMS) with a learning rate, so no history is kept and a device that slows
// down is believed within a few steps.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace shoal {

// The size of a step, as far as its time depends on it.
struct StepSize {
  double rows = 0;
  double positions = 0;  // sum over the rows of the positions that they attend to
};

class StageModel {
 public:
  static constexpr std::array<double, 10> kRows{1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

  StageModel() = default;
  // Seconds at each of kRows, with nothing to look back on.
  explicit StageModel(const std::array<double, kRows.size()>& seconds) : curve_(seconds) {}

  double seconds(const StepSize& size) const;
  void observe(const StepSize& size, double seconds);

 private:
  std::array<double, kRows.size()> curve_{};
  double attention_ = 0;  // seconds a row and position
};

class PipelineModel {
 public:
  // Hops: the seconds that all links together add to a lap, fixed and for each row of a step.
  PipelineModel(std::vector<StageModel> stages, double hops_s, double hops_row_s);

  int stages() const { return static_cast<int>(stages_.size()); }
  const StageModel& stage(int index) const { return stages_[static_cast<size_t>(index)]; }
  double bottleneck_seconds(const StepSize& size) const;  // the slowest stage
  double stages_seconds(const StepSize& size) const;      // all stages, one after the other
  double hops_seconds(const StepSize& size) const { return hops_s_ + hops_row_s_ * size.rows; }
  double lap_seconds(const StepSize& size) const { return stages_seconds(size) + hops_seconds(size); }

  // A step came back: what each stage computed, in pipeline order, and the rest of its lap on the way
  // (without waiting in queues). Other counts of stages than the model's are ignored.
  void observe(const StepSize& size, const std::vector<double>& stage_seconds, double hops_seconds);

 private:
  std::vector<StageModel> stages_;
  double hops_s_, hops_row_s_;
};

}  // namespace shoal
