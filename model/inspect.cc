#include "model/inspect.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <ostream>
#include <type_traits>

#include "base/error.h"
#include "base/printable.h"
#include "base/units.h"
#include "model/gguf_reader.h"
#include "model/model_config.h"
#include "tensor/format.h"

namespace shoal {
namespace {

constexpr size_t kTextShown = 72;    // bytes of a string value
constexpr size_t kEntriesShown = 6;  // of an array
constexpr size_t kEntryShown = 20;   // bytes of a string in an array

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

std::string entry_text(uint64_t value) {
  return std::to_string(value);
}
std::string entry_text(int64_t value) {
  return std::to_string(value);
}
std::string entry_text(double value) {
  return number_text(value);
}
std::string entry_text(bool value) {
  return value ? "true" : "false";
}
std::string entry_text(const std::string& value) {
  return in_quotes(value, kEntryShown);
}

template <class T>
std::string value_text(const T& value) {
  return entry_text(value);
}
std::string value_text(const std::string& value) {
  return in_quotes(value, kTextShown);
}
template <class T>
std::string value_text(const std::vector<T>& values) {
  std::string text = "[";
  for (size_t i = 0; i < std::min(values.size(), kEntriesShown); ++i) {
    text += (i == 0 ? "" : ", ") + entry_text(static_cast<T>(values[i]));
  }
  if (values.size() > kEntriesShown) text += ", ...";
  return text + "] (" + std::to_string(values.size()) + ")";
}

std::string shape_text(const TensorInfo& tensor) {
  std::string text;
  for (int64_t dim : tensor.dims) text += (text.empty() ? "" : " x ") + std::to_string(dim);
  return text;
}

void line(std::ostream& out, const char* label, const std::string& text) {
  char padded[32];
  std::snprintf(padded, sizeof padded, "%-14s", label);
  out << padded << text << '\n';
}

// "3" or "1 to 4" for a value that may differ between layers.
std::string range_text(const std::vector<int>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *low == *high ? std::to_string(*low) : std::to_string(*low) + " to " + std::to_string(*high);
}

std::string rope_text(const ModelConfig& config) {
  if (config.ropes.empty() || config.n_rot == 0) return "none";
  std::string text = std::to_string(config.n_rot) + " dimensions";
  for (const RopeScaling& rope : config.ropes) {
    text += std::string(&rope == config.ropes.data() ? ", base " : "; with a window base ") +
            number_text(rope.freq_base) +
            (rope.freq_scale != 1 ? ", scaled by " + number_text(rope.freq_scale) : "") +
            (rope.ramp_height != 0 ? " (yarn)" : "");
  }
  if (config.rope_factors) text += ", with factors";
  if (config.rope_factors_by_context) {
    text += ", with factors for up to " + std::to_string(config.n_ctx_original) + " tokens and for more";
  }
  const auto without = std::count(config.rope.begin(), config.rope.end(), kNoRope);
  return text + (without > 0 ? "; none in " + std::to_string(without) + " layers" : "");
}

std::string attention_text(const ModelConfig& config) {
  const auto all = std::count(config.window.begin(), config.window.end(), 0);
  if (all == std::ssize(config.window)) return "all positions";  // also of families that know no windows
  const int window = *std::max_element(config.window.begin(), config.window.end());
  return "the last " + std::to_string(window) + " positions" +
         (all > 0 ? ", all in " + std::to_string(all) + " layers" : "");
}

void print_model(const GgufFile& file, std::ostream& out) {
  try {
    const ModelConfig config = ModelConfig::from(file);
    line(out, "name", config.name);
    line(out, "architecture", config.arch->name);
    line(out, "layers",
         std::to_string(config.n_layer) +
             (config.encodes() ? ", " + std::to_string(config.n_encoder) + " of them an encoder's" : ""));
    line(out, "embedding", std::to_string(config.n_embd));
    line(out, "feed-forward", range_text(config.n_ff));
    if (config.n_expert > 0)
      line(out, "experts",
           std::to_string(config.n_expert) + ", of which a token asks " +
               std::to_string(config.n_expert_used));
    line(out, "heads",
         range_text(config.n_head) + " of " + std::to_string(config.head_dim_k) + ", " +
             range_text(config.n_head_kv) + " for keys and values");
    line(out, "rope", rope_text(config));
    line(out, "attention", attention_text(config));
    line(out, "context", std::to_string(config.n_ctx_train) + " tokens");
    line(out, "vocabulary", std::to_string(config.n_vocab) + " tokens");
    line(out, "output head", config.tied_output ? "the embedding (tied)" : "its own");
  } catch (const SetupError& error) {
    line(out, "not runnable", error.what());
  }
}

// What the file says about its tokenizer, whether or not Shoal has that one.
void print_tokenizer(const GgufFile& file, std::ostream& out) {
  const auto text_of = [&](const char* key) {
    const MetaValue* value = file.find(key);
    return value ? std::visit([](const auto& v) { return value_text(v); }, *value) : std::string("none");
  };
  const auto count_of = [&](const char* key) {
    const MetaValue* value = file.find(key);
    const auto* strings = value ? std::get_if<std::vector<std::string>>(value) : nullptr;
    return std::to_string(strings ? strings->size() : 0);
  };
  line(out, "tokenizer",
       text_of("tokenizer.ggml.model") + ", pre-tokenizer " + text_of("tokenizer.ggml.pre") + ", " +
           count_of("tokenizer.ggml.tokens") + " tokens, " + count_of("tokenizer.ggml.merges") + " merges");
  line(out, "special ids",
       "bos " + text_of("tokenizer.ggml.bos_token_id") + ", eos " + text_of("tokenizer.ggml.eos_token_id") +
           ", add bos " + text_of("tokenizer.ggml.add_bos_token"));
}

// The family's marker in the chat template; `shoal inspect --template` renders it.
void print_chat_template(const GgufFile& file, std::ostream& out) {
  const MetaValue* value = file.find("tokenizer.chat_template");
  const auto* text = value ? std::get_if<std::string>(value) : nullptr;
  if (!text) return line(out, "chat template", "none");
  for (const char* marker :
       {"<|im_start|>", "<|start_header_id|>", "<|assistant|>", "<start_of_turn>", "[INST]"}) {
    if (text->find(marker) == std::string::npos) continue;
    return line(out, "chat template", std::string("turns marked by ") + marker);
  }
  line(out, "chat template", "without a known marker: " + in_quotes(*text, kTextShown));
}

void print_tensors(const GgufFile& file, std::ostream& out) {
  struct Total {
    std::string type;
    size_t tensors = 0;
    uint64_t bytes = 0;
  };
  std::vector<Total> totals;
  size_t name_width = 4, shape_width = 5;
  for (const TensorInfo& tensor : file.tensors()) {
    name_width = std::max(name_width, printable(tensor.name).size());
    shape_width = std::max(shape_width, shape_text(tensor).size());
  }
  const auto padded = [](std::string text, size_t width) {
    return text.append(width - std::min(width, text.size()), ' ');
  };
  const bool split = file.part_paths().size() > 1;
  out << "\ntensors\n";
  for (const TensorInfo& tensor : file.tensors()) {
    const std::string type = format_of(tensor.type).name;
    auto total = std::find_if(totals.begin(), totals.end(), [&](const Total& t) { return t.type == type; });
    if (total == totals.end()) total = totals.insert(totals.end(), {type, 0, 0});
    ++total->tensors;
    total->bytes += tensor.bytes;
    out << "  " << padded(printable(tensor.name), name_width) << "  " << padded(type, 6) << "  "
        << padded(shape_text(tensor), shape_width) << "  " << tensor.bytes;
    if (split) out << "  part " << tensor.part + 1;
    out << '\n';
  }
  out << "\ntotals\n";
  std::sort(totals.begin(), totals.end(), [](const Total& a, const Total& b) { return a.bytes > b.bytes; });
  for (const Total& total : totals) {
    out << "  " << padded(total.type, 6) << "  " << padded(std::to_string(total.tensors) + " tensors", 14)
        << format_bytes(total.bytes) << '\n';
  }
}

}  // namespace

void inspect_model(const GgufFile& file, std::ostream& out) {
  const std::vector<std::string> parts = file.part_paths();
  line(out, "file", printable(file.path(), 4096));
  line(out, "format", "GGUF version " + std::to_string(file.version()));
  line(out, "size",
       format_bytes(file.total_bytes()) +
           (parts.size() > 1 ? " in " + std::to_string(parts.size()) + " parts" : ""));
  line(out, "fingerprint", file.fingerprint());
  print_model(file, out);
  print_tokenizer(file, out);
  print_chat_template(file, out);
  out << "\nmetadata\n";
  for (const auto& [key, value] : file.metadata()) {
    out << "  " << printable(key) << " = " << std::visit([](const auto& v) { return value_text(v); }, value)
        << '\n';
  }
  print_tensors(file, out);
}

}  // namespace shoal
