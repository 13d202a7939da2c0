#include "node/pull/model_name.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "base/check.h"

namespace shoal {

extern const char* const kKnownModelsYaml;  // configs/models.yaml

namespace {

constexpr size_t kNameBytesMax = 96, kPathBytesMax = 512;

bool is_part_of_name(std::string_view text) {
  return !text.empty() && text.size() <= kNameBytesMax && text.front() != '.' && text.front() != '-' &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
}

std::string upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::toupper(c); });
  return out;
}

bool all_digits(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// Q8_0, Q4_K_M, IQ4_XS, TQ1_0, Q4_K_XL, F16, BF16, F32, FP16, MXFP4.
bool is_quant(std::string_view text) {
  for (std::string_view whole : {"F16", "BF16", "F32", "FP16", "FP32", "MXFP4"}) {
    if (text == whole) return true;
  }
  for (std::string_view start : {"IQ", "TQ", "Q"}) {
    if (!text.starts_with(start)) continue;
    const std::string_view rest = text.substr(start.size());
    return rest.size() >= 1 && std::isdigit(static_cast<unsigned char>(rest.front())) &&
           std::all_of(rest.begin(), rest.end(),
                       [](unsigned char c) { return std::isupper(c) || std::isdigit(c) || c == '_'; });
  }
  return false;
}

// The last component of a stem that is a quant: what follows the last '-' or '.', which no quant holds, with
// the mark "UD-" of mixtures by layer.
std::string quant_at_end(std::string_view stem) {
  const std::string text = upper(stem);
  const size_t cut = text.find_last_of("-.");
  std::string last = cut == std::string::npos ? text : text.substr(cut + 1);
  if (!is_quant(last)) return {};
  if (cut != std::string::npos && std::string_view(text).substr(0, cut).ends_with("UD"))
    last.insert(0, "UD-");
  return last;
}

}  // namespace

std::string ModelName::text() const {
  if (!file.empty()) return repository() + "/" + file;
  return quant.empty() ? repository() : repository() + ":" + quant;
}

bool ends_in_gguf(std::string_view path) {
  return path.size() > 5 && upper(path.substr(path.size() - 5)) == ".GGUF";
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > kPathBytesMax) return false;
  if (std::any_of(path.begin(), path.end(),
                  [](unsigned char c) { return c < ' ' || c >= 0x7f || c == '\\'; }))
    return false;
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string_view component = path.substr(start, end - start);
    if (component.empty() || component.front() == '.' || component.size() > 255) return false;
    start = end + 1;
  }
  return true;
}

std::optional<ModelName> parse_model_name(std::string_view text) {
  ModelName name;
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  name.user = text.substr(0, slash);
  std::string_view rest = text.substr(slash + 1);
  if (const size_t file = rest.find('/'); file != std::string_view::npos) {
    name.file = rest.substr(file + 1);
    if (!is_safe_path(name.file) || !ends_in_gguf(name.file)) return std::nullopt;
    rest = rest.substr(0, file);
  } else if (const size_t colon = rest.find(':'); colon != std::string_view::npos) {
    if (!is_part_of_name(rest.substr(colon + 1))) return std::nullopt;
    name.quant = upper(rest.substr(colon + 1));
    rest = rest.substr(0, colon);
  } else if (ends_in_gguf(rest)) {
    return std::nullopt;  // "models/x.gguf"
  }
  name.repo = rest;
  if (!is_part_of_name(name.user) || !is_part_of_name(name.repo)) return std::nullopt;
  return name;
}

PartName part_name(std::string_view path) {
  PartName part;
  if (ends_in_gguf(path)) path.remove_suffix(5);
  part.stem = path;
  // "-00002-of-00003", as llama.cpp writes it.
  constexpr size_t kTail = 15;
  if (path.size() <= kTail) return part;
  const std::string_view tail = path.substr(path.size() - kTail);
  if (tail[0] != '-' || !all_digits(tail.substr(1, 5)) || tail.substr(6, 4) != "-of-" ||
      !all_digits(tail.substr(10)))
    return part;
  int number = 0, parts = 0;
  std::from_chars(tail.data() + 1, tail.data() + 6, number);
  std::from_chars(tail.data() + 10, tail.data() + 15, parts);
  if (number < 1 || number > parts) return part;  // it only looks like a part
  part.part = number, part.parts = parts;
  part.stem = path.substr(0, path.size() - kTail);
  return part;
}

std::string quant_of(std::string_view path) {
  const std::string stem = part_name(path).stem;
  const size_t slash = stem.rfind('/');
  if (slash == std::string::npos) return quant_at_end(stem);
  const std::string own = quant_at_end(stem.substr(slash + 1));
  return own.empty() ? quant_at_end(stem.substr(0, slash)) : own;
}

const std::vector<KnownModel>& known_models() {
  static const std::vector<KnownModel> models = [] {
    std::vector<KnownModel> list;
    for (const auto& entry : YAML::Load(kKnownModelsYaml)) {
      const YAML::Node& model = entry.second;
      list.push_back({entry.first.as<std::string>(),
                      model["repo"].as<std::string>() + ":" + model["quant"].as<std::string>(),
                      model["size"].as<std::string>(), model["licence"].as<std::string>(),
                      model["context"].as<int>()});
      SHOAL_CHECK(parse_model_name(list.back().name).has_value());
    }
    return list;
  }();
  return models;
}

std::optional<ModelName> model_name_of(std::string_view text) {
  for (const KnownModel& model : known_models()) {
    if (model.alias == text) return parse_model_name(model.name);
  }
  return parse_model_name(text);
}

}  // namespace shoal
