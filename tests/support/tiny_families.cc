#include "tests/support/tiny_families.h"

#include <cmath>
#include <stdexcept>

namespace shoal::test {
namespace {

using Keys = std::function<void(GgufWriter&, const std::string&)>;

TinyModelOptions base(const char* arch, int n_layer, Keys keys = {}) {
  TinyModelOptions o;
  o.arch = arch;
  o.n_layer = n_layer;
  o.n_embd = 96;
  o.n_head = 6;
  o.n_head_kv = 2;
  o.n_ff = 160;
  o.n_vocab = 300;
  o.n_ctx = 512;
  o.keys = std::move(keys);
  return o;
}

TinyModelOptions with(TinyModelOptions o, const std::function<void(TinyModelOptions&)>& edit) {
  edit(o);
  return o;
}

void yarn_keys(GgufWriter& w, const std::string& p) {
  w.set_string(p + "rope.scaling.type", "yarn");
  w.set_f32(p + "rope.scaling.factor", 4);
  w.set_u32(p + "rope.scaling.original_context_length", 16);
}

// Ministral 3: the growth of YaRN is in the temperature instead.
void mistral3_keys(GgufWriter& w, const std::string& p) {
  yarn_keys(w, p);
  w.set_f32(p + "rope.scaling.yarn_beta_fast", 32);
  w.set_f32(p + "rope.scaling.yarn_beta_slow", 1);
  w.set_f32(p + "rope.scaling.yarn_log_multiplier", 1);
  w.set_f32(p + "attention.temperature_scale", 0.1f);
}

void granite_keys(GgufWriter& w, const std::string& p) {
  w.set_f32(p + "embedding_scale", 12);
  w.set_f32(p + "residual_scale", 0.22f);
  w.set_f32(p + "attention.scale", 0.015625f);
  w.set_f32(p + "logit_scale", 8);
}

void gemma2_keys(GgufWriter& w, const std::string& p) {
  w.set_u32(p + "attention.sliding_window", 8);
  w.set_f32(p + "attn_logit_softcapping", 50);
  w.set_f32(p + "final_logit_softcapping", 30);
}

// Gemma 3 4B: its linear scaling is of the global layers alone.
void gemma3_keys(GgufWriter& w, const std::string& p) {
  w.set_u32(p + "attention.sliding_window", 7);
  w.set_f32(p + "rope.freq_base", 1e6f);
  w.set_string(p + "rope.scaling.type", "linear");
  w.set_f32(p + "rope.scaling.factor", 8);
}

void phi3_keys(GgufWriter& w, const std::string& p) {
  w.set_string("general.name", "Tiny");  // llama.cpp looks for certain tokens where the name has "phi3" in it
  w.set_u32(p + "attention.sliding_window", 262144);
  w.set_f32(p + "rope.scaling.attn_factor", 1.19f);
}

std::vector<TinyFamily> make_families() {
  std::vector<TinyFamily> all;
  // Llama 3.2: tied, with factors.
  all.push_back({"llama", with(base("llama", 3), [](TinyModelOptions& o) { o.rope_freqs = true; })});
  all.push_back({"mistral3", with(base("mistral3", 3, mistral3_keys), [](TinyModelOptions& o) {
                   o.head_dim = 32;  // wider than n_embd / n_head
                   o.tied = false;
                 })});
  all.push_back({"granite", base("granite", 3, granite_keys)});
  all.push_back({"smollm3", base("smollm3", 6)});
  all.push_back({"qwen2", with(base("qwen2", 3), [](TinyModelOptions& o) {
                   o.n_head = 12;  // GQA 6 : 1 as Qwen2.5-0.5B
                   o.tied = false;
                 })});
  all.push_back({"qwen2-yarn", base("qwen2", 3, yarn_keys)});
  all.push_back({"qwen3", with(base("qwen3", 3), [](TinyModelOptions& o) { o.head_dim = 32; })});
  all.push_back({"gemma", with(base("gemma", 3), [](TinyModelOptions& o) {
                   o.n_head = 3;
                   o.n_head_kv = 1;
                   o.head_dim = 48;
                 })});
  all.push_back({"gemma2", with(base("gemma2", 5, gemma2_keys), [](TinyModelOptions& o) {
                   o.n_head = 4;
                   o.head_dim = 40;
                 })});
  all.push_back({"gemma3", with(base("gemma3", 8, gemma3_keys), [](TinyModelOptions& o) {
                   o.n_head = 4;
                   o.n_head_kv = 1;
                   o.head_dim = 40;
                 })});
  const auto phi3 = [](int original) {
    return with(base("phi3", 3,
                     [original](GgufWriter& w, const std::string& p) {
                       phi3_keys(w, p);
                       w.set_u32(p + "rope.scaling.original_context_length", original);
                     }),
                [](TinyModelOptions& o) {
                  o.n_head = 3;
                  o.n_head_kv = 1;
                  o.n_rot = 24;  // of 32
                  o.rope_factors = true;
                  o.tied = false;
                });
  };
  all.push_back({"phi3-short", phi3(kFamilyContext)});
  all.push_back({"phi3-long", phi3(kFamilyContext / 2)});
  all.push_back({"qwen3moe", with(base("qwen3moe", 3), [](TinyModelOptions& o) {
                   o.n_head = 3;
                   o.n_head_kv = 1;
                   o.head_dim = 48;
                   o.n_ff = 56;  // not a multiple of the 16 rows that are packed together
                   o.n_expert = 8;
                   o.n_expert_used = 3;
                   o.tied = false;
                 })});
  all.push_back({"granitemoe", with(base("granitemoe", 3, granite_keys), [](TinyModelOptions& o) {
                   o.n_ff = 64;
                   o.n_expert = 6;
                   o.n_expert_used = 2;
                 })});
  all.push_back({"mixtral", with(base("llama", 3), [](TinyModelOptions& o) {
                   o.n_ff = 64;
                   o.n_expert = 4;
                   o.n_expert_used = 2;
                   o.tied = false;
                 })});
  for (size_t i = 0; i < all.size(); ++i) all[i].options.seed = 100 + i;
  return all;
}

}  // namespace

const std::vector<TinyFamily>& tiny_families() {
  static const std::vector<TinyFamily> families = make_families();
  return families;
}

const TinyFamily& tiny_family(const std::string& name) {
  for (const TinyFamily& family : tiny_families()) {
    if (family.name == name) return family;
  }
  throw std::runtime_error("there is no tiny family " + name);
}

std::vector<int> family_prompt(const TinyFamily& family) {
  std::vector<int> tokens;
  // A linear congruence whose multiplier and modulus have no common factor: no two tokens alike.
  for (int i = 0; i < kFamilyPrompt; ++i) tokens.push_back((i * 89 + 17) % family.options.n_vocab);
  return tokens;
}

}  // namespace shoal::test
