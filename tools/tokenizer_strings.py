"""Strings that the tokenizers' fixtures are made from: the same here and in tests/model/tokenizer_strings.h.

String number i is 1 to 24 pieces of PIECES in a row, chosen by splitmix64 seeded with i. The pieces are written to
tests/model/fixtures/tokenizer_pieces.txt, in hex, for the C++ side.
"""

PIECES = [
    # Spaces and line ends.
    " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u2003", "\x0b", "\x85",
    # English, words of code, contractions in every case.
    "the", " the", " of", " and", "ing", "er", "Hello", " World", "HELLO", "iPhone", "McDonald", "USA", "theUSA", "word", " a", "I",
    "'s", "'S", "'t", "'re", "'VE", "'ll", "'Ll", "'d", "'m", "'", "’s", "don't", "WE'RE", "o'clock", "l'été", "def f(x):", "    return x",
    "for (int i = 0; i < n; ++i) {", "}", "self.x_y", "__init__", "a+b", "x==y", "->", "//", "/", "</div>", "<br/>", "snake_case", "kebab-case",
    # Digits in groups of every length and of several scripts.
    "0", "1", "12", "123", "1234", "12345", "1234567", "3.14", "1,000", "2024-05-17", "10%", "٣", "٤٥٦", "१२३४", "½", "²", "Ⅷ", "①②", "𝟘𝟙𝟚", "１２",
    # Punctuation and symbols.
    ".", ",", "!", "?", "...", "!?", ";", ":", "-", "—", "_", "(", ")", "[", "]", "{", "\"", "“", "”", "«", "»", "…", "、", "。", "！", "，", "：", "「", "」",
    "#", "$", "€", "£", "%", "&", "*", "+", "=", "<", ">", "^", "`", "|", "~", "@", "\\", "©", "™", "°", "×", "→", "≤", "∑", "¿", "§", "।", "،", "۔",
    # Latin with marks, both composed and not; capitals that are not ASCII.
    "café", "cafe\u0301", "École", "ÉCOLE", "éÉ", "naïve", "Straße", "İstanbul", "ñ", "ÑANDÚ", "Ångström", "ŁÓDŹ", "Việt", "\u0301", "ﬁ", "ǅ", "ª", "ʰ",
    # Other scripts.
    "Привет", "МИР", " мир", "ЁлКа", "Ελλάδα", "ΣΊΣΥΦΟΣ", "ς", "Հայ", "ქართული", "שלום", "שָׁלוֹם", "مرحبا", "سَلَام", "नमस्ते", "हिन्दी", "தமிழ்", "বাংলা", "తెలుగు",
    "ไทย", "สวัสดี", "ພາສາ", "မြန်မာ", "ខ្មែរ", "བོད་ཡིག", "አማርኛ", "ᏣᎳᎩ", "한국어", " 한국", "가", "ᄀ", "ㄱ", "日本語", "ひらがな", "カタカナ", "ｶﾀ", "中文", "你好", "世界",
    "一", "龥", "𠮷", "豈", "㐀", "ㄅ", "々", "〇", "ｗｏｒｄ", "Ａ",
    # Emoji, joiners, what has no width or no meaning.
    "😀", " 😀", "👍🏽", "👨‍👩‍👧", "🇩🇪", "❤️", "☃", "\u200b", "\u200d", "\ufe0f", "\ufeff", "\u00ad", "\u200f", "\x00", "\x01", "\x1b", "\x7f", "\ue000", "\u2581",
    "\ufffd", "\u180e",
]

COUNT = 1000


def splitmix64(state):
    state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return state, z ^ (z >> 31)


def generated(number, pieces=None):
    """String `number`, as bytes."""
    pieces = pieces or [p.encode() for p in PIECES]
    state, draw = splitmix64(number)
    text = b""
    for _ in range(1 + draw % 24):
        state, draw = splitmix64(state)
        text += pieces[draw % len(pieces)]
    return text


def strings(folder):
    """All strings of a fixture: those written by hand, then the generated."""
    written = [bytes.fromhex(line) for line in (folder / "tokenizer_strings.txt").read_text().split("\n")[:-1]]
    return written + [generated(i) for i in range(COUNT)]


def fnv1a(data, state=0xCBF29CE484222325):
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state


BLOCK = 50  # strings to a digest


def digest_file(path, comment, texts, encode, shown=32):
    """Line 1 the comment, then the ids of the first `shown` generated strings, then a digest for each block of all strings.

    `encode` gives a list of ids for a string, or None where the reference takes no such string: it counts as no ids.
    """
    ids = [encode(text) for text in texts]
    lines = [f"# {comment}"]
    lines += ["skip: " + " ".join(str(i) for i, row in enumerate(ids) if row is None)]
    rows = [" ".join(map(str, row or [])) for row in ids]
    first = len(texts) - COUNT
    lines += rows[first:first + shown]
    lines.append("digests:")
    for at in range(0, len(rows), BLOCK):
        lines.append(f"{fnv1a(''.join(row + chr(10) for row in rows[at:at + BLOCK]).encode()):016x}")
    path.write_text("\n".join(lines) + "\n")
