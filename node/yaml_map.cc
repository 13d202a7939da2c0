#include "node/yaml_map.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/units.h"

namespace shoal {
namespace {

// Takes what a parser finds and keeps nothing.
class Ignored : public YAML::EventHandler {
  using Mark = YAML::Mark;
  using Style = YAML::EmitterStyle::value;
  void OnDocumentStart(const Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const Mark&, YAML::anchor_t) override {}
  void OnAlias(const Mark&, YAML::anchor_t) override {}
  void OnScalar(const Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const Mark&, const std::string&, YAML::anchor_t, Style) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const Mark&, const std::string&, YAML::anchor_t, Style) override {}
  void OnMapEnd() override {}
};

// YAML::LoadAll() (yaml-cpp 0.7) would do, but finds documents without end behind a stray comma.
bool has_second_document(const std::string& yaml) {
  std::istringstream text(yaml);
  YAML::Parser parser(text);
  Ignored ignored;
  return parser.HandleNextDocument(ignored) && parser.HandleNextDocument(ignored);
}

}  // namespace

YAML::Node load_yaml_document(const std::string& yaml, const std::string& path) {
  YAML::Node document = YAML::Load(yaml);
  if (has_second_document(yaml))
    throw SetupError(
        fmt::format("{}: more than one document (a line of ---, or a comma that ends the first)", path));
  return document;
}

YamlMap::YamlMap(const YAML::Node& node, std::string file, std::string where, std::vector<std::string> known)
    : node_(node), file_(std::move(file)), where_(std::move(where)), known_(std::move(known)) {
  if (!node_.IsMap())
    fail(node_, (where_.empty() ? "the file" : where_) + " must be a map of keys and values");
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    const std::string key = entry.first.as<std::string>();
    if (!seen.insert(key).second) fail(entry.first, fmt::format("'{}' is given twice", key));
    if (!known_.empty() && std::find(known_.begin(), known_.end(), key) == known_.end()) {
      if (key.starts_with("first:") || key.starts_with("last:")) {  // the comma has ended the value before
        fail(entry.first, fmt::format("'{}' stands where a key belongs: in braces a value with a comma needs "
                                      "quotes, e.g. {{keep-on-head: \"first:3,last:2\"}}",
                                      key));
      }
      const std::string near = nearest_name(key, known_);
      fail(entry.first, near.empty()
                            ? fmt::format("unknown key '{}' (known: {})", key, fmt::join(known_, ", "))
                            : fmt::format("unknown key '{}'; did you mean '{}'?", key, near));
    }
  }
}

std::string YamlMap::place(const std::string& key) const {
  return fmt::format("{}:{}: {}", file_, node_[key].Mark().line + 1, path(key));
}

std::string YamlMap::text(const std::string& key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  const YAML::Node value = node_[key];
  if (!value.IsScalar() || value.Scalar().empty()) fail(value, path(key) + " must be a text");
  return value.Scalar();
}

int64_t YamlMap::integer(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
  if (!has(key)) return fallback;
  const YAML::Node value = node_[key];
  const std::string text = value.IsScalar() ? value.Scalar() : "";
  int64_t number = 0;
  const auto [rest, errc] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (errc != std::errc() || rest != text.data() + text.size() || number < low || number > high) {
    fail(value, fmt::format("{} must be a whole number from {} to {}, not '{}'", path(key), low, high, text));
  }
  return number;
}

double YamlMap::number(const std::string& key, double fallback, double low, double high,
                       const std::string& unit) const {
  if (!has(key)) return fallback;
  const YAML::Node value = node_[key];
  std::string text = value.IsScalar() ? value.Scalar() : "";
  if (text.ends_with(unit)) text.resize(text.size() - unit.size());
  while (!text.empty() && text.back() == ' ') text.pop_back();
  double number = 0;
  const auto [rest, errc] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (errc != std::errc() || rest != text.data() + text.size() || !(number >= low && number <= high)) {
    fail(value, fmt::format("{} must be a number of {} from {} to {}, not '{}'", path(key), unit, low, high,
                            value.IsScalar() ? value.Scalar() : ""));
  }
  return number;
}

void YamlMap::fail(const YAML::Node& at, const std::string& problem) const {
  throw SetupError(fmt::format("{}:{}: {}", file_, std::max(at.Mark().line, 0) + 1, problem));
}

}  // namespace shoal
