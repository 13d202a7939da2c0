// Which node computes or carries wrong numbers: from each fault that a stage tells of (a frame whose checksum
// is wrong, values that are not finite) or that a comparison finds, whether its step is computed again, and
// whom to do without. Pure logic, like Recovery, which acts on it: no clock, the caller tells the time.
//
// Once is chance: the step is computed again where it was. A second time within kAgain_s the node is suspect
// and taken out. A frame that comes damaged may be the doing of either end, so it counts against both (not
// the head, which cannot be done without), and while they look alike the link between them is left out
// instead: the next fault then shows which of them it is. The same layers that give no finite numbers on a
// second node, after the first was taken out for it, are not the nodes' doing but the model's or the
// prompt's: whoever was taken out is let in again.
//
// Numbers that are not finite behind an adapter are most likely the adapter's own; but the nodes that compute
// are examined, since they might be theirs, and who fails is taken out.
//
// A suspect comes in again after a rest, twice as long each time, when its kernels have given the known
// answers.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

namespace shoal {

class Suspects {
 public:
  static constexpr double kAgain_s = 600;
  static constexpr double kRest_s = 60, kRestMax_s = 600;
  static constexpr double kExamPatience_s = 10;  // after that it is asked again
  static constexpr double kDoubtEvery_s = 60;    // between two exams of one that computes

  struct Fault {
    std::vector<std::string> nodes;  // one, or the sender and the receiver of a hop
    bool computed = false;           // not finite where it was computed: on the one of `nodes`
    bool proven = false;    // another computed the same from the same, and got other numbers: no chance
    bool answered = false;  // answers may have been drawn from what was wrong
    uint64_t epoch = 0;     // of the plan it was under; 0: the present one
    int layer_begin = 0, layer_end = 0;
    std::string where;  // "pi-1" or "pi-1 > pi-2": for counting, few different ones
    std::string text;   // for a person, with node and layers
  };
  enum class Verdict {
    kAgain,  // compute it again
    kNode,   // and without accused()
    kLink,   // and without the way from the first of the fault's nodes to the second
    kModel,  // it is no node's doing: give up
  };

  Verdict judge(const Fault& fault, double now_s);
  const std::string& accused() const { return accused_; }
  bool out(const std::string& node) const;
  std::vector<std::string> all_out() const;
  std::string why(const std::string& node) const;  // the last fault it was taken out for

  // Without it there is no plan: it is examined now, without a rest.
  void hurry(const std::string& node, double now_s);
  // Who is to be examined now; each is told once for kExamPatience_s.
  std::vector<std::string> due(double now_s);
  // Whether one that computes is to be examined now, since it might compute wrongly.
  bool doubt(const std::string& node, double now_s);
  // Whether it was doubted, and what came of that has not been told yet; told now.
  bool settle_doubt(const std::string& node);
  // What came of it. Whether the node may come in again.
  bool examined(const std::string& node, bool passed, double now_s);

 private:
  struct Record {
    std::deque<double> faults_s;  // of the last kAgain_s
    bool out = false;
    Fault last;
    double rest_s = 0;  // the last one's length
    double exam_s = 0;  // when it is to be examined
    bool doubted = false;
    double doubt_again_s = 0;
  };
  size_t count(const std::string& node, double now_s);
  bool same_layers_elsewhere(const Fault& fault, double now_s);
  Verdict take_out(const std::string& node, const Fault& fault, double now_s);

  std::map<std::string, Record> records_;
  std::string accused_;
};

}  // namespace shoal
