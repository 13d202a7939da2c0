#!/usr/bin/env python3
"""Writes tests/tensor/fixtures/format_fixtures.h: blocks of every format and the floats they stand for.

The oracle is the gguf package (PyPI, tested with 0.19), gguf.quants.dequantize:
    pip install gguf numpy && python3 tools/make_format_fixtures.py
Block bytes are random, with scales that are ordinary halves of either sign.
"""

import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Byte offsets of the halves in a block.
FORMATS = {
    "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0],
    "IQ4_XS": [0], "IQ3_S": [0], "IQ3_XXS": [0], "IQ2_S": [0], "IQ2_XS": [0], "IQ2_XXS": [0], "IQ1_S": [0], "IQ1_M": [],
    "MXFP4": [], "TQ1_0": [52], "TQ2_0": [64],
}
OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/tensor/fixtures/format_fixtures.h"


def rows(values, fmt, per_line):
    texts = [fmt % v for v in values]
    return ",\n".join("    " + ", ".join(texts[i:i + per_line]) for i in range(0, len(texts), per_line))


def main():
    rng = np.random.default_rng(20251122)
    parts = []
    for name, halves in FORMATS.items():
        kind = GGMLQuantizationType[name]
        elements, size = GGML_QUANT_SIZES[kind]
        blocks = max(1, 64 // elements)
        raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
        for at in halves:
            value = rng.uniform(-2, 2, blocks).astype(np.float16)
            raw[:, at:at + 2] = value.view(np.uint8).reshape(blocks, 2)
        if name == "BF16":
            raw[:, 1] = rng.integers(0x3c, 0x42, blocks)  # ordinary exponents
        if name == "IQ1_M":
            raw[:, 55] = rng.integers(0x20, 0x50, blocks)  # the top of its scattered half
        if name == "MXFP4":
            raw[:, 0] = [1, 126]  # a subnormal scale and an ordinary one
        data = raw.reshape(1, -1)
        if name == "F16":
            data = data.view(np.float16)
        floats = quants.dequantize(data, kind).astype(np.float32).reshape(-1)
        parts.append(f"const uint8_t k{name}Bytes[] = {{\n{rows(raw.reshape(-1), '%d', 24)}}};\n"
                     f"const uint32_t k{name}Floats[] = {{\n{rows(floats.view(np.uint32), '0x%08x', 9)}}};\n")
    table = ",\n".join(f"    {{TensorType::k{n}, k{n}Bytes, sizeof(k{n}Bytes), k{n}Floats, "
                       f"sizeof(k{n}Floats) / 4}}" for n in FORMATS)
    OUT.write_text("// Blocks of each format and their values as bits, from gguf.quants.dequantize.\n"
                   "// Written by tools/make_format_fixtures.py; do not edit.\n"
                   "// clang-format off\n#pragma once\n\n#include <cstddef>\n#include <cstdint>\n\n"
                   "#include \"tensor/tensor_type.h\"\n\nnamespace shoal {\n\n" + "\n".join(parts) +
                   "\nstruct FormatFixture {\n  TensorType type;\n  const uint8_t* bytes;\n  size_t n_bytes;\n"
                   "  const uint32_t* floats;\n  size_t n_floats;\n};\n"
                   f"const FormatFixture kFormatFixtures[] = {{\n{table}}};\n\n}}  // namespace shoal\n")


if __name__ == "__main__":
    main()
