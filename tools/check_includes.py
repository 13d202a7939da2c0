#!/usr/bin/env python3
"""Checks the layer rule of the source tree: which folder may include which.

  tools/check_includes.py [--root FOLDER]   prints file:line for each include that breaks the rule; exit 1 if any
  tools/check_includes.py --self-test       shows that each kind of breach is found, on a tree made for it

The layers, bottom first, are base, tensor, model, sharding; planner and transport stand beside them on base alone, so
that dividing layers needs no socket and the wire needs no model; node knows all. A test of a layer may include what the
layer may, and tests/support; the hostile corpora and the fuzz targets also the helpers of each layer's tests. Nothing
includes tests, bench or tools, but tests include tests/support.
"""
import argparse
import pathlib
import re
import sys
import tempfile

ALLOWED = {
    "base": {"base"},
    "tensor": {"base", "tensor"},
    "model": {"base", "tensor", "model"},
    "sharding": {"base", "tensor", "model", "sharding"},
    "planner": {"base", "planner"},
    "transport": {"base", "transport"},
    "node": {"base", "tensor", "model", "sharding", "planner", "transport", "node"},
}
LAYERS = set(ALLOWED)
# Folders that are no layer: nothing but tests themselves may reach into them.
OUTSIDE = {"tests", "bench", "tools"}
# Tests of several layers at once, which use their tests' helpers.
CROSSING = {"hostile", "fuzz"}
SUFFIXES = {".h", ".cc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def allowed_folders(path):
    """The folders that the file (path relative to the root) may include; 'tests/x' counts as a folder."""
    first = path.parts[0]
    if first in LAYERS:
        return ALLOWED[first]
    if first == "bench":
        return LAYERS | {"bench"}
    # tests/<layer>, tests/support, tests/cluster, tests/fuzz, and files of tests/ itself.
    second = path.parts[1] if len(path.parts) > 2 else ""
    own = {"tests/support", f"tests/{second}"}
    if second in CROSSING:
        own |= {f"tests/{layer}" for layer in LAYERS}
    return ALLOWED.get(second, LAYERS) | own


def included_folder(target):
    parts = target.split("/")
    if parts[0] == "tests" and len(parts) > 2:
        return f"tests/{parts[1]}"
    return parts[0]


def breach(path, bracket, target):
    """What is wrong with this include, or None."""
    if ".." in target.split("/"):
        return "includes are written from the root of the source tree, without '..'"
    first = target.split("/")[0]
    if first not in LAYERS | OUTSIDE:
        if bracket == '"':
            return "a file in quotes is one of ours and is named from the root of the source tree"
        return None  # the system or a library
    folder = included_folder(target)
    allowed = allowed_folders(path)
    if folder in allowed:
        return None
    return f"{'/'.join(path.parts[:-1])} may include only {', '.join(sorted(allowed))}"


def check(root):
    """All breaches under root as 'file:line: message' lines, and the number of files read."""
    problems, count = [], 0
    for top in sorted(LAYERS | {"tests", "bench"}):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SUFFIXES or not file.is_file():
                continue
            count += 1
            path = file.relative_to(root)
            for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                found = INCLUDE.match(line)
                if not found:
                    continue
                problem = breach(path, *found.groups())
                if problem:
                    problems.append(f"{path}:{number}: includes {found[2]}: {problem}")
    return problems, count


def self_test():
    good = {
        "base/units.cc": '#include "base/units.h"\n#include <string>\n',
        "tensor/a.cc": '#include "base/check.h"\n#include "tensor/kernels.h"\n',
        "model/a.h": '#include "tensor/kernels.h"\n',
        "sharding/a.cc": '#include "model/gguf_file.h"\n',
        "planner/a.cc": '#include "base/units.h"\n// #include "node/main.h"\n',
        "transport/a.cc": '#include <boost/asio.hpp>\n#include "transport/wire.capnp.h"\n',
        "node/a.cc": '#include "planner/plan.h"\n#include "transport/frame.h"\n#include "sharding/stage.h"\n',
        "tests/tensor/a.cc": '#include "base/check.h"\n#include "tests/support/gguf.h"\n#include "tests/tensor/x.h"\n',
        "tests/cluster/a.cc": '#include "node/main.h"\n',
        "tests/hostile/a.cc": '#include "model/batch.h"\n#include "tests/transport/support.h"\n',
        "bench/a.cc": '#include "model/transformer.h"\n',
    }
    bad = {
        "base/b.cc": '\n#include "tensor/kernels.h"\n',
        "tensor/b.cc": '\n  #  include "model/batch.h"\n',
        "model/b.h": '\n#include "sharding/shard.h"\n',
        "sharding/b.cc": '\n#include "planner/plan.h"\n',
        "planner/b.cc": '\n#include "model/model_config.h"\n',
        "planner/sub/c.cc": '\n#include "transport/frame.h"\n',
        "transport/b.cc": '\n#include <node/worker.h>\n',
        "transport/c.cc": '\n#include "frame.h"\n',
        "node/b.cc": '\n#include "tests/support/gguf.h"\n',
        "model/c.cc": '\n#include "bench/timer.h"\n',
        "model/d.cc": '\n#include "../node/worker.h"\n',
        "tests/tensor/b.cc": '\n#include "model/batch.h"\n',
        "tests/planner/b.cc": '\n#include "tensor/kernels.h"\n',
        "tests/base/b.cc": '\n#include "tests/node/x.h"\n',
        "bench/b.cc": '\n#include "tests/support/gguf.h"\n',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**good, **bad}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        problems, count = check(root)
    found = {":".join(problem.split(":")[:2]) for problem in problems}
    expected = {f"{name}:2" for name in bad}
    for name in sorted(expected - found):
        print(f"self-test: not found: {name}", file=sys.stderr)
    for name in sorted(found - expected):
        print(f"self-test: found where nothing is wrong: {name}", file=sys.stderr)
    if count != len(good) + len(bad):
        print(f"self-test: read {count} of {len(good) + len(bad)} files", file=sys.stderr)
        return 1
    return 0 if found == expected else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    problems, count = check(arguments.root)
    if not count:
        print(f"check_includes.py: no C++ files under {arguments.root}", file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
