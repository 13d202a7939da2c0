// The tables of bytes, made at compile time from the points' codes.
#include "tensor/formats/lattice_grids.h"

#include <cstddef>

#include "tensor/formats/lattice_codes.h"

namespace shoal {
namespace {

// Coordinate i of a point is values[bits [kBits i, kBits (i + 1)) of its code], in byte i.
template <class Point, int kBits, size_t kPoints, size_t kValues>
constexpr std::array<Point, kPoints> expand(const uint16_t (&codes)[kPoints],
                                            const uint8_t (&values)[kValues]) {
  std::array<Point, kPoints> points{};
  for (size_t n = 0; n < kPoints; ++n) {
    for (size_t i = 0; i < sizeof(Point); ++i) {
      const unsigned index = (codes[n] >> (kBits * i)) & ((1u << kBits) - 1);
      points[n] |= static_cast<Point>(values[index]) << (8 * i);
    }
  }
  return points;
}

constexpr uint8_t kThree[] = {8, 25, 43};
constexpr uint8_t kEight[] = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr uint8_t kOdd[] = {1, 3, 5, 7, 9, 11, 13, 15};
constexpr uint8_t kTernary[] = {0, 8, 16};

}  // namespace

constexpr std::array<uint64_t, 256> kGridIQ2_XXS = expand<uint64_t, 2>(kCodes2Xxs, kThree);
constexpr std::array<uint64_t, 512> kGridIQ2_XS = expand<uint64_t, 2>(kCodes2Xs, kThree);
constexpr std::array<uint64_t, 1024> kGridIQ2_S = expand<uint64_t, 2>(kCodes2S, kThree);
constexpr std::array<uint32_t, 256> kGridIQ3_XXS = expand<uint32_t, 3>(kCodes3Xxs, kEight);
constexpr std::array<uint32_t, 512> kGridIQ3_S = expand<uint32_t, 3>(kCodes3S, kOdd);
constexpr std::array<uint64_t, 2048> kGridIQ1 = expand<uint64_t, 2>(kCodes1, kTernary);

}  // namespace shoal
