// Reads VocabData from a GGUF file's metadata.
#include "base/error.h"
#include "base/printable.h"
#include "model/gguf_reader.h"
#include "model/tokenizer.h"
#include "model/vocabulary.h"

namespace shoal {
namespace {

[[noreturn]] void wrong_type(const GgufFile& file, const std::string& name, const char* expected) {
  throw SetupError(file.path() + ": metadata key " + name + " is not " + expected);
}

std::vector<std::string> read_strings(const GgufFile& file, const std::string& name, bool required) {
  const MetaValue* value = file.find(name);
  if (value == nullptr) {
    if (!required) return {};
    throw SetupError(file.path() + ": metadata key " + name +
                     " is missing: the file has no usable tokenizer");
  }
  if (const auto* strings = std::get_if<std::vector<std::string>>(value)) return *strings;
  wrong_type(file, name, "an array of strings");
}

// Calls visit(x) with each number of an array of any numeric type; nothing if the key is absent.
template <class Visit>
void for_each_number(const GgufFile& file, const std::string& name, Visit visit) {
  const MetaValue* value = file.find(name);
  if (value == nullptr) return;
  if (const auto* v = std::get_if<std::vector<double>>(value)) {
    for (const double x : *v) visit(x);
  } else if (const auto* v = std::get_if<std::vector<int64_t>>(value)) {
    for (const int64_t x : *v) visit(static_cast<double>(x));
  } else if (const auto* v = std::get_if<std::vector<uint64_t>>(value)) {
    for (const uint64_t x : *v) visit(static_cast<double>(x));
  } else {
    wrong_type(file, name, "an array of numbers");
  }
}

int64_t read_id(const GgufFile& file, const char* suffix) {
  const std::string name = vocabulary_key(suffix);
  const MetaValue* value = file.find(name);
  if (value == nullptr) return -1;
  if (const auto* id = std::get_if<uint64_t>(value); id != nullptr && *id <= INT32_MAX)
    return static_cast<int64_t>(*id);
  if (const auto* id = std::get_if<int64_t>(value); id != nullptr && *id >= -1 && *id <= INT32_MAX)
    return *id;
  // Written by some converters for "none".
  if (const auto* id = std::get_if<uint64_t>(value); id != nullptr && *id == UINT32_MAX) return -1;
  wrong_type(file, name, "a token id");
}

int read_flag(const GgufFile& file, const char* suffix) {
  const std::string name = vocabulary_key(suffix);
  return file.find(name) == nullptr ? -1 : static_cast<int>(file.get_bool(name, false));
}

// Phi-3 with its first tokenizer: by name, as llama.cpp tells it, and by architecture, as names are changed.
bool is_phi3(const GgufFile& file, const VocabData& data) {
  if (data.model != "llama") return false;
  std::string name = file.get_string("general.name", "");
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos ||
         file.get_string("general.architecture", "") == "phi3";
}

}  // namespace

VocabData VocabData::read(const GgufFile& file) {
  VocabData data;
  data.model = file.get_string(vocabulary_key("model"));
  data.pre = file.get_string(vocabulary_key("pre"), "");
  data.tokens = read_strings(file, vocabulary_key("tokens"), true);
  data.merges = read_strings(file, vocabulary_key("merges"), data.model == "gpt2");
  for_each_number(file, vocabulary_key("scores"),
                  [&](double x) { data.scores.push_back(static_cast<float>(x)); });
  for_each_number(file, vocabulary_key("token_type"), [&](double x) {
    const bool known = x >= 0 && x <= static_cast<double>(TokenType::kByte);
    data.types.push_back(known ? static_cast<TokenType>(static_cast<int>(x)) : TokenType::kUndefined);
  });
  data.bos = read_id(file, "bos_token_id");
  data.eos = read_id(file, "eos_token_id");
  data.eot = read_id(file, "eot_token_id");
  data.eom = read_id(file, "eom_token_id");
  data.unknown = read_id(file, "unknown_token_id");
  data.separator = read_id(file, "seperator_token_id");
  data.padding = read_id(file, "padding_token_id");
  if (data.bos < 0 && data.model == "bert") data.bos = read_id(file, "cls_token_id");
  data.add_bos = read_flag(file, "add_bos_token");
  data.add_eos = read_flag(file, "add_eos_token");
  data.add_sep = read_flag(file, "add_sep_token");
  data.add_space_prefix = read_flag(file, "add_space_prefix");
  data.remove_extra_whitespaces = read_flag(file, "remove_extra_whitespaces");
  data.lower_case = read_flag(file, "normalizer.lowercase");
  data.strip_accents = read_flag(file, "normalizer.strip_accents");
  data.strips_after_control = is_phi3(file, data);
  for_each_number(file, vocabulary_key("precompiled_charsmap"),
                  [&](double x) { data.charsmap += static_cast<char>(static_cast<int>(x)); });
  return data;
}

Tokenizer Tokenizer::from(const GgufFile& file) {
  try {
    return Tokenizer::from(VocabData::read(file));
  } catch (const SetupError& error) {  // what the vocabulary itself says names keys and tokens
    const std::string path = in_quotes(file.path(), 4096), what = error.what();
    throw SetupError(what.find(path) == std::string::npos ? path + ": " + what : what, error.exit_code());
  }
}

}  // namespace shoal
