#include "node/weight_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/descriptor.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPartial = ".partial";
constexpr const char* kAside = ".aside";
constexpr const char* kInUse = "in-use";
constexpr uint64_t kReserveBytes = uint64_t{64} << 20;  // of the disk, left to others

Error refused(const std::string& what, const std::string& path) {
  return {Errc::kIo, fmt::format("{} {}: {}", path, what, std::strerror(errno))};
}

bool read_all(int fd, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return true;
}

bool write_all(int fd, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    offset += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

// What may be written without taking the disk's last bytes.
uint64_t disk_free(const std::string& folder) {
  struct statvfs status;
  if (::statvfs(folder.c_str(), &status) != 0) return UINT64_MAX;
  const uint64_t free = static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
  const uint64_t size = static_cast<uint64_t>(status.f_blocks) * status.f_frsize;
  const uint64_t reserve = std::min(kReserveBytes, size / 16);
  return free > reserve ? free - reserve : 0;
}

// Also where somebody has removed them. Empty, or what cannot be made.
std::optional<Error> make_folders(const std::string& folder) {
  const fs::path above = fs::path(folder).parent_path();
  std::error_code failed;
  fs::create_directories(above, failed);
  if (failed)
    return Error{Errc::kIo,
                 fmt::format("{} cannot be made: {}: {}", folder, above.string(), failed.message())};
  for (const std::string& path : {folder, folder + "/" + kInUse}) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return refused("cannot be made", path);
  }
  return std::nullopt;
}

// A directory that stands where a file of the cache is to be, put there by nobody of us: out of the way, with
// what is in it.
void move_directory_away(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return;
  if (::rmdir(path.c_str()) != 0) ::rename(path.c_str(), (path + kAside).c_str());
}

bool is_name(const std::string& text) {
  return sha256_from_hex(text).has_value();
}

}  // namespace

Result<std::unique_ptr<WeightCache>> WeightCache::open(const std::string& folder, uint64_t bytes_max) {
  if (const std::optional<Error> failed = make_folders(folder)) return *failed;
  if (::access(folder.c_str(), W_OK | X_OK) != 0) return refused("cannot be written to", folder);
  std::unique_ptr<WeightCache> cache(new WeightCache(folder, bytes_max));
  if (bytes_max == 0) {
    uint64_t mine = 0;
    for (const Kept& kept : cache->list()) mine += kept.bytes;
    const uint64_t free = disk_free(folder);
    cache->bytes_max_ = free == UINT64_MAX ? free : (free + mine) / 2;
  }
  return cache;
}

WeightCache::~WeightCache() {
  if (lease_ < 0) return;
  ::unlink(lease_path_.c_str());
  ::close(lease_);
}

std::string WeightCache::path_of(const Sha256& tensor) const {
  const std::string name = to_hex(tensor);
  return folder_ + "/" + name.substr(0, 2) + "/" + name;
}

bool WeightCache::has(const Sha256& tensor, uint64_t bytes) const {
  struct stat status;
  return ::stat(path_of(tensor).c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         static_cast<uint64_t>(status.st_size) == bytes;
}

bool WeightCache::read(const Sha256& tensor, uint64_t offset, std::span<std::byte> out) const {
  const Descriptor file(::open(path_of(tensor).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  return file.get() >= 0 && read_all(file.get(), offset, out);
}

void WeightCache::mend(const Sha256& tensor, uint64_t offset, std::span<const std::byte> bytes) const {
  const Descriptor file(::open(path_of(tensor).c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  // Where it fails the bytes stay wrong, and are found wrong again.
  if (file.get() >= 0) (void)write_all(file.get(), offset, bytes);
}

void WeightCache::use(const std::set<Sha256>& tensors) {
  std::lock_guard lock(mutex_);
  struct stat opened, named;
  const bool removed =
      lease_ >= 0 && (::fstat(lease_, &opened) != 0 || ::stat(lease_path_.c_str(), &named) != 0 ||
                      opened.st_ino != named.st_ino);
  if (removed) ::close(std::exchange(lease_, -1));
  if (lease_ < 0 && !take_lease()) return;  // unprotected, not unusable
  std::string text;
  for (const Sha256& tensor : tensors) {
    text += to_hex(tensor) + "\n";
    ::utimensat(AT_FDCWD, path_of(tensor).c_str(), nullptr, 0);
  }
  if (write_all(lease_, 0, std::as_bytes(std::span(text))))
    (void)!::ftruncate(lease_, static_cast<off_t>(text.size()));
}

// Again where another process took the file for a dead one's before it was locked.
bool WeightCache::take_lease() {
  lease_path_ = fmt::format("{}/{}/{}-{}", folder_, kInUse, ::getpid(), static_cast<const void*>(this));
  for (int i = 0; i < 10; ++i) {
    (void)make_folders(folder_);
    Descriptor file(::open(lease_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    struct stat opened, named;
    if (file.get() >= 0 && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0 && ::fstat(file.get(), &opened) == 0 &&
        ::stat(lease_path_.c_str(), &named) == 0 && opened.st_ino == named.st_ino) {
      lease_ = file.release();
      return true;
    }
  }
  return false;
}

std::set<std::string> WeightCache::names_in_use() const {
  std::set<std::string> names;
  std::error_code failed;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_ + "/" + kInUse, failed)) {
    const Descriptor file(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (file.get() < 0) continue;
    if (entry.path() != lease_path_ && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
      ::unlink(entry.path().c_str());  // its process is no more
      continue;
    }
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) names.insert(line);
  }
  return names;
}

std::vector<WeightCache::Kept> WeightCache::list() const {
  std::vector<Kept> all;
  std::error_code failed;
  for (const fs::directory_entry& folder : fs::directory_iterator(folder_, failed)) {
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder.path(), ignored)) {
      std::string name = entry.path().filename().string();
      if (name.ends_with(kPartial)) name.resize(name.size() - std::strlen(kPartial));
      struct stat status;
      if (!is_name(name) || ::lstat(entry.path().c_str(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
      all.push_back({entry.path().string(), name, static_cast<uint64_t>(status.st_size),
                     status.st_mtim.tv_sec * int64_t{1'000'000'000} + status.st_mtim.tv_nsec});
    }
  }
  std::sort(all.begin(), all.end(), [](const Kept& a, const Kept& b) { return a.used_ns < b.used_ns; });
  return all;
}

uint64_t WeightCache::make_room(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  const std::set<std::string> in_use = names_in_use();
  const std::vector<Kept> all = list();
  uint64_t mine = 0;
  for (const Kept& kept : all) mine += kept.bytes;
  const auto room = [&] { return std::min(bytes_max_ > mine ? bytes_max_ - mine : 0, disk_free(folder_)); };
  for (const Kept& kept : all) {
    if (room() >= bytes) break;
    if (in_use.contains(kept.name)) continue;
    if (::unlink(kept.path.c_str()) == 0) mine -= kept.bytes;
  }
  return std::min(room(), bytes);
}

Result<std::unique_ptr<WeightCache::Filling>> WeightCache::fill(const Sha256& tensor) const {
  auto filling = std::make_unique<Filling>();
  filling->path_ = path_of(tensor);
  filling->partial_ = filling->path_ + kPartial;
  const std::string folder = fs::path(filling->path_).parent_path().string();
  const auto is_made = [&] { return ::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST; };
  if (!is_made()) {  // a person may have removed all of it
    if (const std::optional<Error> failed = make_folders(folder_)) return *failed;
    if (!is_made()) return refused("cannot be made", folder);
  }
  move_directory_away(filling->path_);
  move_directory_away(filling->partial_);
  while (true) {
    Descriptor file(::open(filling->partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return refused("cannot be written", filling->partial_);
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      return Error{Errc::kQueueFull, filling->partial_ + " is being written by another process"};
    }
    // Between the two calls whoever had the lock may have given the file its name.
    struct stat opened, named;
    if (::fstat(file.get(), &opened) != 0) return refused("cannot be read", filling->partial_);
    if (::stat(filling->partial_.c_str(), &named) != 0 || opened.st_ino != named.st_ino) continue;
    filling->size_ = static_cast<uint64_t>(opened.st_size);
    filling->fd_ = file.release();
    return filling;
  }
}

WeightCache::Filling::~Filling() {
  if (fd_ >= 0) ::close(fd_);
}

bool WeightCache::Filling::read(uint64_t offset, std::span<std::byte> out) const {
  return read_all(fd_, offset, out);
}

void WeightCache::Filling::cut(uint64_t bytes) {
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) == 0) size_ = bytes;
}

Result<void> WeightCache::Filling::append(std::span<const std::byte> bytes) {
  if (!write_all(fd_, size_, bytes)) {
    const Error error = refused("cannot be written", partial_);
    cut(size_);
    return error;
  }
  size_ += bytes.size();
  return {};
}

Result<void> WeightCache::Filling::finish() {
  if (::rename(partial_.c_str(), path_.c_str()) != 0) return refused("cannot be renamed", partial_);
  return {};
}

void WeightCache::Filling::discard() {
  ::unlink(partial_.c_str());
}

std::string cache_home() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0')
    return std::string(xdg) + "/shoal";
  const char* home = std::getenv("HOME");
  return home != nullptr && *home != '\0' ? std::string(home) + "/.cache/shoal" : std::string();
}

}  // namespace shoal
