// Reading an untrusted model file: a regular file read with pread, and a reader of its header that bounds
// every count by the bytes that remain. Both throw SetupError naming the file, the byte and what was being
// read. A HeaderReader belongs to one thread; RegularFile::read_at is safe from several.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they lie in the file");

// Limits on a header; each is far above what real files hold (256k tokens make a header of about 15 MiB).
inline constexpr uint64_t kHeaderBytesMax = uint64_t{256} << 20;
inline constexpr uint64_t kStringBytesMax = uint64_t{16} << 20;
inline constexpr uint64_t kArrayCountMax = uint64_t{1} << 22;

// A regular file open for reading. Directories, FIFOs, sockets and devices are refused without blocking.
class RegularFile {
 public:
  explicit RegularFile(const std::string& path);
  // No file: the first bytes of one of `size` bytes, which lies elsewhere. What is beyond cannot be read.
  RegularFile(const std::string& name, std::vector<std::byte> first_bytes, uint64_t size);
  ~RegularFile();
  RegularFile(RegularFile&& other) noexcept;
  RegularFile& operator=(RegularFile&&) = delete;
  RegularFile(const RegularFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // when it was opened
  // Bytes from the start that can be read.
  uint64_t readable() const { return fd_ < 0 ? first_bytes_.size() : size_; }
  // Throws SetupError (exit code 1), naming the file, where it was written to since it was opened.
  void require_unchanged() const;
  // Path, size, device, inode and times of the last change, of bytes and of the inode (which nobody can set),
  // when it was opened: equal stamps, equal bytes, unless the system's clock was set back. Empty where there
  // is no file, or where it changed so lately that its times may not tell a further change.
  std::string stamp() const;
  // All of `out`, from absolute offset `offset`; SetupError (exit code 1) when the file has become shorter.
  void read_at(uint64_t offset, std::span<std::byte> out) const;
  // These bytes will be read soon: advice that lets the disk be at work meanwhile.
  void expect(uint64_t offset, uint64_t bytes) const;

 private:
  std::string path_;
  int fd_ = -1;  // -1: only first_bytes_
  uint64_t size_ = 0;
  uint64_t device_ = 0, inode_ = 0;
  int64_t modified_ns_ = 0, changed_ns_ = 0, opened_ns_ = 0;
  std::vector<std::byte> first_bytes_;
};

class HeaderReader {
 public:
  explicit HeaderReader(const RegularFile& file) : file_(&file) {}

  // What is being read, for messages: "the value of key 'general.name'".
  void set_context(std::string context) { context_ = std::move(context); }

  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string read_string(uint64_t bytes_max = kStringBytesMax);
  // A u64 count of things of at least `bytes_each` bytes, which therefore must fit in what remains of the
  // file.
  uint64_t read_count(uint64_t bytes_each, uint64_t count_max, const char* things);
  // The next n bytes; valid until the next call.
  const std::byte* take(uint64_t n);

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return file_->size() - position_; }
  std::span<const std::byte> consumed() const { return {buffer_.data(), position_}; }

  // Throws SetupError "FILE: CONTEXT MESSAGE".
  [[noreturn]] void fail(const std::string& message) const;

 private:
  void fill(uint64_t end);

  const RegularFile* file_;
  std::string context_ = "the header";
  std::vector<std::byte> buffer_;  // the file's first bytes
  uint64_t position_ = 0;
};

}  // namespace shoal
