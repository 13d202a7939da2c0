#include "node/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace shoal {

ProgressLine::ProgressLine(std::string what) : what_(std::move(what)), shown_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (percent_ >= 0) std::fputs("\r\x1b[K", stderr);
}

void ProgressLine::update(uint64_t done, uint64_t total) {
  const int percent = total == 0 ? 100 : static_cast<int>(done * 100 / total);
  if (!shown_ || percent == percent_) return;
  percent_ = percent;
  std::fputs(fmt::format("\r{}  {} %\x1b[K", what_, percent).c_str(), stderr);
}

}  // namespace shoal
