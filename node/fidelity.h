// Predicted against measured: what the plan said of every stage and hop, and what decoding steps really take
// there. Says which device or link to suspect when one stays far slower than predicted. Plain arithmetic on
// times that the caller tells, in seconds; no threads.
//
// A lap is hop, stage, hop, stage, ..., hop home. Stages tell how long they computed; a hop is from when a
// stage (at first the head) is done to when the step waits at the next one, by clocks compared over the
// network (node/peer_clocks.h), so it holds the hand-over between threads too. What the head does between two
// steps (sampling, scheduling) is in no hop.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/types.h"
#include "transport/messages.h"

namespace shoal {

// A stage or a hop, and what a decoding step takes there on average.
struct FidelityFigure {
  std::string name;   // "laptop (layers 0-9)", "laptop -> pi-1"
  bool link = false;  // of two nodes; false: a stage, or a hop within one node
  bool hop = false;
  double predicted_s = 0;
  double measured_s = 0;
  int samples = 0;  // steps; 0: nothing was measured
  bool operator==(const FidelityFigure&) const = default;
};

class Fidelity {
 public:
  static constexpr double kDriftBound = 1.5;     // times the prediction
  static constexpr double kDriftLeast_s = 1e-3;  // a smaller excess is no drift: a hop's wake-ups, say
  static constexpr int kDriftSteps = 32;  // that it must last: three of four of these are beyond the bound
  static constexpr int kWarmUpSteps = 16;
  static constexpr double kRepeat_s = 60;  // between two warnings

  struct Drift {
    FidelityFigure worst;  // the place that costs most beyond its prediction
    std::string text;      // for a person
  };

  // `plan` for `input`; steps of up to `rows_max` rows are known.
  Fidelity(const PlanInput& input, const Plan& plan, int rows_max);

  // A step that only decoded, of `rows` rows: sent by the head and answered there, and what its stages tell.
  // `ahead_s`: [stages] how far the clock of the stage's node is ahead of the head's, where that is known.
  // A warning, if one is due.
  std::optional<Drift> observe(int rows, double sent_s, double answered_s,
                               const std::vector<StageTime>& times,
                               const std::vector<std::optional<double>>& ahead_s);

  // Since the beginning, or reset(): in the order of the lap, then the whole lap.
  std::vector<FidelityFigure> figures() const;
  FidelityFigure lap() const;
  double rows() const { return steps_ > 0 ? rows_ / steps_ : 0; }  // of a step, on average
  int steps() const { return steps_; }
  void reset();  // forgets what was measured, not what is suspected

 private:
  struct Place {
    FidelityFigure figure;
    std::vector<double> predicted_s;        // [rows - 1]
    double predicted_sum_s = 0, sum_s = 0;  // since reset
    int samples = 0;
    std::vector<double> ratios, excesses_s;  // since the last look for drift
  };
  void add(size_t place, int rows, double seconds);
  std::optional<Drift> look_for_drift(double now_s);

  std::vector<Place> places_;  // in the order of the lap
  int rows_max_;
  int steps_ = 0;
  double rows_ = 0, lap_s_ = 0, lap_predicted_s_ = 0;
  int warm_up_ = kWarmUpSteps, looked_ = 0;
  double warned_s_ = -kRepeat_s;
};

// One line a stage and hop, and the lap: for stderr after a run. Empty where nothing was measured.
std::string render_fidelity(const Fidelity& fidelity);

}  // namespace shoal
