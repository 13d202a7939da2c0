#!/usr/bin/env python3
"""Writes tests/tensor/fixtures/encode_fixtures.h: what ggml's quantisers make of rows that the test generates too.

The oracle is ggml_quantize_chunk of the libggml-base that llama-cpp-python (PyPI, tested with 0.3.36) brings:
    pip install llama-cpp-python numpy && python3 tools/make_encode_fixtures.py
Rows are made by SplitMix64 and exact f32 products, so that a few lines of the test make the same ones.
"""

import ctypes
import importlib.util
import pathlib

import numpy as np

TYPES = {"F16": 1, "BF16": 30, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11,
         "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "TQ1_0": 34, "TQ2_0": 35,
         "MXFP4": 39, "IQ1_S": 19, "IQ1_M": 29, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ2_S": 22, "IQ3_XXS": 18, "IQ3_S": 21}
NEEDS_IMPORTANCE = {"IQ1_S", "IQ2_XXS", "IQ2_XS"}  # ggml stops without one; Shoal then counts every column alike
ROWS, COLS = 64, 512
BLOCKS = {"F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24),
          "Q8_0": (32, 34), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
          "Q6_K": (256, 210), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "TQ1_0": (256, 54), "TQ2_0": (256, 66), "MXFP4": (32, 17),
          "IQ1_S": (256, 50), "IQ1_M": (256, 56), "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74), "IQ2_S": (256, 82),
          "IQ3_XXS": (256, 98), "IQ3_S": (256, 110)}
OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/tensor/fixtures/encode_fixtures.h"


def units(count, seed):
    """In [-1, 1), multiples of 2^-23."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z.astype(np.int64) >> np.int64(40)).astype(np.float32) * np.float32(2.0 ** -23)


def rows():
    x = units(ROWS * COLS, 1).reshape(ROWS, COLS)
    x = x * x * x  # most are small, some large, as weights are
    x[1] = 0
    x[2, :] = np.float32(0.25)
    x[3] = np.abs(x[3])
    x[4] = -np.abs(x[4])
    x[5] *= np.float32(2.0 ** -20)  # halves become subnormal
    x[6] *= np.float32(2.0 ** 9)
    x[7, 1:] = 0
    x[8, :256] = 0
    return x


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def main():
    root = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent
    ggml = ctypes.CDLL(str(root / "lib/libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                         ctypes.c_int64, ctypes.c_void_p]
    x, importance = rows(), np.abs(units(COLS, 2)) + np.float32(2.0 ** -10)
    table = []
    for name, kind in TYPES.items():
        block, size = BLOCKS[name]
        hashes = []
        plain = np.ones(COLS, dtype=np.float32) if name in NEEDS_IMPORTANCE else None
        for weights in (plain, importance):
            out = np.zeros(ROWS * COLS // block * size, dtype=np.uint8)
            n = ggml.ggml_quantize_chunk(kind, x.ctypes.data, out.ctypes.data, 0, ROWS, COLS,
                                         None if weights is None else weights.ctypes.data)
            assert n == out.size
            hashes.append(fnv(out.tobytes()))
        table.append("    {TensorType::k%s, 0x%016xu, 0x%016xu}" % (name, *hashes))
    OUT.write_text("// FNV-1a of the bytes that ggml makes of the rows of encode_test.cc, without and with importance.\n"
                   "// Written by tools/make_encode_fixtures.py; do not edit.\n// clang-format off\n#pragma once\n\n"
                   "#include <cstdint>\n\n#include \"tensor/tensor_type.h\"\n\nnamespace shoal {\n\n"
                   "struct EncodeFixture {\n  TensorType type;\n  uint64_t plain, weighted;\n};\n"
                   "const EncodeFixture kEncodeFixtures[] = {\n" + ",\n".join(table) + "};\n\n}  // namespace shoal\n")


if __name__ == "__main__":
    main()
