#include "base/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"

namespace shoal {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

// Splits "1.5 GiB" into 1.5 and the factor of its unit.
double parse_with_unit(std::string_view text, std::string_view what, const Unit* first, const Unit* last,
                       std::string_view example) {
  const char* end = text.data() + text.size();
  double value = 0;
  auto [rest, errc] = std::from_chars(text.data(), end, value);
  while (rest != end && *rest == ' ') ++rest;
  const std::string_view unit(rest, static_cast<size_t>(end - rest));
  const Unit* found = std::find_if(first, last, [&](const Unit& u) { return u.name == unit; });
  if (errc != std::errc() || found == last || !std::isfinite(value) || value < 0 ||
      value * found->factor > 1e18) {
    throw SetupError(fmt::format("{}: cannot read '{}' (write it like {})", what, text, example));
  }
  return value * found->factor;
}

}  // namespace

uint64_t parse_bytes(std::string_view text, std::string_view what) {
  constexpr double k = 1024;
  static constexpr Unit units[] = {{"", 1},        {"B", 1},           {"kB", 1e3},           {"KB", 1e3},
                                   {"MB", 1e6},    {"GB", 1e9},        {"TB", 1e12},          {"KiB", k},
                                   {"MiB", k * k}, {"GiB", k * k * k}, {"TiB", k * k * k * k}};
  return static_cast<uint64_t>(parse_with_unit(text, what, std::begin(units), std::end(units), "2GiB"));
}

double parse_bytes_per_second(std::string_view text, std::string_view what) {
  static constexpr Unit units[] = {
      {"bps", 1 / 8.0},    {"kbps", 1e3 / 8},   {"Mbps", 1e6 / 8},   {"Gbps", 1e9 / 8}, {"bit/s", 1 / 8.0},
      {"kbit/s", 1e3 / 8}, {"Mbit/s", 1e6 / 8}, {"Gbit/s", 1e9 / 8}, {"kbit", 1e3 / 8}, {"Mbit", 1e6 / 8},
      {"Gbit", 1e9 / 8},   {"B/s", 1},          {"kB/s", 1e3},       {"MB/s", 1e6},     {"GB/s", 1e9}};
  const double rate = parse_with_unit(text, what, std::begin(units), std::end(units), "100Mbps");
  if (rate <= 0) throw SetupError(fmt::format("{}: a rate must be above zero, not '{}'", what, text));
  return rate;
}

double parse_seconds(std::string_view text, std::string_view what) {
  static constexpr Unit units[] = {{"ns", 1e-9}, {"us", 1e-6}, {"µs", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  return parse_with_unit(text, what, std::begin(units), std::end(units), "1ms");
}

std::string format_bytes(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  static constexpr const char* names[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(names)) value /= 1024, ++unit;
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : 1, names[unit]);
}

std::string format_bytes_per_second(double bytes_per_s) {
  const double bits = bytes_per_s * 8;
  if (bits >= 1e9) return fmt::format("{:.3g} Gbit/s", bits / 1e9);
  if (bits >= 1e6) return fmt::format("{:.3g} Mbit/s", bits / 1e6);
  return fmt::format("{:.3g} kbit/s", bits / 1e3);
}

std::string format_seconds(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3g} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.3g} ms", seconds * 1e3);
  return fmt::format("{:.3g} µs", seconds * 1e6);
}

std::string nearest_name(std::string_view word, std::span<const std::string> candidates) {
  auto distance = [](std::string_view a, std::string_view b) {  // Levenshtein, one row
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= a.size(); ++i) {
      size_t diagonal = std::exchange(row[0], i);
      for (size_t j = 1; j <= b.size(); ++j) {
        const size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    return row[b.size()];
  };
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& name : candidates) {
    const size_t d = distance(word, name);
    if (d < best_distance) best = name, best_distance = d;
  }
  return best;
}

}  // namespace shoal
