// What to do when devices come and go: which plan runs, who loads it, when answers stand still and when they
// go on. Pure logic: no clock, no sockets, no planning of its own; the caller tells what happened and when
// (seconds of one monotonic clock), takes the actions and carries them out in order (node/pipeline_keeper.h;
// the simulation in tests/node). The planner runs where the caller likes, and its answer is an event like any
// other.
//
//   running -> something in the plan is lost -> settling -> planning -> loading -> running
//                                                               |          | lost again: settling, a higher
//                                                               epoch no plan: down, until a device or a link
//                                                               returns
//
// Each plan that is loaded has an epoch, one higher than any before. What is said about another is not heard.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "node/elimination.h"
#include "node/left_out.h"
#include "node/suspects.h"
#include "planner/replan.h"
#include "planner/types.h"

namespace shoal {

// Something that a person may want to know: in the log, the live page and the metrics.
struct ClusterEvent {
  enum class Kind : uint8_t {
    kJoined,
    kLost,
    kLinkLost,
    kFailed,
    kReplanned,
    kResumed,
    kDown,
    kDrained,
    kRefused,
    kSuspect,  // taken out: its numbers were wrong
    kCleared,  // and may take layers again
    kFetchedAhead
  };
  Kind kind = Kind::kJoined;
  double time_s = 0;
  std::string node;    // where it is about one; kFailed: or about a hop, "pi-1 > pi-2"
  std::string text;    // for a person
  double seconds = 0;  // kResumed: that answers stood still
  bool operator==(const ClusterEvent&) const = default;
};
const char* to_string(ClusterEvent::Kind kind);  // "joined", "lost", ...

class Recovery {
 public:
  static constexpr double kSettle_s = 0.1;      // one loss seldom comes alone: its neighbours tell of it too
  static constexpr double kBroken_s = 60;       // a link that could not be made is left out
  static constexpr double kImproveEvery_s = 5;  // between two looks for a better plan
  static constexpr double kLookAheadAfter_s = 1;  // after a change, and then once
  // And as long as the bytes take. Nobody is to wait longer than that for what would only be better.
  static constexpr double kNeededLoad_s = 120, kBetterLoad_s = 30;
  static constexpr double kCallerPatience_s = 5;  // for one that is kept out and calls
  static constexpr double kRetryAfter_s = 10;     // told to clients where nothing better is known
  // So many answers make up for a failure: a pipeline that answers a little and fails again, and again, is no
  // better than one that fails at once. A step is a prompt's chunk or a token of each answer.
  static constexpr int kAnswersOfFailure = 64;
  static constexpr int kFailuresMax = 2;  // in a row that are no node's doing, before what runs is given up

  enum class State { kDown, kSettling, kPlanning, kLoading, kRunning };

  // The pipeline is gone: nothing is answered until Resume.
  struct Suspend {
    std::string why;
  };
  // To be answered by planned(). `running`: what is, or was, laid out; `held`: by a head before this one, and
  // the nodes still hold it, so that it is kept wherever it can run: what is better can wait for a quiet
  // moment.
  struct MakePlan {
    uint64_t ticket = 0;
    PlanInput live;
    std::optional<Plan> running;
    bool held = false;
  };
  // All nodes of `plan` load it, and each answers ready().
  struct Load {
    uint64_t epoch = 0;
    PlanInput live;
    Plan plan;
  };
  struct Resume {
    uint64_t epoch = 0;
  };
  // There is no plan: requests are refused until there is one.
  struct Down {
    std::string why;
    double retry_after_s = 0;
  };
  // It failed again and again, or was answered wrongly: what is under way ends with this error.
  struct GiveUp {
    Error error;
  };
  // A node that has no layers says whether its kernels give the known answers: to be answered examined().
  struct Examine {
    std::string node;
  };
  using Action = std::variant<Suspend, MakePlan, Load, Resume, Down, GiveUp, Examine, ClusterEvent>;

  // `known`: all devices that may be there and the links between them, the head's index in its constraints.
  // `epoch`: the highest there has been.
  Recovery(PlanInput known, uint64_t epoch);

  // A plan that runs already on nodes that are all there.
  void begin_running(const Plan& plan, const std::set<std::string>& nodes);
  // Nothing runs yet, and only the head is there: the others of `expected` have so long to come.
  void begin_down(const std::set<std::string>& expected, double patience_s, double now_s);

  // ---- What happened ----
  // A node is there, measured. New links go both ways; those not told are as they were, or unusable.
  struct MeasuredLink {
    std::string from, to;
    LinkProfile link;
  };
  void joined(const DeviceProfile& device, const std::vector<MeasuredLink>& links, double now_s);
  // A node that is kept out asks to come in. Where there is no plan without it, it is needed (state kDown),
  // and answers wait a moment for it.
  void calls(const std::string& node, double now_s);
  // What a head before this one laid out, as a node that joins still holds it: the next epoch is higher. Of
  // the plan, where it can be one of this head's: if none has run here yet the latest is kept where it can
  // run.
  void remember(const std::optional<Plan>& plan, uint64_t epoch);
  void lost(const std::string& node, const std::string& why, double now_s);
  // A step failed, or none was answered for too long (kTimeout: a stall), though nobody is known to be lost.
  void failed(const Error& error, double now_s);
  // Numbers in a step were wrong. Of one epoch the first fault counts, since the steps behind it have the
  // same; and one that is proven, where its node still takes part.
  void faulted(const Suspects::Fault& fault, double now_s);
  // Numbers in a step were not finite behind an adapter, again: whether a node is to blame is asked of those
  // that compute. Not often, however often that is.
  void overflowed(double now_s);
  // `failure`: empty where the known answers were given.
  void examined(const std::string& node, const std::string& failure, double now_s);
  void planned(uint64_t ticket, const Result<ReplanAdvice>& advice, double now_s);
  // `failure`: empty where the node is ready. `unreachable`: the node it could not connect to, if that is
  // why.
  void ready(const std::string& node, uint64_t epoch, const std::string& failure,
             const std::string& unreachable, double now_s);
  void answered(double now_s);  // a step was: the pipeline works
  // Takes a node's layers off it, until undrain(). Refused where it is not there, or the head. It gets some
  // all the same where no plan is possible without it (recovery_drain.cc).
  Result<void> drain(const std::string& node, double now_s);
  Result<void> undrain(const std::string& node, double now_s);
  // Before anything else: whom a head before this one had drained.
  void remember_drained(const std::set<std::string>& nodes) { draining_ = nodes; }
  // `quiet`: nothing is being answered, so that layers may move unnoticed.
  void tick(bool quiet, double now_s);

  // To be asked at each tick: orders for the plans that would be made if one of those that compute were lost
  // now, so that others can prepare for it. Once a while after each change, while answers are given; their
  // tickets mean nothing. Defined in foresight.cc.
  std::vector<MakePlan> look_ahead(double now_s);

  std::vector<Action> take_actions() { return std::exchange(actions_, {}); }

  State state() const { return state_; }
  uint64_t epoch() const { return epoch_; }
  uint64_t stale() const { return stale_; }  // told of another epoch, and not heard
  bool is_here(const std::string& node) const { return here_.contains(node); }
  bool suspended() const { return suspended_; }
  bool is_suspect(const std::string& node) const { return suspects_.out(node); }
  // It is to have no layers; `is_leaving`: and still has those that it had when that was said.
  bool is_draining(const std::string& node) const {
    return draining_.contains(node) && !lent_.contains(node);
  }
  bool is_leaving(const std::string& node) const { return leaving_.contains(node); }
  const std::set<std::string>& drained() const { return draining_; }  // there or not
  bool in_plan(const std::string& node) const;
  const std::set<std::string>& here() const { return here_; }

 private:
  int index_of(const std::string& node) const;
  std::string name_of(int device) const { return known_.devices[static_cast<size_t>(device)].name; }
  bool fit(int device, double now_s) const;
  // `without`: a node that counts as lost.
  PlanInput live_input(double now_s, const std::string& without = "") const;
  void look_ahead_soon(double now_s);
  bool lend_drained(const std::string& why, double now_s);
  void give_up_what_fails();
  void restart(const std::string& why, double now_s);
  void ask_for_plan(double now_s);
  void load(const Plan& plan, double now_s);
  void go_down(const std::string& why, double now_s);
  void wait_or_close(double now_s);
  std::vector<std::string> stages_by_coming() const;
  bool do_without_one(bool stall, double now_s);
  bool let_in_left_out(double now_s);
  void explain_failures();
  void give_up_load(double now_s);
  bool do_without_suspect(const Suspects::Fault& fault, Suspects::Verdict verdict, double now_s);
  std::string suspects_text() const;
  void tell(ClusterEvent::Kind kind, double now_s, const std::string& node, std::string text,
            double seconds = 0);
  double next_chance_s() const;

  PlanInput known_;
  std::set<std::string> here_, expected_;
  std::set<std::string> draining_;        // for whom drain() stands
  std::set<std::string> leaving_, lent_;  // of them: is_leaving(); without whom there is no plan
  Suspects suspects_;
  uint64_t held_epoch_ = 0;     // of the plan that is remembered
  uint64_t faulted_epoch_ = 0;  // in which the last fault was
  LeftOut left_out_;
  Elimination elimination_;
  std::map<std::string, uint64_t> came_;  // by node: its place among all that came, the last time
  uint64_t comers_ = 0;
  std::map<std::pair<std::string, std::string>, double> broken_links_;  // until when, by direction
  State state_ = State::kDown;
  std::optional<Plan> plan_;               // that runs or is loaded; or was, the last
  std::map<std::string, double> callers_;  // who is kept out, and when it last called
  std::optional<Down> down_;               // to be told at down_at_s_ unless there is a plan by then
  double down_at_s_ = 0;
  bool closed_ = false;  // it was told, and nothing has run since
  std::set<std::string> awaited_;
  uint64_t epoch_ = 0, ticket_ = 0, stale_ = 0;
  PlanInput asked_;            // what the planner was given last
  bool suspended_ = true;      // nothing is answered
  bool was_laid_out_ = false;  // here, not only under a head before
  // A device or a link can be used that could not when the planner was last asked. It is asked again: at a
  // quiet moment, and at once where there is no plan.
  bool improve_ = false;
  bool look_ahead_ = true;  // something changed since that was last asked
  int failures_ = 0;
  Error failure_;
  double stopped_s_ = 0;  // when answers stopped
  double plan_at_s_ = 0;  // settling: until then
  double load_s_ = 0;     // loading: that it may take, and until then
  double load_until_s_ = 0, improve_at_s_ = 0, look_ahead_at_s_ = 0;
  std::vector<Action> actions_;
};

// Runs the planner for an order. Takes as long as it takes; any thread.
Result<ReplanAdvice> carry_out(const Recovery::MakePlan& order);

// How long all its nodes may take to load a plan, whose device indices are those of `live`. `needed`: nobody
// is answered otherwise; else it takes the place of one that runs.
double load_patience_s(const PlanInput& live, const Plan& plan, bool needed);

// The stages of a plan with the device indices of `live`. Every device must be there.
Plan reindexed(const Plan& plan, const PlanInput& live);

}  // namespace shoal
