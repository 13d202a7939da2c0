// Ends a text at a stop string, wherever tokens are cut. Text that may be the beginning of a stop string is
// held back until it is decided. What comes out does not depend on how the text was cut into pieces: the stop
// string that is complete first wins, and of those that end together the longest. One answer, one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shoal {

class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // The text that is now known to belong to the answer. Nothing after a stop string does.
  std::string push(std::string_view text);
  // The end of the answer: what was held back.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;  // none empty
  std::string held_;
  bool stopped_ = false;
};

}  // namespace shoal
