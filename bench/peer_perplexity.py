#!/usr/bin/env python3
"""Perplexity of Shoal and of llama.cpp on the same text with the same model file.

    cmake --build build/release --target cache_perplexity
    bench/peer_perplexity.py MODEL.gguf TEXT [--program build/release/cache_perplexity]

Both read the first 2048 tokens as one context and predict each but the first. Shoal's figures are bench/cache_perplexity's
(f16 cache); llama.cpp's come from llama-cpp-python (PyPI), whose cache is f16 too. That both make the same tokens of the
text is checked first by their number.
"""
import argparse
import math
import subprocess

import llama_cpp
import numpy as np

TOKENS_MAX = 2048


def peer(model, text):
    llama = llama_cpp.Llama(model_path=model, n_ctx=TOKENS_MAX, n_batch=256, n_threads=2, logits_all=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(llama._model.model)
    tokens = llama.tokenize(text, add_bos=bool(llama_cpp.llama_vocab_get_add_bos(vocab)), special=False)[:TOKENS_MAX]
    llama.eval(tokens)
    total = 0.0
    for position in range(len(tokens) - 1):
        row = np.asarray(llama.scores[position], dtype=np.float64)
        peak = row.max()
        total += peak + math.log(np.exp(row - peak).sum()) - row[tokens[position + 1]]
    return len(tokens) - 1, math.exp(total / (len(tokens) - 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--program", default="build/release/cache_perplexity")
    options = parser.parse_args()
    output = subprocess.run([options.program, options.model, options.text], check=True, text=True, stdout=subprocess.PIPE).stdout
    cells = [cell.strip() for cell in output.splitlines()[2].strip("|").split("|")]
    count, ours = int(cells[1]), float(cells[2])
    with open(options.text, "rb") as file:
        peer_count, theirs = peer(options.model, file.read())
    if count != peer_count:
        raise SystemExit(f"the texts differ: {count} and {peer_count} tokens")
    print(f"| {options.model.rsplit('/', 1)[-1]} | {count} | {ours:.3f} | {theirs:.3f} | {100 * (ours / theirs - 1):+.2f} % |")


if __name__ == "__main__":
    main()
