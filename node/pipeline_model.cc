#include "node/pipeline_model.h"

#include <algorithm>

#include "base/check.h"

namespace shoal {
namespace {

constexpr double kLearning = 0.25;  // share of an error that one step corrects
constexpr double kDrift = 0.3;      // share of a relative correction that the rest of the curve follows
constexpr double kDriftMin = 0.8, kDriftMax = 1.25;  // in one step
constexpr double kSecondsMin = 1e-7;                 // a stage always takes some time
constexpr double kOutlier =
    4;  // a step counts as at most so many times its prediction: it may have met a pause
// An error is the attention's in proportion to its part of the predicted time, and to some part whatever that
// is, or it would never leave 0; more of it the further back the rows look.
constexpr double kAttentionLeast = 0.2, kAttentionMost = 0.9;
constexpr double kPositionsScale = 1e3;

struct Neighbours {
  size_t below, above;
  double share_above;
};

// The points of the curve around `rows`; beyond the last point its last two are continued.
Neighbours neighbours(double rows) {
  const auto& points = StageModel::kRows;
  const auto upper = std::upper_bound(points.begin() + 1, points.end() - 1, rows);
  const size_t above = static_cast<size_t>(upper - points.begin());
  const size_t below = above - 1;
  return {below, above, std::max(0.0, (rows - points[below]) / (points[above] - points[below]))};
}

}  // namespace

double StageModel::seconds(const StepSize& size) const {
  const auto [below, above, share] = neighbours(size.rows);
  return std::max(kSecondsMin, curve_[below] + share * (curve_[above] - curve_[below])) +
         attention_ * size.positions;
}

void StageModel::observe(const StepSize& size, double seconds) {
  if (size.rows <= 0 || seconds <= 0) return;
  const auto [below, above, share] = neighbours(size.rows);
  const double predicted = this->seconds(size);
  const double error = kLearning * (std::min(seconds, kOutlier * predicted) - predicted);
  const double mean_position = size.positions / size.rows;
  const double least = kAttentionLeast * mean_position / (mean_position + kPositionsScale);
  const double to_attention = std::clamp(attention_ * size.positions / predicted, least, kAttentionMost);
  // A device that got slower did so for steps of every size: the points not seen now follow in part.
  const double drift = std::clamp(1 + kDrift * error * (1 - to_attention) / predicted, kDriftMin, kDriftMax);
  for (size_t i = 0; i < curve_.size(); ++i) {
    if (i != below && i != above) curve_[i] = std::max(kSecondsMin, curve_[i] * drift);
  }
  const double norm = (1 - share) * (1 - share) + share * share;
  const double to_curve = error * (1 - to_attention) / norm;
  curve_[below] = std::max(kSecondsMin, curve_[below] + to_curve * (1 - share));
  curve_[above] = std::max(kSecondsMin, curve_[above] + to_curve * share);
  if (size.positions > 0) attention_ = std::max(0.0, attention_ + error * to_attention / size.positions);
  // More rows never take less time, and never more than one after the other: so what a slow spell pushed up
  // comes down again with the sizes that are seen.
  for (size_t i = above + 1; i < curve_.size(); ++i) {
    const double one_by_one = curve_[i - 1] * kRows[i] / kRows[i - 1];
    curve_[i] = std::clamp(curve_[i], curve_[i - 1], one_by_one);
  }
  for (size_t i = below; i-- > 0;) curve_[i] = std::min(curve_[i], curve_[i + 1]);
}

PipelineModel::PipelineModel(std::vector<StageModel> stages, double hops_s, double hops_row_s)
    : stages_(std::move(stages)), hops_s_(hops_s), hops_row_s_(hops_row_s) {
  SHOAL_CHECK(!stages_.empty());
}

double PipelineModel::bottleneck_seconds(const StepSize& size) const {
  double slowest = 0;
  for (const StageModel& stage : stages_) slowest = std::max(slowest, stage.seconds(size));
  return slowest;
}

double PipelineModel::stages_seconds(const StepSize& size) const {
  double sum = 0;
  for (const StageModel& stage : stages_) sum += stage.seconds(size);
  return sum;
}

void PipelineModel::observe(const StepSize& size, const std::vector<double>& stage_seconds,
                            double hops_seconds) {
  if (stage_seconds.size() != stages_.size()) return;
  for (size_t i = 0; i < stages_.size(); ++i) stages_[i].observe(size, stage_seconds[i]);
  // What rows add to a hop is known from the link's bandwidth; what varies is the rest.
  const double fixed = std::max(0.0, hops_seconds - hops_row_s_ * size.rows);
  hops_s_ += kLearning * (fixed - hops_s_);
}

}  // namespace shoal
