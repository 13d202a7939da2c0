#include "model/gguf_header.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/printable.h"
#include "tensor/format.h"

namespace shoal {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMetadataMax = 65536;
constexpr uint64_t kTensorsMax = 65536;
constexpr uint64_t kKeyBytesMax = 65535;      // the format's own limit
constexpr uint64_t kTensorNameBytesMax = 63;  // ggml keeps 64 with the final NUL
constexpr uint64_t kAlignmentMin = 8, kAlignmentMax = uint64_t{1} << 20;
constexpr uint32_t kDimsMax = 4;
constexpr uint64_t kKeyBytesLeast = 8 + 4 + 1;             // length, type, one byte of value
constexpr uint64_t kTensorBytesLeast = 8 + 4 + 8 + 4 + 8;  // length, n_dims, one dim, type, offset

// Types of the format that Shoal does not compute with: named, so that a person knows what the file holds.
constexpr std::pair<uint32_t, const char*> kOtherTypes[] = {
    {4, "Q4_2"},      {5, "Q4_3"},      {9, "Q8_1"},   {15, "Q8_K"}, {24, "I8"},
    {25, "I16"},      {26, "I32"},      {27, "I64"},   {28, "F64"},  {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {40, "NVFP4"}, {41, "Q1_0"},
};

// gguf_metadata_value_type of the format.
enum class MetaType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

template <class Stored, class Wide>
MetaValue read_scalar(HeaderReader& in) {
  return static_cast<Wide>(in.read<Stored>());
}

template <class Stored, class Wide>
MetaValue read_numbers(HeaderReader& in) {
  const uint64_t count = in.read_count(sizeof(Stored), kArrayCountMax, "array entries");
  const std::byte* data = in.take(count * sizeof(Stored));
  std::vector<Wide> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, data + i * sizeof(Stored), sizeof(Stored));
    values[i] = static_cast<Wide>(value);
  }
  return values;
}

MetaValue read_strings(HeaderReader& in) {
  const uint64_t count = in.read_count(sizeof(uint64_t), kArrayCountMax, "strings");
  std::vector<std::string> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) values.push_back(in.read_string());
  return values;
}

MetaValue read_array(HeaderReader& in) {
  const uint32_t type = in.read<uint32_t>();
  switch (static_cast<MetaType>(type)) {
    case MetaType::kUint8:
      return read_numbers<uint8_t, uint64_t>(in);
    case MetaType::kInt8:
      return read_numbers<int8_t, int64_t>(in);
    case MetaType::kUint16:
      return read_numbers<uint16_t, uint64_t>(in);
    case MetaType::kInt16:
      return read_numbers<int16_t, int64_t>(in);
    case MetaType::kUint32:
      return read_numbers<uint32_t, uint64_t>(in);
    case MetaType::kInt32:
      return read_numbers<int32_t, int64_t>(in);
    case MetaType::kFloat32:
      return read_numbers<float, double>(in);
    case MetaType::kBool:
      return read_numbers<int8_t, bool>(in);
    case MetaType::kString:
      return read_strings(in);
    case MetaType::kArray:
      in.fail("is an array of arrays, which no known model uses");
    case MetaType::kUint64:
      return read_numbers<uint64_t, uint64_t>(in);
    case MetaType::kInt64:
      return read_numbers<int64_t, int64_t>(in);
    case MetaType::kFloat64:
      return read_numbers<double, double>(in);
  }
  in.fail("is an array of the unknown value type " + std::to_string(type) + " (known are 0 to 12)");
}

MetaValue read_value(HeaderReader& in) {
  const uint32_t type = in.read<uint32_t>();
  switch (static_cast<MetaType>(type)) {
    case MetaType::kUint8:
      return read_scalar<uint8_t, uint64_t>(in);
    case MetaType::kInt8:
      return read_scalar<int8_t, int64_t>(in);
    case MetaType::kUint16:
      return read_scalar<uint16_t, uint64_t>(in);
    case MetaType::kInt16:
      return read_scalar<int16_t, int64_t>(in);
    case MetaType::kUint32:
      return read_scalar<uint32_t, uint64_t>(in);
    case MetaType::kInt32:
      return read_scalar<int32_t, int64_t>(in);
    case MetaType::kFloat32:
      return read_scalar<float, double>(in);
    case MetaType::kBool:
      return read_scalar<int8_t, bool>(in);
    case MetaType::kString:
      return in.read_string();
    case MetaType::kArray:
      return read_array(in);
    case MetaType::kUint64:
      return read_scalar<uint64_t, uint64_t>(in);
    case MetaType::kInt64:
      return read_scalar<int64_t, int64_t>(in);
    case MetaType::kFloat64:
      return read_scalar<double, double>(in);
  }
  in.fail("has the unknown value type " + std::to_string(type) + " (known are 0 to 12)");
}

void read_metadata(HeaderReader& in, uint64_t count, std::map<std::string, MetaValue>& metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    in.set_context("metadata key number " + std::to_string(i));
    std::string key = in.read_string(kKeyBytesMax);
    if (key.empty()) in.fail("is empty");
    in.set_context("key " + in_quotes(key));
    MetaValue value = read_value(in);
    if (!metadata.emplace(std::move(key), std::move(value)).second) in.fail("occurs twice");
  }
}

uint64_t alignment_of(HeaderReader& in, const std::map<std::string, MetaValue>& metadata) {
  const auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return kAlignmentDefault;
  in.set_context("key 'general.alignment'");
  const auto* value = std::get_if<uint64_t>(&it->second);
  if (!value) in.fail("is not an unsigned integer");
  if (!std::has_single_bit(*value) || *value < kAlignmentMin || *value > kAlignmentMax) {
    in.fail("is " + std::to_string(*value) + "; it must be a power of two from " +
            std::to_string(kAlignmentMin) + " to " + std::to_string(kAlignmentMax));
  }
  return *value;
}

[[noreturn]] void refuse_type(const HeaderReader& in, uint32_t type) {
  std::string message = "has element type " + std::to_string(type);
  for (const auto& [other, name] : kOtherTypes) {
    if (other == type) message += " (" + std::string(name) + ")";
  }
  message += ", which Shoal does not compute; known are ";
  const std::vector<std::string> known = known_formats();
  for (size_t i = 0; i < known.size(); ++i) message += (i == 0 ? "" : ", ") + known[i];
  in.fail(message);
}

// Sets dims, type and bytes from the record; refuses shapes whose size does not fit in 63 bits.
void read_shape(HeaderReader& in, TensorInfo& tensor) {
  const uint32_t n_dims = in.read<uint32_t>();
  if (n_dims == 0 || n_dims > kDimsMax)
    in.fail("has " + std::to_string(n_dims) + " dimensions; 1 to 4 are possible");
  int64_t elements = 1;
  for (uint32_t d = 0; d < n_dims; ++d) {
    const int64_t size = in.read<int64_t>();
    if (size <= 0) in.fail("has dimension " + std::to_string(d) + " of size " + std::to_string(size));
    if (__builtin_mul_overflow(elements, size, &elements)) in.fail("has a shape whose size overflows");
    tensor.dims.push_back(size);
  }
  const uint32_t type = in.read<uint32_t>();
  const Format* format = find_format(type);
  if (!format) refuse_type(in, type);
  tensor.type = static_cast<TensorType>(type);
  if (tensor.dims[0] % format->block != 0) {
    in.fail("has rows of " + std::to_string(tensor.dims[0]) + " elements, not a multiple of the " +
            std::to_string(format->block) + " of a " + format->name + " block");
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / format->block, int64_t{format->block_bytes}, &bytes)) {
    in.fail("has a shape whose size overflows");
  }
  tensor.bytes = static_cast<uint64_t>(bytes);
}

void read_tensors(HeaderReader& in, uint64_t count, int part, uint64_t alignment,
                  std::vector<TensorInfo>& tensors) {
  std::set<std::string_view> names;
  tensors.reserve(count);  // so that the views into the names stay valid
  for (uint64_t i = 0; i < count; ++i) {
    in.set_context("tensor number " + std::to_string(i));
    TensorInfo& tensor = tensors.emplace_back();
    tensor.part = part;
    tensor.name = in.read_string(kTensorNameBytesMax);
    if (tensor.name.empty()) in.fail("has an empty name");
    in.set_context("tensor " + in_quotes(tensor.name));
    if (!names.insert(tensor.name).second) in.fail("occurs twice");
    read_shape(in, tensor);
    tensor.offset = in.read<uint64_t>();
    if (tensor.offset % alignment != 0) {
      in.fail("has offset " + std::to_string(tensor.offset) + ", not a multiple of the alignment " +
              std::to_string(alignment));
    }
  }
}

// Turns offsets from the start of the data into offsets from the start of the file, and requires each tensor
// to lie in the file and no two to overlap.
void place_tensors(HeaderReader& in, uint64_t alignment, std::vector<TensorInfo>& tensors) {
  const uint64_t file_bytes = in.position() + in.remaining();
  const uint64_t data = (in.position() + alignment - 1) / alignment * alignment;
  std::vector<const TensorInfo*> by_offset;
  for (TensorInfo& tensor : tensors) {
    in.set_context("tensor " + in_quotes(tensor.name));
    uint64_t end = 0;
    if (__builtin_add_overflow(tensor.offset, data, &tensor.offset) ||
        __builtin_add_overflow(tensor.offset, tensor.bytes, &end)) {
      in.fail("has an offset that overflows");
    }
    if (end > file_bytes) {
      in.fail("needs bytes " + std::to_string(tensor.offset) + " to " + std::to_string(end) +
              ", but the file ends at byte " + std::to_string(file_bytes) +
              ": it is truncated or corrupt; fetch it again");
    }
    by_offset.push_back(&tensor);
  }
  std::sort(by_offset.begin(), by_offset.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo& before = *by_offset[i - 1];
    if (before.offset + before.bytes <= by_offset[i]->offset) continue;
    in.set_context("tensor " + in_quotes(by_offset[i]->name));
    in.fail("overlaps tensor " + in_quotes(before.name));
  }
}

uint32_t read_version(HeaderReader& in, const RegularFile& file) {
  in.set_context("the GGUF magic");
  if (file.size() < sizeof kMagic) {
    throw SetupError(in_quotes(file.path(), 4096) + " is not a GGUF file: it has only " +
                     std::to_string(file.size()) + " bytes");
  }
  if (in.read<uint32_t>() != kMagic) {
    const auto start = in.consumed();
    throw SetupError(in_quotes(file.path(), 4096) + " is not a GGUF file: it starts with " +
                     in_quotes({reinterpret_cast<const char*>(start.data()), start.size()}) + ", not 'GGUF'");
  }
  in.set_context("the version");
  const uint32_t version = in.read<uint32_t>();
  in.set_context("the header");
  if (version == 2 || version == 3) return version;
  if (version == 1) in.fail("is of GGUF version 1, which is obsolete; get the model as version 2 or 3");
  if (version != 0 && (version & 0xFFFF) == 0) in.fail("is big-endian; Shoal reads little-endian GGUF files");
  in.fail("is of GGUF version " + std::to_string(version) + "; Shoal reads versions 2 and 3");
}

}  // namespace

GgufHeader read_gguf_header(const RegularFile& file, int part) {
  HeaderReader in(file);
  GgufHeader header;
  header.version = read_version(in, file);
  in.set_context("the tensor count");
  const uint64_t n_tensors = in.read_count(kTensorBytesLeast, kTensorsMax, "tensors");
  in.set_context("the metadata count");
  const uint64_t n_metadata = in.read_count(kKeyBytesLeast, kMetadataMax, "metadata keys");
  read_metadata(in, n_metadata, header.metadata);
  const uint64_t alignment = alignment_of(in, header.metadata);
  read_tensors(in, n_tensors, part, alignment, header.tensors);
  place_tensors(in, alignment, header.tensors);
  const auto bytes = in.consumed();
  header.bytes.assign(bytes.begin(), bytes.end());
  return header;
}

std::vector<RawMetadata> read_raw_metadata(const RegularFile& file) {
  HeaderReader in(file);
  read_version(in, file);
  in.set_context("the tensor count");
  in.read_count(kTensorBytesLeast, kTensorsMax, "tensors");
  in.set_context("the metadata count");
  const uint64_t count = in.read_count(kKeyBytesLeast, kMetadataMax, "metadata keys");
  std::vector<RawMetadata> entries;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t begin = in.position();
    in.set_context("metadata key number " + std::to_string(i));
    RawMetadata& entry = entries.emplace_back();
    entry.key = in.read_string(kKeyBytesMax);
    read_value(in);
    const auto bytes = in.consumed().subspan(begin);
    entry.bytes.assign(bytes.begin(), bytes.end());
  }
  return entries;
}

}  // namespace shoal
