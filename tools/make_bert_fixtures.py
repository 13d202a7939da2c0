#!/usr/bin/env python3
"""BERT models as GGUF files, and what llama.cpp makes of them.

    tools/make_bert_fixtures.py tiny tests/sharding/fixtures      # what tests/sharding/embedding_test.cc reads
    tools/make_bert_fixtures.py convert MODEL_FOLDER OUT.gguf     # a BertModel of Hugging Face's layout (F32)
    tools/make_bert_fixtures.py embed MODEL.gguf TEXT...          # llama.cpp's embeddings, normalised, as JSON
    tools/make_bert_fixtures.py reference MODEL_FOLDER TEXT...    # the same by the definition in float64, with GELU by erf

`tiny` writes small random models: bert_mean.gguf (as MiniLM), bert_rank.gguf (a reranker: classifier over the first row)
and nomic_bert.gguf (rotary positions, gated SiLU, no biases), and in embedding_expected.txt for token ids the vectors
or scores that llama.cpp gives. llama.cpp computes BERT's GELU by its tanh form, from a table of halves, where the
models' definition has erf: that is most of the difference that the test allows for.

Needs numpy and gguf; `tiny` and `embed` llama-cpp-python (0.3.36 made what is committed), `reference` tokenizers.
"""

import argparse
import json
import math
import pathlib
import struct

import gguf
import numpy as np

POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "last": gguf.PoolingType.LAST,
           "rank": gguf.PoolingType.RANK}


def add_keys(writer, shape, pooling):
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["n_embd"])
    writer.add_feed_forward_length(shape["n_ff"])
    writer.add_block_count(shape["n_layer"])
    writer.add_head_count(shape["n_head"])
    writer.add_layer_norm_eps(shape.get("eps", 1e-12))
    writer.add_causal_attention(False)
    writer.add_pooling_type(POOLING[pooling])


def add_vocabulary(writer, pieces, types):
    """Pieces as BERT's own files write them ("##ing")."""
    def as_gguf(piece, kind):
        if kind != gguf.TokenType.NORMAL:
            return piece
        return piece[2:] if piece.startswith("##") else "\u2581" + piece

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(types)
    kinds = [gguf.TokenType.UNKNOWN if p == "[UNK]" else
             gguf.TokenType.CONTROL if p.startswith("[") and p.endswith("]") and len(p) > 2 else gguf.TokenType.NORMAL
             for p in pieces]
    writer.add_token_list([as_gguf(p, k) for p, k in zip(pieces, kinds)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.index("[CLS]"))
    writer.add_eos_token_id(pieces.index("[SEP]"))
    writer.add_sep_token_id(pieces.index("[SEP]"))
    writer.add_pad_token_id(pieces.index("[PAD]"))
    writer.add_unk_token_id(pieces.index("[UNK]"))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- small random models ----

def tiny_pieces():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list("abcdefghijklmnopqrstuvwxyz.,?!'-")
    pieces += ["the", "sea", "salt", "is", "of", "in", "##s", "##t", "##er", "##ing", "##a", "##e", "##n"]
    return pieces


def write_tiny(path, rng, arch, pooling, weight_type):
    shape = dict(context=64, n_embd=24, n_ff=36, n_layer=3, n_head=3)
    n_embd, n_ff = shape["n_embd"], shape["n_ff"]
    pieces = tiny_pieces()
    nomic = arch == "nomic-bert"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(path.stem)
    add_keys(writer, shape, pooling)
    if nomic:
        writer.add_rope_freq_base(1000.0)
    add_vocabulary(writer, pieces, 2)

    def matrix(name, n_in, n_out, size=1.0, kind=weight_type):
        writer.add_tensor(name, (rng.standard_normal((n_out, n_in)) * size / np.sqrt(n_in)).astype(kind))

    def vector(name, n, centre, reach):
        writer.add_tensor(name, (centre + reach * rng.standard_normal(n)).astype(np.float32))

    def norm(name):
        vector(name + ".weight", n_embd, 1, 0.2)
        vector(name + ".bias", n_embd, 0, 0.2)

    matrix("token_embd.weight", n_embd, len(pieces), 2.0)
    matrix("token_types.weight", n_embd, 2, 2.0, np.float32)
    if not nomic:
        matrix("position_embd.weight", n_embd, shape["context"], 2.0, np.float32)
    norm("token_embd_norm")
    for i in range(shape["n_layer"]):
        block = f"blk.{i}."
        if nomic:
            matrix(block + "attn_qkv.weight", n_embd, 3 * n_embd, 1.5)
            matrix(block + "attn_output.weight", n_embd, n_embd)
            matrix(block + "ffn_gate.weight", n_embd, n_ff)
            matrix(block + "ffn_up.weight", n_embd, n_ff)
            matrix(block + "ffn_down.weight", n_ff, n_embd)
        else:
            for what in "qkv":
                matrix(block + f"attn_{what}.weight", n_embd, n_embd, 1.5)
                vector(block + f"attn_{what}.bias", n_embd, 0, 0.3)
            matrix(block + "attn_output.weight", n_embd, n_embd)
            vector(block + "attn_output.bias", n_embd, 0, 0.3)
            matrix(block + "ffn_up.weight", n_embd, n_ff)
            vector(block + "ffn_up.bias", n_ff, 0, 0.3)
            matrix(block + "ffn_down.weight", n_ff, n_embd)
            vector(block + "ffn_down.bias", n_embd, 0, 0.3)
        norm(block + "attn_output_norm")
        norm(block + "layer_output_norm")
    if pooling == "rank":
        matrix("cls.weight", n_embd, n_embd)
        vector("cls.bias", n_embd, 0, 0.3)
        matrix("cls.output.weight", n_embd, 1, 3.0)
        vector("cls.output.bias", 1, 0, 0.3)
    finish(writer)
    return len(pieces)


class Oracle:
    """llama.cpp over one file."""

    def __init__(self, path):
        import llama_cpp
        self.llama = llama_cpp
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.n_embd = llama_cpp.llama_model_n_embd(self.model)

    def tokens(self, text):
        vocab = self.llama.llama_model_get_vocab(self.model)
        raw = text.encode()
        ids = (self.llama.llama_token * 512)()
        n = self.llama.llama_tokenize(vocab, raw, len(raw), ids, 512, True, True)
        return list(ids[:n])

    def vector(self, tokens, size=None):
        llama = self.llama
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.embeddings = True
        params.flash_attn_type = 0
        context = llama.llama_init_from_model(self.model, params)
        batch = llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        assert llama.llama_encode(context, batch) == 0
        found = llama.llama_get_embeddings_seq(context, 0)
        vector = np.ctypeslib.as_array(found, (size or self.n_embd,)).copy()
        llama.llama_free(context)
        return vector


def make_tiny(folder):
    rng = np.random.default_rng(20261129)
    lines = []
    for name, arch, pooling, weight_type in [("bert_mean", "bert", "mean", np.float32),
                                             ("bert_rank", "bert", "rank", np.float16),
                                             ("nomic_bert", "nomic-bert", "mean", np.float16)]:
        path = folder / f"{name}.gguf"
        n_vocab = write_tiny(path, rng, arch, pooling, weight_type)
        oracle = Oracle(path)
        for length in (3, 17, 64):
            tokens = [2] + [int(t) for t in rng.integers(5, n_vocab, length - 2)] + [3]
            vector = oracle.vector(tokens, 1 if pooling == "rank" else None)
            lines += [f"model {name}.gguf", "input " + " ".join(map(str, tokens)),
                      "vector " + " ".join(f"{x:.6f}" for x in vector)]
    (folder / "embedding_expected.txt").write_text("\n".join(lines) + "\n")


# ---- a real model ----

def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        begin = file.tell()
        types = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, end = entry["data_offsets"]
            file.seek(begin + first)
            tensors[name.removeprefix("bert.")] = np.frombuffer(file.read(end - first), types[entry["dtype"]]).reshape(
                entry["shape"])
    return tensors


NAMES = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
         "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
         "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}


def convert(folder, out):
    config = json.loads((folder / "config.json").read_text())
    pooling_file = folder / "1_Pooling" / "config.json"
    pooling = "mean" if pooling_file.exists() and json.loads(pooling_file.read_text())["pooling_mode_mean_tokens"] else "cls"
    tensors = read_safetensors(folder / "model.safetensors")
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_name(folder.parent.name)
    add_keys(writer, dict(context=config["max_position_embeddings"], n_embd=config["hidden_size"],
                          n_ff=config["intermediate_size"], n_layer=config["num_hidden_layers"],
                          n_head=config["num_attention_heads"], eps=config["layer_norm_eps"]), pooling)
    add_vocabulary(writer, (folder / "vocab.txt").read_text(encoding="utf-8").splitlines(), config["type_vocab_size"])

    def add(name, data):
        writer.add_tensor(name, np.ascontiguousarray(data.astype(np.float32)))

    add("token_embd.weight", tensors["embeddings.word_embeddings.weight"])
    add("position_embd.weight", tensors["embeddings.position_embeddings.weight"])
    add("token_types.weight", tensors["embeddings.token_type_embeddings.weight"])
    for part in ("weight", "bias"):
        add(f"token_embd_norm.{part}", tensors[f"embeddings.LayerNorm.{part}"])
        for i in range(config["num_hidden_layers"]):
            for theirs, ours in NAMES.items():
                add(f"blk.{i}.{ours}.{part}", tensors[f"encoder.layer.{i}.{theirs}.{part}"])
    finish(writer)


def reference(folder, text):
    """The published definition (Devlin et al. 2019, transformers' BertModel) with the pooling of sentence-transformers."""
    from tokenizers import Tokenizer
    config = json.loads((folder / "config.json").read_text())
    t = {name: data.astype(np.float64) for name, data in read_safetensors(folder / "model.safetensors").items()
         if data.dtype != np.int64}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(text).ids
    erf = np.vectorize(math.erf)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"]) * t[name + ".weight"]
                + t[name + ".bias"])

    def linear(x, name):
        return x @ t[name + ".weight"].T + t[name + ".bias"]

    x = (t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
         + t["embeddings.token_type_embeddings.weight"][0])
    x = norm(x, "embeddings.LayerNorm")
    heads = config["num_attention_heads"]
    for i in range(config["num_hidden_layers"]):
        block = f"encoder.layer.{i}."
        q, k, v = (linear(x, block + f"attention.self.{what}").reshape(len(ids), heads, -1)
                   for what in ("query", "key", "value"))
        scores = np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        attended = np.einsum("hnm,mhd->nhd", scores, v).reshape(len(ids), -1)
        x = norm(x + linear(attended, block + "attention.output.dense"), block + "attention.output.LayerNorm")
        h = linear(x, block + "intermediate.dense")
        h = 0.5 * h * (1 + erf(h / np.sqrt(2)))
        x = norm(x + linear(h, block + "output.dense"), block + "output.LayerNorm")
    return x.mean(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tiny", "convert", "embed", "reference"))
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("more", nargs="*")
    arguments = parser.parse_args()
    if arguments.what == "tiny":
        return make_tiny(arguments.path)
    if arguments.what == "convert":
        return convert(arguments.path, arguments.more[0])
    oracle = Oracle(arguments.path) if arguments.what == "embed" else None
    vectors = [oracle.vector(oracle.tokens(text)) if oracle else reference(arguments.path, text)
               for text in arguments.more]
    print(json.dumps([(v / np.linalg.norm(v)).tolist() for v in vectors]))


if __name__ == "__main__":
    main()
