// Who is there: the head's books of its nodes, by what they say and when. Pure logic: no clock, no sockets;
// the caller tells the time (seconds of one monotonic clock) and what it heard, and asks who is lost.
//
// A node is lost when its connection ends, when nothing at all was heard of it for `silence_s`, or when it
// says that it has work but its count of work done has stood still for `stall_s`: a process that hangs
// answers nothing and closes nothing, and one whose computing thread hangs still answers. Time in which the
// caller itself stood still is not held against anybody.
//
// A node that comes and goes is kept out for a while: at most kJoinsMax times in kJoinWindow_s, then for
// twice as long each time, until it has stayed for kForgiven_s. Not while there is no service without it: an
// answer that may be cut off again is better than none. Nor where it was the caller who stood still: all give
// it up then, and come back.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

namespace shoal {

class Membership {
 public:
  static constexpr double kSilence_s = 2.4;  // noticed within 3 s, with what may come late
  static constexpr double kStallLeast_s = 3;
  static constexpr double kRelink_s = 2.5;  // a node tries for so long to reach the next one of a new plan
  static constexpr double kTick_s = 0.1;    // tick() is to be called so often, and at next_loss_s()
  static constexpr int kJoinsMax = 3;       // joins, and tries to, of one node
  static constexpr double kJoinWindow_s = 60;
  static constexpr double kQuarantineMax_s = 600;
  static constexpr double kForgiven_s = 600;
  static constexpr double kStoodStill_s = 2;   // between two ticks: others may have given the caller up
  static constexpr double kAfterwards_s = 10;  // so long after it, losses are its own doing

  struct Limits {
    double silence_s = kSilence_s;
    double stall_s = kStallLeast_s;
  };
  struct Verdict {
    bool admitted = false;
    double retry_after_s = 0;  // where it is not
    std::string why;
    bool name_taken = false;  // by another node that is here
  };
  struct Loss {
    std::string node;
    std::string why;     // for a person: "gave no sign of life for 2.4 s"
    bool hangs = false;  // silent or standing still, rather than closed
  };

  // A node asks to come in (again). `needed`: without it there is no service; then it is not kept out.
  Verdict may_join(const std::string& node, double now_s, bool needed = false);
  // It is there from now on. `beats`: it is expected to give signs of life; else only once it has given the
  // first.
  void joined(const std::string& node, double now_s, bool beats = true);
  // Its connection ended, or it was sent away. `in_order`: it said that it ends, which is not held against
  // it.
  void left(const std::string& node, double now_s, bool in_order = false);
  void set_limits(const std::string& node, const Limits& limits);
  // The caller's device has slept, which no clock of this class shows: whoever leaves now is not to blame.
  void slept(double now_s) { awake_s_ = now_s; }

  // Anything came from it.
  void heard(const std::string& node, double now_s);
  void heartbeat(const std::string& node, uint64_t progress, bool working, double now_s);
  // Who is lost by now: each is told once and has left.
  std::vector<Loss> tick(double now_s);
  // When tick() would tell the next loss if nothing more were heard; infinity where nobody is waited for.
  double next_loss_s() const;

  bool is_here(const std::string& node) const;
  std::vector<std::string> here() const;
  double silent_s(const std::string& node, double now_s) const;  // since it was last heard
  // Seconds until a node may come in again; 0: it may.
  double quarantined_s(const std::string& node, double now_s) const;

 private:
  struct Member {
    bool here = false;
    Limits limits;
    double joined_s = 0, heard_s = 0;
    bool beats = false;  // signs of life are expected
    uint64_t progress = 0;
    double moved_s = 0;  // when its progress last changed, or it had nothing to do
    std::deque<double> joins_s;
    double quarantine_s = 0;  // the last one's length
    double free_s = 0;        // when it ends

    double silent_at_s() const { return heard_s + limits.silence_s; }  // lost then, if still silent
    double still_at_s() const { return moved_s + limits.stall_s; }
  };
  void note_standstill(double now_s);

  std::map<std::string, Member> members_;
  double ticked_s_ = -1;
  double awake_s_ = -1e300;  // when the caller last went on after a standstill
};

}  // namespace shoal
