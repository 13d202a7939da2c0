#include "model/gguf_output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/printable.h"
#include "model/gguf_header.h"
#include "model/gguf_reader.h"
#include "model/quantize.h"
#include "tensor/format.h"

namespace shoal {
namespace {

constexpr uint32_t kVersion = 3, kUint32 = 4;  // of the format; gguf_metadata_value_type
constexpr uint32_t kQuantizationVersion = 2;   // of the block layouts (ggml's GGML_QNT_VERSION)

char unfinished[4096];  // the file being written; a handler of signals may read it

// Keys that this file states anew, or that were about the source's parts.
bool is_dropped(const std::string& key) {
  return key == "general.file_type" || key == "general.quantization_version" || key.starts_with("split.");
}

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_string(std::string& out, const std::string& text) {
  put<uint64_t>(out, text.size());
  out += text;
}

}  // namespace

GgufOutput::GgufOutput(const std::string& path) : path_(path), shown_(in_quotes(path, 4096)) {
  constexpr int kLinksMax = 40;  // as the system follows
  if (path.empty()) throw SetupError("the output has no name");
  struct stat there {};
  const bool exists = stat(path.c_str(), &there) == 0;
  if (exists && !S_ISREG(there.st_mode))
    throw SetupError("the output " + shown_ + " is no file but a folder or a device; give another name");
  // What a link points to is written, there or not yet, and the link stays.
  for (int links = 0; std::filesystem::is_symlink(path_); ++links) {
    if (links == kLinksMax) throw SetupError("the output " + shown_ + " is a link to itself");
    path_ = (std::filesystem::path(path_).parent_path() / std::filesystem::read_symlink(path_)).string();
  }
  if (path_ != path) shown_ += ", a link to " + in_quotes(path_, 4096) + ",";
  partial_ = path_ + ".partial-XXXXXX";
  const int descriptor = mkostemp(partial_.data(), O_CLOEXEC);
  if (descriptor < 0) fail("could not be created");
  const mode_t mask = umask(0);  // the mode that a file created by its name has
  umask(mask);
  fchmod(descriptor, exists ? there.st_mode & 07777 : 0666 & ~mask);
  file_ = fdopen(descriptor, "wb");
  if (!file_) fail("could not be created");
  if (partial_.size() < sizeof unfinished) std::strcpy(unfinished, partial_.c_str());
}

GgufOutput::~GgufOutput() {
  if (!file_) return;
  std::fclose(file_);
  std::remove(partial_.c_str());
  unfinished[0] = 0;
}

void GgufOutput::remove_unfinished() {
  if (unfinished[0] != 0) unlink(unfinished);
}

void GgufOutput::fail(const char* what) {
  throw SetupError(shown_ + " " + what + ": " + std::strerror(errno), kExitFailed);
}

void GgufOutput::write_header(const GgufFile& source, const std::vector<TensorChange>& tensors,
                              uint32_t file_type) {
  alignment_ = source.get_uint("general.alignment", kAlignmentDefault);
  std::string entries;
  uint64_t n_entries = 2;
  const RegularFile first(source.part_paths().front());
  for (const RawMetadata& entry : read_raw_metadata(first)) {
    if (is_dropped(entry.key)) continue;
    entries.append(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size());
    ++n_entries;
  }
  for (const auto& [key, value] :
       {std::pair<const char*, uint32_t>{"general.quantization_version", kQuantizationVersion},
        {"general.file_type", file_type}}) {
    put_string(entries, key);
    put(entries, kUint32);
    put(entries, value);
  }
  std::string header = "GGUF";
  put(header, kVersion);
  put<uint64_t>(header, tensors.size());
  put(header, n_entries);
  header += entries;
  uint64_t offset = 0;
  for (const TensorChange& change : tensors) {
    const TensorInfo& tensor = *change.tensor;
    put_string(header, tensor.name);
    put(header, static_cast<uint32_t>(tensor.dims.size()));
    for (int64_t dim : tensor.dims) put(header, dim);
    put(header, static_cast<uint32_t>(change.to));
    put(header, offset);
    const uint64_t bytes =
        format_of(change.to).row_bytes(tensor.cols()) * static_cast<uint64_t>(tensor.rows());
    offset += (bytes + alignment_ - 1) / alignment_ * alignment_;
  }
  write(std::as_bytes(std::span(header)));
  pad();
}

void GgufOutput::write(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;  // fwrite takes no null pointer
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail("could not be written");
  written_ += bytes.size();
}

void GgufOutput::pad() {
  const std::vector<std::byte> zeros((alignment_ - written_ % alignment_) % alignment_);
  write(zeros);
}

void GgufOutput::finish() {
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) fail("could not be written");
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) fail("could not be renamed");
  unfinished[0] = 0;
  std::fclose(file_);
  file_ = nullptr;
}

}  // namespace shoal
