#include "node/revocation.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>
#include <fstream>

#include "base/directory_lock.h"
#include "base/error.h"
#include "base/units.h"
#include "model/gguf_reader.h"
#include "node/cluster_config.h"

namespace shoal {
namespace {

constexpr size_t kShownBytesMax = 80;  // of a line that is no name

std::string stamp_of(const std::string& file) {
  struct stat status;
  if (::stat(file.c_str(), &status) != 0) return "";
  return fmt::format("{} {} {}.{} {}.{}", status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec);
}

std::set<std::string> read_names(const std::string& file) {
  std::error_code failed;
  const std::filesystem::file_status status = std::filesystem::status(file, failed);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw SetupError(file + ": is not a regular file");  // one that nobody writes to would be waited for
  std::ifstream in(file);
  if (!in && ::access(file.c_str(), F_OK) == 0) throw SetupError(file + ": cannot be read");
  std::set<std::string> names;
  size_t strange = 0;
  std::string first;
  for (std::string line; std::getline(in, line) && names.size() < kRevokedMax;) {
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

}  // namespace

std::string revocations_file(const std::string& directory) {
  return directory.empty() ? "" : directory + "/revoked";
}

bool set_revoked(const std::string& file, const std::string& node, bool revoked) {
  const DirectoryLock lock(
      std::filesystem::path(file).parent_path().string());  // others revoke at the same time
  std::set<std::string> names = read_names(file);
  if (names.contains(node) == revoked) return false;
  if (revoked && names.size() >= kRevokedMax) throw SetupError(file + ": holds as many names as it can");
  revoked ? (void)names.insert(node) : (void)names.erase(node);
  // Whole or not at all: the head may be reading.
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
  return true;
}

void require_known_node(const std::string& node, const std::vector<std::string>& in_cluster_file,
                        const std::string& directory) {
  std::set<std::string> known = read_names(revocations_file(directory));
  known.insert(in_cluster_file.begin(), in_cluster_file.end());
  std::error_code failed;  // nobody was invited: no such directory
  constexpr std::string_view kCertificate = ".crt";
  for (std::filesystem::directory_iterator entry(directory + "/issued", failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const std::string file = entry->path().filename().string();
    if (file.ends_with(kCertificate)) known.insert(file.substr(0, file.size() - kCertificate.size()));
  }
  if (known.contains(node)) return;
  const std::string near = nearest_name(node, std::vector<std::string>(known.begin(), known.end()));
  throw SetupError(
      fmt::format("no node is called {}: it is not in the cluster file, and none was invited by that name{} "
                  "--force takes "
                  "the name all the same",
                  node, near.empty() ? "." : fmt::format("; did you mean {}?", near)));
}

Revocations::Revocations(std::string file) : file_(std::move(file)) {
  if (file_.empty()) return;
  stamp_ = stamp_of(file_);
  names_ = read_names(file_);
}

bool Revocations::look() {
  if (file_.empty()) return false;
  const std::string stamp = stamp_of(file_);
  if (stamp == stamp_) return false;
  try {
    std::set<std::string> names = read_names(file_);
    stamp_ = stamp;
    if (names == names_) return false;
    names_ = std::move(names);
    return true;
  } catch (const SetupError& error) {
    spdlog::warn("{}: who was revoked before stays so", error.what());
    return false;
  }
}

}  // namespace shoal
