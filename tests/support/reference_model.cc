#include "tests/support/reference_model.h"

#include <algorithm>
#include <cmath>

#include "tensor/format.h"

namespace shoal::test {

namespace {

using Row = std::vector<double>;

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
  for (int i = 0; i < config.n_layer; ++i) {
    const auto tensor = [&](const char* what) { return load(file, "blk." + std::to_string(i) + "." + what); };
    Layer& l = layers_.emplace_back();
    l.attn_norm = tensor("attn_norm.weight");
    l.q = tensor("attn_q.weight");
    l.k = tensor("attn_k.weight");
    l.v = tensor("attn_v.weight");
    l.q_bias = tensor("attn_q.bias");
    l.k_bias = tensor("attn_k.bias");
    l.v_bias = tensor("attn_v.bias");
    l.q_norm = tensor("attn_q_norm.weight");
    l.k_norm = tensor("attn_k_norm.weight");
    l.attn_output = tensor("attn_output.weight");
    l.ffn_norm = tensor("ffn_norm.weight");
    l.gate = tensor("ffn_gate.weight");
    l.up = tensor("ffn_up.weight");
    l.down = tensor("ffn_down.weight");
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

void ReferenceModel::rotate(Row& x, int position) const {
  const int pairs = config_.n_rot / 2;
  const bool interleaved = config_.arch->rope == RopeKind::kInterleaved;
  for (size_t head = 0; head < x.size(); head += config_.head_dim_k) {
    for (int i = 0; i < pairs; ++i) {
      const double factor = rope_factors_.values.empty() ? 1 : rope_factors_.values[i];
      const double angle = position * config_.rope_freq_scale *
                           std::pow(config_.rope_freq_base, -2.0 * i / config_.n_rot) / factor;
      double& a = x[head + (interleaved ? 2 * i : i)];
      double& b = x[head + (interleaved ? 2 * i + 1 : i + pairs)];
      const double rotated = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = rotated;
    }
  }
}

Row ReferenceModel::attention(const Layer& l, std::span<const double> q, int n_head, int n_head_kv) const {
  const int dim_k = config_.head_dim_k, dim_v = config_.head_dim_v;
  Row out(static_cast<size_t>(n_head) * dim_v, 0.0);
  for (int h = 0; h < n_head; ++h) {
    const int head_kv = h / (n_head / n_head_kv);
    Row scores;
    for (const Row& k : l.cached_k) {
      double score = 0;
      for (int d = 0; d < dim_k; ++d) score += q[h * dim_k + d] * k[head_kv * dim_k + d];
      scores.push_back(score / std::sqrt(static_cast<double>(dim_k)));
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - largest);
    for (size_t p = 0; p < scores.size(); ++p)
      for (int d = 0; d < dim_v; ++d)
        out[h * dim_v + d] += scores[p] / sum * l.cached_v[p][head_kv * dim_v + d];
  }
  return out;
}

Row ReferenceModel::embed(int token) const {
  const auto row = token_embd_.values.begin() + static_cast<ptrdiff_t>(token) * token_embd_.cols;
  return Row(row, row + token_embd_.cols);
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
  rotate(q, position);
  rotate(k, position);
  if (options_.f16_cache) round_to_f16(k);
  if (options_.f16_cache) round_to_f16(v);
  l.cached_k.push_back(k);
  l.cached_v.push_back(v);
  Row out(hidden.begin(), hidden.end());
  add(out, product(l.attn_output, attention(l, q, config_.n_head[layer], config_.n_head_kv[layer])));

  x = norm(out, l.ffn_norm);
  Row gate = product(l.gate, x);
  const Row up = product(l.up, x);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  add(out, product(l.down, gate));
  return out;
}

Row ReferenceModel::logits(std::span<const double> hidden) const {
  return product(output_, norm(hidden, output_norm_));
}

}  // namespace shoal::test
