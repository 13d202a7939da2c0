#!/usr/bin/env python3
"""Writes the fixtures of the pre-tokenizers: a small byte-level vocabulary whose merges cross every border that text can
be split at, and the ids of 1523 strings (tools/tokenizer_strings.py) under each group of tokenizer.ggml.pre.

    pip install tokenizers gguf llama-cpp-python && python3 tools/make_pretokenizer_fixtures.py tests/model/fixtures

Two references: llama.cpp with the name in a model file, and Hugging Face's tokenizers with the expressions that the
models publish (EXPRESSIONS). Where both agree (all groups but those of PUBLISHED) the fixture is llama.cpp's; in the
others llama.cpp stands in for expressions that std::regex does not know, and the fixture is Hugging Face's.

Files:
  tokenizer_pre_merges.txt   merges, best first; then "tokens:" and tokens that no merge makes
  tokenizer_pre_NAME.txt     ids under NAME
"""
import os
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from tokenizer_strings import digest_file, generated, strings

TOKENS = ["qzxv", "Ġqzxvk", "!?!?"]

CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+C|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*C|D| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + END)
HAN = CASED.replace("[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]").replace(
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]").replace("[\\r\\n/]*", "[\\r\\n]*")
WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|D| ?[^\s\p{L}\p{N}]+[\r\n]*|"
ONE, THREE = r"\p{N}", r"\p{N}{1,3}"
KANA = "[一-龥぀-ゟ゠-ヿ]+"
SIGN_WORDS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
SENTENCE = " ?[^(\\s|.,!?…。，、।۔،)]+"
JAIS_SPACES = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
# Letters with case, as DeepSeek's first models list them.
CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")

# Of each group one name, or two where the group's names differ in whether whole words are taken without merging.
EXPRESSIONS = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "gpt-2": [GPT2],
    "llama-bpe": [WORDS.replace("|D|", f"|{THREE}|") + END],
    "dbrx": [WORDS.replace("|D|", f"|{THREE}|") + END],
    "glm4": [WORDS.replace("|D|", f"|{THREE}|") + END],
    "qwen2": [WORDS.replace("|D|", f"|{ONE}|") + END],
    "qwen35": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + END],
    "smollm": [ONE, GPT2],
    "jais-2": [WORDS.replace("|D|", f"|{THREE}|") + r"\s*[\r\n]+|" + JAIS_SPACES],
    "deepseek-llm": ["[\r\n]", r"\s?[" + CASED_LETTERS + "]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+",
                     r"\p{N}+"],
    "deepseek-v3": [THREE, KANA, SIGN_WORDS + r"[\r\n]*|" + END],
    "spark2_5": [THREE, KANA, SIGN_WORDS + r"|[\r\n]|\s+(?!\S)|\s+", ONE],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
              CASED.replace("C|", CONTRACTIONS + "?|").replace("|D|", f"|{ONE}|")],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", ONE],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "bloom": [SENTENCE],
    "viking": [SENTENCE, ONE],
    "tekken": [CASED.replace("C|", "|").replace("|D|", f"|{ONE}|")],
    "gpt-4o": [CASED.replace("C|", CONTRACTIONS + "?|").replace("|D|", f"|{THREE}|")],
    "granite-embed-multi-97m": [CASED.replace("C|", CONTRACTIONS + "?|").replace("|D|", f"|{THREE}|")],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", ONE,
                  r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", CASED.replace("C|", CONTRACTIONS + "?|").replace("|D|", f"|{THREE}|")],
    "kimi-k2": [r"[\p{Han}]+|" + HAN.replace("C|", CONTRACTIONS + "?|").replace("|D|", f"|{THREE}|")],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "bailingmoe": [r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                   r"\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + END],
    "ufakzeka": [r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + END],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
              "[一-鿿㐀-䶿\u8c48-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
              SIGN_WORDS + r"[\r\n]*|" + END],
    "laguna": [r"[^\n]+|[\n]+", WORDS.replace("|D|", f"|{ONE}|") + END],
    "exaone-moe": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|"
                   r"\s*[\r\n]|\s+(?!\S)|\s+"],
    "minicpm5": [THREE, WORDS.replace("|D|", r"|\p{N}+|") + END],
}
TAKES_WHOLE_WORDS = {"llama-bpe", "glm4", "tekken", "youtu", "granite-embed-multi-97m", "minicpm5"}
# llama.cpp has no \p{Lu}, no \b, no \d of other scripts, no spaces in ranges of characters, and in its threes of digits it
# leaves what stands before a number joined to it.
PUBLISHED = {"youtu", "tekken", "gpt-4o", "granite-embed-multi-97m", "tiny_aya", "kimi-k2", "superbpe", "deepseek-coder",
             "deepseek-llm", "afmoe"}


def train():
    """Merges without any pre-tokenizer: they cross words, digits, spaces and line ends."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=2400, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([generated(200000 + i).decode() for i in range(6000)], trainer)
    merges = __import__("json").loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]


def byte_symbols():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def write_gguf(path, tokens, merges, pre):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def hugging_face(tokens, merges, name):
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocabulary, merges, ignore_merges=name in TAKES_WHOLE_WORDS)
    tokenizer = tokenizers.Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in EXPRESSIONS[name]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits + [pre_tokenizers.ByteLevel(False, use_regex=False)])
    return lambda text: tokenizer.encode(text.decode(), add_special_tokens=False).ids


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    merges = train()
    tokens = byte_symbols() + ["".join(merge) for merge in merges] + TOKENS
    (folder / "tokenizer_pre_merges.txt").write_text("\n".join([" ".join(m) for m in merges] + ["tokens:"] + TOKENS) + "\n")
    texts = strings(folder)
    print("name | strings | differing from llama.cpp under the published expressions")
    with tempfile.TemporaryDirectory() as temporary:
        for name, expressions in EXPRESSIONS.items():
            path = os.path.join(temporary, "vocabulary.gguf")
            write_gguf(path, tokens, merges, name)
            llama = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)
            published = hugging_face(tokens, merges, name) if expressions else None
            differing = []

            def ids(text):
                theirs = llama.tokenize(text, add_bos=False, special=False)
                try:
                    ours = published(text) if published else theirs
                except UnicodeDecodeError:
                    ours = theirs
                if ours != theirs:
                    differing.append(text)
                return ours if name in PUBLISHED else theirs

            digest_file(folder / f"tokenizer_pre_{name}.txt",
                        f"{'tokenizers ' + tokenizers.__version__ if name in PUBLISHED else 'llama-cpp-python ' + llama_cpp.__version__}",
                        texts, ids, shown=12)
            print(f"{name} | {len(texts)} | {len(differing)}" + (f" {differing[:4]}" if differing else ""))


if __name__ == "__main__":
    main()
