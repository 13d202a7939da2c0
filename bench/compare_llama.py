#!/usr/bin/env python3
"""Shoal against llama.cpp on the same file with the same threads: shoal, peer, shoal, peer, ..., medians and ratios.

  bench/compare_llama.py MODEL.gguf -t 2 --python /path/to/venv/bin/python
  bench/compare_llama.py MODEL.gguf -t 2 --peer llama.cpp=/path/to/llama-bench

--python is an interpreter that has llama-cpp-python; --peer is any program that takes llama-bench's arguments and prints
its JSON. One process a turn, so that neither finds the other's caches warm; each warms itself up before it measures.
A ratio above 1 means that Shoal is the faster. The two tests are llama-bench's: pp512 reads a prompt of 512 tokens,
tg128 generates 128 tokens of one sequence. With llama-cpp-python the peer's figure leaves sampling out.
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


class BenchError(Exception):
    pass


def peer_worker(model, threads, prompt, generate):
    """Runs in the interpreter that has llama-cpp-python; prints llama-bench's JSON for the two tests."""
    from llama_cpp import Llama

    context = max(prompt, generate) + 8
    llama = Llama(model_path=model, n_ctx=context, n_batch=512, n_threads=threads, n_threads_batch=threads,
                  n_gpu_layers=0, verbose=False)
    vocabulary = llama.n_vocab()

    def tokens(count):
        # A fixed walk over the vocabulary; which tokens they are does not matter to the work.
        return [(1 + 7919 * i) % vocabulary for i in range(count)]

    rows = []

    def timed(n_prompt, n_gen, work):
        work()  # warm-up
        llama.reset()
        begin = time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
        llama.reset()
        rows.append({"n_prompt": n_prompt, "n_gen": n_gen, "avg_ts": max(n_prompt, n_gen) / seconds})

    if prompt:
        timed(prompt, 0, lambda: llama.eval(tokens(prompt)))
    if generate:
        timed(0, generate, lambda: [llama.eval([token]) for token in tokens(generate)])
    print(json.dumps(rows))


def run_json(words, environment=None):
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise BenchError(f"`{shlex.join(words)}` ended with {result.returncode}:\n{result.stderr.strip()[-2000:]}")
    try:
        return json.loads(result.stdout)
    except ValueError as error:
        raise BenchError(f"`{shlex.join(words)}` printed no JSON ({error}): {result.stdout[:300]}")


def run_shoal(options):
    words = [str(options.program), "bench", options.model, "-t", str(options.threads), "-p", str(options.prompt),
             "-n", str(options.generate), "-r", "1", "-o", "json", *options.extra]
    return {row["test"]: row["avg_ts"] for row in run_json(words)}


def run_peer(options, path):
    if path is None:
        words = [options.python, __file__, "--peer-worker", options.model, str(options.threads), str(options.prompt),
                 str(options.generate)]
    else:
        words = [path, "-m", options.model, "-t", str(options.threads), "-p", str(options.prompt),
                 "-n", str(options.generate), "-r", "1", "-o", "json"]
    return {f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}": row["avg_ts"] for row in run_json(words)}


def main():
    if sys.argv[1:2] == ["--peer-worker"]:
        model, *counts = sys.argv[2:]
        return peer_worker(model, *map(int, counts))
    arguments = sys.argv[1:]
    extra = []
    if "--" in arguments:
        extra = arguments[arguments.index("--") + 1 :]
        arguments = arguments[: arguments.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Options after `--` go to shoal bench as they are.")
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="instead of llama-cpp-python")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    parser.add_argument("--json", type=pathlib.Path, help="write all samples here")
    options = parser.parse_args(arguments)
    options.extra = extra
    options.model = str(pathlib.Path(options.model).resolve())
    options.program = options.program.resolve()
    if options.rounds < 1:
        parser.error("--rounds takes 1 or more")
    peers = dict(peer.split("=", 1) for peer in options.peer if "=" in peer)
    if len(peers) != len(options.peer):
        parser.error("--peer takes NAME=PATH, each name once")
    peers = peers or {"llama-cpp-python": None}

    samples = {name: {} for name in ["shoal", *peers]}
    for turn in range(options.rounds):
        for name in samples:
            print(f"compare: round {turn + 1} of {options.rounds}, {name}", file=sys.stderr)
            result = run_shoal(options) if name == "shoal" else run_peer(options, peers[name])
            for test, speed in result.items():
                samples[name].setdefault(test, []).append(speed)

    print(f"{pathlib.Path(options.model).name}, {options.threads} threads, tokens/s, median (least to most) of "
          f"{options.rounds}, alternating")
    print("| test | " + " | ".join(samples) + " | " + " | ".join(f"shoal / {name}" for name in peers) + " |")
    print("|---" * (1 + len(samples) + len(peers)) + "|")
    for test in samples["shoal"]:
        cells, ratios = [], []
        for name in samples:
            values = samples[name].get(test)
            if not values:
                raise BenchError(f"{name} reported no {test}")
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        for name in peers:
            # Round by round: what slows the machine for a while slows both sides of one round.
            pairs = [a / b for a, b in zip(samples["shoal"][test], samples[name][test])]
            ratios.append(f"{statistics.median(pairs):.2f}")
        print(f"| {test} | " + " | ".join(cells + ratios) + " |")
    if options.json:
        options.json.write_text(json.dumps({"command": shlex.join(sys.argv), "samples": samples}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, OSError) as error:
        print(f"compare_llama: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
