#include "tests/support/reference_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/format.h"

namespace shoal::test {

namespace {

using Row = std::vector<double>;

double soft_cap(double x, double cap) {
  return cap == 0 ? x : cap * std::tanh(x / cap);
}

void add(Row& x, std::span<const double> y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

// Each block of 32 to the nearest of 255 steps, the largest magnitude being step 127.
Row rounded_to_int8(std::span<const double> x) {
  Row out(x.size(), 0.0);
  for (size_t begin = 0; begin < x.size(); begin += 32) {
    double largest = 0;
    for (size_t i = begin; i < begin + 32; ++i) largest = std::max(largest, std::fabs(x[i]));
    if (largest < 1e-30) continue;
    for (size_t i = begin; i < begin + 32; ++i)
      out[i] = std::nearbyint(x[i] * 127 / largest) * (largest / 127);
  }
  return out;
}

// IEEE binary16: eleven significant bits, none below 2^-24.
void round_to_f16(Row& x) {
  for (double& value : x) {
    int exponent;
    std::frexp(value, &exponent);
    const double step = std::ldexp(1.0, std::max(exponent - 11, -24));
    value = std::nearbyint(value / step) * step;
  }
}

}  // namespace

ReferenceModel::ReferenceModel(const GgufFile& file, const ModelConfig& config,
                               const ReferenceOptions& options)
    : config_(config), options_(options) {
  token_embd_ = load(file, "token_embd.weight");
  output_norm_ = load(file, "output_norm.weight");
  output_ = load(file, "output.weight");
  if (output_.values.empty()) output_ = token_embd_;
  rope_factors_ = load(file, "rope_freqs.weight");
  const bool is_long = options.context > config.n_ctx_original;
  if (rope_factors_.values.empty())
    rope_factors_ = load(file, is_long ? "rope_factors_long.weight" : "rope_factors_short.weight");
  for (int i = 0; i < config.n_layer; ++i) {
    const auto tensor = [&](const char* what) { return load(file, "blk." + std::to_string(i) + "." + what); };
    Layer& l = layers_.emplace_back();
    l.attn_norm = tensor("attn_norm.weight");
    l.q = tensor("attn_q.weight");
    l.k = tensor("attn_k.weight");
    l.v = tensor("attn_v.weight");
    if (const Tensor qkv = tensor("attn_qkv.weight"); !qkv.values.empty()) {
      const int n_q = config.n_head[i] * config.head_dim_k, n_k = config.n_embd_k(i);
      l.q = rows_of(qkv, 0, n_q);
      l.k = rows_of(qkv, n_q, n_k);
      l.v = rows_of(qkv, n_q + n_k, config.n_embd_v(i));
    }
    l.q_bias = tensor("attn_q.bias");
    l.k_bias = tensor("attn_k.bias");
    l.v_bias = tensor("attn_v.bias");
    l.q_norm = tensor("attn_q_norm.weight");
    l.k_norm = tensor("attn_k_norm.weight");
    l.attn_output = tensor("attn_output.weight");
    l.attn_post_norm = tensor("post_attention_norm.weight");
    l.ffn_norm = tensor("ffn_norm.weight");
    l.gate = tensor("ffn_gate.weight");
    l.up = tensor("ffn_up.weight");
    l.down = tensor("ffn_down.weight");
    l.router = tensor("ffn_gate_inp.weight");
    if (!l.router.values.empty()) {
      l.gate = tensor("ffn_gate_exps.weight");
      l.up = tensor("ffn_up_exps.weight");
      l.down = tensor("ffn_down_exps.weight");
    } else if (l.gate.values.empty()) {
      l.gate = rows_of(l.up, 0, config.n_ff[i]);
      l.up = rows_of(l.up, config.n_ff[i], config.n_ff[i]);
    }
    l.ffn_post_norm = tensor("post_ffw_norm.weight");
  }
}

ReferenceModel::Tensor ReferenceModel::load(const GgufFile& file, const std::string& name) const {
  const TensorInfo* info = file.find_tensor(name);
  if (info == nullptr) return {};
  std::vector<std::byte> bytes(info->bytes);
  file.read(*info, 0, bytes);
  const Format& format = format_of(info->type);
  Tensor t{!format.is_float, static_cast<int>(info->cols()), std::vector<float>(info->cols() * info->rows())};
  format.decode(bytes.data(), static_cast<int64_t>(t.values.size()), t.values.data());
  return t;
}

ReferenceModel::Tensor ReferenceModel::rows_of(const Tensor& t, int first, int rows) {
  const auto begin = t.values.begin() + static_cast<ptrdiff_t>(first) * t.cols;
  return {t.quantised, t.cols, std::vector<float>(begin, begin + static_cast<ptrdiff_t>(rows) * t.cols)};
}

Row ReferenceModel::product(const Tensor& w, std::span<const double> x) const {
  Row rounded(x.begin(), x.end());
  if (w.quantised && options_.int8_activations) rounded = rounded_to_int8(x);
  Row y(w.values.size() / w.cols, 0.0);
  for (size_t o = 0; o < y.size(); ++o)
    for (int i = 0; i < w.cols; ++i) y[o] += double{w.values[o * w.cols + i]} * rounded[i];
  return y;
}

Row ReferenceModel::norm(std::span<const double> x, const Tensor& weight) const {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + config_.norm_eps);
  Row y(x.begin(), x.end());
  for (size_t i = 0; i < y.size(); ++i) y[i] *= factor * weight.values[i];
  return y;
}

void ReferenceModel::normalise_heads(Row& x, const Tensor& weight) const {
  const size_t dim = weight.values.size();
  for (size_t begin = 0; begin < x.size(); begin += dim) {
    const Row head = norm(std::span(x).subspan(begin, dim), weight);
    std::copy(head.begin(), head.end(), x.begin() + begin);
  }
}

double ReferenceModel::pair_angle(const RopeScaling& rope, int i, int position) const {
  double theta = std::pow(rope.freq_base, -2.0 * i / config_.n_rot);
  if (&rope == &config_.ropes[0] && !rope_factors_.values.empty()) theta /= rope_factors_.values[i];
  const double scaled = position * theta * rope.freq_scale, unscaled = position * theta;
  if (rope.ramp_height == 0) return scaled;
  // YaRN: a mixture of both that depends on how far the pair is along the ramp.
  double way = (i - rope.ramp_begin) / std::max(0.001, rope.ramp_end - rope.ramp_begin);
  way = std::min(1.0, std::max(0.0, way));
  const double kept = (1 - way) * rope.ramp_height;
  return scaled * (1 - kept) + unscaled * kept;
}

void ReferenceModel::rotate(Row& x, int layer, int position) const {
  if (config_.rope[layer] == kNoRope) return;
  const RopeScaling& rope = config_.ropes[config_.rope[layer]];
  const int pairs = config_.n_rot / 2;
  const bool interleaved = config_.arch->rope == RopeKind::kInterleaved;
  for (size_t head = 0; head < x.size(); head += config_.head_dim_k) {
    for (int i = 0; i < pairs; ++i) {
      const double angle = pair_angle(rope, i, position);
      const double c = std::cos(angle) * rope.magnitude, s = std::sin(angle) * rope.magnitude;
      double& a = x[head + (interleaved ? 2 * i : i)];
      double& b = x[head + (interleaved ? 2 * i + 1 : i + pairs)];
      const double rotated = a * c - b * s;
      b = a * s + b * c;
      a = rotated;
    }
  }
}

// Of the last position, over those that its window holds.
Row ReferenceModel::attention(int layer, std::span<const double> q) const {
  const Layer& l = layers_[layer];
  const int dim_k = config_.head_dim_k, dim_v = config_.head_dim_v;
  const int n_head = config_.n_head[layer], group = n_head / config_.n_head_kv[layer];
  const int n = static_cast<int>(l.cached_k.size()), window = config_.window[layer];
  const int first = window > 0 && n > window ? n - window : 0;
  double scale = config_.attention_scale;
  if (config_.temperature_scale != 0)
    scale *= 1 + config_.temperature_scale * std::log(std::floor((n - 1.0) / config_.temperature_length) + 1);
  Row out(static_cast<size_t>(n_head) * dim_v, 0.0);
  for (int h = 0; h < n_head; ++h) {
    const int head_kv = h / group;
    Row scores;
    for (int p = first; p < n; ++p) {
      double score = 0;
      for (int d = 0; d < dim_k; ++d) score += q[h * dim_k + d] * l.cached_k[p][head_kv * dim_k + d];
      scores.push_back(soft_cap(score * scale, config_.attention_soft_cap));
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - largest);
    for (int p = first; p < n; ++p)
      for (int d = 0; d < dim_v; ++d)
        out[h * dim_v + d] += scores[p - first] / sum * l.cached_v[p][head_kv * dim_v + d];
  }
  return out;
}

Row ReferenceModel::embed(int token) const {
  const auto row = token_embd_.values.begin() + static_cast<ptrdiff_t>(token) * token_embd_.cols;
  Row out(row, row + token_embd_.cols);
  for (double& value : out) value *= config_.embedding_scale;
  return out;
}

Row ReferenceModel::gated(const Tensor& w_gate, const Tensor& w_up, const Tensor& w_down,
                          std::span<const double> x) const {
  Row gate = product(w_gate, x);
  const Row up = product(w_up, x);
  const double pi = std::acos(-1.0);
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    const double gelu = g / 2 * (1 + std::tanh(std::sqrt(2 / pi) * (g + 0.044715 * g * g * g)));
    const double silu = g / (1 + std::exp(-g));
    gate[i] = (config_.arch->gate == GateKind::kGelu ? gelu : silu) * up[i];
  }
  return product(w_down, gate);
}

Row ReferenceModel::feed_forward(int layer, std::span<const double> x) const {
  const Layer& l = layers_[layer];
  if (l.router.values.empty()) return gated(l.gate, l.up, l.down, x);
  // The softmax over all experts, of which the largest are kept and made to add up to 1.
  const Row logits = product(l.router, x);
  Row probabilities;
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  for (const double logit : logits) probabilities.push_back(std::exp(logit) / sum);
  Row sorted = probabilities;
  std::sort(sorted.rbegin(), sorted.rend());
  const double least = sorted[config_.n_expert_used - 1];
  const double kept = std::accumulate(sorted.begin(), sorted.begin() + config_.n_expert_used, 0.0);
  Row out(config_.n_embd, 0.0);
  const int n_ff = config_.n_ff[layer];
  for (int e = 0; e < config_.n_expert; ++e) {
    if (probabilities[e] < least) continue;
    Row answer = gated(rows_of(l.gate, e * n_ff, n_ff), rows_of(l.up, e * n_ff, n_ff),
                       rows_of(l.down, e * config_.n_embd, config_.n_embd), x);
    for (double& value : answer) value *= probabilities[e] / kept;
    add(out, answer);
  }
  return out;
}

Row ReferenceModel::forward_layer(int layer, std::span<const double> hidden) {
  Layer& l = layers_[layer];
  const int position = static_cast<int>(l.cached_k.size());

  Row x = norm(hidden, l.attn_norm);
  Row q = product(l.q, x), k = product(l.k, x), v = product(l.v, x);
  if (config_.arch->qkv_bias) {
    add(q, Row(l.q_bias.values.begin(), l.q_bias.values.end()));
    add(k, Row(l.k_bias.values.begin(), l.k_bias.values.end()));
    add(v, Row(l.v_bias.values.begin(), l.v_bias.values.end()));
  }
  if (config_.arch->qk_norm) {
    normalise_heads(q, l.q_norm);
    normalise_heads(k, l.k_norm);
  }
  rotate(q, layer, position);
  rotate(k, layer, position);
  if (options_.f16_cache) round_to_f16(k);
  if (options_.f16_cache) round_to_f16(v);
  l.cached_k.push_back(k);
  l.cached_v.push_back(v);
  Row out(hidden.begin(), hidden.end());
  const auto add_half = [&](Row half, const Tensor& post_norm) {
    if (config_.arch->post_norms) half = norm(half, post_norm);
    for (double& value : half) value *= config_.residual_scale;
    add(out, half);
  };
  add_half(product(l.attn_output, attention(layer, q)), l.attn_post_norm);
  add_half(feed_forward(layer, norm(out, l.ffn_norm)), l.ffn_post_norm);
  return out;
}

Row ReferenceModel::logits(std::span<const double> hidden) const {
  Row logits = product(output_, norm(hidden, output_norm_));
  for (double& logit : logits) logit = soft_cap(logit * config_.logit_scale, config_.final_soft_cap);
  return logits;
}

}  // namespace shoal::test
