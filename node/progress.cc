#include "node/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace shoal {

using std::chrono::steady_clock;

namespace {

constexpr auto kFirstLine = std::chrono::seconds(5);  // where stderr is no terminal
constexpr auto kLineEvery = std::chrono::seconds(10);

}  // namespace

ProgressLine::ProgressLine(std::string what, bool shown)
    : what_(std::move(what)),
      shown_(shown),
      terminal_(isatty(STDERR_FILENO) == 1),
      next_line_(steady_clock::now() + kFirstLine) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && percent_ >= 0) std::fputs("\r\x1b[K", stderr);
}

void ProgressLine::update(uint64_t done, uint64_t total) {
  const int percent = total == 0 ? 100 : static_cast<int>(std::min(done, total) * 100 / total);
  if (!shown_ || percent == percent_) return;
  if (!terminal_ && (percent == 100 || steady_clock::now() < next_line_)) return;
  percent_ = percent;
  next_line_ = steady_clock::now() + kLineEvery;
  const std::string text = fmt::format("{}  {} %", what_, percent);
  std::fputs((terminal_ ? "\r" + text + "\x1b[K" : text + "\n").c_str(), stderr);
}

void ProgressLine::update(const std::string& what, uint64_t done, uint64_t total) {
  if (what != what_) percent_ = -1;
  what_ = what;
  update(done, total);
}

}  // namespace shoal
