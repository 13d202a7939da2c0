// The front as a table with a plot of characters, as CSV and as SVG.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "base/units.h"
#include "planner/pareto.h"
#include "planner/planner.h"

namespace shoal {
namespace {

template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 1024> line;
  std::snprintf(line.data(), line.size(), pattern, values...);
  return line.data();
}

std::string stages_text(const Plan& plan) {
  std::string text;
  for (const StageAssignment& stage : plan.stages) {
    text += (text.empty() ? "" : " > ") + plan.devices[static_cast<size_t>(stage.device)];
    if (stage.layers() > 0)
      text += " " + std::to_string(stage.layer_begin) + "-" + std::to_string(stage.layer_end - 1);
  }
  return text;
}

// Linear from the least to the largest of a value over the front, 0 to 1; 0.5 where all are the same.
struct Axis {
  double low = INFINITY, high = -INFINITY;
  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
  double at(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

std::pair<Axis, Axis> axes(const std::vector<PlanCandidate>& front) {
  Axis x, y;
  for (const PlanCandidate& one : front)
    x.add(one.plan.predicted.seconds_per_token * 1e3), y.add(one.service.tokens_per_second);
  return {x, y};
}

constexpr int kPlotColumns = 60, kPlotRows = 14;

char mark(size_t index) {
  return index < 26 ? static_cast<char>('a' + index) : index < 52 ? static_cast<char>('A' + index - 26) : '*';
}

std::string plot(const std::vector<PlanCandidate>& front) {
  const auto [x, y] = axes(front);
  std::vector<std::string> canvas(kPlotRows, std::string(kPlotColumns, ' '));
  for (size_t i = front.size(); i-- > 0;) {
    const auto column = static_cast<size_t>(
        std::lround(x.at(front[i].plan.predicted.seconds_per_token * 1e3) * (kPlotColumns - 1)));
    const auto row =
        static_cast<size_t>(std::lround((1 - y.at(front[i].service.tokens_per_second)) * (kPlotRows - 1)));
    canvas[row][column] = mark(i);
  }
  std::string text = "  tokens/s\n";
  for (int row = 0; row < kPlotRows; ++row) {
    const bool end = row == 0 || row == kPlotRows - 1;
    text += end ? format("  %9.1f |", row == 0 ? y.high : y.low) : std::string(12, ' ') + "|";
    text += canvas[static_cast<size_t>(row)] + "\n";
  }
  return text + std::string(12, ' ') + "+" + std::string(kPlotColumns, '-') + "\n" +
         format("%13s%-30.2f%30.2f\n%13sms a token, one stream\n", "", x.low, x.high, "");
}

}  // namespace

std::string render_front(const PlanInput& input, const std::vector<PlanCandidate>& front, bool all_sets) {
  std::string text =
      format("Trade-offs, %d sequence%s at once%s\n\n     %12s %12s %14s %12s %8s  stages\n",
             input.workload.concurrency, input.workload.concurrency == 1 ? "" : "s",
             all_sets ? "" : " (too many sets of nodes to try each: nodes were left out from the slowest)",
             "first token", "one stream", "all sequences", "J/token", "nodes");
  for (size_t i = 0; i < front.size(); ++i) {
    const PlanCandidate& one = front[i];
    text +=
        format("  %c  %12s %9.2f ms %10.1f t/s %12s %8d  ", mark(i),
               format_seconds(one.service.first_token_seconds).c_str(),
               one.plan.predicted.seconds_per_token * 1e3, one.service.tokens_per_second,
               one.service.joules_per_token > 0 ? format("%.3f", one.service.joules_per_token).c_str() : "-",
               one.devices) +
        stages_text(one.plan) + "\n";
  }
  return text + "\n" + plot(front);
}

std::string front_csv(const std::vector<PlanCandidate>& front) {
  std::string text =
      "first_token_s,one_stream_ms_per_token,service_ms_per_token,service_tokens_per_s,joules_per_token,"
      "peak_watts,nodes,stages\n";
  for (const PlanCandidate& one : front) {
    text += format("%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%d,\"", one.service.first_token_seconds,
                   one.plan.predicted.seconds_per_token * 1e3, one.service.seconds_per_token * 1e3,
                   one.service.tokens_per_second, one.service.joules_per_token, one.service.peak_watts,
                   one.devices);
    for (const char c : stages_text(one.plan)) text += c == '"' ? "\"\"" : std::string(1, c);
    text += "\"\n";
  }
  return text;
}

std::string front_svg(const PlanInput& input, const std::vector<PlanCandidate>& front) {
  constexpr double kWidth = 640, kHeight = 400, kLeft = 70, kBottom = 50, kTop = 40, kRight = 30;
  const auto [x, y] = axes(front);
  std::string text = format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
      "<path d=\"M%.0f %.0fV%.0fH%.0f\" fill=\"none\" stroke=\"black\"/>\n",
      kWidth, kHeight, kLeft, kTop, kHeight - kBottom, kWidth - kRight);
  text += format(
      "<text x=\"%.0f\" y=\"%.0f\">%.2f</text><text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">%.2f</text>\n",
      kLeft, kHeight - kBottom + 16, x.low, kWidth - kRight, kHeight - kBottom + 16, x.high);
  text += format(
      "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">%.1f</text><text x=\"%.0f\" y=\"%.0f\" "
      "text-anchor=\"end\">%.1f</text>\n",
      kLeft - 6, kTop + 4, y.high, kLeft - 6, kHeight - kBottom, y.low);
  text += format(
      "<text x=\"%.0f\" y=\"%.0f\">ms a token, one stream</text>\n<text x=\"8\" y=\"20\">tokens/s with %d "
      "sequences</text>\n",
      kWidth / 2 - 60, kHeight - 12, input.workload.concurrency);
  for (size_t i = 0; i < front.size(); ++i) {
    const double px =
        kLeft + x.at(front[i].plan.predicted.seconds_per_token * 1e3) * (kWidth - kLeft - kRight);
    const double py =
        kHeight - kBottom - y.at(front[i].service.tokens_per_second) * (kHeight - kBottom - kTop);
    text += format(
        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"#2060c0\"/><text x=\"%.1f\" y=\"%.1f\">%c: %d "
        "nodes</text>\n",
        px, py, px + 8, py - 6, mark(i), front[i].devices);
  }
  return text + "</svg>\n";
}

}  // namespace shoal
