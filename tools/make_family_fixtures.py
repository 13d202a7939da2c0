#!/usr/bin/env python3
"""Writes tests/sharding/fixtures/families.txt: llama.cpp's logits of one tiny model a family, for
tests/sharding/family_test.cc.

    pip install llama-cpp-python
    cmake --build build/release --target write_tiny_family
    tools/make_family_fixtures.py build/release/write_tiny_family tests/sharding/fixtures

The models are written anew by the test's own writer, always the same bytes, so they need not be kept. A line is

    <family> <position> <token>:<logit> ...     for every TOKEN_STEP-th token of the vocabulary

with F32 weights, an F32 cache and no flash attention, so that llama.cpp rounds nothing to fewer bits than f32 has
(but its gelu, which is a table of halves).
"""

import ctypes
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

POSITIONS = [0, 5, 9, 15, 16, 22, 33, 39]
TOKEN_STEP = 7


def logits_of(path, context_length, tokens, adapter=None, scale=1.0):
    """`adapter`: the path of a LoRA file that all tokens pass through."""
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp does not load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = context_length, len(tokens), len(tokens)
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, params)
    if llama_cpp.llama_n_ctx(context) != context_length:
        raise RuntimeError(f"llama.cpp made the context {llama_cpp.llama_n_ctx(context)}")
    if adapter:
        lora = llama_cpp.llama_adapter_lora_init(model, adapter.encode())
        if not lora:
            raise RuntimeError(f"llama.cpp does not load {adapter}")
        loras = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
        if llama_cpp.llama_set_adapters_lora(context, loras, 1, (ctypes.c_float * 1)(scale)) != 0:
            raise RuntimeError("llama_set_adapters_lora failed")
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    if llama_cpp.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), shape=(n_vocab,)).copy()
            for i in range(len(tokens))]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return rows


def write_fixture(name, lines_of):
    """Writes FIXTURES_FOLDER/name of the command line's two arguments, WRITER and FIXTURES_FOLDER: the lines that
    lines_of(path without its end, family, context length, tokens) gives for each family that WRITER writes."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} WRITER FIXTURES_FOLDER")
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
        for family, context_length, *tokens in families:
            lines += lines_of(os.path.join(temporary, family), family, int(context_length), [int(token) for token in tokens])
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{len(families)} families")


def logits_text(row, step):
    """Every step-th token's."""
    return " ".join(f"{token}:{row[token]:.6g}" for token in range(0, len(row), step))


def lines_of(path, family, context_length, tokens):
    rows = logits_of(path + ".gguf", context_length, tokens)
    return [f"{family} {position} " + logits_text(rows[position], TOKEN_STEP) for position in POSITIONS]


if __name__ == "__main__":
    write_fixture("families.txt", lines_of)
