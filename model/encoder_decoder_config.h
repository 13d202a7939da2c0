// The shape and the tensors of a T5 model (general.architecture t5 or t5encoder).
// Keys and tensor names: llama.cpp's src/llama-arch.cpp.
#pragma once

#include <string>
#include <vector>

#include "model/layer_weights.h"
#include "model/model_config.h"
#include "model/model_keys.h"

namespace shoal {

// Fills everything of `config` but arch, name and the vocabulary's size, which are set already. Throws
// SetupError naming the key. Tensors are checked by check_tensors().
void read_encoder_decoder(const ModelKeys& keys, ModelConfig& config);

// The tensors of a layer of such a model, as model/layer_weights.h lists them: "enc.blk.0.attn_q.weight",
// "dec.blk.1.cross_attn_k.weight".
std::vector<LayerMatrix> encoder_decoder_matrices(const ModelConfig& config, int layer);
std::vector<LayerVector> encoder_decoder_vectors(const ModelConfig& config, int layer);
std::vector<std::string> encoder_decoder_unread(const ModelConfig& config);

}  // namespace shoal
