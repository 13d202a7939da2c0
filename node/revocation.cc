#include "node/revocation.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/directory_lock.h"
#include "base/error.h"
#include "base/units.h"
#include "node/cluster_config.h"
#include "node/names_file.h"

namespace shoal {
namespace {

constexpr const char* kStay = "who was revoked before stays so";

std::string stamp_of(const std::string& file) {
  struct stat status;
  if (::stat(file.c_str(), &status) != 0) return std::strerror(errno);
  return fmt::format("{} {} {}.{} {}.{}", status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec);
}

// A list that can be read in part alone is not gone by: somebody was to be shut out whose name is not known.
std::set<std::string> read_whole(const std::string& file) {
  NamesInFile found = read_node_names(file, kRevokedMax);
  if (!found.fault.empty()) {
    throw SetupError(found.fault +
                     ": who is shut out cannot be told; write the name right, or take the line out");
  }
  return std::move(found.names);
}

}  // namespace

std::string revocations_file(const std::string& directory) {
  return directory.empty() ? "" : directory + "/revoked";
}

bool set_revoked(const std::string& file, const std::string& node, bool revoked) {
  const DirectoryLock lock(
      std::filesystem::path(file).parent_path().string());  // others revoke at the same time
  std::set<std::string> names = read_whole(file);
  if (names.contains(node) == revoked) return false;
  if (revoked && names.size() >= kRevokedMax) throw SetupError(file + ": holds as many names as it can");
  revoked ? (void)names.insert(node) : (void)names.erase(node);
  write_node_names(file, names);
  return true;
}

void require_known_node(const std::string& node, const std::vector<std::string>& in_cluster_file,
                        const std::string& directory) {
  std::set<std::string> known = read_whole(revocations_file(directory));
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
  names_ = read_whole(file_);
}

bool Revocations::look() {
  if (file_.empty()) return false;
  const std::string stamp = stamp_of(file_);
  if (stamp == stamp_) return false;
  try {
    NamesInFile found = read_node_names(file_, kRevokedMax);
    if (!found.is_there && !names_.empty())  // nobody takes it away who only lets one in again
      throw SetupError(file_ + ": is not there any more");
    stamp_ = stamp;
    if (!found.fault.empty()) {
      // Whoever is named is shut out, and whoever was named before stays so: the line may have been a name.
      spdlog::warn("{}: {}", found.fault, kStay);
      std::set<std::string> all = names_;
      for (const std::string& name : found.names) {
        if (all.size() < kRevokedMax) all.insert(name);
      }
      found.names = std::move(all);
    }
    if (found.names == names_) return false;
    names_ = std::move(found.names);
    return true;
  } catch (const SetupError& error) {
    // Tried again, but told of once.
    if (told_ != stamp) spdlog::warn("{}: {}", error.what(), kStay);
    told_ = stamp;
    return false;
  }
}

}  // namespace shoal
