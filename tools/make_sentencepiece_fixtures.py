#!/usr/bin/env python3
"""Writes the fixtures of the unigram and the WordPiece tokenizer: small vocabularies and what the reference
libraries make of 1523 strings with them (tools/tokenizer_strings.py).

    pip install sentencepiece protobuf tokenizers && python3 tools/make_sentencepiece_fixtures.py tests/model/fixtures

Files:
  tokenizer_pieces.txt            what the generated strings consist of
  tokenizer_unigram.txt           "charsmap: HEX" (the normalisation table that SentencePiece compiled), then a token a line:
                                  type TAB score TAB text in hex
  tokenizer_unigram_NAME.txt      ids by SentencePiece; NAME says space prefix and merging of spaces: 11, 10, 01, 00, and
                                  "bytes" for 11 with byte fallback (its vocabulary is tokenizer_unigram_bytes_vocab.txt)
  tokenizer_wordpiece.txt         a token a line as GGUF writes it, in hex
  tokenizer_wordpiece_NAME.txt    ids by Hugging Face's tokenizers: "uncased", "cased" (case and accents kept) and "accents"
                                  (lower case, accents kept)
"""
import io
import sys
import unicodedata
from pathlib import Path

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tokenizer_strings import PIECES, digest_file, generated, strings

GGUF_TYPE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}  # ModelProto.SentencePiece.Type has GGUF's values


def rules():
    """A piece of SentencePiece's nmt_nfkc: what the strings contain of it, and sequences of several characters."""
    rows = {}
    for text in PIECES + ["ﬃ", "㌔", "Ⅳ", "ｶﾞ", "Å", "ﷺ", "¨", "が"]:
        for character in text:
            target = unicodedata.normalize("NFKC", character)
            if target != character:
                rows[character] = target
    for pair in ("e\u0301", "A\u030a", "か\u3099", "o\u0302\u0323"):
        rows[pair] = unicodedata.normalize("NFKC", pair)
    for code in (0x9, 0xA, 0xC, 0xD, 0x1680, 0x200B, 0x2028, 0x2029, 0xFEFF, 0xFFFD):
        rows[chr(code)] = " "
    for code in list(range(1, 9)) + [0xB] + list(range(0xE, 0x20)) + [0x7F, 0x8F, 0x9F]:
        rows[chr(code)] = ""
    hexes = lambda s: " ".join(f"{ord(c):X}" for c in s)
    return "".join(f"{hexes(a)}\t{hexes(b)}\n" for a, b in sorted(rows.items()))


def corpus():
    return [generated(100000 + i).decode().replace("\x00", "").replace("\n", " ") for i in range(4000)]


def train(folder, byte_fallback):
    rule_file = folder / "rules.tsv"
    rule_file.write_text(rules())
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=out, model_type="unigram", vocab_size=900 if byte_fallback else 700,
        character_coverage=0.99, normalization_rule_tsv=str(rule_file), byte_fallback=byte_fallback, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False)
    rule_file.unlink()
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(out.getvalue())
    return model


def exact(processor, model, byte_fallback):
    """SentencePiece's ids, but for texts that may be cut in several ways of the same score: SentencePiece adds scores as
    32-bit floats, so that their rounding chooses; Hugging Face's tokenizers add them in 64 bits and take the first."""
    # Control tokens and the unknown come of no text.
    pieces = [(piece.piece if piece.type not in (2, 3) else "\U0010fff0" + piece.piece, piece.score) for piece in model.pieces]
    other = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=byte_fallback))
    score = dict(enumerate(piece.score for piece in model.pieces))

    def ids(text):
        ours = processor.encode(text)
        theirs = other.encode(processor.normalize(text).decode(), add_special_tokens=False).ids
        if ours == theirs or b"<0x" in text:  # they take <0x41> for the token of that byte
            return ours
        assert abs(sum(score[i] for i in ours) - sum(score[i] for i in theirs)) < 1e-4, (text, ours, theirs)
        return theirs
    return ids


def unigram(folder, texts):
    for name, byte_fallback in (("tokenizer_unigram.txt", False), ("tokenizer_unigram_bytes_vocab.txt", True)):
        model = train(folder, byte_fallback)
        lines = [f"charsmap: {model.normalizer_spec.precompiled_charsmap.hex()}"]
        lines += [f"{GGUF_TYPE[p.type]}\t{p.score!r}\t{p.piece.encode().hex()}" for p in model.pieces]
        (folder / name).write_text("\n".join(lines) + "\n")
        for variant in ["bytes"] if byte_fallback else ["11", "10", "01", "00"]:
            flags = "11" if byte_fallback else variant
            model.normalizer_spec.add_dummy_prefix = flags[0] == "1"
            model.normalizer_spec.remove_extra_whitespaces = flags[1] == "1"
            processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
            digest_file(folder / f"tokenizer_unigram_{variant}.txt",
                        f"sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}", texts,
                        exact(processor, model, byte_fallback))


def wordpiece(folder, texts):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=420)
    lower = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    trained.train_from_iterator(corpus() + [lower.normalize_str(text) for text in corpus()], trainer)
    tokens = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    as_gguf = [t if t in special else t[2:] if t.startswith("##") else "\u2581" + t for t in tokens]
    (folder / "tokenizer_wordpiece.txt").write_text("".join(t.encode().hex() + "\n" for t in as_gguf))

    def ids(text):
        try:
            return trained.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return None

    # The specials' texts must be words like any other here: what a user typed is not trusted.
    trained = tokenizers.Tokenizer(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    for name, lowercase, strip in (("uncased", True, True), ("cased", False, False), ("accents", True, False)):
        trained.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip)
        digest_file(folder / f"tokenizer_wordpiece_{name}.txt", f"tokenizers {tokenizers.__version__}", texts, ids)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    (folder / "tokenizer_pieces.txt").write_text("".join(p.encode().hex() + "\n" for p in PIECES))
    texts = strings(folder)
    unigram(folder, texts)
    wordpiece(folder, texts)
    print(f"{len(texts)} strings, {len(PIECES)} pieces")


if __name__ == "__main__":
    main()
