#include "model/weight_manifest.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>

#include "base/check.h"
#include "base/error.h"
#include "base/printable.h"
#include "model/gguf_header.h"
#include "model/gguf_reader.h"
#include "tensor/thread_pool.h"
#include "tensor/weight_matrix.h"

namespace shoal {
namespace {

constexpr uint64_t kBlockBytes = 128 << 10;
constexpr uint32_t kMagic = 0x4d574853;  // "SHWM"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kGgufVersion = 3;
constexpr size_t kTokenizerEntryMax =
    256;  // bytes: single numbers and names stay, which a model may depend on

struct Preamble {
  uint32_t magic = kMagic, version = kVersion;
  uint64_t header_bytes = 0;  // of the GGUF header that follows
  uint64_t file_bytes = 0;    // of the file that would begin with it
  uint64_t blocks = 0;        // digests after the header
};
static_assert(sizeof(Preamble) == 32);

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

uint64_t rounded(uint64_t n, uint64_t to) {
  return (n + to - 1) / to * to;
}

// Of a file with a header of that size and these tensors, one after the other.
uint64_t bytes_of_file(uint64_t header_bytes, const GgufFile& file) {
  const uint64_t alignment = file.get_uint("general.alignment", kAlignmentDefault);
  uint64_t bytes = rounded(header_bytes, alignment);
  for (const TensorInfo& tensor : file.tensors()) bytes += rounded(tensor.bytes, alignment);
  return bytes;
}

// The source's metadata but for the vocabulary and the split, and its tensors as of one part.
std::string reduced_header(const GgufFile& file) {
  const uint64_t alignment = file.get_uint("general.alignment", kAlignmentDefault);
  std::string entries;
  uint64_t n_entries = 0;
  const RegularFile first(file.part_paths().front());
  for (const RawMetadata& entry : read_raw_metadata(first)) {
    const bool vocabulary = entry.key.starts_with("tokenizer.") && entry.bytes.size() > kTokenizerEntryMax;
    if (vocabulary || entry.key.starts_with("split.")) continue;
    entries.append(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size());
    ++n_entries;
  }
  std::string header = "GGUF";
  put(header, kGgufVersion);
  put<uint64_t>(header, file.tensors().size());
  put(header, n_entries);
  header += entries;
  uint64_t offset = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    put<uint64_t>(header, tensor.name.size());
    header += tensor.name;
    put(header, static_cast<uint32_t>(tensor.dims.size()));
    for (const int64_t dim : tensor.dims) put(header, dim);
    put(header, static_cast<uint32_t>(tensor.type));
    put(header, offset);
    offset += rounded(tensor.bytes, alignment);
  }
  return header;
}

// Digests of all blocks of all tensors, one after the other, into `out`.
void digest_blocks(const GgufFile& file, ThreadPool& pool, std::span<std::byte> out,
                   const std::function<void(uint64_t, uint64_t)>& progress) {
  struct Work {
    const TensorInfo* tensor;
    uint64_t block;
  };
  std::vector<Work> work;
  uint64_t total = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    for (uint64_t block = 0; block < block_count(tensor); ++block) work.push_back({&tensor, block});
    total += tensor.bytes;
  }
  SHOAL_CHECK(out.size() == work.size() * sizeof(Sha256));
  std::vector<std::vector<std::byte>> buffers(static_cast<size_t>(pool.size()));
  std::atomic<uint64_t> done{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;
  pool.for_each(static_cast<int64_t>(work.size()), [&](int64_t i, int thread) {
    if (failed) return;
    try {  // an exception must not leave a pool thread
      const auto& [tensor, block] = work[static_cast<size_t>(i)];
      std::vector<std::byte>& bytes = buffers[static_cast<size_t>(thread)];
      bytes.resize(bytes_of_block(*tensor, block));
      file.read(*tensor, block * block_bytes(*tensor), bytes);
      const Sha256 digest = sha256(bytes);
      std::memcpy(out.data() + static_cast<size_t>(i) * sizeof digest, digest.data(), sizeof digest);
      done += bytes.size();
      if (thread == 0 && progress) progress(done, total);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw SetupError("the manifest of " + in_quotes(name, 4096) + " " + what, kExitFailed);
}

// Before anything is computed from the tensors' sizes.
void check_blocks(const GgufFile& model, const std::string& name) {
  for (const TensorInfo& tensor : model.tensors()) {
    const auto rows = static_cast<uint64_t>(tensor.rows());
    const uint64_t row_bytes = tensor.bytes / rows;
    if (row_bytes <= kBlockBytesMax && row_bytes * std::min<uint64_t>(rows, kRowGroup) <= kBlockBytesMax)
      continue;
    refuse(name, "cannot be made: tensor " + in_quotes(tensor.name) + " has rows of " +
                     std::to_string(row_bytes) + " bytes, too long to be moved between nodes");
  }
}

}  // namespace

int64_t block_rows(const TensorInfo& tensor) {
  const uint64_t row_bytes = tensor.bytes / static_cast<uint64_t>(tensor.rows());
  return std::max<int64_t>(1, static_cast<int64_t>(kBlockBytes / (row_bytes * kRowGroup))) * kRowGroup;
}

uint64_t block_bytes(const TensorInfo& tensor) {
  return tensor.bytes / static_cast<uint64_t>(tensor.rows()) * static_cast<uint64_t>(block_rows(tensor));
}

uint64_t block_count(const TensorInfo& tensor) {
  const uint64_t bytes = block_bytes(tensor);
  return (tensor.bytes + bytes - 1) / bytes;
}

uint64_t bytes_of_block(const TensorInfo& tensor, uint64_t block) {
  const uint64_t bytes = block_bytes(tensor);
  return std::min(bytes, tensor.bytes - block * bytes);
}

WeightManifest WeightManifest::of(const GgufFile& file, ThreadPool& pool,
                                  const std::function<void(uint64_t, uint64_t)>& progress) {
  check_blocks(file, file.path());
  Preamble preamble;
  const std::string header = reduced_header(file);
  preamble.header_bytes = header.size();
  preamble.file_bytes = bytes_of_file(header.size(), file);
  for (const TensorInfo& tensor : file.tensors()) preamble.blocks += block_count(tensor);
  std::vector<std::byte> bytes(sizeof preamble + header.size() + preamble.blocks * sizeof(Sha256));
  std::memcpy(bytes.data(), &preamble, sizeof preamble);
  std::memcpy(bytes.data() + sizeof preamble, header.data(), header.size());
  digest_blocks(file, pool, std::span(bytes).subspan(sizeof preamble + header.size()), progress);
  file.require_unchanged();
  return parse(std::move(bytes), file.path());
}

WeightManifest WeightManifest::parse(std::vector<std::byte> bytes, const std::string& name) {
  Preamble preamble;
  if (bytes.size() < sizeof preamble) refuse(name, "has only " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(&preamble, bytes.data(), sizeof preamble);
  if (preamble.magic != kMagic) refuse(name, "is none: it does not begin with 'SHWM'");
  if (preamble.version != kVersion) {
    refuse(name, "is of version " + std::to_string(preamble.version) + ", this program reads version " +
                     std::to_string(kVersion));
  }
  const uint64_t rest = bytes.size() - sizeof preamble;
  if (preamble.header_bytes > std::min(rest, kHeaderBytesMax) ||
      preamble.blocks != (rest - preamble.header_bytes) / sizeof(Sha256) ||
      (rest - preamble.header_bytes) % sizeof(Sha256) != 0) {
    refuse(name, "claims a header of " + std::to_string(preamble.header_bytes) + " bytes and " +
                     std::to_string(preamble.blocks) + " blocks, but has " + std::to_string(bytes.size()) +
                     " bytes");
  }
  if (preamble.file_bytes < preamble.header_bytes) refuse(name, "describes a file shorter than its header");
  const auto header = std::span(bytes).subspan(sizeof preamble, preamble.header_bytes);
  GgufFile model =
      GgufFile::from_header(name, std::vector<std::byte>(header.begin(), header.end()), preamble.file_bytes);
  check_blocks(model, name);
  const uint64_t file_bytes = bytes_of_file(preamble.header_bytes, model);
  if (preamble.file_bytes != file_bytes) {
    refuse(name, "describes a file of " + std::to_string(preamble.file_bytes) + " bytes, its tensors make " +
                     std::to_string(file_bytes));
  }
  uint64_t blocks = 0;
  for (const TensorInfo& tensor : model.tensors()) blocks += block_count(tensor);
  if (blocks != preamble.blocks) {
    refuse(name, "has " + std::to_string(preamble.blocks) + " block digests, its tensors have " +
                     std::to_string(blocks) + " blocks");
  }
  return WeightManifest(std::move(bytes), std::move(model));
}

WeightManifest::WeightManifest(std::vector<std::byte> bytes, GgufFile model)
    : bytes_(std::move(bytes)), model_(std::move(model)), digest_(to_hex(sha256(bytes_))) {
  size_t block = 0;
  for (const TensorInfo& tensor : model_.tensors()) {
    first_block_.push_back(block);
    block += block_count(tensor);
  }
  blocks_at_ = bytes_.size() - block * sizeof(Sha256);
  for (size_t i = 0; i < size(); ++i) {
    const size_t begin = blocks_at_ + first_block_[i] * sizeof(Sha256);
    tensor_digests_.push_back(
        sha256(std::span(bytes_).subspan(begin, block_count(tensor(i)) * sizeof(Sha256))));
  }
}

std::optional<size_t> WeightManifest::find(std::string_view name) const {
  const TensorInfo* found = model_.find_tensor(name);
  if (found == nullptr) return std::nullopt;
  return static_cast<size_t>(found - model_.tensors().data());
}

Sha256 WeightManifest::block_digest(size_t index, uint64_t block) const {
  SHOAL_CHECK(index < size() && block < block_count(tensor(index)));
  Sha256 digest;
  std::memcpy(digest.data(), bytes_.data() + blocks_at_ + (first_block_[index] + block) * sizeof digest,
              sizeof digest);
  return digest;
}

bool WeightManifest::vouches_for(size_t index, uint64_t block, std::span<const std::byte> bytes) const {
  return bytes.size() == bytes_of_block(tensor(index), block) && sha256(bytes) == block_digest(index, block);
}

}  // namespace shoal
