// How the encoders of IQ1_S and IQ1_M choose points, deltas and scales: values -1, 0 and 1, all moved by 1/8
// up or down. Follows the reference method of ggml (ggml-quants.c) operation by operation in f32, so that the
// bytes are the same; nothing here may be reassociated or contracted.
//
// Per sub-block, which has one scale, the split of the sorted values in three groups and the deltas that
// leave the least weighted squares are found by trying all; then points of the lattice take the levels'
// place, and the scale is fitted to them. Scales become levels of the largest.
#pragma once

#include <cstdint>

namespace shoal {

// 256 values: d (2 scale + 1) times a point's values with its delta.
struct TernaryBlock {
  float d;
  uint16_t points[32];  // of eight values each
  bool minus[32];       // the delta of those eight is -1/8, not 1/8
  uint8_t scales[16];   // one a sub-block
};

// importance: [256], or null: IQ1_S then weighs as if it were one everywhere, IQ1_M by the squares.
void search_iq1_s(const float* x, const float* importance,
                  TernaryBlock* out);  // 8 sub-blocks, one delta each
void search_iq1_m(const float* x, const float* importance,
                  TernaryBlock* out);  // 16; a delta for eight values

}  // namespace shoal
