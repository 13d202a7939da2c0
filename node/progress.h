// One line on a terminal that shows how far a long piece of work is: "loading layers 0-9  45 %". Silent where
// stderr is not a terminal. Erased when the work is done.
#pragma once

#include <cstdint>
#include <string>

namespace shoal {

class ProgressLine {
 public:
  explicit ProgressLine(std::string what);
  ~ProgressLine();
  void update(uint64_t done, uint64_t total);

 private:
  std::string what_;
  bool shown_;
  int percent_ = -1;
};

}  // namespace shoal
