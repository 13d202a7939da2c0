#!/usr/bin/env python3
"""Writes model/unicode_tables.h: the character properties that the WordPiece tokenizer normalises text by.

Read from Python's unicodedata (Python 3.11: Unicode 14).
    python3 tools/make_unicode_tables.py
"""

import pathlib
import unicodedata

OUT = pathlib.Path(__file__).resolve().parent.parent / "model/unicode_tables.h"
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic


def ranges(categories):
    rows = []
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in categories:
            if rows and rows[-1][1] == code - 1:
                rows[-1][1] = code
            else:
                rows.append([code, code])
    return [f"{{{first}, {last}}}" for first, last in rows]


def lower_case():
    """Runs of characters, every `step`-th of which has its lower case `delta` further on."""
    rows = []
    for code in range(0x110000):
        lower = chr(code).lower()
        if len(lower) != 1 or lower == chr(code):
            continue
        delta = ord(lower) - code
        if rows:
            first, last, step, previous = rows[-1]
            if previous == delta and (step == code - last or (first == last and code - last <= 2)):
                rows[-1] = (first, code, code - last, delta)
                continue
        rows.append((code, code, 1, delta))
    return [f"{{{first}, {last}, {step}, {delta}}}" for first, last, step, delta in rows]


def decompositions():
    """Canonical decompositions without their nonspacing marks: those of one character, and the others."""
    one, other = [], []
    for code in range(0x110000):
        whole = unicodedata.normalize("NFD", chr(code))
        if code in HANGUL or whole == chr(code):
            continue
        parts = [ord(c) for c in whole if unicodedata.category(c) != "Mn"]
        if len(parts) == 1:
            one.append(f"{{{code}, {parts[0]}}}")
        else:
            other.append(f"{{{code}, {{{', '.join(map(str, parts + [0] * (3 - len(parts))))}}}}}")
    return one, other


def table(kind, name, rows):
    lines, line = [f"constexpr {kind} {name}[] = {{"], " "
    for row in rows:
        if len(line) + len(row) > 107:
            lines.append(line)
            line = " "
        line += f" {row},"
    return "\n".join(lines + [line, "};", ""])


def main():
    one, other = decompositions()
    text = "\n".join([
        f"// Character properties of Unicode {unicodedata.unidata_version} (unicode.h says what for). Written by",
        "// tools/make_unicode_tables.py; do not edit. Ascending by code point; ranges include both ends.",
        "#pragma once", "", "#include \"model/unicode.h\"", "", "namespace shoal {", "", "// clang-format off",
        "// General category P.",
        table("CodeRange", "kPunctuation", ranges({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"})),
        "// General category Mn.",
        table("CodeRange", "kNonspacingMarks", ranges({"Mn"})),
        "// General categories Cc, Cf and Co.",
        table("CodeRange", "kControls", ranges({"Cc", "Cf", "Co"})),
        "// Simple lower case: first, last, step, distance to the lower case.",
        table("CaseRun", "kLowerCase", lower_case()),
        "// What a character is made of (NFD) but for its nonspacing marks: one character,",
        table("OnePart", "kOnePart", one),
        "// or none, two or three (0: no more).",
        table("Parts", "kParts", other),
        "// clang-format on", "", "}  // namespace shoal", ""])
    OUT.write_text(text)


if __name__ == "__main__":
    main()
