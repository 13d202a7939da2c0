#!/usr/bin/env python3
"""Writes tests/model/fixtures/tokenizer_*.txt: token ids that llama.cpp gives for a set of nasty strings.

    python3 tools/make_tokenizer_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf tests/model/fixtures

Needs llama-cpp-python and gguf from PyPI. The oracle is llama.cpp with vocab_only. Byte-level BPE is asked with the
model's own vocabulary under each pre-tokenizer name in PRE_NAMES, so one real vocabulary covers every group;
SentencePiece with a small vocabulary made here and written beside the ids, so that the test can build it.

Files:
  tokenizer_strings.txt    one string a line, in hex
  tokenizer_extra.txt      merges, then tokens after a line "tokens:", added to the model's vocabulary for every NAME but
                           "model", which is the file as it is
  tokenizer_ids_NAME.txt   "eog: ids" and "pieces: FNV-1a of all pieces", then a line a string:
                           ids with control tokens as text TAB ids with control tokens parsed ("=" if the same)
  tokenizer_digest_NAME.txt  digests of the ids of these and 1000 generated strings (tools/tokenizer_strings.py), which needs
                           tokenizer_pieces.txt of tools/make_sentencepiece_fixtures.py for the test
  tokenizer_spm_vocab.txt  a token a line: type TAB score TAB text in hex
"""
import ctypes
import hashlib
import random
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp

from tokenizer_strings import digest_file
from tokenizer_strings import strings as all_strings

# One or two names of each group; llama-bpe sets ignore_merges and smaug-bpe, the same expression, does not.
PRE_NAMES = ["smollm", "gpt-2", "llama-bpe", "smaug-bpe", "qwen2", "default"]

# Merges and tokens added to the model's vocabulary, so that the groups' rules for digits, newlines after punctuation,
# contractions and whole words show in the ids: the model itself has no token of several digits.
EXTRA_MERGES = ["1 2", "12 3", "123 4", "2 3", "3 4", "4 5", "45 6", "0 0", "! Ċ", "!Ċ Ċ", "' L", "'L L", "' S", "ĉ a", "_ b", "Ċ Ġ",
                "- w", "Ċ ĉ", ". Ċ", "< |", "| >", "Â ²", "Ù £"]
EXTRA_TOKENS = ["qzxv", "Ġqzxvk", "!?!?"]

HAND_WRITTEN = [
    "", " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", "\n \n", " \n", "\n ", "\t\t", " \t ", "\x0b", "\x0c",
    "a", " a", "a ", "  a", "a  ", "a  b", "a   b", "a \n b", "a\n\nb", "a\r\nb", "a \r\n  b", "a\tb", "a\t\tb",
    "Hello", " Hello", "Hello world", "Hello, world!", "Hello  world", "HELLO WORLD", "hello\nworld\n",
    "The quick brown fox jumps over the lazy dog.", "  leading and trailing  ", "x" * 40, "ab" * 33, " " * 40,
    "\n" * 40, "\t" * 17, "a " * 30, "=" * 50, "-" * 33, "." * 31, "!?" * 20, "aA" * 20,
    "I'm", "I'M", "you're", "YOU'RE", "we've", "WE'VE", "he'll", "HE'LL", "she'd", "SHE'D", "it's", "IT'S", "can't",
    "CAN'T", "'s", "'S", "'t", "''s", "'ſ", "o'clock", "rock'n'roll", "'tis", "y'all'd've", "'re're", "'l", "'r", "'v",
    "it’s", "'\u0130", "don''t", "'ll'LL'Ll", "1's", " 's", "\n's",
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567890", "3.14159", "1,000,000", "1e-5", "0x1F", "10%",
    "a1b2c3", "1a", "a1", " 1", "  12", "1 2 3", "12  34", "٣٤٥", "१२३४", "½ ¾ ⅓", "Ⅷ ⅷ", "①②③", "²³¹", "𝟘𝟙𝟚", "一二三",
    "१a२", "x²+y²=z²", "1\n2\n3", "12 \n 34", "００１",
    "a_b", "__init__", "_", "__", "snake_case_name", "camelCaseName", "PascalCase", "SCREAMING_CASE", "kebab-case",
    "https://example.com/path?q=1&r=%20#frag", "user@example.com", "www.x.org", "file:///etc/passwd", "C:\\Windows\\x",
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "#include <stdio.h>\n",
    "if x:\n        pass\n\n\nelse:\n  y", "<div class=\"a\">text</div>", "SELECT * FROM t WHERE a = 'b';", "{\"k\": [1, 2.5, null]}",
    "$ echo \"$HOME\" | grep -v '^#' > /dev/null 2>&1", "a->b::c", "x := y", "/* comment */ // more", "\\n\\t\\x00", "&&||!!",
    "λx. x x", "∀x∈ℝ: x² ≥ 0", "∑_{i=1}^{n} i = n(n+1)/2", "∫₀^∞ e^{-x} dx", "a ≠ b ≤ c", "√2 ≈ 1.414", "£10 €20 ¥30 ₹40", "© ® ™",
    "café", "cafe\u0301", "naïve", "Å A\u030a", "ﬁ ﬂ", "Straße", "İstanbul", "ǅ", "Ωmega", "ñandú", "Zürich", "Việt Nam",
    "e\u0301\u0302\u0303\u0304", "\u0301", " \u0301", "a\u0300b\u0300", "Z͑ͫ̓a̴l̷g̵o̶",
    "你好，世界", "中文 English 混合", "日本語テキスト", "ひらがな カタカナ", "한국어 텍스트", "가나다라", "𠮷野家", "「引用」", "全角　空白", "ＡＢＣ",
    "مرحبا بالعالم", "السلام عليكم ١٢٣", "שלום עולם", "שָׁלוֹם", "\u200fRTL\u200e", "ราชอาณาจักรไทย", "สวัสดีครับ", "नमस्ते दुनिया",
    "தமிழ்", "བོད་ཡིག", "မြန်မာ", "ქართული", "Հայերեն", "Привет, мир!", "ПРИВЕТ", "Ελληνικά", "ᏣᎳᎩ", "ᚠᚢᚦ", "አማርኛ",
    "😀", "😀😀", " 😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "☃", "🤷🏽‍♀️ ok", "a😀b", "😀\n😀", "⌚️1", "#️⃣", "🫠",
    "\u00a0", "a\u00a0b", "\u2003", "a\u2003b", "\u2028", "a\u2029b", "\u3000\u3000x", "\u1680", "\u180e", "a\u180eb", "\u200b",
    "a\u200bb", "\u200d", "\ufeff", "\ufeffBOM", "\u2060", "\u00ad", "\u0085", "a\u0085b", " \u00a0 ", "\u202f1", "\u205f\n",
    "\x00", "a\x00b", "\x00\x00", "\x01\x02\x1b[0m", "\x7f", "\x1c\x1d\x1e\x1f", "\ue000", "\uf8ff", "\U000f0000", "\U0010ffff",
    "\ufffd", "\ufffe", "\uffff", "\U0001fffe", "\u0378", "a\u0378b", "\U000e0041", "\ufe0f", "\U0001d173",
    "<|im_start|>", "<|im_end|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", " <|im_end|> ",
    "<|im_end|><|im_end|>", "<|im_end", "im_end|>", "<|im_start|", "<|endoftext|>", "x<|endoftext|>y", "<<|im_end|>>",
    "<|im_<|im_end|>end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<issue_start>",
    "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>",
    "<jupyter_script>", "<empty_output>", "<file_sep>a<file_sep>", "<s>", "</s>", "<unk>", "<pad>", "<|eot_id|>", "<|begin_of_text|>",
    "<|IM_END|>", "< |im_end|>", "\n<|im_end|>\n", "12<|im_end|>34", "  <|im_start|>  system", "[INST] hi [/INST]",
    "Ġ", "Ċ", "ĠHello", "â", "▁", "▁▁a", "a▁b", "<0x41>", "<0x0A>", "Ã©",
    "word.\n\nNext", "end.  \n\n  Start", "...\n", "!\r\n", "?!\n\n\n", " ,", "\" \"", "(a)(b)", "a,b;c:d", "—–-", "“quoted”", "‘x’",
    "\n\t\n\t", " \n \n ", "\r\r\n\n", "a\n    b\n        c", "\u2028\n", "  \u3000 a", "x \u00a0y", "- item\n- item\n  - sub",
    "qzxv", " qzxvk", "a qzxv", "qzxvk", "!?!?", "100 000", "1234567 00 000", "a-word", "\ta", "x!\n\n\ny", "a\n b", "x'LL", "it'S",
    "ABCdefGHI", "iPhone15Pro", "v1.2.3-rc4+build.5", "2024-01-31T23:59:59Z", "+1 (555) 123-4567", "192.168.0.1", "::1",
    "supercalifragilisticexpialidocious", "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaft",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]

INVALID_UTF8 = [
    b"\x80", b"\xff", b"\xc3", b"a\xc3", b"\xc3a", b"\xe4\xbd", b"\xe4\xbda", b"\xf0\x9f\x98", b"\xf0\x9f\x98 x", b"\xf0\x9f",
    b"\xc0\x80", b"\xc1\xa1", b"\xe0\x80\x80", b"\xe0\x81\x81", b"\xf0\x80\x80\x80", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80",
    b"a\xed\xa0\x80b", b"\xed\xbf\xbf \xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff", b"\xff\xfeh\x00i\x00", b"abc\x80\x81def",
    b"\xbf\xbf\xbf", b" \x80 \xc3 ", b"1\xff2", b"\xe4\xbd\xa0\xe5\xa5", b"\xf0\x9f\x98\x80\xf0\x9f", b"caf\xe9", b"\xa0\xa0",
    b"\xc3\x28", b"\xe2\x82\x28", b"\xf0\x28\x8c\xbc", b"\xc2\n\xc2\n", b"<|im_end|>\xff<|im_end|>", b"\xef\xbf\xbd\xff",
]


def random_strings():
    rng = random.Random(20240229)
    pieces = [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'", "1", "23", "456", "7890", "a", "The", "word", "ING", "_", "-", ".", "...",
              "é", "ß", "你", "好", "日", "한", "ا", "ש", "ก", "्", "न", "😀", "\u200d", "\ufe0f", "\u0301", "\u00a0", "\u3000", "\u2028",
              "½", "²", "٣", "<|im_end|>", "<|", "|>", "{", "}", "()", "/", "\\", "\"", "#", "@", "$", "€", "Ω", "ж", "\x00", "\x1b",
              "\ue000", "\u0378", "\ufeff", "▁", "Ġ"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(2, 24))).encode() for _ in range(120)]


def random_bytes():
    rng = random.Random(7)
    out = []
    while len(out) < 20:
        data = bytes(rng.choice([rng.randrange(256), rng.randrange(32, 127)]) for _ in range(rng.randint(3, 30)))
        # Values above U+10FFFF make the oracle throw; the test has a case of its own for them.
        if not any(byte >= 0xF4 for byte in data):
            out.append(data)
    return out


def strings():
    return [s.encode() for s in HAND_WRITTEN] + INVALID_UTF8 + random_strings() + random_bytes()


def extra_tokens():
    return [merge.replace(" ", "") for merge in EXTRA_MERGES] + EXTRA_TOKENS


def write_vocab_gguf(path, source, pre):
    """A GGUF file without tensors: the metadata of `source` with another tokenizer.ggml.pre and the extra merges."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = pre if key == "tokenizer.ggml.pre" else field.contents()
        if key == "tokenizer.ggml.tokens":
            known = set(value)
            value = value + [t for t in extra_tokens() if t not in known]
            added = len(value) - len(known)
        if key == "tokenizer.ggml.token_type":
            value = value + [1] * added
        if key == "tokenizer.ggml.merges":
            value = value + EXTRA_MERGES
        writer.add_key_value(key, value, kind, sub)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


SPM_CORPUS = """The quick brown fox jumps over the lazy dog. Hello, world! This is a small vocabulary for a test; it has words,
numbers 0 1 2 3 12 123 2024, code like for (int i = 0; i < n; ++i) { return x; } and some text in other languages: café
naïve Straße. Hello there, hello again, the the the and and of to in is that it was for on are as with his they at be
this have from or one had by word but not what all were we when your can said there use an each which she do how their if
 你好 世界 日本語 Привет мир мир"""


def spm_vocabulary():
    """Types, scores and texts of a SentencePiece BPE vocabulary: control, bytes, user-defined, then merged pieces."""
    tokens = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    tokens += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    tokens += [("<|user|>", 0.0, 4), ("\n\n\n", 0.0, 4), ("<|im_end|>", 0.0, 3)]
    words = ["▁" + w for w in SPM_CORPUS.split()] * 3
    split = [list(w) for w in words]
    merged = []
    for _ in range(400):
        counts = {}
        for symbols in split:
            for pair in zip(symbols, symbols[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda p: (counts[p], p))
        text = best[0] + best[1]
        if text not in merged:
            merged.append(text)
        for symbols in split:
            i = 0
            while i + 1 < len(symbols):
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i:i + 2] = [text]
                i += 1
    merged += ["▁▁", "▁▁▁▁", "▁▁▁▁▁▁▁▁"]
    tokens += [(text, float(-rank), 1) for rank, text in enumerate(merged)]
    singles = sorted({c for w in words for c in w} | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-_<>|/"))
    tokens += [(c, float(-len(merged) - rank), 1) for rank, c in enumerate(singles) if c not in merged]
    return tokens


def write_spm_gguf(path, tokens, space_prefix):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t[0] for t in tokens])
    writer.add_token_scores([t[1] for t in tokens])
    writer.add_token_types([t[2] for t in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(space_prefix)
    finish(writer)


def fnv1a(data, state):
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state


class Oracle:
    def __init__(self, path):
        self.llama = llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama._model.model)

    def ids(self, text, special):
        return self.llama.tokenize(text, add_bos=False, special=special)

    def piece(self, token):
        buffer = ctypes.create_string_buffer(4096)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 4096, 0, True)
        return buffer.raw[:n]

    def eog(self):
        n = llama_cpp.llama_vocab_n_tokens(self.vocab)
        return [t for t in range(n) if llama_cpp.llama_vocab_is_eog(self.vocab, t)]

    def pieces_hash(self):
        state = 0xCBF29CE484222325
        for token in range(llama_cpp.llama_vocab_n_tokens(self.vocab)):
            state = fnv1a(self.piece(token) + b"\xff", state)
        return f"{state:016x}"


def write_ids(folder, name, oracle, texts, comment):
    lines = [f"# {comment}", "eog: " + " ".join(map(str, oracle.eog())), "pieces: " + oracle.pieces_hash()]
    for text in texts:
        plain, parsed = oracle.ids(text, False), oracle.ids(text, True)
        right = "=" if plain == parsed else " ".join(map(str, parsed))
        lines.append(" ".join(map(str, plain)) + "\t" + right)
    (folder / f"tokenizer_ids_{name}.txt").write_text("\n".join(lines) + "\n")
    digest_file(folder / f"tokenizer_digest_{name}.txt", comment, all_strings(folder), lambda text: oracle.ids(text, True),
                shown=4)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    texts = strings()
    (folder / "tokenizer_strings.txt").write_text("\n".join(t.hex() for t in texts) + "\n")
    (folder / "tokenizer_extra.txt").write_text("\n".join(EXTRA_MERGES + ["tokens:"] + EXTRA_TOKENS) + "\n")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    comment = f"{model.name} sha256 {digest}; llama-cpp-python {llama_cpp.__version__}"
    with tempfile.TemporaryDirectory() as temporary:
        write_ids(folder, "model", Oracle(model), texts, comment)
        for pre in PRE_NAMES:
            path = Path(temporary) / f"{pre}.gguf"
            write_vocab_gguf(path, model, pre)
            write_ids(folder, pre, Oracle(path), texts, comment)
        tokens = spm_vocabulary()
        lines = [f"{kind}\t{score:g}\t{text.encode().hex()}" for text, score, kind in tokens]
        (folder / "tokenizer_spm_vocab.txt").write_text("\n".join(lines) + "\n")
        for name, prefix in (("spm", True), ("spm-no-prefix", False)):
            path = Path(temporary) / f"{name}.gguf"
            write_spm_gguf(path, tokens, prefix)
            write_ids(folder, name, Oracle(path), texts, f"tokenizer_spm_vocab.txt; llama-cpp-python {llama_cpp.__version__}")
    print(f"{len(texts)} strings, {len(PRE_NAMES) + 3} vocabularies")


if __name__ == "__main__":
    main()
