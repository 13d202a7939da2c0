// Which nodes get no layers for a while, until when and why: those that could not take theirs, and those that
// did not do what a plan counted on. Pure logic, like Recovery, which asks it: no clock, the caller tells the
// time.
//
// Who said itself why it could not is out for kRest_s and may try again when it has come anew. Who said
// nothing is remembered: out for twice as long each time, wherever it has been meanwhile, until it has been
// back for kForgotten_s.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace shoal {

class LeftOut {
 public:
  static constexpr double kRest_s = 60, kRestMax_s = 3600;
  static constexpr double kForgotten_s = 3600;

  // `why` follows the node's name: "did not ...".
  void excuse(const std::string& node, const std::string& why, double now_s);
  // And remembered. For how long it is out. `spared`: not where there is no plan without it.
  double blame(const std::string& node, const std::string& why, bool spared, double now_s);
  // It was another's doing: what is remembered of it is forgotten. Its time runs on, unless
  // let_in_acquitted().
  void acquit(const std::string& node);
  // There is no plan without them. Who that were.
  std::vector<std::string> let_in_acquitted(double now_s);
  std::vector<std::string> let_in_spared(double now_s);
  // Nor without any of those that are here: none is out for longer than kRest_s from now.
  void shorten(double now_s);
  void came_anew(const std::string& node);

  bool is_out(const std::string& node, double now_s) const;
  bool is_known(const std::string& node, double now_s) const;  // for what it was blamed for
  // Who is out, why and for how long still.
  using Visitor = std::function<void(const std::string& node, const std::string& why, double left_s)>;
  void each(double now_s, const Visitor& visit) const;
  double next_end_s() const;  // of a node's time; 1e300: nobody is out
  void end_times(double now_s);

 private:
  struct Record {
    bool out = false;
    double until_s = 0;
    std::string why;
    double rest_s = 0;     // the last that it was blamed for; 0: nothing is remembered
    bool excused = false;  // for this one
    bool acquitted = false, spared = false;
  };
  std::vector<std::string> let_in(bool Record::*such, double now_s);
  std::map<std::string, Record> records_;
};

}  // namespace shoal
