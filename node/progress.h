// Shows on stderr how far a long piece of work is: "loading layers 0-9  45 %". On a terminal one line, erased
// when the work is done; elsewhere a line now and then, and none for what takes a few seconds. Used by one
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace shoal {

class ProgressLine {
 public:
  // `shown`: false for the nodes and commands that are to be silent.
  explicit ProgressLine(std::string what, bool shown = true);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void update(uint64_t done, uint64_t total);
  void update(const std::string& what, uint64_t done, uint64_t total);  // what is being done changes

 private:
  std::string what_;
  const bool shown_, terminal_;
  int percent_ = -1;
  std::chrono::steady_clock::time_point next_line_;
};

}  // namespace shoal
