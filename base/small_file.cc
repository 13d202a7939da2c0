#include "base/small_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/descriptor.h"
#include "base/units.h"

namespace shoal {
namespace {

constexpr size_t kBytesFirst = 4096;  // what is read at first where no size is known

}  // namespace

const char* kind_of_file(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

Result<SmallFile> read_small_file(const std::string& path, size_t bytes_max, Pipes pipes) {
  const auto refused = [](std::string why) { return Error{Errc::kIo, std::move(why)}; };
  // O_NONBLOCK: a FIFO that nobody writes to must not hang. O_NOCTTY: a terminal must not become ours.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) return refused(std::strerror(errno));
  const bool pipe = S_ISFIFO(status.st_mode) && pipes == Pipes::kTaken;
  if (!pipe && !S_ISREG(status.st_mode))
    return refused(fmt::format("it is not a regular file but {}", kind_of_file(status.st_mode)));
  SmallFile read;
  read.is_private = (status.st_mode & 077) == 0;
  // A byte more than may be there, so that one read finds out. Files of /proc have bytes and no size.
  read.text.resize(std::min(std::max(static_cast<size_t>(status.st_size), kBytesFirst), bytes_max) + 1);
  size_t size = 0;
  if (pipe) {  // with O_NONBLOCK 0 bytes mean that nobody writes, and EAGAIN that somebody will
    const ssize_t n = ::read(file.get(), read.text.data(), read.text.size());
    if (n == 0) return refused("it is a FIFO that nobody writes to");
    if (n < 0 && errno != EAGAIN) return refused(std::strerror(errno));
    if (n > 0) size = static_cast<size_t>(n);
    ::fcntl(file.get(), F_SETFL, 0);  // who writes may take its time
  }
  while (size <= bytes_max) {
    if (size == read.text.size()) read.text.resize(std::min(2 * size, bytes_max + 1));
    const ssize_t n = ::read(file.get(), read.text.data() + size, read.text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return refused(std::strerror(errno));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > bytes_max) return refused(fmt::format("it is larger than {}", format_bytes(bytes_max)));
  read.text.resize(size);
  return read;
}

SmallFile read_named_file(const std::string& path, const std::string& what, size_t bytes_max, Pipes pipes) {
  Result<SmallFile> read = read_small_file(path, bytes_max, pipes);
  if (read) return std::move(*read);
  if (::access(path.c_str(), F_OK) != 0) throw SetupError(path + ": no such " + what);
  throw SetupError(fmt::format("{}: cannot be read as a {}: {}", path, what, read.error().message));
}

std::string read_text_file(const std::string& path, const std::string& what, size_t bytes_max) {
  return read_named_file(path, what, bytes_max, Pipes::kTaken).text;
}

std::ofstream open_output(const std::string& path, const char* flag) {
  const auto fail = [&](const std::string& why) {
    throw SetupError(fmt::format("{}: cannot be written ({}): {}", path, flag, why), kExitFailed);
  };
  struct stat status {};
  const bool fifo = ::stat(path.c_str(), &status) == 0 && S_ISFIFO(status.st_mode);
  // Refused by the system where nobody reads; kept until the stream is open, or the reader would see an end.
  const Descriptor writer(fifo ? ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK) : -1);
  if (fifo && writer.get() < 0)
    fail(errno == ENXIO ? "it is a FIFO that nobody reads from" : std::strerror(errno));
  errno = 0;
  // A file that is made is for its owner to write, whatever the umask: a stream would ask for more.
  if (!fifo) Descriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  if (!out) fail(std::strerror(errno));
  return out;
}

}  // namespace shoal
