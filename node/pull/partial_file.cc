#include "node/pull/partial_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/printable.h"

namespace shoal {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  const char* advice = "";
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    advice = "; make room (shoal list, shoal rm NAME) and run the same command again: it goes on from there";
  if (error == EACCES || error == EROFS || error == EPERM)
    advice = "; set XDG_CACHE_HOME to a folder that can be written";
  throw SetupError(
      fmt::format("{} {}: {}{}", what, in_quotes(path.string(), 4096), std::strerror(error), advice),
      kExitFailed);
}

}  // namespace

PartialFile::PartialFile(std::filesystem::path path)
    : path_(std::move(path)),
      partial_(path_.string() + ".partial"),
      hash_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  reset_hash();
}

PartialFile::~PartialFile() {
  if (fd_ < 0) return;
  if (bytes_ == 0) ::unlink(partial_.c_str());  // before the lock goes
  ::close(fd_);
}

void PartialFile::reset_hash() {
  SHOAL_CHECK(hash_ && EVP_DigestInit_ex(hash_.get(), EVP_sha256(), nullptr) == 1);
  hashed_ = 0;
}

bool PartialFile::try_open() {
  std::error_code ec;
  std::filesystem::create_directories(path_.parent_path(), ec);
  if (ec) fail(path_.parent_path(), "cannot make the folder", ec.value());
  const int fd = ::open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) fail(partial_, "cannot write", errno);
  struct stat mine {
  }, named{};
  // The one that had it may have renamed it between our open() and our lock.
  const bool got = ::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd, &mine) == 0 &&
                   ::stat(partial_.c_str(), &named) == 0 && mine.st_ino == named.st_ino &&
                   mine.st_dev == named.st_dev;
  if (!got) {
    ::close(fd);
    return false;
  }
  fd_ = fd;
  bytes_ = static_cast<uint64_t>(mine.st_size);
  return true;
}

bool PartialFile::hash_more() {
  if (hashed_ == bytes_) return false;
  std::vector<char> piece(std::min<uint64_t>(kHashedAtOnce, bytes_ - hashed_));
  const ssize_t got = ::pread(fd_, piece.data(), piece.size(), static_cast<off_t>(hashed_));
  if (got < 0) fail(partial_, "cannot read", errno);
  if (got == 0) fail(partial_, "cannot read", EIO);
  SHOAL_CHECK(EVP_DigestUpdate(hash_.get(), piece.data(), static_cast<size_t>(got)) == 1);
  hashed_ += static_cast<uint64_t>(got);
  return true;
}

void PartialFile::write(std::span<const char> data) {
  SHOAL_CHECK(hashed_ == bytes_);
  while (!data.empty()) {
    const ssize_t put = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(bytes_));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail(partial_, "cannot write", errno);
    SHOAL_CHECK(EVP_DigestUpdate(hash_.get(), data.data(), static_cast<size_t>(put)) == 1);
    bytes_ += static_cast<uint64_t>(put);
    hashed_ = bytes_;
    data = data.subspan(static_cast<size_t>(put));
  }
}

void PartialFile::clear() {
  if (::ftruncate(fd_, 0) != 0) fail(partial_, "cannot write", errno);
  bytes_ = 0;
  reset_hash();
}

std::string PartialFile::sha256() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  SHOAL_CHECK(hashed_ == bytes_ && EVP_DigestFinal_ex(hash_.get(), digest, &length) == 1);
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

void PartialFile::finish() {
  if (::fsync(fd_) != 0) fail(partial_, "cannot write", errno);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) fail(path_, "cannot write", errno);
  ::close(fd_);
  fd_ = -1;
}

}  // namespace shoal
