// The cluster file on the disk, and where its model is looked for.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "node/cluster_config.h"
#include "node/pull/model_store.h"

namespace shoal {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;

}  // namespace

ClusterConfig load_cluster_config(const std::string& path, const std::string& model_override) {
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) {
    throw SetupError(fmt::format("{}: no such cluster file (see configs/ for examples)", path));
  }
  if (!std::filesystem::is_regular_file(path, ec)) {
    throw SetupError(fmt::format("{}: not a file but a {}; -c wants a cluster file (see configs/)", path,
                                 std::filesystem::is_directory(path, ec) ? "folder" : "device or pipe"));
  }
  if (std::filesystem::file_size(path, ec) > kFileBytesMax) {
    throw SetupError(fmt::format("{}: larger than 1 MiB, not a cluster file", path));
  }
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw SetupError(fmt::format("{}: cannot be read", path));
  ClusterConfig config = parse_cluster_config(text.str(), path);
  if (!model_override.empty()) {
    config.model = find_model_path(model_override, "", &config.model_missing);
  } else if (config.model.empty()) {
    throw SetupError(fmt::format("{}: no model: add model: FILE.gguf, or pass --model FILE.gguf", path));
  } else {
    config.model = find_model_path(config.model, path, &config.model_missing);
  }
  for (AdapterConfig& adapter : config.adapters)
    adapter.path = find_model_path(adapter.path, path, &adapter.missing);
  return config;
}

std::string resolve_model_path(const std::string& model, const std::string& config_path) {
  namespace fs = std::filesystem;
  const char* home = std::getenv("HOME");
  const fs::path home_path = home != nullptr ? home : "";
  if (model.starts_with("~/")) return (home_path / model.substr(2)).string();
  const fs::path path(model);
  if (path.is_absolute()) return model;
  const fs::path beside = fs::path(config_path).parent_path() / path;
  std::error_code ec;
  if (fs::exists(beside, ec)) return beside.string();
  if (home != nullptr || std::getenv("XDG_CACHE_HOME") != nullptr) {
    const fs::path cache = cache_folder();
    for (const fs::path& candidate : {cache / path, cache / "models" / path}) {
      if (fs::exists(candidate, ec) && !fs::is_directory(candidate, ec)) return candidate.string();
    }
    if (const std::optional<std::string> pulled = pulled_path(model)) return *pulled;
  }
  return beside.string();
}

std::string find_model_path(const std::string& model, const std::string& config_path, std::string* missing) {
  missing->clear();
  try {
    return resolve_model_path(model, config_path);
  } catch (const SetupError& error) {
    *missing = error.what();
    return model;
  }
}

}  // namespace shoal
