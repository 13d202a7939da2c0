#include "node/names_file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/printable.h"
#include "base/small_file.h"
#include "base/units.h"
#include "node/cluster_config.h"

namespace shoal {
namespace {

constexpr size_t kShownBytesMax = 80;      // of a line that is no name
constexpr size_t kFileBytesMax = 1 << 20;  // of many thousand names

}  // namespace

NamesInFile read_node_names(const std::string& file, size_t most) {
  struct stat status;
  // A link to what is not there is no missing file: what it leads to may come back.
  if (::lstat(file.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    throw SetupError(fmt::format("{}: cannot be read: {}", file, std::strerror(errno)));
  }
  const Result<SmallFile> read = read_small_file(file, kFileBytesMax);
  if (read.has_error()) throw SetupError(fmt::format("{}: cannot be read: {}", file, read.error().message));
  std::istringstream in(read->text);
  NamesInFile found;
  found.is_there = true;
  size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
    if (line.empty() || found.names.contains(line)) continue;
    std::string wrong;
    if (!is_node_name(line)) {
      wrong = fmt::format("'{}' is no node's name", printable(line, kShownBytesMax));
    } else if (found.names.size() == most) {
      wrong = fmt::format("there are more than {} names", most);
    } else {
      found.names.insert(line);
    }
    if (found.fault.empty() && !wrong.empty()) found.fault = fmt::format("{}:{}: {}", file, number, wrong);
  }
  return found;
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
