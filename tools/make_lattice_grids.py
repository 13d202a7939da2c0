#!/usr/bin/env python3
"""Writes tensor/formats/lattice_codes.h: the points of the lattices that the formats IQ1, IQ2 and IQ3 choose from.

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
OUT = pathlib.Path(__file__).resolve().parent.parent / "tensor/formats/lattice_codes.h"

HEAD = """// The points of the lattices as codes (lattice_grids.cc expands them). Written by tools/make_lattice_grids.py; do not
// edit.
#pragma once

#include <cstdint>

namespace shoal {

// clang-format off
"""

TAIL = """// clang-format on

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
