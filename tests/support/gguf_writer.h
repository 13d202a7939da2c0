// Writes GGUF files of version 2 or 3 for tests: whole or split, correct unless a corruption hook is used.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor_type.h"

namespace shoal::test {

// gguf_metadata_value_type of the format.
enum MetaTypeId : uint32_t {
  kMetaU8,
  kMetaI8,
  kMetaU16,
  kMetaI16,
  kMetaU32,
  kMetaI32,
  kMetaF32,
  kMetaBool,
  kMetaString,
  kMetaArray,
  kMetaU64,
  kMetaI64,
  kMetaF64,
};

class GgufWriter {
 public:
  // A record of the tensor table. Fields may be changed before bytes() to make a file wrong.
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // GGUF order
    uint32_t type;
    std::string data;
    std::optional<uint64_t> offset;  // instead of the right one, relative to the start of the data
    std::optional<uint32_t> n_dims;  // instead of dims.size()
  };

  explicit GgufWriter(uint32_t version = 3) : version(version) {}

  // Metadata in the order added; a key set again replaces its value.
  void set_u8(std::string_view key, uint8_t v) { set_raw(key, kMetaU8, pod(v)); }
  void set_i8(std::string_view key, int8_t v) { set_raw(key, kMetaI8, pod(v)); }
  void set_u16(std::string_view key, uint16_t v) { set_raw(key, kMetaU16, pod(v)); }
  void set_i16(std::string_view key, int16_t v) { set_raw(key, kMetaI16, pod(v)); }
  void set_u32(std::string_view key, uint32_t v) { set_raw(key, kMetaU32, pod(v)); }
  void set_i32(std::string_view key, int32_t v) { set_raw(key, kMetaI32, pod(v)); }
  void set_u64(std::string_view key, uint64_t v) { set_raw(key, kMetaU64, pod(v)); }
  void set_i64(std::string_view key, int64_t v) { set_raw(key, kMetaI64, pod(v)); }
  void set_f32(std::string_view key, float v) { set_raw(key, kMetaF32, pod(v)); }
  void set_f64(std::string_view key, double v) { set_raw(key, kMetaF64, pod(v)); }
  void set_bool(std::string_view key, bool v) { set_raw(key, kMetaBool, pod(static_cast<uint8_t>(v))); }
  void set_string(std::string_view key, std::string_view v) { set_raw(key, kMetaString, string(v)); }
  void set_strings(std::string_view key, const std::vector<std::string>& values);
  template <class T>
  void set_array(std::string_view key, uint32_t element_type, const std::vector<T>& values) {
    std::string bytes = pod(element_type) + pod(static_cast<uint64_t>(values.size()));
    for (const T& v : values) bytes += pod(v);
    set_raw(key, kMetaArray, bytes);
  }
  // Any value type and any bytes: for values that lie.
  void set_raw(std::string_view key, uint32_t type, std::string bytes);
  void add_duplicate_key(std::string_view key, uint32_t type, std::string bytes);
  void erase(std::string_view key);

  // `data` must have the size of the type and shape unless the file is meant to be wrong.
  Tensor& add_tensor(std::string_view name, uint32_t type, std::vector<uint64_t> dims, std::string data);
  Tensor& add_tensor(std::string_view name, TensorType type, std::vector<uint64_t> dims, std::string data) {
    return add_tensor(name, static_cast<uint32_t>(type), std::move(dims), std::move(data));
  }
  Tensor& tensor(std::string_view name);
  void erase_tensor(std::string_view name);

  std::string bytes() const;  // of one whole file, ending with the last tensor's last byte
  void write(const std::string& path) const;
  // PREFIX-00001-of-0000N.gguf and so on, tensors dealt out in order; returns the paths. `edit` may spoil a
  // part.
  std::vector<std::string> write_split(const std::string& prefix, int parts,
                                       const std::function<void(int part, GgufWriter&)>& edit = {}) const;

  static std::string string(std::string_view text);  // length and bytes
  template <class T>
  static std::string pod(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }

  // Corruption hooks: values written instead of the right ones.
  std::string magic = "GGUF";
  uint32_t version;
  uint64_t alignment = 32;  // of the data; not written as a key unless set
  std::optional<uint64_t> tensor_count, metadata_count;
  std::vector<Tensor> tensors;

 private:
  struct Meta {
    std::string key;
    uint32_t type;
    std::string bytes;
  };
  std::vector<Meta> metadata_;
};

}  // namespace shoal::test
