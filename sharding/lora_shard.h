// A stage's part of an adapter: the pairs of its own layers, read from the adapter's file. Each node reads
// only those.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/lora_file.h"
#include "sharding/shard.h"

namespace shoal {

// `source`: where the tensors' bytes come from, or null for the adapter's file. Throws SetupError (exit code
// 1) where the file has changed or memory cannot be had.
LoraWeights load_lora(const LoraFile& adapter, const ModelConfig& config, const LayerRange& layers,
                      BlockSource* source = nullptr);

// Names of the tensors that load_lora(layers) reads.
std::vector<std::string> lora_tensors(const LoraFile& adapter, const ModelConfig& config,
                                      const LayerRange& layers);

// Bytes that load_lora(layers) will keep resident.
uint64_t lora_bytes(const LoraFile& adapter, const ModelConfig& config, const LayerRange& layers);

// Of all layers, for what LoraStage::bytes() counts.
LoraSizes lora_sizes(std::span<const LoraFile> adapters, const ModelConfig& config);

}  // namespace shoal
