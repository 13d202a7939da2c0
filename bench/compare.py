#!/usr/bin/env python3
"""Shoal against its peers on the same file with the same threads: shoal, peer, shoal, peer, ..., medians and ratios.

  bench/compare.py MODEL.gguf -t 2 --python /path/to/venv/bin/python
  bench/compare.py MODEL.gguf -t 2 --peer "ik_llama.cpp=/path/to/llama-bench -rtr 1" --peer llama.cpp=/path/to/llama-bench

--python is an interpreter that has llama-cpp-python; it is a peer when it is named, or when there is no --peer. --peer is
any program that takes llama-bench's arguments and prints its JSON, with arguments of its own if need be. One process a
turn, so that neither finds the other's caches warm; each warms itself up before it measures. A ratio above 1 means that
Shoal is the faster (for memory: below 1 that Shoal takes less), and is the median of the rounds' ratios, since what slows
the machine for a while slows both sides of one round.

The tests are llama-bench's: ppN reads a prompt of N tokens, tgN generates N tokens of one sequence, "tgN @ dD" generates
after D tokens of context. With llama-cpp-python the peer's figure leaves sampling out. Memory is the most that the process
had resident, mapped files included. Each round begins with the machine's limits (the program `limits`: build target of
that name); of Shoal's figures the share of the read rate (generation) and of the integer peak (prompts) is given.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEMORY = "memory, MiB"


class BenchError(Exception):
    pass


def test_name(prompt, generate, depth):
    if not generate:
        return f"pp{prompt}"
    return f"tg{generate}" + (f" @ d{depth}" if depth else "")


def peer_worker(model, threads, prompts, generate, depth, depth_generate):
    """Runs in the interpreter that has llama-cpp-python; prints llama-bench's JSON for the tests."""
    from llama_cpp import Llama

    longest = max([*prompts, generate, depth + depth_generate]) + 8
    llama = Llama(model_path=model, n_ctx=longest, n_batch=512, n_threads=threads, n_threads_batch=threads,
                  n_gpu_layers=0, verbose=False)
    vocabulary = llama.n_vocab()

    def tokens(count):
        # A fixed walk over the vocabulary; which tokens they are does not matter to the work.
        return [(1 + 7919 * i) % vocabulary for i in range(count)]

    rows = []

    def timed(n_prompt, n_gen, n_depth):
        def once(count):
            llama.reset()
            if n_depth:
                llama.eval(tokens(n_depth))
            begin = time.perf_counter()
            if n_prompt:
                llama.eval(tokens(count))
            for token in tokens(0 if n_prompt else count):
                llama.eval([token])
            return time.perf_counter() - begin

        count = n_prompt or n_gen
        once(min(count, 512))  # warm-up
        rows.append({"n_prompt": n_prompt, "n_gen": n_gen, "n_depth": n_depth, "avg_ts": count / once(count)})

    for prompt in prompts:
        timed(prompt, 0, 0)
    if generate:
        timed(0, generate, 0)
    if depth_generate:
        timed(0, depth_generate, depth)
    print(json.dumps(rows))


def run_json(words):
    """What a program prints as JSON, and the most memory it had resident, in MiB."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode:
        raise BenchError(f"`{shlex.join(words)}` ended with {process.returncode}:\n{errors.strip()[-2000:]}")
    try:
        return json.loads(text), usage.ru_maxrss / 1024
    except ValueError as error:
        raise BenchError(f"`{shlex.join(words)}` printed no JSON ({error}): {text[:300]}")


def depth_arguments(program, depth, generate):
    """How this llama-bench generates after a context: -d, or -gp in ik_llama.cpp."""
    text = subprocess.run([program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if "-gp" in text.stdout + text.stderr:
        return ["-p", "0", "-n", "0", "-gp", f"{depth},{generate}"]
    return ["-p", "0", "-n", str(generate), "-d", str(depth)]


def llama_bench(options, words, tests):
    """Speeds by test and peak memory of a program with llama-bench's arguments, Shoal's `bench` included."""
    speeds, most = {}, 0
    for arguments in tests:
        rows, memory = run_json([*words, "-t", str(options.threads), "-r", "1", "-o", "json", *arguments])
        most = most or memory  # of the first run: prompt and generation without a long context
        for row in rows:
            after_prompt = row["n_gen"] and row["n_prompt"]  # -gp counts the context as a prompt
            depth = row["n_prompt"] if after_prompt else row.get("n_depth", 0)
            speeds[test_name(0 if after_prompt else row["n_prompt"], row["n_gen"], depth)] = row["avg_ts"]
    return {**speeds, MEMORY: most}, rows[0]


def turn(options, name, words):
    basic = ["-p", str(options.prompt), "-n", str(options.generate)]
    long = [["-p", str(options.long_prompt), "-n", "0"]] if options.long_prompt else []
    if name == "shoal":
        deep = ["-p", "0", "-n", str(options.depth_generate), "-d", str(options.depth)]
        tests = [basic, *long, *([deep] if options.depth else [])]
        return llama_bench(options, [words[0], "bench", options.model, *words[1:]], tests)
    if words is None:
        prompts = [options.prompt, *([options.long_prompt] if options.long_prompt else [])]
        rows, memory = run_json([options.python, __file__, "--peer-worker", options.model, str(options.threads),
                                 json.dumps(prompts), str(options.generate), str(options.depth),
                                 str(options.depth_generate if options.depth else 0)])
        speeds = {test_name(row["n_prompt"], row["n_gen"], row["n_depth"]): row["avg_ts"] for row in rows}
        return {**speeds, MEMORY: memory}, rows[0]
    deep = [depth_arguments(words[0], options.depth, options.depth_generate)] if options.depth else []
    return llama_bench(options, [words[0], "-m", options.model, *words[1:]], [basic, *long, *deep])


def cell(values):
    middle = statistics.median(values)
    return f"{middle:.1f}" if len(values) == 1 else f"{middle:.1f} ({min(values):.1f} to {max(values):.1f})"


def share_of_limit(test, speed, limits, model):
    """Generation: weight bytes a second of the read rate. Prompts: operations a second of the integer peak."""
    if test.startswith("tg"):
        return f"{speed * model['weight_bytes_per_token'] / 1e9 / limits['read_gb_per_s']:.2f} of read rate"
    if test.startswith("pp"):
        return f"{speed * 2 * model['weights_per_token'] / 1e9 / limits['int8_gops']:.2f} of int8 peak"
    return ""


def table(record):
    samples, limits = record["samples"], record["limits"]
    peers = [name for name in samples if name != "shoal"]
    middle = {key: statistics.median(row[key] for row in limits) for key in ("int8_gops", "int4_gops", "read_gb_per_s",
                                                                          "ping_pong_ns")}
    lines = [f"{record['model_file']}, {record['threads']} threads, tokens/s, median (least to most) of {record['rounds']}, "
             f"alternating; {record['processor']}, {record['date']}; read {middle['read_gb_per_s']:.1f} GB/s, "
             f"{limits[0]['instruction']} {middle['int8_gops']:.0f} Gop/s (nibbles {middle['int4_gops']:.0f}), "
             f"ping-pong {middle['ping_pong_ns']:.0f} ns", "",
             "| test | " + " | ".join(samples) + " | " + "".join(f"shoal / {name} | " for name in peers) + "of the limit |",
             "|---" * (2 + len(samples) + len(peers)) + "|"]
    for test, ours in samples["shoal"].items():
        cells = []
        for name in samples:
            if test not in samples[name]:
                raise BenchError(f"{name} reported no {test}")
            cells.append(cell(samples[name][test]))
        for name in peers:
            cells.append(f"{statistics.median(a / b for a, b in zip(ours, samples[name][test])):.2f}")
        shares = share_of_limit(test, statistics.median(ours), middle, record["model"])
        lines.append(f"| {test} | " + " | ".join(cells) + f" | {shares} |")
    return "\n".join(lines) + "\n"


def processor_name():
    try:
        found = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
        return found.group(1) if found else platform.machine()
    except OSError:
        return platform.machine()


def parse_arguments():
    arguments, extra = sys.argv[1:], []
    if "--" in arguments:
        extra = arguments[arguments.index("--") + 1 :]
        arguments = arguments[: arguments.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Options after `--` go to shoal bench as they are.")
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=128)
    parser.add_argument("--long-prompt", type=int, default=4096, help="0: none")
    parser.add_argument("-d", "--depth", type=int, default=4096, help="context to generate after; 0: none")
    parser.add_argument("--depth-generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", help="interpreter that has llama-cpp-python")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a llama-bench")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    parser.add_argument("--limits", type=pathlib.Path, help="the program `limits`; beside shoal if not given")
    parser.add_argument("--json", type=pathlib.Path, help="write all samples here, for bench/roofline.py")
    options = parser.parse_args(arguments)
    options.extra = extra
    options.model = str(pathlib.Path(options.model).resolve())
    options.program = options.program.resolve()
    options.limits = options.limits or options.program.parent / "limits"
    if not options.limits.exists():
        parser.error(f"{options.limits} is missing: build the target `limits`")
    if min(options.rounds, options.prompt, options.generate) < 1:
        parser.error("--rounds, --prompt and --generate take 1 or more")
    options.peers = {name: shlex.split(words) for name, _, words in (peer.partition("=") for peer in options.peer)}
    if len(options.peers) != len(options.peer) or not all(options.peers.values()):
        parser.error("--peer takes NAME=PATH, each name once")
    if options.python or not options.peers:
        options.peers["llama-cpp-python"] = None
        options.python = options.python or sys.executable
    return options


def main():
    if sys.argv[1:2] == ["--peer-worker"]:
        model, threads, prompts, *counts = sys.argv[2:]
        return peer_worker(model, int(threads), json.loads(prompts), *map(int, counts))
    options = parse_arguments()
    players = {"shoal": [str(options.program), *options.extra], **options.peers}
    samples, limits, model = {name: {} for name in players}, [], {}
    for round_ in range(options.rounds):
        limits.append(run_json([str(options.limits), str(options.threads)])[0])
        for name, words in players.items():
            print(f"compare: round {round_ + 1} of {options.rounds}, {name}", file=sys.stderr)
            result, row = turn(options, name, words)
            if name == "shoal":
                model = {key: row[key] for key in ("weights_per_token", "weight_bytes_per_token", "backend")}
            for test, speed in result.items():
                samples[name].setdefault(test, []).append(speed)
    record = {"command": shlex.join(sys.argv), "date": datetime.date.today().isoformat(), "processor": processor_name(),
              "model_file": pathlib.Path(options.model).name, "model": model, "threads": options.threads,
              "rounds": options.rounds, "limits": limits, "samples": samples}
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record), end="")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
