// One YAML document, read strictly: one map key by key, so that unknown and repeated keys are found and every
// message says the file, the line and the key. Values only; no state but the document. Errors are SetupError,
// and YAML::Exception where yaml-cpp finds them itself.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <string>
#include <vector>

namespace shoal {

// The only document of `yaml`. SetupError where there is a second one.
YAML::Node load_yaml_document(const std::string& yaml, const std::string& path);

class YamlMap {
 public:
  // `where`: the path of keys that leads to `node`, empty for the whole file. No `known` keys: any may stand
  // there.
  YamlMap(const YAML::Node& node, std::string file, std::string where, std::vector<std::string> known);

  YAML::Node get(const std::string& key) const { return node_[key]; }
  bool has(const std::string& key) const { return static_cast<bool>(node_[key]); }
  std::string path(const std::string& key) const { return where_.empty() ? key : where_ + "." + key; }
  // "file:line: nodes.pi-1.memory", for messages of the unit parsers.
  std::string place(const std::string& key) const;

  std::string text(const std::string& key, const std::string& fallback) const;
  int64_t integer(const std::string& key, int64_t fallback, int64_t low, int64_t high) const;
  // A number of `unit`, which may be written after it: "2.7", "2.7 W".
  double number(const std::string& key, double fallback, double low, double high,
                const std::string& unit) const;

  [[noreturn]] void fail(const YAML::Node& at, const std::string& problem) const;

 private:
  YAML::Node node_;
  std::string file_, where_;
  std::vector<std::string> known_;
};

}  // namespace shoal
