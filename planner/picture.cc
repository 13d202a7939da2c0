#include "planner/picture.h"

#include <algorithm>
#include <cmath>

#include "base/units.h"
#include "planner/checks.h"

namespace shoal {
namespace {

constexpr int kBarColumns = 24;

struct Strokes {
  const char *across, *down, *arrow, *bar;
  const char *top_left, *top_right, *bottom_left, *bottom_right, *out, *in;
};

constexpr Strokes kAsciiStrokes = {"-", "|", "v", "#", "+", "+", "+", "+", "+", "v"};
constexpr Strokes kBoxStrokes = {"─", "│", "▼", "█", "┌", "┐", "└", "┘", "┬", "▼"};

std::string repeated(const char* stroke, size_t times) {
  std::string text;
  while (times-- > 0) text += stroke;
  return text;
}

// Terminal columns of UTF-8 text, taking every code point for one.
size_t columns(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string share_text(const StageAssignment& stage) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : " + ") + part; };
  if (stage.embedding) add("embedding");
  if (stage.layers() > 0) add(layers_text(stage.layer_begin, stage.layer_end));
  if (stage.output) add("output head");
  return text;
}

std::string render_pipeline(const Plan& plan, PictureStyle style) {
  const Strokes& s = style == PictureStyle::kBoxes ? kBoxStrokes : kAsciiStrokes;
  const auto name = [&](int device) { return plan.devices[static_cast<size_t>(device)]; };
  size_t width = 0;
  double slowest = 0;
  std::vector<std::string> labels;
  for (const StageAssignment& stage : plan.stages) {
    labels.push_back(name(stage.device) + ": " + share_text(stage));
    width = std::max(width, columns(labels.back()));
    slowest = std::max(slowest, stage.seconds);
  }
  const size_t middle = 5;  // where arrows run
  const std::string indent(2 + middle + 1, ' ');
  const auto edge = [&](const char* left, const char* right, const char* joint) {
    return "  " + std::string(left) + repeated(s.across, middle) + joint +
           repeated(s.across, width + 1 - middle) + right + "\n";
  };
  const auto hop = [&](const std::string& what, double seconds) {
    return indent + s.down + " " + what + ", " + format_seconds(seconds) + "\n";
  };
  std::string text;
  const StageAssignment& first = plan.stages.front();
  const bool enters = first.device != plan.head;
  if (enters) text += "  " + name(plan.head) + "\n" + hop("tokens", first.hop_in_seconds);
  width = std::max(width, middle + 2);
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const StageAssignment& stage = plan.stages[i];
    const bool last = i + 1 == plan.stages.size(), leaves = !last || stage.device != plan.head;
    const int bar = slowest > 0 ? static_cast<int>(std::lround(kBarColumns * stage.seconds / slowest)) : 0;
    text += edge(s.top_left, s.top_right, i > 0 || enters ? s.in : s.across);
    text += "  " + std::string(s.down) + " " + labels[i] + std::string(width - columns(labels[i]), ' ') +
            " " + s.down + " " + format_seconds(stage.seconds) + " " +
            repeated(s.bar, static_cast<size_t>(std::max(bar, 1))) + "\n";
    text += edge(s.bottom_left, s.bottom_right, leaves ? s.out : s.across);
    if (!last) text += hop("hidden", stage.hop_out_seconds);
    if (last && leaves)
      text += hop("result", stage.hop_out_seconds) + indent + s.arrow + " " + name(plan.head) + "\n";
  }
  return text;
}

}  // namespace shoal
