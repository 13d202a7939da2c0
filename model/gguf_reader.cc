#include "model/gguf_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/printable.h"
#include "base/small_file.h"

namespace shoal {
namespace {

constexpr uint64_t kFirstRead = uint64_t{4} << 20;  // the whole header of most files
constexpr int64_t kTimeGrainNs = 2'000'000'000;     // of the coarsest file system's times (FAT)
constexpr int64_t kTickNs = 100'000'000;            // of the clock that the kernel notes changes by, and more

int64_t nanoseconds(const timespec& time) {
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

}  // namespace

RegularFile::RegularFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a FIFO without a writer must not hang.
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd_ < 0) throw SetupError("cannot open file " + in_quotes(path, 4096) + ": " + std::strerror(errno));
  struct stat status;
  const int rc = ::fstat(fd_, &status);
  if (rc != 0 || !S_ISREG(status.st_mode)) {
    const std::string reason = rc != 0 ? std::strerror(errno) : kind_of_file(status.st_mode);
    ::close(fd_);
    throw SetupError("model file " + in_quotes(path, 4096) + " is not a regular file: " + reason);
  }
  size_ = static_cast<uint64_t>(status.st_size);
  device_ = status.st_dev;
  inode_ = status.st_ino;
  modified_ns_ = nanoseconds(status.st_mtim);
  changed_ns_ = nanoseconds(status.st_ctim);
  opened_ns_ = std::chrono::duration_cast<std::chrono::nanoseconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count();
}

RegularFile::RegularFile(const std::string& name, std::vector<std::byte> first_bytes, uint64_t size)
    : path_(name), size_(size), first_bytes_(std::move(first_bytes)) {
  SHOAL_CHECK(first_bytes_.size() <= size_);
}

RegularFile::~RegularFile() {
  if (fd_ >= 0) ::close(fd_);
}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      device_(other.device_),
      inode_(other.inode_),
      modified_ns_(other.modified_ns_),
      changed_ns_(other.changed_ns_),
      opened_ns_(other.opened_ns_),
      first_bytes_(std::move(other.first_bytes_)) {}

void RegularFile::require_unchanged() const {
  if (fd_ < 0) return;
  struct stat status;
  if (::fstat(fd_, &status) == 0 && static_cast<uint64_t>(status.st_size) == size_ &&
      nanoseconds(status.st_mtim) == modified_ns_) {
    return;
  }
  throw SetupError(
      in_quotes(path_, 4096) + " was changed while it was in use: start again with the file as it is to be",
      kExitFailed);
}

std::string RegularFile::stamp() const {
  if (fd_ < 0 || modified_ns_ > opened_ns_ - kTimeGrainNs || changed_ns_ > opened_ns_ - kTickNs) return "";
  return path_ + "\n" + std::to_string(size_) + " " + std::to_string(device_) + " " + std::to_string(inode_) +
         " " + std::to_string(modified_ns_) + " " + std::to_string(changed_ns_) + "\n";
}

void RegularFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  if (fd_ < 0) {
    if (offset > first_bytes_.size() || out.size() > first_bytes_.size() - offset) {
      throw SetupError(in_quotes(path_, 4096) + ": only the header of this model is here, not its weights",
                       kExitFailed);
    }
    std::copy_n(first_bytes_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return;
  }
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw SetupError(in_quotes(path_, 4096) + ": read error: " + std::strerror(errno), kExitFailed);
    if (n == 0) {
      throw SetupError(in_quotes(path_, 4096) + " became shorter while it was in use: it now ends at byte " +
                           std::to_string(offset + done) + ", it had " + std::to_string(size_) + " bytes",
                       kExitFailed);
    }
    done += static_cast<size_t>(n);
  }
}

void RegularFile::expect(uint64_t offset, uint64_t bytes) const {
  if (fd_ < 0) return;
  // A refusal costs speed, nothing else.
  (void)::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void HeaderReader::fail(const std::string& message) const {
  throw SetupError(in_quotes(file_->path(), 4096) + ": " + context_ + " " + message);
}

const std::byte* HeaderReader::take(uint64_t n) {
  if (n > remaining()) {
    throw SetupError(in_quotes(file_->path(), 4096) + " is truncated: it ends at byte " +
                     std::to_string(file_->size()) + ", but " + context_ + " needs " + std::to_string(n) +
                     " bytes at byte " + std::to_string(position_) + "; fetch the file again");
  }
  const uint64_t end = position_ + n;
  if (end > kHeaderBytesMax)
    fail("makes the header longer than " + std::to_string(kHeaderBytesMax) + " bytes");
  if (end > buffer_.size()) fill(end);
  const std::byte* data = buffer_.data() + position_;
  position_ = end;
  return data;
}

void HeaderReader::fill(uint64_t end) {
  const uint64_t have = buffer_.size();
  const uint64_t want = std::max(end, std::min(std::max(2 * have, kFirstRead), file_->readable()));
  buffer_.resize(want);
  file_->read_at(have, std::span(buffer_).subspan(have));
}

std::string HeaderReader::read_string(uint64_t bytes_max) {
  const uint64_t length = read<uint64_t>();
  if (length > bytes_max) {
    fail("claims a string of " + std::to_string(length) + " bytes; the limit is " +
         std::to_string(bytes_max));
  }
  const std::byte* data = take(length);
  return {reinterpret_cast<const char*>(data), length};
}

uint64_t HeaderReader::read_count(uint64_t bytes_each, uint64_t count_max, const char* things) {
  const uint64_t count = read<uint64_t>();
  if (count > count_max) {
    fail("claims " + std::to_string(count) + " " + things + "; the limit is " + std::to_string(count_max));
  }
  if (count > remaining() / bytes_each) {
    fail("claims " + std::to_string(count) + " " + things + ", but only " + std::to_string(remaining()) +
         " bytes follow: the file ends at byte " + std::to_string(file_->size()) +
         "; it is truncated or corrupt");
  }
  return count;
}

}  // namespace shoal
