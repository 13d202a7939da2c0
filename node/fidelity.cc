#include "node/fidelity.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/cost_model.h"

namespace shoal {
namespace {

constexpr double kUs = 1e-6;

std::string stage_name(const Plan& plan, const StageAssignment& stage) {
  const std::string& node = plan.devices[static_cast<size_t>(stage.device)];
  if (stage.layers() == 0) return node + (stage.output ? " (output head)" : " (embedding)");
  if (stage.layers() == 1) return fmt::format("{} (layer {})", node, stage.layer_begin);
  return fmt::format("{} (layers {}-{})", node, stage.layer_begin, stage.layer_end - 1);
}

// What three of four values reach.
double lower_quartile(std::vector<double> values) {
  const auto quarter = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 4);
  std::nth_element(values.begin(), quarter, values.end());
  return *quarter;
}

}  // namespace

Fidelity::Fidelity(const PlanInput& input, const Plan& plan, int rows_max) : rows_max_(rows_max) {
  const CostModel cost(input);
  int from = plan.head;
  uint64_t row_bytes = input.model.token_bytes_per_row;
  const auto name = [&](int device) { return plan.devices[static_cast<size_t>(device)]; };
  const auto add_hop = [&](int to) {
    Place hop;
    hop.figure.name = from == to ? "within " + name(to) : name(from) + " -> " + name(to);
    hop.figure.link = from != to;
    hop.figure.hop = true;
    for (int rows = 1; rows <= rows_max; ++rows)
      hop.predicted_s.push_back(cost.message_seconds(from, to, row_bytes * static_cast<uint64_t>(rows)));
    places_.push_back(std::move(hop));
    from = to;
  };
  for (const StageAssignment& stage : plan.stages) {
    add_hop(stage.device);
    Place place;
    place.figure.name = stage_name(plan, stage);
    for (int rows = 1; rows <= rows_max; ++rows)
      place.predicted_s.push_back(cost.compute_seconds(stage.device, unit_range(stage), rows));
    places_.push_back(std::move(place));
    row_bytes = input.model.hidden_bytes_per_row;
  }
  row_bytes = input.model.result_bytes_per_row;
  add_hop(plan.head);
}

void Fidelity::add(size_t place, int rows, double seconds) {
  Place& p = places_[place];
  const double predicted = p.predicted_s[static_cast<size_t>(rows) - 1];
  p.sum_s += seconds;
  p.predicted_sum_s += predicted;
  ++p.samples;
  if (warm_up_ > 0) return;
  p.ratios.push_back(seconds / std::max(predicted, 1e-9));
  p.excesses_s.push_back(seconds - predicted);
}

std::optional<Fidelity::Drift> Fidelity::observe(int rows, double sent_s, double answered_s,
                                                 const std::vector<StageTime>& times,
                                                 const std::vector<std::optional<double>>& ahead_s) {
  if (rows < 1 || rows > rows_max_ || 2 * times.size() + 1 != places_.size()) return std::nullopt;
  std::optional<double> done_s = sent_s;  // by the head's clock, where that can be told
  double waited_s = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    std::optional<double> arrived_s;
    if (times[i].arrived_us != 0 && i < ahead_s.size() && ahead_s[i])
      arrived_s = static_cast<double>(times[i].arrived_us) * kUs - *ahead_s[i];
    if (done_s && arrived_s) add(2 * i, rows, std::max(0.0, *arrived_s - *done_s));
    add(2 * i + 1, rows, times[i].busy_us * kUs);
    waited_s += times[i].waited_us * kUs;
    done_s.reset();
    if (arrived_s) done_s = *arrived_s + (times[i].waited_us + times[i].busy_us) * kUs;
  }
  if (done_s) add(places_.size() - 1, rows, std::max(0.0, answered_s - *done_s));
  ++steps_;
  rows_ += rows;
  lap_s_ += std::max(0.0, answered_s - sent_s - waited_s);
  for (const Place& place : places_) lap_predicted_s_ += place.predicted_s[static_cast<size_t>(rows) - 1];
  if (warm_up_ > 0) {
    --warm_up_;
    return std::nullopt;
  }
  if (++looked_ < kDriftSteps) return std::nullopt;
  looked_ = 0;
  return look_for_drift(answered_s);
}

// Who costs most of those who are beyond the bound in three of four steps (now and then a message waits
// behind another on its link); begins a new span of steps.
std::optional<Fidelity::Drift> Fidelity::look_for_drift(double now_s) {
  std::optional<Drift> found;
  for (Place& place : places_) {
    const std::vector<double> ratios = std::exchange(place.ratios, {});
    const std::vector<double> excesses = std::exchange(place.excesses_s, {});
    if (ratios.empty()) continue;
    const double ratio = lower_quartile(ratios), excess = lower_quartile(excesses);
    if (ratio <= kDriftBound || excess < kDriftLeast_s) continue;
    if (found && excess <= found->worst.measured_s - found->worst.predicted_s) continue;
    Drift drift{place.figure, {}};
    drift.worst.predicted_s = excess / (ratio - 1);
    drift.worst.measured_s = drift.worst.predicted_s + excess;
    drift.worst.samples = static_cast<int>(ratios.size());
    found = drift;
  }
  if (!found || now_s - warned_s_ < kRepeat_s) return std::nullopt;
  warned_s_ = now_s;
  const FidelityFigure& worst = found->worst;
  found->text =
      fmt::format("{} {} takes {:.2f} ms a step and {:.2f} were predicted, over the last {} steps: {}",
                  worst.link ? "the link" : "node", worst.name, worst.measured_s * 1e3,
                  worst.predicted_s * 1e3, kDriftSteps,
                  worst.link ? "it is slower than when it was measured"
                             : "it is busy with something else, or slowed (heat, power)");
  return found;
}

std::vector<FidelityFigure> Fidelity::figures() const {
  std::vector<FidelityFigure> figures;
  for (const Place& place : places_) {
    FidelityFigure figure = place.figure;
    figure.samples = place.samples;
    if (place.samples > 0) {
      figure.predicted_s = place.predicted_sum_s / place.samples;
      figure.measured_s = place.sum_s / place.samples;
    }
    figures.push_back(std::move(figure));
  }
  return figures;
}

FidelityFigure Fidelity::lap() const {
  FidelityFigure lap;
  lap.name = "lap";
  lap.samples = steps_;
  if (steps_ > 0) lap.predicted_s = lap_predicted_s_ / steps_, lap.measured_s = lap_s_ / steps_;
  return lap;
}

void Fidelity::reset() {
  for (Place& place : places_) place.sum_s = place.predicted_sum_s = 0, place.samples = 0;
  steps_ = 0;
  rows_ = lap_s_ = lap_predicted_s_ = 0;
}

std::string render_fidelity(const Fidelity& fidelity) {
  if (fidelity.steps() == 0) return {};
  std::vector<FidelityFigure> lines;
  for (const FidelityFigure& figure : fidelity.figures()) {
    // What moves within a node counts in the lap alone.
    if (figure.samples > 0 && (!figure.hop || figure.link)) lines.push_back(figure);
  }
  lines.push_back(fidelity.lap());
  size_t width = 9;
  for (const FidelityFigure& line : lines) width = std::max(width, line.name.size());
  std::string text = fmt::format("{:<{}}  {:>9}  {:>9}  error (ms a decoding step; {} of {:.1f} rows)\n",
                                 "plan", width, "predicted", "measured", fidelity.steps(), fidelity.rows());
  for (const FidelityFigure& line : lines) {
    text += fmt::format("{:<{}}  {:>9.2f}  {:>9.2f}  {:>+4.0f} %\n", line.name, width, line.predicted_s * 1e3,
                        line.measured_s * 1e3,
                        line.measured_s > 0 ? 100 * (line.predicted_s / line.measured_s - 1) : 0.0);
  }
  return text;
}

}  // namespace shoal
