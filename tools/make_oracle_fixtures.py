#!/usr/bin/env python3
"""Writes tests/sharding/fixtures/oracle.txt: what llama.cpp says about a model, for
tests/sharding/model_file_test.cc.

    pip install llama-cpp-python
    tools/make_oracle_fixtures.py MODEL.gguf tests/sharding/fixtures

The file holds token ids, so the test does not depend on a tokenizer:

    model <file name>
    prompt <n> <n token ids>               followed by
    top <id>:<log-probability> x 10        best next tokens, best first, natural logarithm
    exact-top <id>:<log-probability> x 10  the same by exact arithmetic
    text <n> <n token ids>                 text.txt, followed by
    nll <mean negative log-likelihood of tokens 1..n-1, natural logarithm>
    exact-nll <the same by exact arithmetic>

llama.cpp rounds activations to int8 in front of quantised weights, as Shoal does, and the two roundings part
company after a few layers. So the file is also evaluated with its weights written out as F32 and an F32 KV cache,
where nothing is rounded ("exact"): against that, the rounding noise of either engine can be told from a mistake.
"""

import ctypes
import math
import os
import sys
import tempfile

import llama_cpp
import numpy as np

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Water boils at a temperature of",
    "The three primary colours are red,",
    "<|im_start|>user\nWhat is the largest planet?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n",
    "1, 2, 3, 5, 8, 13, 21,",
    "In 1969, Neil Armstrong became the first person to",
    "#include <stdio.h>\n\nint main(void) {\n    printf(",
    "Q: What do bees make?\nA:",
    "The quick brown fox jumps over the lazy",
    "To be, or not to be, that is the",
    "Dear Sir or Madam,\n\nI am writing to",
    "SELECT name, age FROM users WHERE",
    "Photosynthesis is the process by which plants",
    "She opened the old wooden door and saw",
    "12 + 30 =",
    "Die Hauptstadt von Deutschland ist",
    "A suction pump does not pull water; it removes air, and the weight of the atmosphere pushes the water "
    "up. This is the reason why no suction pump, however well made, can lift water by more than about",
]
BATCH = 64  # rows decoded at once; logits of all of them are read


class Oracle:
    """llama.cpp on the CPU, by default with the f16 KV cache that is its default too."""

    def __init__(self, path, f32_cache=False):
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 4096, BATCH, BATCH
        if f32_cache:
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def tokens(self, text):
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), room, len(room), True, True)
        if n < 0:
            raise RuntimeError("llama_tokenize failed")
        return list(room[:n])

    def log_probabilities(self, tokens):
        """One float64 array [n_vocab] for each token: log-probabilities of the token that follows."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        for begin in range(0, len(tokens), BATCH):
            part = tokens[begin : begin + BATCH]
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i], batch.logits[i] = token, begin + i, True
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            if llama_cpp.llama_decode(self.context, batch) != 0:
                raise RuntimeError("llama_decode failed")
            for i in range(len(part)):
                row = llama_cpp.llama_get_logits_ith(self.context, i)
                logits = np.ctypeslib.as_array(row, shape=(self.n_vocab,)).astype(np.float64)
                top = logits.max()
                yield logits - (top + math.log(np.exp(logits - top).sum()))
        llama_cpp.llama_batch_free(batch)


def write_as_f32(path, f32_path):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.pure = llama_cpp.LLAMA_FTYPE_ALL_F32, True, True
    if llama_cpp.llama_model_quantize(path.encode(), f32_path.encode(), ctypes.byref(params)) != 0:
        raise RuntimeError("llama_model_quantize failed")


def top_line(word, row):
    best = np.argsort(-row, kind="stable")[:10]
    return f"{word} " + " ".join(f"{token}:{row[token]:.6f}" for token in best)


def mean_nll(oracle, tokens):
    return np.mean([-row[following] for row, following in zip(oracle.log_probabilities(tokens), tokens[1:])])


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: make_oracle_fixtures.py MODEL.gguf FIXTURES_FOLDER")
    path, folder = sys.argv[1:]
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    oracle = Oracle(path)
    with tempfile.TemporaryDirectory() as temporary:
        write_as_f32(path, os.path.join(temporary, "f32.gguf"))
        exact = Oracle(os.path.join(temporary, "f32.gguf"), f32_cache=True)
    with open(os.path.join(folder, "text.txt"), encoding="utf-8") as f:
        text = oracle.tokens(f.read())
    lines = [f"model {os.path.basename(path)}"]
    for prompt in PROMPTS:
        tokens = oracle.tokens(prompt)
        lines.append(f"prompt {len(tokens)} " + " ".join(map(str, tokens)))
        for word, engine in ("top", oracle), ("exact-top", exact):
            *_, last = engine.log_probabilities(tokens)
            lines.append(top_line(word, last))
    nll, exact_nll = mean_nll(oracle, text), mean_nll(exact, text)
    lines.append(f"text {len(text)} " + " ".join(map(str, text)))
    lines += [f"nll {nll:.8f}", f"exact-nll {exact_nll:.8f}"]
    with open(os.path.join(folder, "oracle.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{len(text)} tokens of text: perplexity {math.exp(nll):.4f}, exact {math.exp(exact_nll):.4f}")


if __name__ == "__main__":
    main()
