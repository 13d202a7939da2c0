// What vouches for a model's weights: the header that every node needs and a SHA-256 of every block of every
// tensor. A node that has the manifest can take weights from a disk or a peer that it does not trust.
//
// A block is a run of whole rows of one tensor, a multiple of 16 of them and about 128 KiB: what load_shard
// reads and packs at once, so that the bytes that are used are the bytes that were verified, on all threads
// at a time. A tensor's digest is the SHA-256 of its blocks' digests one after the other; the model's is that
// of the whole manifest. The header is a GGUF header of one part: the source's metadata without the
// vocabulary, which only the head uses, and the tensors' records in the source's order. So the digest does
// not depend on how the source is split into parts.
//
// Immutable once made; copies share nothing that changes. Reading it is safe from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/gguf_file.h"
#include "model/sha256.h"

namespace shoal {

class ThreadPool;

int64_t block_rows(const TensorInfo& tensor);    // of all blocks but the last
uint64_t block_bytes(const TensorInfo& tensor);  // the same in bytes
uint64_t block_count(const TensorInfo& tensor);
// Of one block: the last may be shorter.
uint64_t bytes_of_block(const TensorInfo& tensor, uint64_t block);

// The largest block: rows that are longer than any real model's are refused.
inline constexpr uint64_t kBlockBytesMax = uint64_t{8} << 20;
// The largest manifest that is read or taken from a peer: that of a model of about 2 TB.
inline constexpr uint64_t kManifestBytesMax = uint64_t{768} << 20;

class WeightManifest {
 public:
  // Reads all of the file. `progress(done, total)` in bytes, from this thread. Throws SetupError; exit code 1
  // where the file changed meanwhile.
  static WeightManifest of(const GgufFile& file, ThreadPool& pool,
                           const std::function<void(uint64_t, uint64_t)>& progress = {});
  // Untrusted bytes; `name` is the model's path or name for messages. Throws SetupError.
  static WeightManifest parse(std::vector<std::byte> bytes, const std::string& name);

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& digest() const { return digest_; }  // hex: the model's identity

  // Metadata and tensor records. Reading a tensor of it is an error.
  const GgufFile& model() const { return model_; }
  size_t size() const { return model_.tensors().size(); }
  const TensorInfo& tensor(size_t index) const { return model_.tensors()[index]; }
  std::optional<size_t> find(std::string_view name) const;

  const Sha256& tensor_digest(size_t index) const { return tensor_digests_[index]; }
  Sha256 block_digest(size_t index, uint64_t block) const;
  // Whether these are the bytes of that block.
  bool vouches_for(size_t index, uint64_t block, std::span<const std::byte> bytes) const;

 private:
  WeightManifest(std::vector<std::byte> bytes, GgufFile model);

  std::vector<std::byte> bytes_;
  GgufFile model_;
  size_t blocks_at_ = 0;             // in bytes_: where the digests begin
  std::vector<size_t> first_block_;  // of each tensor
  std::vector<Sha256> tensor_digests_;
  std::string digest_;
};

// The manifest of a file, kept in `folder` under its parts' paths, sizes, inodes and times, so that only the
// first start reads the file. The folder becomes its owner's alone (0700). An empty name, or a folder that is
// another's or cannot be written to, keeps nothing.
WeightManifest manifest_of(const GgufFile& file, const std::string& folder, ThreadPool& pool,
                           const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace shoal
