#!/usr/bin/env python3
"""Writes small random T5 models and what llama.cpp answers with them, for tests/sharding/encoder_decoder_test.cc.

    tools/make_t5_fixtures.py tests/sharding/fixtures

t5_gated.gguf is of the later kind (Flan-T5, LaMini-Flan-T5: gated GELU, an output matrix of its own) in F32, t5_plain.gguf
of the first (ReLU, tied) in F16. Their heads are wider than n_embd / n_head, their decoders have another number of
layers than their encoders. t5_encoder.gguf is an encoder alone (t5encoder), and t5_encoder_expected.txt has the means of its
rows that llama.cpp gives, for tests/sharding/embedding_test.cc. t5_expected.txt has for each model and input the tokens that llama.cpp generates greedily
and the logits it chose by. llama.cpp does not scale a tied head's hidden by 1 / sqrt(n_embd), as the model's definition
does: the test does that to its logits.

Needs numpy, gguf and llama-cpp-python (0.3.36 made what is committed).
"""

import argparse
import pathlib

import gguf
import numpy as np

CONTEXT = 512
ANSWER_TOKENS = 12


def vocabulary():
    """Pieces of a unigram tokenizer: control tokens, single characters, a few longer ones."""
    pieces = [("<pad>", 0.0, gguf.TokenType.CONTROL), ("</s>", 0.0, gguf.TokenType.CONTROL),
              ("<unk>", 0.0, gguf.TokenType.UNKNOWN), ("\u2581", -2.0, gguf.TokenType.NORMAL)]
    pieces += [(c, -4.0, gguf.TokenType.NORMAL) for c in "abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-"]
    pieces += [(p, -5.0 - i / 10, gguf.TokenType.NORMAL)
               for i, p in enumerate(["\u2581the", "\u2581a", "\u2581is", "\u2581of", "ing", "er", "\u2581in", "ed", "on", "th",
                                      "\u2581to", "\u2581and", "re", "\u2581sea", "\u2581salt", "an", "en"])]
    return pieces


def write_model(path, rng, gated, weight_type, n_embd, n_head, head_dim, n_ff, n_encoder, n_decoder, buckets):
    """Without a decoder if n_decoder is 0."""
    writer = gguf.GGUFWriter(path, "t5" if n_decoder else "t5encoder")
    writer.add_name(path.stem)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_block_count(n_encoder)
    if n_decoder:
        writer.add_decoder_block_count(n_decoder)
    writer.add_head_count(n_head)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_eps(1e-6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_relative_attn_buckets_count(buckets)
    if n_decoder:
        writer.add_decoder_start_token_id(0)
    else:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    pieces = vocabulary()
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types([kind for _, _, kind in pieces])
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)

    def matrix(name, n_in, n_out, size=1.0):
        w = (rng.standard_normal((n_out, n_in)) * size / np.sqrt(n_in)).astype(weight_type)
        writer.add_tensor(name, w)

    def norm(name):
        writer.add_tensor(name, (1 + 0.2 * rng.standard_normal(n_embd)).astype(np.float32))

    def bias(name):  # [buckets, n_head], large enough to matter
        writer.add_tensor(name, (1.5 * rng.standard_normal((buckets, n_head))).astype(np.float32))

    def attention(prefix):
        norm(prefix + "_norm.weight")
        # T5 does not scale scores, so its queries are small.
        matrix(prefix + "_q.weight", n_embd, n_head * head_dim, 1.5 / np.sqrt(head_dim))
        matrix(prefix + "_k.weight", n_embd, n_head * head_dim)
        matrix(prefix + "_v.weight", n_embd, n_head * head_dim)
        matrix(prefix + "_o.weight", n_head * head_dim, n_embd)

    def feed_forward(block):
        norm(block + "ffn_norm.weight")
        if gated:
            matrix(block + "ffn_gate.weight", n_embd, n_ff)
        matrix(block + "ffn_up.weight", n_embd, n_ff)
        matrix(block + "ffn_down.weight", n_ff, n_embd)

    # Where the embedding is the output matrix too, a large one would only repeat the last token.
    matrix("token_embd.weight", n_embd, len(pieces), np.sqrt(n_embd) * (1 if gated else 0.2))
    for i in range(n_encoder):
        attention(f"enc.blk.{i}.attn")
        if i == 0:
            bias(f"enc.blk.{i}.attn_rel_b.weight")
        feed_forward(f"enc.blk.{i}.")
    norm("enc.output_norm.weight")
    for i in range(n_decoder):
        attention(f"dec.blk.{i}.attn")
        if i == 0:
            bias(f"dec.blk.{i}.attn_rel_b.weight")
        attention(f"dec.blk.{i}.cross_attn")
        feed_forward(f"dec.blk.{i}.")
    if n_decoder:
        norm("dec.output_norm.weight")
    if gated and n_decoder:
        matrix("output.weight", n_embd, len(pieces), 3.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(pieces)


class Oracle:
    """llama.cpp over one file: an input in, the answer's tokens and the logits of every step out."""

    def __init__(self, path):
        import llama_cpp
        self.llama = llama_cpp
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def batch_of(self, tokens, first):
        batch = self.llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        return batch

    def answer(self, tokens):
        llama = self.llama
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.type_k = params.type_v = 0  # f32, so that the rounding is ours alone
        params.flash_attn_type = 0
        context = llama.llama_init_from_model(self.model, params)
        assert llama.llama_encode(context, self.batch_of(tokens, 0)) == 0
        token = llama.llama_model_decoder_start_token(self.model)
        answered, steps = [], []
        for position in range(ANSWER_TOKENS):
            assert llama.llama_decode(context, self.batch_of([token], position)) == 0
            logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, 0), (self.n_vocab,)).copy()
            token = int(logits.argmax())
            answered.append(token)
            steps.append(logits)
        llama.llama_free(context)
        return answered, steps


    def embedding(self, tokens):
        llama = self.llama
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.embeddings = True
        params.flash_attn_type = 0
        context = llama.llama_init_from_model(self.model, params)
        assert llama.llama_encode(context, self.batch_of(tokens, 0)) == 0
        found = llama.llama_get_embeddings_seq(context, 0)
        vector = np.ctypeslib.as_array(found, (llama.llama_model_n_embd(self.model),)).copy()
        llama.llama_free(context)
        return vector


def random_input(rng, n_vocab, length):
    return [int(t) for t in rng.integers(3, n_vocab, length - 1)] + [1]


def write_encoder(folder):
    rng = np.random.default_rng(20261130)
    path = folder / "t5_encoder.gguf"
    n_vocab = write_model(path, rng, gated=True, weight_type=np.float16, n_embd=24, n_head=3, head_dim=10, n_ff=36,
                          n_encoder=3, n_decoder=0, buckets=32)
    oracle = Oracle(path)
    lines = []
    for length in (1, 7, 60):
        tokens = random_input(rng, n_vocab, length)
        lines += [f"model {path.name}", "input " + " ".join(map(str, tokens)),
                  "vector " + " ".join(f"{x:.6f}" for x in oracle.embedding(tokens))]
    (folder / "t5_encoder_expected.txt").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    rng = np.random.default_rng(20261128)
    shapes = {
        "t5_gated": dict(gated=True, weight_type=np.float32, n_embd=24, n_head=3, head_dim=10, n_ff=36, n_encoder=3,
                         n_decoder=2, buckets=32),
        "t5_plain": dict(gated=False, weight_type=np.float16, n_embd=24, n_head=2, head_dim=16, n_ff=40, n_encoder=2,
                         n_decoder=2, buckets=16),
    }
    lines = []
    for name, shape in shapes.items():
        path = folder / f"{name}.gguf"
        n_vocab = write_model(path, rng, **shape)
        oracle = Oracle(path)
        for length in (1, 7, 40, 200):  # one row; one page; into the logarithmic buckets; past the last bucket
            tokens = random_input(rng, n_vocab, length)
            answered, steps = oracle.answer(tokens)
            lines.append(f"model {name}.gguf")
            lines.append("input " + " ".join(map(str, tokens)))
            lines.append("answer " + " ".join(map(str, answered)))
            pieces = [piece if kind == gguf.TokenType.NORMAL else "" for piece, _, kind in vocabulary()]
            lines.append("text " + "".join(pieces[token] for token in answered).replace("\u2581", " "))
            for logits in steps[:3]:
                lines.append("logits " + " ".join(f"{x:.5f}" for x in logits))
    (folder / "t5_expected.txt").write_text("\n".join(lines) + "\n")
    write_encoder(folder)


if __name__ == "__main__":
    main()
