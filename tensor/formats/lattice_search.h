// How the encoders of IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S choose points, signs and scales: magnitudes
// on a lattice. Follows the reference method of ggml (ggml-quants.c) operation by operation in f32, so that
// the bytes are the same; nothing here may be reassociated or contracted.
//
// Per sub-block, which has one scale: the signs come off (where their number of negatives must be even, the
// value whose error matters least changes its sign); a row of trial scales gives levels, replaced by the
// nearest points of the lattice; the scale that leaves the least weighted squares is kept, and the points are
// chosen once more with it. Scales then become levels of the largest.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/formats/fit.h"
#include "tensor/formats/lattice_points.h"

namespace shoal {

// The weight of an error where no importance is given, as each reference has it: as if the importance were
// one everywhere; x^2; x^2 and a quarter of the spread.
enum class PlainWeight { kOne, kSquare, kQuarterSpread };

// weight[i] by importance (weigh()) or, where that is null, plainly.
void weigh_or(std::span<const float> x, const float* importance, float spread, PlainWeight plain,
              float* weight);

// Which points are chosen once more with the scale found.
enum class Again { kAll, kThoseOff, kAllIfAnyOff };  // off: their levels were no point of the lattice

struct MagnitudeSearch {
  const LatticePoints& (*points)();
  int dims;
  int sub_block;  // values under one scale: 32 or 16
  bool even_signs;
  bool fitted_start;  // trials are about a scale fitted without the lattice, else about the largest
                      // magnitude's
  float spread;       // that weights start from, in mean squares
  PlainWeight plain;
  float zero;  // sub-blocks with smaller magnitudes are nothing
  int trials;  // on either side
  float trial_step;
  Again again;
  float correction;  // of the block's scale, found by trial when the format was made
};

// 256 values: d (2 scale + 1) times a point's values, with signs.
struct MagnitudeBlock {
  float d;
  uint16_t points[64];  // of `dims` values each
  uint8_t signs[32];    // of eight values each, the first lowest; set: negative
  uint8_t scales[16];   // one a sub-block
};

// importance: [256] or null.
void search_magnitudes(const float* x, const float* importance, const MagnitudeSearch& how,
                       MagnitudeBlock* out);

// A row of n values; write(found, &block) turns what was found into the file's block, whose d is set already.
template <class Block, class Write>
void encode_magnitudes(const float* x, int64_t n, const float* importance, const MagnitudeSearch& how,
                       std::byte* row, Write write) {
  for (int64_t b = 0; b < n / 256; ++b) {
    MagnitudeBlock found;
    search_magnitudes(x + 256 * b, importance ? importance + 256 * b : nullptr, how, &found);
    Block block = {};
    store_half(&block.d, found.d);
    write(found, &block);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

// Scales of 16 sub-blocks, two a byte, the low nibble first.
inline void store_scale_nibbles(const MagnitudeBlock& found, uint8_t* out, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    out[i] = static_cast<uint8_t>(found.scales[2 * i] | (found.scales[2 * i + 1] << 4));
  }
}

// Four times seven signs (the eighth follows from them) and a scale.
inline uint32_t signs_and_scale(const MagnitudeBlock& found, int s) {
  uint32_t word = static_cast<uint32_t>(found.scales[s]) << 28;
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(found.signs[4 * s + i] & 127) << (7 * i);
  return word;
}

}  // namespace shoal
