#!/usr/bin/env python3
"""Writes tests/sharding/fixtures/lora.txt: llama.cpp's logits of tiny models behind a random adapter, for
tests/sharding/lora_test.cc.

    pip install llama-cpp-python
    cmake --build build/release --target write_tiny_lora
    tools/make_lora_fixtures.py build/release/write_tiny_lora tests/sharding/fixtures

Models and adapters are written anew by the test's own writers, always the same bytes. A line is

    <family> <scale> <position> <token>:<logit> ...     for every TOKEN_STEP-th token of the vocabulary
"""

import ctypes
import os
import subprocess
import sys
import tempfile

import llama_cpp

from make_family_fixtures import logits_of

POSITIONS = [0, 9, 22, 39]
SCALES = [1.0, -0.5]
TOKEN_STEP = 11


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: make_lora_fixtures.py WRITE_TINY_LORA FIXTURES_FOLDER")
    writer, folder = sys.argv[1:]
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    if "VERBOSE" not in os.environ:
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([writer, temporary], check=True)
        with open(os.path.join(temporary, "families"), encoding="utf-8") as f:
            families = [line.split() for line in f]
        for name, context_length, *tokens in families:
            path = os.path.join(temporary, name)
            for scale in SCALES:
                rows = logits_of(path + ".gguf", int(context_length), [int(token) for token in tokens],
                                 path + "-lora.gguf", scale)
                for position in POSITIONS:
                    row = rows[position]
                    logits = (f"{token}:{row[token]:.6g}" for token in range(0, len(row), TOKEN_STEP))
                    lines.append(f"{name} {scale} {position} " + " ".join(logits))
    with open(os.path.join(folder, "lora.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{len(families)} families")


if __name__ == "__main__":
    main()
