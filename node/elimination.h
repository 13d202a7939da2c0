// Whom to do without when a pipeline fails, or answers no step for too long, though all its nodes seem well.
// Nobody knows which of them it is, and what one says of another may be a lie, so they are tried in turn.
// Pure logic: no clock, the caller tells the time.
//
// Once is chance. From the second failure in a row on, of the nodes that were in every plan of the row the
// one that came last is left out. If the next plan fails without it, it was another: it is acquitted, and the
// next is left out. Who was left out for this before goes at the first failure.
//
// A row ends when steps were answered for so long that it makes up for the last failure, so that a few
// answers between two change nothing; kForgotten_s after its last; and when a node is lost, which explains
// it.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace shoal {

class Elimination {
 public:
  // A stall takes 30 s, another failure a second or some: a twentieth of the time at most.
  static constexpr double kStallMadeUp_s = 600, kFailureMadeUp_s = 60;
  static constexpr double kStepMost_s = 1;      // that one answered step counts for
  static constexpr double kForgotten_s = 3600;  // where nothing was asked meanwhile

  struct Verdict {
    std::vector<std::string> accused, acquitted;
    bool none_of_them =
        false;  // it failed without each of those that were in the plan at the row's beginning
  };
  // `nodes`: of the plan that failed, without the head, who came last at the end. `known`: left out before.
  Verdict judge(const std::vector<std::string>& nodes,
                const std::function<bool(const std::string& node)>& known, bool stall, double now_s);
  void answered(double now_s);
  // A node of the plan is lost. Who was left out in vain: those since whom no step was answered.
  std::vector<std::string> explained();

 private:
  std::vector<std::string> suspects_;  // in every plan of the row
  std::vector<std::string> accused_;   // left out in it
  double failed_s_ = -1e300;           // the last time
  double makes_up_s_ = 0;              // for that
  double answered_s_ = 0;              // when the last step was
  double worked_s_ = 0;                // since the last failure
};

}  // namespace shoal
