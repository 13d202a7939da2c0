// Whom to do without when a pipeline answers no step for too long though all its nodes seem well. Nobody
// knows which of them swallowed the steps, so they are tried in turn. Pure logic: no clock, the caller tells
// the time.
//
// Once is chance. From the second stall in a row on, of the nodes that were in every plan of the row the one
// that came last is left out. If the next plan stalls without it, it was another: it is acquitted, and the
// next is left out. Who was left out for this before goes at the first stall.
//
// A row ends when steps were answered for kMadeUp_s in all, so that a few answers between two stalls change
// nothing; kForgotten_s after its last stall; and when a node is lost, which explains it.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace shoal {

class Stalls {
 public:
  static constexpr double kMadeUp_s = 600;      // a stall takes 30 s: one in twenty at most
  static constexpr double kStepMost_s = 1;      // that one answered step counts for
  static constexpr double kForgotten_s = 3600;  // where nothing was asked meanwhile

  struct Verdict {
    std::vector<std::string> accused, acquitted;
  };
  // `nodes`: of the plan that stalled, without the head, who came last at the end. `known`: left out before.
  Verdict judge(const std::vector<std::string>& nodes,
                const std::function<bool(const std::string& node)>& known, double now_s);
  void answered(double now_s);
  // A node of the plan is lost. Who was left out in vain: those since whom no step was answered.
  std::vector<std::string> explained();

 private:
  std::vector<std::string> suspects_;  // in every plan of the row
  std::vector<std::string> accused_;   // left out in it
  double stalled_s_ = -1e300;          // the last time
  double answered_s_ = 0;              // when the last step was
  double worked_s_ = 0;                // since the last stall
};

}  // namespace shoal
