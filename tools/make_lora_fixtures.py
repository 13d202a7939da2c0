#!/usr/bin/env python3
"""Writes tests/sharding/fixtures/lora.txt: llama.cpp's logits of tiny models behind a random adapter, for
tests/sharding/lora_test.cc.

    pip install llama-cpp-python
    cmake --build build/release --target write_tiny_lora
    tools/make_lora_fixtures.py build/release/write_tiny_lora tests/sharding/fixtures

Models and adapters are written anew by the test's own writers, always the same bytes. A line is

    <family> <scale> <position> <token>:<logit> ...     for every TOKEN_STEP-th token of the vocabulary
"""

from make_family_fixtures import logits_of, logits_text, write_fixture

POSITIONS = [0, 9, 22, 39]
SCALES = [1.0, -0.5]
TOKEN_STEP = 11


def lines_of(path, family, context_length, tokens):
    lines = []
    for scale in SCALES:
        rows = logits_of(path + ".gguf", context_length, tokens, path + "-lora.gguf", scale)
        lines += [f"{family} {scale} {position} " + logits_text(rows[position], TOKEN_STEP) for position in POSITIONS]
    return lines


if __name__ == "__main__":
    write_fixture("lora.txt", lines_of)
