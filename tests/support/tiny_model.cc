#include "tests/support/tiny_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>

namespace shoal::test {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// In [-1, 1).
float next_unit(uint64_t& state) {
  return static_cast<float>(static_cast<int64_t>(next_random(state)) >> 40) * 0x1p-23f;
}

// binary16 of a float below 65504 in magnitude, rounded to nearest even.
uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::fabs(value);
  // Below the least normal half, the unit is 2^-24 for all values.
  if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  const uint32_t rounded = (bits & 0x7FFFFFFFu) + 0xFFFu + (bits >> 13 & 1u);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}

uint16_t to_bfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// A block of random bytes is a block of random integers; only its f16 scales must be chosen. Where they lie,
// the standard deviation of the integers they multiply, and for formats with a minimum, which multiple of the
// scale centres the values.
constexpr int kExponent = -1;   // MXFP4: a power of two in byte 0
constexpr int kScattered = -2;  // IQ1_M: a nibble in the top of each of the last four 16-bit fields
struct BlockShape {
  TensorType type;
  int elements, bytes;
  int scale_at;  // where the half is, or kExponent, kScattered
  float spread;
  int min_at;        // -1: none
  float min_factor;  // the minimum's scale over the scale
};

// Spread: uniform integers of b bits deviate by 2^b / sqrt(12). K formats multiply by 4 or 6-bit sub-scales,
// whose square's mean enters; the figures are rounded, the purpose is only that hidden states neither vanish
// nor explode.
constexpr BlockShape kBlocks[] = {
    {TensorType::kQ4_0, 32, 18, 0, 4.6f, -1, 0},
    {TensorType::kQ4_1, 32, 20, 0, 4.6f, 2, -7.5f},
    {TensorType::kQ5_0, 32, 22, 0, 9.2f, -1, 0},
    {TensorType::kQ5_1, 32, 24, 0, 9.2f, 2, -15.5f},
    {TensorType::kQ8_0, 32, 34, 0, 74.f, -1, 0},
    {TensorType::kIQ4_NL, 32, 18, 0, 70.f, -1, 0},
    {TensorType::kQ2_K, 256, 84, 80, 13.f, 82, 1.5f},
    {TensorType::kQ3_K, 256, 110, 108, 43.f, -1, 0},
    {TensorType::kQ4_K, 256, 144, 0, 280.f, 2, 7.5f},
    {TensorType::kQ5_K, 256, 176, 0, 560.f, 2, 15.5f},
    {TensorType::kQ6_K, 256, 210, 208, 1370.f, -1, 0},
    {TensorType::kIQ4_XS, 256, 136, 0, 1300.f, -1, 0},
    {TensorType::kIQ3_S, 256, 110, 0, 170.f, -1, 0},
    {TensorType::kIQ3_XXS, 256, 98, 0, 166.f, -1, 0},
    {TensorType::kIQ2_S, 256, 82, 0, 51.f, -1, 0},
    {TensorType::kIQ2_XS, 256, 74, 0, 51.f, -1, 0},
    {TensorType::kIQ2_XXS, 256, 66, 0, 51.f, -1, 0},
    {TensorType::kIQ1_S, 256, 50, 0, 7.5f, -1, 0},
    {TensorType::kIQ1_M, 256, 56, kScattered, 7.5f, -1, 0},
    {TensorType::kMXFP4, 32, 17, kExponent, 5.9f, -1, 0},
    {TensorType::kTQ1_0, 256, 54, 52, 0.8f, -1, 0},
    {TensorType::kTQ2_0, 256, 66, 64, 1.2f, -1, 0},
};

std::string random_blocks(const BlockShape& shape, uint64_t n, float deviation, uint64_t& state) {
  if (n % shape.elements != 0)
    throw std::runtime_error("a tiny model's row is not a multiple of its type's block");
  std::string out(n / shape.elements * shape.bytes, '\0');
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(next_random(state) >> 56);
  for (size_t block = 0; block < out.size(); block += shape.bytes) {
    const float scale = deviation / shape.spread * (1 + 0.25f * next_unit(state));
    if (shape.scale_at == kExponent) {
      out[block] = static_cast<char>(std::lround(128 + std::log2(scale)));
    } else if (shape.scale_at == kScattered) {
      for (int i = 0; i < 4; ++i) {
        char& top = out[block + shape.bytes - 7 + 2 * i];
        top = static_cast<char>((top & 15) | ((to_half(scale) >> (4 * i) & 15) << 4));
      }
    } else {
      out.replace(block + shape.scale_at, 2, GgufWriter::pod(to_half(scale)));
    }
    if (shape.min_at >= 0)
      out.replace(block + shape.min_at, 2, GgufWriter::pod(to_half(scale * shape.min_factor)));
  }
  return out;
}

// The printable stand-in of a byte in byte-level BPE (GPT-2's bytes_to_unicode), as UTF-8.
std::string byte_symbol(int byte) {
  const auto shown = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!shown(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += !shown(b);
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

struct Vocabulary {
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
};

// Control tokens, the 256 bytes, then merges: space and letter, two letters, three letters.
Vocabulary make_vocabulary(int n_vocab) {
  constexpr int32_t kNormal = 1, kControl = 3;
  Vocabulary v;
  v.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  v.types.assign(v.tokens.size(), kControl);
  for (int byte = 0; byte < 256; ++byte) v.tokens.push_back(byte_symbol(byte));
  const size_t wanted = static_cast<size_t>(n_vocab);
  if (wanted < v.tokens.size()) throw std::runtime_error("a tiny model needs at least 259 tokens");
  std::vector<std::string> letters, pairs;
  for (char c = 'a'; c <= 'z'; ++c) letters.emplace_back(1, c);
  const auto merge_all = [&](const std::vector<std::string>& left, std::vector<std::string>* made) {
    for (const std::string& l : left) {
      for (const std::string& r : letters) {
        if (v.tokens.size() == wanted) return;
        v.merges.push_back(l + " " + r);
        v.tokens.push_back(l + r);
        if (made) made->push_back(l + r);
      }
    }
  };
  merge_all({byte_symbol(' ')}, nullptr);
  merge_all(letters, &pairs);
  merge_all(pairs, nullptr);
  if (v.tokens.size() != wanted) throw std::runtime_error("a tiny model's vocabulary cannot be that large");
  v.types.resize(wanted, kNormal);
  return v;
}

void add_vocabulary(GgufWriter& out, const TinyModelOptions& o) {
  const Vocabulary v = make_vocabulary(o.n_vocab);
  out.set_string("tokenizer.ggml.model", "gpt2");
  out.set_string("tokenizer.ggml.pre", o.arch == "llama" ? "smollm" : "qwen2");
  out.set_strings("tokenizer.ggml.tokens", v.tokens);
  out.set_array("tokenizer.ggml.token_type", kMetaI32, v.types);
  out.set_strings("tokenizer.ggml.merges", v.merges);
  out.set_u32("tokenizer.ggml.bos_token_id", 1);
  out.set_u32("tokenizer.ggml.eos_token_id", 2);
  out.set_bool("tokenizer.ggml.add_bos_token", false);
  out.set_string(
      "tokenizer.chat_template",
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
      "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
      "}}{% endif %}");
}

bool is_one_of(const std::string& arch, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), arch) != names.end();
}

int experts_of(const TinyModelOptions& o) {
  return o.n_expert == 0 && is_one_of(o.arch, {"qwen3moe", "granitemoe"}) ? 4 : o.n_expert;
}

void add_keys(GgufWriter& out, const TinyModelOptions& o) {
  const std::string prefix = o.arch + ".";
  out.set_string("general.architecture", o.arch);
  out.set_string("general.name", "Tiny " + o.arch);
  out.set_u32(prefix + "block_count", o.n_layer);
  out.set_u32(prefix + "context_length", o.n_ctx);
  out.set_u32(prefix + "embedding_length", o.n_embd);
  out.set_u32(prefix + "feed_forward_length", o.n_ff);
  out.set_u32(prefix + "attention.head_count", o.n_head);
  out.set_u32(prefix + "attention.head_count_kv", o.n_head_kv);
  if (o.head_dim != 0) {
    out.set_u32(prefix + "attention.key_length", o.head_dim);
    out.set_u32(prefix + "attention.value_length", o.head_dim);
  }
  if (o.head_dim != 0 || o.n_rot != 0)
    out.set_u32(prefix + "rope.dimension_count", o.n_rot != 0 ? o.n_rot : o.head_dim);
  out.set_f32(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  out.set_f32(prefix + "rope.freq_base", 10000.f);
  if (const int n_expert = experts_of(o); n_expert > 0) {
    out.set_u32(prefix + "expert_count", n_expert);
    out.set_u32(prefix + "expert_used_count", o.n_expert_used > 0 ? o.n_expert_used : 2);
  }
  if (o.arch == "qwen3moe") {  // says the experts' length apart, and another for no layer
    out.set_u32(prefix + "expert_feed_forward_length", o.n_ff);
    out.set_u32(prefix + "feed_forward_length", 3 * o.n_ff);
  }
  if (o.keys) o.keys(out, prefix);
}

// Weights of a matrix deviate by 1 / sqrt(n_in), so that it keeps the size of what passes through.
class Weights {
 public:
  Weights(GgufWriter& out, uint64_t seed) : out_(out), state_(seed) {}

  void matrix(const std::string& name, TensorType type, int n_in, int n_out) {
    matrices(name, type, {static_cast<uint64_t>(n_in), static_cast<uint64_t>(n_out)});
  }
  // dims[0] is n_in; a third dimension counts matrices.
  void matrices(const std::string& name, TensorType type, std::vector<uint64_t> dims) {
    uint64_t n = 1;
    for (const uint64_t dim : dims) n *= dim;
    const float deviation = 1 / std::sqrt(static_cast<float>(dims[0]));
    out_.add_tensor(name, type, std::move(dims), random_elements(type, n, deviation, state_));
  }
  // Values from centre - reach to centre + reach.
  void vector(const std::string& name, int n, float centre, float reach) {
    std::string data;
    for (int i = 0; i < n; ++i) data += GgufWriter::pod(centre + reach * next_unit(state_));
    out_.add_tensor(name, TensorType::kF32, {static_cast<uint64_t>(n)}, std::move(data));
  }

 private:
  GgufWriter& out_;
  uint64_t state_;
};

void add_layer(Weights& w, const TinyModelOptions& o, int head_dim, int layer) {
  const std::string prefix = "blk." + std::to_string(layer) + ".";
  const int n_q = o.n_head * head_dim, n_kv = o.n_head_kv * head_dim;
  const bool qk_norm = is_one_of(o.arch, {"qwen3", "qwen3moe", "gemma3"});
  const bool post_norms = is_one_of(o.arch, {"gemma2", "gemma3"});
  w.vector(prefix + "attn_norm.weight", o.n_embd, 1, 0.2f);
  if (o.arch == "phi3") {
    w.matrix(prefix + "attn_qkv.weight", o.type, o.n_embd, n_q + 2 * n_kv);
  } else {
    w.matrix(prefix + "attn_q.weight", o.type, o.n_embd, n_q);
    w.matrix(prefix + "attn_k.weight", o.type, o.n_embd, n_kv);
    w.matrix(prefix + "attn_v.weight", o.type, o.n_embd, n_kv);
  }
  if (o.arch == "qwen2") {
    w.vector(prefix + "attn_q.bias", n_q, 0, 0.5f);
    w.vector(prefix + "attn_k.bias", n_kv, 0, 0.5f);
    w.vector(prefix + "attn_v.bias", n_kv, 0, 0.5f);
  }
  if (qk_norm) {
    w.vector(prefix + "attn_q_norm.weight", head_dim, 1, 0.2f);
    w.vector(prefix + "attn_k_norm.weight", head_dim, 1, 0.2f);
  }
  w.matrix(prefix + "attn_output.weight", o.type, n_q, o.n_embd);
  if (post_norms) w.vector(prefix + "post_attention_norm.weight", o.n_embd, 1, 0.2f);
  w.vector(prefix + "ffn_norm.weight", o.n_embd, 1, 0.2f);
  if (const int n_expert = experts_of(o); n_expert > 0) {
    const uint64_t n_embd = o.n_embd, n_ff = o.n_ff, n = n_expert;
    w.matrix(prefix + "ffn_gate_inp.weight", TensorType::kF32, o.n_embd, n_expert);
    w.matrices(prefix + "ffn_gate_exps.weight", o.type, {n_embd, n_ff, n});
    w.matrices(prefix + "ffn_up_exps.weight", o.type, {n_embd, n_ff, n});
    w.matrices(prefix + "ffn_down_exps.weight", o.type, {n_ff, n_embd, n});
  } else if (o.arch == "phi3") {
    w.matrix(prefix + "ffn_up.weight", o.type, o.n_embd, 2 * o.n_ff);
    w.matrix(prefix + "ffn_down.weight", o.type, o.n_ff, o.n_embd);
  } else {
    w.matrix(prefix + "ffn_gate.weight", o.type, o.n_embd, o.n_ff);
    w.matrix(prefix + "ffn_up.weight", o.type, o.n_embd, o.n_ff);
    w.matrix(prefix + "ffn_down.weight", o.type, o.n_ff, o.n_embd);
  }
  if (post_norms) w.vector(prefix + "post_ffw_norm.weight", o.n_embd, 1, 0.2f);
}

}  // namespace

const std::vector<std::pair<TensorType, const char*>>& tiny_model_types() {
  static const std::vector<std::pair<TensorType, const char*>> types = {
      {TensorType::kF32, "F32"},       {TensorType::kF16, "F16"},         {TensorType::kBF16, "BF16"},
      {TensorType::kQ4_0, "Q4_0"},     {TensorType::kQ4_1, "Q4_1"},       {TensorType::kQ5_0, "Q5_0"},
      {TensorType::kQ5_1, "Q5_1"},     {TensorType::kQ8_0, "Q8_0"},       {TensorType::kQ2_K, "Q2_K"},
      {TensorType::kQ3_K, "Q3_K"},     {TensorType::kQ4_K, "Q4_K"},       {TensorType::kQ5_K, "Q5_K"},
      {TensorType::kQ6_K, "Q6_K"},     {TensorType::kIQ4_NL, "IQ4_NL"},   {TensorType::kIQ4_XS, "IQ4_XS"},
      {TensorType::kIQ3_S, "IQ3_S"},   {TensorType::kIQ3_XXS, "IQ3_XXS"}, {TensorType::kIQ2_S, "IQ2_S"},
      {TensorType::kIQ2_XS, "IQ2_XS"}, {TensorType::kIQ2_XXS, "IQ2_XXS"}, {TensorType::kIQ1_M, "IQ1_M"},
      {TensorType::kIQ1_S, "IQ1_S"},   {TensorType::kMXFP4, "MXFP4"},     {TensorType::kTQ1_0, "TQ1_0"},
      {TensorType::kTQ2_0, "TQ2_0"},
  };
  return types;
}

std::string random_elements(TensorType type, uint64_t n, float deviation, uint64_t& state) {
  for (const BlockShape& shape : kBlocks) {
    if (shape.type == type) return random_blocks(shape, n, deviation, state);
  }
  std::string out;
  out.reserve(n * sizeof(float));
  const float reach = deviation * std::sqrt(3.f);  // a uniform value from -r to r deviates by r / sqrt(3)
  for (uint64_t i = 0; i < n; ++i) {
    const float value = reach * next_unit(state);
    if (type == TensorType::kF32) out += GgufWriter::pod(value);
    if (type == TensorType::kF16) out += GgufWriter::pod(to_half(value));
    if (type == TensorType::kBF16) out += GgufWriter::pod(to_bfloat(value));
  }
  return out;
}

GgufWriter tiny_model(const TinyModelOptions& o) {
  GgufWriter out(o.version);
  add_keys(out, o);
  add_vocabulary(out, o);
  const int head_dim = o.head_dim != 0 ? o.head_dim : o.n_embd / o.n_head;
  const TensorType embd_type = o.embd_as_type ? o.type : o.embd_type;
  Weights w(out, o.seed);
  w.matrix("token_embd.weight", embd_type, o.n_embd, o.n_vocab);
  const int pairs = (o.n_rot != 0 ? o.n_rot : head_dim) / 2;
  if (o.rope_freqs) w.vector("rope_freqs.weight", pairs, 4.5f, 3.5f);
  if (o.rope_factors) {
    w.vector("rope_factors_long.weight", pairs, 20, 19);
    w.vector("rope_factors_short.weight", pairs, 1.5f, 0.4f);
  }
  for (int layer = 0; layer < o.n_layer; ++layer) add_layer(w, o, head_dim, layer);
  w.vector("output_norm.weight", o.n_embd, 1, 0.2f);
  if (!o.tied) w.matrix("output.weight", embd_type, o.n_embd, o.n_vocab);
  return out;
}

void write_tiny_model(const std::string& path, const TinyModelOptions& options) {
  tiny_model(options).write(path);
}

}  // namespace shoal::test
