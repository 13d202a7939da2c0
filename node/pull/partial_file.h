// PATH.partial: a file under way, with the SHA-256 of what it holds. One process at a time has it open: a
// lock, which ends with the process. Whoever leaves it empty removes it. For one thread. Throws SetupError
// where the disk does not let it.
#pragma once

#include <openssl/evp.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace shoal {

inline constexpr size_t kHashedAtOnce = size_t{4}
                                        << 20;  // bytes of a file that are read and hashed in one go

class PartialFile {
 public:
  explicit PartialFile(std::filesystem::path path);  // of the finished file
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  // False where another process is at work on it, or finished it just now.
  bool try_open();
  uint64_t bytes() const { return bytes_; }
  // Takes up to kHashedAtOnce that the file held when it was opened into the hash; false when that is done.
  bool hash_more();
  void write(std::span<const char> data);
  void clear();          // begins anew
  std::string sha256();  // hex, of everything; call clear() before more is written
  void finish();         // to the disk, and to its name

 private:
  void reset_hash();

  std::filesystem::path path_, partial_;
  int fd_ = -1;
  uint64_t bytes_ = 0, hashed_ = 0;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash_;
};

}  // namespace shoal
