// The lattices of the formats IQ1, IQ2 and IQ3: an index in the file chooses a point, whose coordinates are
// eight or four values, here one byte each, the first lowest. Part of the format
// (https://github.com/ggml-org/ggml, ggml-common.h, where they are called grids).
#pragma once

#include <array>
#include <cstdint>

namespace shoal {

extern const std::array<uint64_t, 256> kGridIQ2_XXS;  // magnitudes 8, 25, 43; signs are stored apart
extern const std::array<uint64_t, 512> kGridIQ2_XS;
extern const std::array<uint64_t, 1024> kGridIQ2_S;
extern const std::array<uint32_t, 256> kGridIQ3_XXS;  // magnitudes 4, 12, ... 52, 62
extern const std::array<uint32_t, 512> kGridIQ3_S;    // magnitudes 1, 3, ... 15
extern const std::array<uint64_t, 2048> kGridIQ1;     // 0, 8, 16 for -1, 0, 1; no signs

}  // namespace shoal
