#!/usr/bin/env python3
"""Writes tensor/formats/lattice_grids.cc: the points of the lattices that the formats IQ1, IQ2 and IQ3 choose from.

The points are part of the file format (ggml-common.h calls them grids); they were found by search when the formats were
made, so there is no formula. Here they are read from the gguf package (PyPI, tested with 0.19) and written as codes: the
coordinates' indices among the format's few values, two or three bits each, first coordinate lowest. Each list ascends.
    pip install gguf numpy && python3 tools/make_lattice_grids.py
"""

import pathlib

import numpy as np
from gguf import quants

# Class of the package, bits of a coordinate's index, name of the list of codes.
LATTICES = [
    ("IQ2_XXS", 2, "kCodes2Xxs"), ("IQ2_XS", 2, "kCodes2Xs"), ("IQ2_S", 2, "kCodes2S"),
    ("IQ3_XXS", 3, "kCodes3Xxs"), ("IQ3_S", 3, "kCodes3S"), ("IQ1_S", 2, "kCodes1"),
]
OUT = pathlib.Path(__file__).resolve().parent.parent / "tensor/formats/lattice_grids.cc"

HEAD = """// The points of the lattices as codes, and the tables of bytes made from them at compile time.
// The codes are written by tools/make_lattice_grids.py; do not edit them.
#include "tensor/formats/lattice_grids.h"

#include <cstddef>

namespace shoal {
namespace {

// clang-format off
"""

TAIL = """// clang-format on

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
"""


def main():
    text = HEAD
    for name, bits, variable in LATTICES:
        cls = getattr(quants, name)
        cls.init_grid()
        grid = cls.grid.reshape(cls.grid_shape).astype(np.int64)
        indices = np.searchsorted(np.array(cls.grid_map), grid)
        assert (np.array(cls.grid_map)[indices] == grid).all()
        codes = (indices << (bits * np.arange(grid.shape[1]))).sum(axis=1)
        assert (np.diff(codes) > 0).all()
        lines = []
        for at in range(0, len(codes), 18):
            lines.append("  " + ", ".join(str(c) for c in codes[at:at + 18]))
        text += f"constexpr uint16_t {variable}[{len(codes)}] = {{\n" + ",\n".join(lines) + "};\n"
    OUT.write_text(text + TAIL)


if __name__ == "__main__":
    main()
