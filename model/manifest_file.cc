// Manifests kept on disk (manifest_of in model/weight_manifest.h). A file is
//
//     "shoal manifest 1\n", the model's fingerprint and a newline, its stamp, a newline, the manifest's
//     bytes, and SHA-256 of all before
//
// and is named after the model's path. Whatever does not fit is made anew and never an error. What stands
// here decides what counts as signed, so the folder is its owner's alone (0700), and files of others that
// were put there while it was not are passed over.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <optional>

#include "base/descriptor.h"
#include "base/error.h"
#include "model/gguf_reader.h"
#include "model/weight_manifest.h"

namespace shoal {
namespace {

std::string label_of(const GgufFile& file, const std::string& stamp) {
  return "shoal manifest 1\n" + file.fingerprint() + "\n" + stamp + "\n";
}

// Whether nobody else can write to a folder, from now on at least; it is made where it is not there. A link
// is not followed: what it leads to may be anything, and would be closed to all others.
bool is_own_folder(const std::string& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  const Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status;
  return opened.get() >= 0 && ::fstat(opened.get(), &status) == 0 && status.st_uid == ::geteuid() &&
         ::fchmod(opened.get(), 0700) == 0;
}

bool is_own_file(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == ::geteuid() &&
         (status.st_mode & 022) == 0;
}

std::optional<WeightManifest> read_kept(const std::string& path, const std::string& label,
                                        const GgufFile& model) {
  if (!is_own_file(path)) return std::nullopt;
  try {
    const RegularFile file(path);
    const uint64_t least = label.size() + sizeof(Sha256);
    if (file.size() < least || file.size() - least > kManifestBytesMax) return std::nullopt;
    std::vector<std::byte> all(file.size());
    file.read_at(0, all);
    if (std::memcmp(all.data(), label.data(), label.size()) != 0) return std::nullopt;
    const auto content = std::span(all).first(all.size() - sizeof(Sha256));
    if (std::memcmp(sha256(content).data(), content.data() + content.size(), sizeof(Sha256)) != 0)
      return std::nullopt;
    return WeightManifest::parse({content.begin() + static_cast<ptrdiff_t>(label.size()), content.end()},
                                 model.path());
  } catch (const SetupError&) {
    return std::nullopt;
  }
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

// Under another name first, so that a reader finds all of it or nothing.
void keep(const std::string& path, const std::string& label, const WeightManifest& manifest) {
  const std::string partial = path + "." + std::to_string(::getpid());
  const int fd = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  Sha256Hasher hasher;
  bool good = true;
  for (const auto bytes : {std::as_bytes(std::span(label)), manifest.bytes()}) {
    hasher.add(bytes);
    good = good && write_all(fd, bytes);
  }
  good = good && write_all(fd, hasher.finish());
  good = ::close(fd) == 0 && good;
  if (!good || ::rename(partial.c_str(), path.c_str()) != 0) ::unlink(partial.c_str());
}

}  // namespace

WeightManifest manifest_of(const GgufFile& file, const std::string& folder, ThreadPool& pool,
                           const std::function<void(uint64_t, uint64_t)>& progress) {
  const std::string stamp = file.stamp();
  if (folder.empty() || stamp.empty() || !is_own_folder(folder))
    return WeightManifest::of(file, pool, progress);
  std::error_code failed;
  std::string paths;
  for (const std::string& part : file.part_paths())
    paths += std::filesystem::absolute(part, failed).string() + "\n";
  const std::string path = folder + "/" + sha256_hex(paths), label = label_of(file, stamp);
  if (std::optional<WeightManifest> kept = read_kept(path, label, file)) return std::move(*kept);
  WeightManifest manifest = WeightManifest::of(file, pool, progress);
  keep(path, label, manifest);
  return manifest;
}

}  // namespace shoal
