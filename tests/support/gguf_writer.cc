#include "tests/support/gguf_writer.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "tests/support/temp_dir.h"

namespace shoal::test {

std::string GgufWriter::string(std::string_view text) {
  return pod(static_cast<uint64_t>(text.size())) + std::string(text);
}

void GgufWriter::set_strings(std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = pod(static_cast<uint32_t>(kMetaString)) + pod(static_cast<uint64_t>(values.size()));
  for (const std::string& value : values) bytes += string(value);
  set_raw(key, kMetaArray, std::move(bytes));
}

void GgufWriter::set_raw(std::string_view key, uint32_t type, std::string bytes) {
  for (Meta& meta : metadata_) {
    if (meta.key != key) continue;
    meta.type = type;
    meta.bytes = std::move(bytes);
    return;
  }
  add_duplicate_key(key, type, std::move(bytes));
}

void GgufWriter::add_duplicate_key(std::string_view key, uint32_t type, std::string bytes) {
  metadata_.push_back({std::string(key), type, std::move(bytes)});
}

void GgufWriter::erase(std::string_view key) {
  std::erase_if(metadata_, [&](const Meta& meta) { return meta.key == key; });
}

GgufWriter::Tensor& GgufWriter::add_tensor(std::string_view name, uint32_t type, std::vector<uint64_t> dims,
                                           std::string data) {
  return tensors.emplace_back(Tensor{std::string(name), std::move(dims), type, std::move(data), {}, {}});
}

GgufWriter::Tensor& GgufWriter::tensor(std::string_view name) {
  for (Tensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("the test's file has no tensor " + std::string(name));
}

void GgufWriter::erase_tensor(std::string_view name) {
  std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; });
}

std::string GgufWriter::bytes() const {
  const auto padded = [&](uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
  std::string out = magic + pod(version);
  out += pod(tensor_count.value_or(tensors.size())) + pod(metadata_count.value_or(metadata_.size()));
  for (const Meta& meta : metadata_) out += string(meta.key) + pod(meta.type) + meta.bytes;
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    out += string(tensor.name) + pod(tensor.n_dims.value_or(static_cast<uint32_t>(tensor.dims.size())));
    for (uint64_t dim : tensor.dims) out += pod(dim);
    out += pod(tensor.type) + pod(tensor.offset.value_or(offset));
    offset += padded(tensor.data.size());
  }
  for (const Tensor& tensor : tensors) {
    out.resize(padded(out.size()), '\0');
    out += tensor.data;
  }
  return out;
}

void GgufWriter::write(const std::string& path) const {
  write_file(path, bytes());
}

std::vector<std::string> GgufWriter::write_split(const std::string& prefix, int parts,
                                                 const std::function<void(int, GgufWriter&)>& edit) const {
  std::vector<std::string> paths;
  for (int p = 0; p < parts; ++p) {
    GgufWriter part(version);
    part.alignment = alignment;
    if (p == 0) part.metadata_ = metadata_;
    part.set_u16("split.no", static_cast<uint16_t>(p));
    part.set_u16("split.count", static_cast<uint16_t>(parts));
    part.set_i32("split.tensors.count", static_cast<int32_t>(tensors.size()));
    const size_t n = tensors.size(), begin = n * p / parts, end = n * (p + 1) / parts;
    part.tensors.assign(tensors.begin() + begin, tensors.begin() + end);
    if (edit) edit(p, part);
    char suffix[32];
    std::snprintf(suffix, sizeof suffix, "-%05d-of-%05d.gguf", p + 1, parts);
    part.write(paths.emplace_back(prefix + suffix));
  }
  return paths;
}

}  // namespace shoal::test
