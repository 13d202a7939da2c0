// Weights on a node's disk, bounded: tensors by the SHA-256 that the manifest gives them, one file each, mode
// 0600.
//
//     FOLDER/ab/ab12...ef            a tensor, all of it
//     FOLDER/ab/ab12...ef.partial    its first blocks, while the rest is being fetched
//     FOLDER/in-use/NAME             what a process that lives needs: locked by it, a digest a line
//
// A tensor gets its name when its last block has come, so a process that is killed leaves tensors that are
// whole and at most some partial ones, which the next goes on with. What a power cut spoils is found when it
// is read: whoever loads from here compares every block with the manifest, each time, so nothing has to be
// forced to the disk in any order. Tensors of equal content are kept once, whatever model they belong to.
//
// Several processes may share a folder: one fills a tensor at a time, and none removes what another needs.
// Safe from several threads. Where the disk refuses, members return errors and keep working for what is
// there.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/sha256.h"

namespace shoal {

class WeightCache {
 public:
  // `bytes_max` 0: half of what the disk would have free without the cache.
  static Result<std::unique_ptr<WeightCache>> open(const std::string& folder, uint64_t bytes_max);
  ~WeightCache();

  const std::string& folder() const { return folder_; }
  uint64_t bytes_max() const { return bytes_max_; }

  // Whether all of the tensor is here, by its size. What its bytes are is seen when they are read.
  bool has(const Sha256& tensor, uint64_t bytes) const;
  // False where they cannot be read.
  bool read(const Sha256& tensor, uint64_t offset, std::span<std::byte> out) const;
  // Puts right bytes in the place of wrong ones.
  void mend(const Sha256& tensor, uint64_t offset, std::span<const std::byte> bytes) const;

  // From now on nothing of this is removed, by this process or another, and it counts as used now. Replaces
  // what was said before.
  void use(const std::set<Sha256>& tensors);

  // Removes tensors that nobody uses, the longest unused first, until `bytes` more fit both the bound and the
  // disk. What fits then, at most `bytes`.
  uint64_t make_room(uint64_t bytes);

  // A tensor being filled, block after block. Dropping it keeps what was written.
  class Filling {
   public:
    ~Filling();
    uint64_t size() const { return size_; }  // bytes that are there already, not verified by this process
    bool read(uint64_t offset, std::span<std::byte> out) const;
    void cut(uint64_t bytes);  // the rest was wrong
    Result<void> append(std::span<const std::byte> bytes);
    Result<void> finish();  // gives it its name
    void discard();         // removes it

   private:
    friend class WeightCache;
    std::string path_, partial_;
    int fd_ = -1;
    uint64_t size_ = 0;
  };
  // Errc::kQueueFull: another process, or another Filling, is at it.
  Result<std::unique_ptr<Filling>> fill(const Sha256& tensor) const;

 private:
  WeightCache(std::string folder, uint64_t bytes_max) : folder_(std::move(folder)), bytes_max_(bytes_max) {}
  struct Kept {
    std::string path;
    std::string name;
    uint64_t bytes;
    int64_t used_ns;
  };
  std::vector<Kept> list() const;  // the longest unused first
  bool take_lease();
  std::set<std::string> names_in_use() const;
  std::string path_of(const Sha256& tensor) const;

  std::string folder_;
  uint64_t bytes_max_;
  std::mutex mutex_;
  std::string lease_path_;
  int lease_ = -1;
};

// ${XDG_CACHE_HOME:-~/.cache}/shoal, or empty where neither is set.
std::string cache_home();

}  // namespace shoal
