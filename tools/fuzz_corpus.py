#!/usr/bin/env python3
"""The kept corpora of the fuzz targets: tests/fuzz/corpus/TARGET.txt has one input a line.

  tools/fuzz_corpus.py unpack FILE FOLDER            writes each input as a file into FOLDER
  tools/fuzz_corpus.py pack FOLDER FILE [BYTES]      the smallest inputs of FOLDER, up to so many bytes in all (24576)

A line is the input as a Python bytes literal without its quotes, so that text can be read and changed by hand. Lines
that begin with '# ' and empty lines are left out; an empty input is not kept.
"""
import ast
import hashlib
import pathlib
import sys

BYTES_MAX = 24576


def read_lines(path):
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        if not line or line.startswith("# "):
            continue
        try:
            yield ast.literal_eval("b'" + line + "'")
        except (SyntaxError, ValueError) as error:
            sys.exit(f"{path}:{number}: not the inside of a bytes literal in single quotes: {error}")


def written(data):
    text = repr(data)
    # repr takes double quotes where there are single ones in the text.
    text = text[2:-1].replace("'", "\\'") if text[1] == '"' else text[2:-1]
    if text.startswith("#"):
        text = "\\x23" + text[1:]
    return text


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in ("unpack", "pack"):
        sys.exit(__doc__)
    if sys.argv[1] == "unpack":
        source, folder = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
        for data in read_lines(source) if source.exists() else ():
            (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
        return
    folder, target = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    left = int(sys.argv[4]) if len(sys.argv) > 4 else BYTES_MAX
    lines, files = [], sorted((f for f in folder.iterdir() if f.is_file()), key=lambda f: (f.stat().st_size, f.name))
    for file in files:
        line = written(file.read_bytes())
        if not line or len(line) > left:
            continue
        left -= len(line) + 1
        lines.append(line)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="ascii")
    print(f"{target}: {len(lines)} of {len(files)} inputs kept")


if __name__ == "__main__":
    main()
