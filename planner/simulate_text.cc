// The simulator's doors to people: workloads in, report out.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <random>

#include "base/units.h"
#include "planner/simulate.h"

namespace shoal {

std::vector<SimulatedRequest> poisson_requests(const PoissonLoad& load) {
  std::mt19937_64 random(load.seed);
  // By hand: the distributions of the standard library differ between its makers.
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  const auto length = [&](int mean) {
    if (!load.vary) return std::max(1, mean);
    return std::max(1, static_cast<int>(std::lround(mean * (0.5 + uniform()))));
  };
  std::vector<SimulatedRequest> requests;
  double now = 0;
  for (int i = 0; i < load.requests; ++i) {
    if (i > 0 && load.requests_per_s > 0) now += -std::log1p(-uniform()) / load.requests_per_s;
    const int prompt = length(load.prompt_tokens), output = length(load.output_tokens);
    requests.push_back({now, prompt, output});
  }
  return requests;
}

Result<std::vector<SimulatedRequest>> requests_from_trace(std::string_view text, const std::string& what) {
  std::vector<SimulatedRequest> requests;
  int number = 0;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text = newline == std::string_view::npos ? std::string_view() : text.substr(newline + 1);
    ++number;
    line = line.substr(0, line.find('#'));
    const char *at = line.data(), *end = line.data() + line.size();
    const auto skip = [&](const char* extra) {
      while (at != end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == *extra)) ++at;
    };
    skip(" ");
    if (at == end) continue;
    SimulatedRequest request;
    bool good = true;
    const auto field = [&](auto& value) {
      const auto [rest, error] = std::from_chars(at, end, value);
      good = good && error == std::errc();
      at = rest;
      skip(",");
    };
    field(request.arrival_s), field(request.prompt_tokens), field(request.output_tokens);
    good = good && at == end && std::isfinite(request.arrival_s) && request.arrival_s >= 0 &&
           request.prompt_tokens >= 1 && request.output_tokens >= 1;
    if (!good)
      return Error{Errc::kInvalidInput, what + ":" + std::to_string(number) +
                                            ": a line is: arrival seconds, prompt tokens, output tokens"};
    if (requests.size() == static_cast<size_t>(kSimulatedRequestsMax))
      return Error{Errc::kInvalidInput,
                   what + ": more than " + std::to_string(kSimulatedRequestsMax) + " requests"};
    requests.push_back(request);
  }
  if (requests.empty()) return Error{Errc::kInvalidInput, what + ": no request in it"};
  std::stable_sort(
      requests.begin(), requests.end(),
      [](const SimulatedRequest& a, const SimulatedRequest& b) { return a.arrival_s < b.arrival_s; });
  return requests;
}

std::string render_simulation(const SimulationReport& report) {
  std::string text;
  std::array<char, 512> line;
  const auto add = [&](const char* pattern, auto... values) {
    std::snprintf(line.data(), line.size(), pattern, values...);
    text += line.data();
  };
  add("Simulated %d requests, %lld prompt and %lld output tokens, in %.1f s: %.1f tokens/s\n\n",
      report.requests, static_cast<long long>(report.prompt_tokens),
      static_cast<long long>(report.output_tokens), report.seconds, report.tokens_per_second);
  add("  %-18s %10s %10s %10s %10s\n", "", "p50", "p95", "p99", "max");
  const auto row = [&](const char* label, const Percentiles& p) {
    add("  %-18s %10s %10s %10s %10s\n", label, format_seconds(p.p50).c_str(), format_seconds(p.p95).c_str(),
        format_seconds(p.p99).c_str(), format_seconds(p.max).c_str());
  };
  row("first token", report.first_token_seconds);
  row("a token after it", report.seconds_per_token);
  row("whole request", report.request_seconds);
  text += "\n";
  for (const SimulatedPlace& place : report.places) {
    if (place.link) {
      add("  %-32.64s %5.1f %% in use, %s in %lld messages\n", place.name.c_str(), 100 * place.busy_share,
          format_bytes(place.bytes).c_str(), static_cast<long long>(place.steps));
    } else {
      add("  %-32.64s %5.1f %% computing, %5.1f %% bubbles\n", place.name.c_str(), 100 * place.busy_share,
          100 * (1 - place.busy_share));
    }
  }
  if (report.joules > 0) add("\n  energy  %.1f J, %.3f J a token\n", report.joules, report.joules_per_token);
  return text;
}

}  // namespace shoal
