#!/usr/bin/env python3
"""Writes a GGUF model of a real model's shape with random weights and a generated vocabulary.

For measuring speed and memory where the real file cannot be had: the file loads and generates (nonsense), with the
sizes, formats and tensor names of the real one. The same arguments give the same bytes. Weights are written as they
are made, so memory stays small whatever the model's size.

    tools/make_synthetic_gguf.py --shape tinyllama --type Q4_K_M tinyllama.gguf
    tools/make_synthetic_gguf.py --shape custom --layers 4 --embd 512 --heads 8 --kv-heads 2 --ff 1536 --vocab 4096 \\
        --type Q8_0 small.gguf

Needs numpy. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import argparse
import dataclasses
import struct
import sys

try:
    import numpy as np
except ImportError:
    sys.exit("make_synthetic_gguf.py: needs numpy (Debian: python3-numpy)")

ALIGNMENT = 32
ELEMENTS_AT_ONCE = 1 << 22  # of a tensor while it is written


@dataclasses.dataclass
class Shape:
    arch: str
    layers: int
    embd: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    head_dim: int = 0  # 0: embd / heads
    tied: bool = True
    rope_factors: bool = False
    rope_base: float = 10000.0
    context: int = 2048


# From the models' published configurations.
SHAPES = {
    "smollm2": Shape("llama", 30, 576, 9, 3, 1536, 49152, rope_base=1e5, context=8192),
    "smollm2-360m": Shape("llama", 32, 960, 15, 5, 2560, 49152, rope_base=1e5, context=8192),
    "smollm2-1.7b": Shape("llama", 24, 2048, 32, 32, 8192, 49152, rope_base=130000.0, context=8192),
    "tinyllama": Shape("llama", 22, 2048, 32, 4, 5632, 32000, tied=False),
    "llama3.2-1b": Shape("llama", 16, 2048, 32, 8, 8192, 128256, 64, rope_factors=True, rope_base=5e5, context=131072),
    "llama3.2-3b": Shape("llama", 28, 3072, 24, 8, 8192, 128256, 128, rope_factors=True, rope_base=5e5, context=131072),
    "llama2-7b": Shape("llama", 32, 4096, 32, 32, 11008, 32000, tied=False, context=4096),
    "llama3.1-8b": Shape("llama", 32, 4096, 32, 8, 14336, 128256, tied=False, rope_factors=True, rope_base=5e5,
                         context=131072),
    "qwen2.5-0.5b": Shape("qwen2", 24, 896, 14, 2, 4864, 151936, rope_base=1e6, context=32768),
    "qwen2.5-1.5b": Shape("qwen2", 28, 1536, 12, 2, 8960, 151936, rope_base=1e6, context=32768),
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 16, 8, 3072, 151936, 128, rope_base=1e6, context=40960),
}


@dataclasses.dataclass
class Format:
    """A block of random bytes is a block of random integers; only its f16 scales are chosen."""

    id: int
    block: int  # elements
    bytes: int
    scale_at: int = 0
    spread: float = 1.0  # standard deviation of the integers that the scale multiplies
    min_at: int = -1
    min_factor: float = 0.0  # the minimum's scale over the scale, so that the mean is about zero


FORMATS = {
    "F32": Format(0, 1, 4),
    "F16": Format(1, 1, 2),
    "BF16": Format(30, 1, 2),
    "Q4_0": Format(2, 32, 18, 0, 4.6),
    "Q4_1": Format(3, 32, 20, 0, 4.6, 2, -7.5),
    "Q5_0": Format(6, 32, 22, 0, 9.2),
    "Q5_1": Format(7, 32, 24, 0, 9.2, 2, -15.5),
    "Q8_0": Format(8, 32, 34, 0, 74.0),
    "IQ4_NL": Format(20, 32, 18, 0, 70.0),
    "Q2_K": Format(10, 256, 84, 80, 13.0, 82, 1.5),
    "Q3_K": Format(11, 256, 110, 108, 43.0),
    "Q4_K": Format(12, 256, 144, 0, 280.0, 2, 7.5),
    "Q5_K": Format(13, 256, 176, 0, 560.0, 2, 15.5),
    "Q6_K": Format(14, 256, 210, 208, 1370.0),
}
# What takes the place of a 256-wide format where rows are not a multiple of 256.
FALLBACK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# A "K_M" file is a mixture: most matrices in one format, attn_v and ffn_down of some layers in a wider one.
MIXTURES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}


def format_for(name, type_name, n_in, layer, shape):
    """The format of one matrix in a file of the given type."""
    layers = shape.layers
    if type_name in MIXTURES:
        usual, better = MIXTURES[type_name]
        # The rule by which such files are made: the first and last eighth of the layers and every third between.
        eighth = layers // 8
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        choice = better if name in ("attn_v", "ffn_down") and more else usual
    else:
        choice = type_name
    # The output head, also where it is the embedding, is kept in a wider format than the layers.
    head = name == "output" or (name == "token_embd" and shape.tied)
    if head and type_name not in ("F32", "F16", "BF16", "Q8_0"):
        choice = "Q6_K"
    if n_in % FORMATS[choice].block != 0:
        choice = FALLBACK.get(choice, "F16")
    if n_in % FORMATS[choice].block != 0:
        choice = "F16"
    return choice


def random_data(rng, format_name, elements, deviation):
    """Bytes of `elements` random values of zero mean and the given standard deviation."""
    form = FORMATS[format_name]
    if form.block == 1:
        values = rng.standard_normal(elements, dtype=np.float32) * np.float32(deviation)
        if format_name == "F32":
            return values.tobytes()
        if format_name == "F16":
            return values.astype(np.float16).tobytes()
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    n_blocks = elements // form.block
    blocks = rng.integers(0, 256, size=(n_blocks, form.bytes), dtype=np.uint8)
    scale = deviation / form.spread * rng.uniform(0.75, 1.25, n_blocks)
    blocks[:, form.scale_at:form.scale_at + 2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
    if form.min_at >= 0:
        minimum = (scale * form.min_factor).astype(np.float16)
        blocks[:, form.min_at:form.min_at + 2] = minimum.view(np.uint8).reshape(-1, 2)
    return blocks.tobytes()


def byte_symbols():
    """GPT-2's printable stand-ins of the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for byte in range(256):
        if byte in shown:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def make_vocabulary(size):
    """Tokens, types and merges: control tokens, the bytes, then ever longer words of lower-case letters."""
    symbols = byte_symbols()
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [symbols[b] for b in range(256)]
    types = [3, 3, 3] + [1] * 256
    merges = []
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    shorter = [symbols[32], *letters]
    while len(tokens) < size:
        longer = []
        for left in shorter:
            for right in letters:
                merges.append(f"{left} {right}")
                longer.append(left + right)
        tokens += longer
        shorter = longer
    cut = len(tokens) - size
    if cut:
        tokens, merges = tokens[:size], merges[:-cut]
    return tokens, types + [1] * (size - len(types)), merges


U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def metadata(shape, type_name, label):
    """The encoded keys and their number."""
    tokens, types, merges = make_vocabulary(shape.vocab)
    keys = []

    def add(key, kind, data):
        keys.append(string(key) + struct.pack("<I", kind) + data)

    def add_u32(key, value):
        add(key, U32, struct.pack("<I", value))

    def add_strings(key, values):
        add(key, ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(string, values)))

    a = shape.arch
    add("general.architecture", STRING, string(a))
    add("general.name", STRING, string(f"Synthetic {label} {type_name}"))
    add_u32(f"{a}.block_count", shape.layers)
    add_u32(f"{a}.context_length", shape.context)
    add_u32(f"{a}.embedding_length", shape.embd)
    add_u32(f"{a}.feed_forward_length", shape.ff)
    add_u32(f"{a}.attention.head_count", shape.heads)
    add_u32(f"{a}.attention.head_count_kv", shape.kv_heads)
    if shape.head_dim:
        add_u32(f"{a}.attention.key_length", shape.head_dim)
        add_u32(f"{a}.attention.value_length", shape.head_dim)
        add_u32(f"{a}.rope.dimension_count", shape.head_dim)
    add(f"{a}.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5))
    add(f"{a}.rope.freq_base", F32, struct.pack("<f", shape.rope_base))
    add("tokenizer.ggml.model", STRING, string("gpt2"))
    add("tokenizer.ggml.pre", STRING, string("smollm" if a == "llama" else "qwen2"))
    add_strings("tokenizer.ggml.tokens", tokens)
    add("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", I32, len(types)) + np.array(types, "<i4").tobytes())
    add_strings("tokenizer.ggml.merges", merges)
    add_u32("tokenizer.ggml.bos_token_id", 1)
    add_u32("tokenizer.ggml.eos_token_id", 2)
    add("tokenizer.ggml.add_bos_token", BOOL, b"\0")
    add("tokenizer.chat_template", STRING,
        string("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
               "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
               "{% endif %}"))
    return b"".join(keys), len(keys)


@dataclasses.dataclass
class Tensor:
    name: str
    format: str
    dims: tuple
    centre: float = 0.0  # of a vector, which is F32; matrices are about zero
    deviation: float = 0.0

    def elements(self):
        return int(np.prod(self.dims))

    def bytes(self):
        form = FORMATS[self.format]
        return self.elements() // form.block * form.bytes


def tensors_of(shape, type_name):
    head_dim = shape.head_dim or shape.embd // shape.heads
    n_q, n_kv = shape.heads * head_dim, shape.kv_heads * head_dim
    tensors = []

    def matrix(prefix, name, n_in, n_out, layer=0):
        form = format_for(name, type_name, n_in, layer, shape)
        tensors.append(Tensor(f"{prefix}{name}.weight", form, (n_in, n_out), 0.0, n_in**-0.5))

    def vector(name, n, centre, deviation):
        tensors.append(Tensor(name, "F32", (n,), centre, deviation))

    matrix("", "token_embd", shape.embd, shape.vocab)
    if shape.rope_factors:
        vector("rope_freqs.weight", head_dim // 2, 4.0, 1.0)
    for layer in range(shape.layers):
        p = f"blk.{layer}."
        vector(p + "attn_norm.weight", shape.embd, 1.0, 0.1)
        matrix(p, "attn_q", shape.embd, n_q, layer)
        matrix(p, "attn_k", shape.embd, n_kv, layer)
        matrix(p, "attn_v", shape.embd, n_kv, layer)
        if shape.arch == "qwen2":
            for which, n in (("q", n_q), ("k", n_kv), ("v", n_kv)):
                vector(f"{p}attn_{which}.bias", n, 0.0, 0.2)
        if shape.arch == "qwen3":
            vector(p + "attn_q_norm.weight", head_dim, 1.0, 0.1)
            vector(p + "attn_k_norm.weight", head_dim, 1.0, 0.1)
        matrix(p, "attn_output", n_q, shape.embd, layer)
        vector(p + "ffn_norm.weight", shape.embd, 1.0, 0.1)
        matrix(p, "ffn_gate", shape.embd, shape.ff, layer)
        matrix(p, "ffn_up", shape.embd, shape.ff, layer)
        matrix(p, "ffn_down", shape.ff, shape.embd, layer)
    vector("output_norm.weight", shape.embd, 1.0, 0.1)
    if not shape.tied:
        matrix("", "output", shape.embd, shape.vocab)
    return tensors


def padding(n):
    return b"\0" * (-n % ALIGNMENT)


def write_model(path, shape, type_name, label, seed):
    """Returns the number of bytes written."""
    rng = np.random.default_rng(seed)
    tensors = tensors_of(shape, type_name)
    keys, n_keys = metadata(shape, type_name, label)
    table, offset = b"", 0
    for tensor in tensors:
        table += string(tensor.name) + struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        table += struct.pack("<IQ", FORMATS[tensor.format].id, offset)
        offset += tensor.bytes() + len(padding(tensor.bytes()))
    with open(path, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_keys) + keys + table)
        out.write(padding(out.tell()))
        for tensor in tensors:
            if len(tensor.dims) == 1:
                values = tensor.centre + tensor.deviation * rng.standard_normal(tensor.dims[0])
                if tensor.name == "rope_freqs.weight":
                    values = np.maximum(values, 1.0)
                out.write(values.astype("<f4").tobytes())
            else:
                # Whole rows, so that pieces are whole blocks.
                rows_at_once = max(1, ELEMENTS_AT_ONCE // tensor.dims[0])
                for row in range(0, tensor.dims[1], rows_at_once):
                    rows = min(rows_at_once, tensor.dims[1] - row)
                    out.write(random_data(rng, tensor.format, rows * tensor.dims[0], tensor.deviation))
            out.write(padding(out.tell()))
        return out.tell()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the file to write")
    parser.add_argument("--shape", choices=[*SHAPES, "custom"], default="smollm2")
    parser.add_argument("--type", choices=[*FORMATS, *MIXTURES], default="Q4_0")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arch", choices=["llama", "qwen2", "qwen3"], help="with --shape custom")
    parser.add_argument("--untied", action="store_true", help="with --shape custom: an output head of its own")
    for name in ("layers", "embd", "heads", "kv-heads", "head-dim", "ff", "vocab", "context"):
        parser.add_argument(f"--{name}", type=int, help="changes the shape; needed with --shape custom"
                            if name not in ("head-dim", "context") else "changes the shape")
    return parser, parser.parse_args()


def main():
    parser, args = parse_arguments()
    changes = {k: getattr(args, k) for k in ("arch", "layers", "embd", "heads", "kv_heads", "head_dim", "ff", "vocab",
                                             "context") if getattr(args, k) is not None}
    if args.shape == "custom":
        missing = [k for k in ("layers", "embd", "heads", "kv_heads", "ff", "vocab") if k not in changes]
        if missing:
            parser.error("--shape custom needs " + ", ".join("--" + k.replace("_", "-") for k in missing))
        shape = Shape(**{"arch": "llama", **changes}, tied=not args.untied)
    else:
        shape = dataclasses.replace(SHAPES[args.shape], **changes)
    if shape.heads % shape.kv_heads or (not shape.head_dim and shape.embd % shape.heads) or shape.vocab < 259:
        parser.error("heads must be a multiple of kv-heads, embd of heads (without head-dim), vocab at least 259")
    if args.type in FORMATS and shape.embd % 32:
        parser.error("embd must be a multiple of 32")
    size = write_model(args.output, shape, args.type, args.shape, args.seed)
    print(f"{args.output}: {size / 2**20:.1f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
