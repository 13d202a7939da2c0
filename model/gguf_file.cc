#include "model/gguf_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/printable.h"
#include "model/gguf_header.h"
#include "model/gguf_reader.h"
#include "model/sha256.h"

namespace shoal {

constexpr size_t kSampleBytes = 256;  // read at each of two places in every tensor, for the fingerprint

struct GgufFile::Part {
  explicit Part(RegularFile opened) : file(std::move(opened)) {}
  RegularFile file;
};

namespace {

constexpr uint64_t kPartsMax = 512;  // each keeps a file descriptor

constexpr const char* kSplitCount = "split.count";
constexpr const char* kSplitNumber = "split.no";
constexpr const char* kSplitTensors = "split.tensors.count";

std::string number5(uint64_t n) {
  std::string digits = std::to_string(n);
  return digits.size() < 5 ? std::string(5 - digits.size(), '0') + digits : digits;
}

// "PREFIX-00002-of-00003.gguf" -> prefix, 2 and 3; count 0 when the name is of another form.
struct SplitName {
  std::string prefix;
  uint64_t number = 0, count = 0;

  static SplitName parse(const std::string& path);
  std::string part(uint64_t n) const { return prefix + "-" + number5(n) + "-of-" + number5(count) + ".gguf"; }
};

SplitName SplitName::parse(const std::string& path) {
  constexpr std::string_view kForm = "-ddddd-of-ddddd.gguf";
  if (path.size() <= kForm.size()) return {};
  const size_t start = path.size() - kForm.size();
  SplitName name;
  for (size_t i = 0; i < kForm.size(); ++i) {
    const char c = path[start + i];
    const bool digit_wanted = kForm[i] == 'd';
    if (digit_wanted ? (c < '0' || c > '9') : c != kForm[i]) return {};
    if (digit_wanted) {
      uint64_t& value = i < kForm.find("-of-") ? name.number : name.count;
      value = value * 10 + static_cast<uint64_t>(c - '0');
    }
  }
  name.prefix = path.substr(0, start);
  return name;
}

// A non-negative integer of either signedness.
bool as_uint(const MetaValue& value, uint64_t& out) {
  if (const auto* u = std::get_if<uint64_t>(&value)) {
    out = *u;
    return true;
  }
  if (const auto* i = std::get_if<int64_t>(&value); i && *i >= 0) {
    out = static_cast<uint64_t>(*i);
    return true;
  }
  return false;
}

uint64_t split_value(const GgufHeader& header, const std::string& path, const char* key, uint64_t fallback) {
  const auto it = header.metadata.find(key);
  if (it == header.metadata.end()) return fallback;
  uint64_t value = 0;
  if (!as_uint(it->second, value)) {
    throw SetupError(in_quotes(path, 4096) + ": key '" + key + "' is not a non-negative integer");
  }
  return value;
}

// Whether the file's name and its keys agree about the split; the split's name if it is one.
SplitName check_split(const std::string& path, const GgufHeader& header) {
  const SplitName name = SplitName::parse(path);
  const uint64_t count = split_value(header, path, kSplitCount, 1);
  if (count <= 1 && name.count <= 1) return {};
  const std::string file = in_quotes(path, 4096);
  if (name.count == 0) {
    throw SetupError(file + " is one part of a model split into " + std::to_string(count) +
                     ", but its name does not end in -00001-of-" + number5(count) +
                     ".gguf: give all parts the names they were published under");
  }
  const uint64_t number = split_value(header, path, kSplitNumber, 0);
  if (count != name.count || name.number == 0 || number != name.number - 1) {
    throw SetupError(file + ": its name says part " + std::to_string(name.number) + " of " +
                     std::to_string(name.count) + ", its keys split.no and split.count say part " +
                     std::to_string(number + 1) + " of " + std::to_string(count));
  }
  if (count > kPartsMax) {
    throw SetupError(file + ": split into " + std::to_string(count) + " parts; the limit is " +
                     std::to_string(kPartsMax));
  }
  return name;
}

}  // namespace

int64_t TensorInfo::rows() const {
  int64_t rows = 1;
  for (size_t i = 1; i < dims.size(); ++i) rows *= dims[i];
  return rows;
}

GgufFile GgufFile::open(const std::string& path) {
  GgufFile model;
  Sha256Hasher digest;
  const auto add_to_digest = [&](std::span<const std::byte> bytes, uint64_t of) {
    const uint64_t sizes[2] = {bytes.size(), of};
    digest.add(std::as_bytes(std::span(sizes)));
    digest.add(bytes);
  };
  const auto add_part = [&](const std::string& part_path) {
    GgufHeader header = model.add_part(std::make_shared<Part>(RegularFile(part_path)));
    add_to_digest(header.bytes, model.parts_.back()->file.size());
    return header;
  };

  model.path_ = path;
  const SplitName by_name = SplitName::parse(path);
  // All metadata but the split's own is in the first part, so that one is read first whichever was named.
  const std::string first_path = by_name.count > 1 ? by_name.part(1) : path;
  GgufHeader first = add_part(first_path);
  const SplitName split = check_split(first_path, first);
  const uint64_t tensors_wanted = split_value(first, first_path, kSplitTensors, 0);
  if (by_name.number > std::max<uint64_t>(split.count, 1)) {
    throw SetupError(in_quotes(path, 4096) + ": no part of that number can exist; the model has " +
                     std::to_string(std::max<uint64_t>(split.count, 1)));
  }
  for (uint64_t n = 2; n <= split.count; ++n) {
    try {
      check_split(split.part(n), add_part(split.part(n)));
    } catch (const SetupError& error) {
      throw SetupError(std::string(error.what()) + " (needed as part " + std::to_string(n) + " of " +
                       std::to_string(split.count) + " of " + in_quotes(path, 4096) + ")");
    }
  }
  if (split.count > 1 && first.metadata.count(kSplitTensors) != 0 &&
      tensors_wanted != model.tensors_.size()) {
    throw SetupError(in_quotes(path, 4096) + ": key split.tensors.count says " +
                     std::to_string(tensors_wanted) + " tensors, the parts hold " +
                     std::to_string(model.tensors_.size()));
  }
  model.version_ = first.version;
  model.metadata_ = std::move(first.metadata);
  // A model fine-tuned from another can have the same header: some bytes of each tensor tell them apart, few
  // enough that opening stays quick on a slow disk.
  std::array<std::byte, kSampleBytes> sample;
  for (const TensorInfo& tensor : model.tensors_) {
    for (const uint64_t part : {1, 2}) {  // a third and two thirds into the tensor
      const uint64_t at = tensor.bytes / 3 * part;
      const std::span<std::byte> bytes(sample.data(), std::min<uint64_t>(kSampleBytes, tensor.bytes - at));
      model.read(tensor, at, bytes);
      add_to_digest(bytes, tensor.bytes);
    }
  }
  model.fingerprint_ = to_hex(digest.finish());
  return model;
}

GgufFile GgufFile::from_header(const std::string& name, std::vector<std::byte> first_bytes,
                               uint64_t file_bytes) {
  GgufFile model;
  model.path_ = name;
  GgufHeader header =
      model.add_part(std::make_shared<Part>(RegularFile(name, std::move(first_bytes), file_bytes)));
  model.version_ = header.version;
  model.metadata_ = std::move(header.metadata);
  return model;
}

// Takes over the tensors of one more part; what is left of its header.
GgufHeader GgufFile::add_part(std::shared_ptr<Part> part) {
  GgufHeader header = read_gguf_header(part->file, static_cast<int>(parts_.size()));
  for (TensorInfo& tensor : header.tensors) {
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
      throw SetupError(in_quotes(part->file.path(), 4096) + ": tensor " + in_quotes(tensor.name) +
                       " occurs twice");
    }
    tensors_.push_back(std::move(tensor));
  }
  header.tensors.clear();
  parts_.push_back(std::move(part));
  return header;
}

void GgufFile::require_unchanged() const {
  for (const auto& part : parts_) part->file.require_unchanged();
}

std::string GgufFile::stamp() const {
  std::string all;
  for (const auto& part : parts_) {
    const std::string one = part->file.stamp();
    if (one.empty()) return "";
    all += one;
  }
  return all;
}

uint64_t GgufFile::total_bytes() const {
  uint64_t total = 0;
  for (const auto& part : parts_) total += part->file.size();
  return total;
}

std::vector<std::string> GgufFile::part_paths() const {
  std::vector<std::string> paths;
  for (const auto& part : parts_) paths.push_back(part->file.path());
  return paths;
}

const TensorInfo* GgufFile::find_tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const TensorInfo& GgufFile::tensor(std::string_view name) const {
  const TensorInfo* found = find_tensor(name);
  if (!found) throw SetupError(in_quotes(path_, 4096) + ": tensor " + in_quotes(name) + " is missing");
  return *found;
}

const MetaValue* GgufFile::find(const std::string& key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

namespace {

const MetaValue& present(const GgufFile& file, const MetaValue* value, const std::string& key) {
  if (!value) throw SetupError(in_quotes(file.path(), 4096) + ": key " + in_quotes(key) + " is missing");
  return *value;
}

[[noreturn]] void wrong_type(const GgufFile& file, const std::string& key, const char* wanted) {
  throw SetupError(in_quotes(file.path(), 4096) + ": key " + in_quotes(key) + " is not " + wanted);
}

}  // namespace

uint64_t GgufFile::get_uint(const std::string& key) const {
  uint64_t value = 0;
  if (!as_uint(present(*this, find(key), key), value)) wrong_type(*this, key, "a non-negative integer");
  return value;
}

uint64_t GgufFile::get_uint(const std::string& key, uint64_t fallback) const {
  return find(key) ? get_uint(key) : fallback;
}

double GgufFile::get_float(const std::string& key, double fallback) const {
  const MetaValue* value = find(key);
  if (!value) return fallback;
  if (const auto* number = std::get_if<double>(value)) {
    if (!std::isfinite(*number)) wrong_type(*this, key, "a finite number");
    return *number;
  }
  if (const auto* u = std::get_if<uint64_t>(value)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(value)) return static_cast<double>(*i);
  wrong_type(*this, key, "a number");
}

bool GgufFile::get_bool(const std::string& key, bool fallback) const {
  const MetaValue* value = find(key);
  if (!value) return fallback;
  const auto* flag = std::get_if<bool>(value);
  if (!flag) wrong_type(*this, key, "a boolean");
  return *flag;
}

std::string GgufFile::get_string(const std::string& key) const {
  const auto* text = std::get_if<std::string>(&present(*this, find(key), key));
  if (!text) wrong_type(*this, key, "a string");
  return *text;
}

std::string GgufFile::get_string(const std::string& key, const std::string& fallback) const {
  return find(key) ? get_string(key) : fallback;
}

std::vector<uint64_t> GgufFile::get_uint_per_layer(const std::string& key, size_t n_layer) const {
  const MetaValue& value = present(*this, find(key), key);
  uint64_t number = 0;
  if (as_uint(value, number)) return std::vector<uint64_t>(n_layer, number);
  std::vector<uint64_t> numbers;
  if (const auto* u = std::get_if<std::vector<uint64_t>>(&value)) {
    numbers = *u;
  } else if (const auto* i = std::get_if<std::vector<int64_t>>(&value)) {
    if (std::any_of(i->begin(), i->end(), [](int64_t n) { return n < 0; })) {
      wrong_type(*this, key, "an array of non-negative integers");
    }
    numbers.assign(i->begin(), i->end());
  } else {
    wrong_type(*this, key, "a non-negative integer or an array of them");
  }
  if (numbers.size() != n_layer) {
    throw SetupError(in_quotes(path_, 4096) + ": key " + in_quotes(key) + " has " +
                     std::to_string(numbers.size()) + " entries for " + std::to_string(n_layer) + " layers");
  }
  return numbers;
}

void GgufFile::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
  SHOAL_CHECK(tensor.part >= 0 && static_cast<size_t>(tensor.part) < parts_.size());
  SHOAL_CHECK(offset <= tensor.bytes && out.size() <= tensor.bytes - offset);
  parts_[static_cast<size_t>(tensor.part)]->file.read_at(tensor.offset + offset, out);
}

void GgufFile::expect(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const {
  SHOAL_CHECK(tensor.part >= 0 && static_cast<size_t>(tensor.part) < parts_.size());
  SHOAL_CHECK(offset <= tensor.bytes && bytes <= tensor.bytes - offset);
  parts_[static_cast<size_t>(tensor.part)]->file.expect(tensor.offset + offset, bytes);
}

}  // namespace shoal
