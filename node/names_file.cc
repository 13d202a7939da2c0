#include "node/names_file.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/units.h"
#include "model/gguf_reader.h"
#include "node/cluster_config.h"

namespace shoal {
namespace {

constexpr size_t kShownBytesMax = 80;  // of a line that is no name

}  // namespace

std::set<std::string> read_node_names(const std::string& file, size_t most) {
  std::error_code failed;
  const std::filesystem::file_status status = std::filesystem::status(file, failed);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw SetupError(file + ": is not a regular file");  // one that nobody writes to would be waited for
  std::ifstream in(file);
  if (!in && ::access(file.c_str(), F_OK) == 0) throw SetupError(file + ": cannot be read");
  std::set<std::string> names;
  size_t strange = 0;
  std::string first;
  for (std::string line; std::getline(in, line) && names.size() < most;) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
    if (line.empty()) continue;
    if (is_node_name(line)) {
      names.insert(line);
    } else {
      if (++strange == 1) first = printable(line, kShownBytesMax);
    }
  }
  if (strange > 0) {
    spdlog::warn("{}: '{}' is no node's name: {} passed over", file, first,
                 strange == 1 ? "that line is" : fmt::format("{} such lines are", strange));
  }
  if (in.bad()) throw SetupError(file + ": cannot be read");
  return names;
}

std::string drained_file(const std::string& directory) {
  return directory.empty() ? "" : directory + "/drained";
}

void write_node_names(const std::string& file, const std::set<std::string>& names) {
  const std::string fresh = file + ".new";
  std::ofstream out(fresh, std::ios::trunc);
  for (const std::string& name : names) out << name << '\n';
  out.close();
  std::error_code error;
  if (out) {
    std::filesystem::permissions(
        fresh, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write, error);
    if (!error) std::filesystem::rename(fresh, file, error);
  }
  if (!out || error)
    throw SetupError(file + ": cannot be written" + (error ? ": " + error.message() : ""), kExitFailed);
}

}  // namespace shoal
