#!/usr/bin/env python3
"""Tokens per second of a cluster, node count by concurrency: a table, a JSON file and a plot.

  bench/throughput.py -c configs/three-nodes.yaml --nodes 1,2,3 --concurrency 1,2,4,8

For each node count N it cuts the cluster file to its first N nodes and runs `shoal bench` on them under mpirun, each
--repeats times, the counts in turn so that a change of the machine's speed meets all of them alike; the figures are
medians. Inside `bench/testbed exec` the ranks run on the testbed's devices and -c is the testbed's file by default:

  bench/testbed exec --devices 4 --cpu 0.25 --link-mbps 100 --model MODEL.gguf --objective throughput -- \\
    bench/throughput.py --nodes 1,2,4

-p, -n and -d take lists: prompts to be read, tokens to be generated, and the context after which. Writes OUT/throughput.json and OUT/throughput.svg (or .png with --png, which needs matplotlib). Options after `--` go to
shoal bench as they are.

The second table tells, of the same runs: time to the first token and between tokens, the share of the time that the
busiest and the idlest stage computed, and the bytes a token on the busiest link (the JSON has every link). --http asks a
server (`shoal serve`) instead, over one connection a sequence with streamed answers (--listen: where, from inside
a testbed 10.77.0.1:0).

Peers, each where it is installed, in turn with Shoal and with --threads threads: --peer NAME=LLAMA_BENCH is a llama-bench,
with --rpc-server PATH over as many of its rpc-servers as there are nodes; --python an interpreter that has
llama-cpp-python. They know one sequence at a time: their column stands beside concurrency 1.
"""
import argparse
import datetime
import html
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

import http_bench
import throughput_peers

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")


class BenchError(Exception):
    pass


def numbers(text):
    values = [int(word) for word in text.split(",")]
    if not values or min(values) < 1:
        raise ValueError(text)
    return values


def lengths(text):
    """Of tests; 0 is none."""
    values = [int(word) for word in text.split(",")]
    if min(values) < 0:
        raise ValueError(text)
    return [value for value in values if value > 0]


def section(lines, key):
    """First and past-the-last line of the block under a top-level key, without the key's own line."""
    for begin, line in enumerate(lines):
        if re.match(rf"{key}\s*:\s*(#.*)?$", line):
            end = begin + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] in " #-"):
                end += 1
            return begin + 1, end
    return None


def cut_cluster(text, count, where):
    """The cluster file with its first `count` nodes only. Works on the text: one node starts at the block's indent."""
    lines = text.splitlines()
    span = section(lines, "nodes")
    if not span:
        raise BenchError(f"{where}: no block of nodes, one under the other, under 'nodes:'")
    begin, end = span
    entries = [i for i in range(begin, end) if re.match(r"\s+[^\s#]", lines[i])]
    indent = len(lines[entries[0]]) - len(lines[entries[0]].lstrip()) if entries else 0
    starts = [i for i in entries if len(lines[i]) - len(lines[i].lstrip()) == indent]
    if count > len(starts):
        raise BenchError(f"{where}: has {len(starts)} nodes, fewer than {count}")
    if count == len(starts):
        return text
    names = [lines[i].split(":")[0].strip().strip("'\"") for i in starts[count:]]
    if re.search(r"^[^#\n]*\blayers\s*:", text, re.MULTILINE):
        raise BenchError(f"{where}: a plan by hand (plan: layers) cannot be cut to {count} nodes")
    kept = lines[: starts[count]] + lines[end:]
    links = section(kept, "links")
    if links:
        begin, end = links
        gone = [i for i in range(begin, end)
                if any(re.search(rf"\b{re.escape(name)}\b", kept[i].split("#")[0]) for name in names)]
        if any("between" not in kept[i] or "}" not in kept[i] for i in gone):
            raise BenchError(f"{where}: write each link on a line of its own, as {{between: [a, b], ...}}, to cut the file")
        rest = [line for i, line in enumerate(kept[begin:end], begin) if i not in gone]
        empty = not any(line.strip().startswith("-") for line in rest)
        kept = kept[: begin - (1 if empty else 0)] + ([] if empty else rest) + kept[end:]
    return "\n".join(kept) + "\n"


def launch_words():
    """What stands before `-n N PROGRAM`."""
    if os.environ.get("SHOAL_MPIRUN"):
        return shlex.split(os.environ["SHOAL_MPIRUN"])
    return ["mpirun", "--oversubscribe", "--bind-to", "none"]


def launch_count(words, count):
    # The testbed's launcher wants `-n N` first; mpirun takes it anywhere before the program.
    return [*words, "-n", str(count)]


def run_http(options, cluster, count):
    words = [*launch_count(launch_words(), count), str(options.program), "serve", "-c", str(cluster), "--listen",
             options.listen, "--without-api-key", *options.extra]
    tests = [(prompt, 1) for prompt in options.prompt]
    tests += [(max(1, depth), generate) for generate in options.generate for depth in options.depth]
    return http_bench.rows(words, tests, options.concurrency)


def listed(values):
    return ",".join(map(str, values)) or "0"


def run_bench(options, cluster, count):
    """The first depth's run reads the prompts too."""
    runs = [(depth, options.prompt if i == 0 else []) for i, depth in enumerate(options.depth)]
    return [row for depth, prompts in runs for row in run_bench_once(options, cluster, count, depth, prompts)]


def run_bench_once(options, cluster, count, depth, prompts):
    words = [*launch_count(launch_words(), count), str(options.program), "bench", "-c", str(cluster),
             "-p", listed(prompts), "-n", listed(options.generate), "-r", "1", "-o", "json",
             "-d", str(depth), "--concurrency", listed(options.concurrency), *options.extra]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise BenchError(f"`{shlex.join(words)}` ended with {result.returncode}:\n{result.stderr.strip()}")
    try:
        return json.loads(result.stdout)
    except ValueError as error:
        raise BenchError(f"`{shlex.join(words)}` printed no benchmark rows ({error}): {result.stdout[:300]}")


def measure(options):
    """Rows: test, nodes given, nodes that the plan used, concurrency, samples and their median."""
    text = options.cluster.read_text()
    samples, peers = {}, {}
    with tempfile.TemporaryDirectory(prefix="shoal-throughput-") as folder:
        files = {}
        for count in options.nodes:
            # A relative path of a model is relative to its cluster file, so the cut has to name it in full.
            files[count] = pathlib.Path(folder) / f"nodes-{count}.yaml"
            files[count].write_text(absolute_model(cut_cluster(text, count, options.cluster), options.cluster.parent))
        for repeat in range(options.repeats):
            for count in options.nodes:
                print(f"throughput: repeat {repeat + 1} of {options.repeats}, {count} nodes", file=sys.stderr)
                for row in (run_http if options.http else run_bench)(options, files[count], count):
                    samples.setdefault((row["test"], count, row["concurrency"]), []).append(row)
                for name, test, speed in throughput_peers.run(options, model_of(files[count]), count):
                    peers.setdefault((test, count), {}).setdefault(name, []).append(speed)
    rows = [summary(*key, rows) for key, rows in sorted(samples.items())]
    for row in rows:
        if row["concurrency"] == 1:
            row["peers"] = {name: {"tokens_per_s": statistics.median(speeds), "samples": speeds}
                            for name, speeds in peers.get((row["test"], row["nodes"]), {}).items()}
    return rows


def model_of(cluster):
    """The model's path in a cluster file whose paths are full."""
    found = re.search(r"^model:\s*([^#\n]+)", cluster.read_text(), re.MULTILINE)
    return os.path.expanduser(found[1].strip().strip("'\"")) if found else ""


def summary(test, count, concurrency, rows):
    """The medians of one cell's runs."""

    def median(value):
        return statistics.median(value(row) for row in rows)

    return {"test": test, "nodes": count, "nodes_used": rows[0]["nodes"], "concurrency": concurrency,
            "tokens_per_s": median(lambda row: row["avg_ts"]), "samples": [row["avg_ts"] for row in rows],
            "busiest_stage": median(lambda row: max(row["stage_busy"])), "idlest_stage": median(lambda row: min(row["stage_busy"])),
            "bytes_per_token": median(lambda row: max(row["link_bytes_per_token"].values(), default=0)),
            "link_bytes_per_token": {link: median(lambda row, link=link: row["link_bytes_per_token"].get(link, 0))
                                     for link in rows[-1]["link_bytes_per_token"]},
            **{f"{what}_{share}_ms": median(lambda row, what=what, share=share: row[f"{what}_ms"][share])
               for what in ("first_token", "between_tokens") for share in ("p50", "p99")}}


def absolute_model(text, folder):
    def full(match):
        path = match[2].strip().strip("'\"")
        if path.startswith(("/", "~")):
            return match[0]
        return f"{match[1]}{json.dumps(str((folder / path).resolve()))} "

    return re.sub(r"^(model:\s*)([^#\n]+)", full, text, flags=re.MULTILINE)


def print_table(rows, options):
    for test in sorted({row["test"] for row in rows}):
        peers = sorted({name for row in rows if row["test"] == test for name in row.get("peers", {})})
        print(f"\n{test}, tokens/s, median of {options.repeats}")
        print("| nodes (used) | " + " | ".join([*(f"concurrency {c}" for c in options.concurrency), *peers]) + " |")
        print("|---" * (len(options.concurrency) + len(peers) + 1) + "|")
        for count in options.nodes:
            cells = {row["concurrency"]: row for row in rows if row["test"] == test and row["nodes"] == count}
            used = next(iter(cells.values()))["nodes_used"]
            theirs = cells[1].get("peers", {}) if 1 in cells else {}
            speeds = [cells.get(c) for c in options.concurrency] + [theirs.get(name) for name in peers]
            print(f"| {count} ({used}) | " + " | ".join(f"{s['tokens_per_s']:.2f}" if s else "-" for s in speeds) + " |")


def print_details(rows):
    print("\n| test | nodes | concurrency | first token p50, p99 ms | between tokens p50, p99 ms | busy stages | bytes a token and link |")
    print("|---" * 7 + "|")
    for row in rows:
        print(f"| {row['test']} | {row['nodes']} | {row['concurrency']} | {row['first_token_p50_ms']:.1f}, "
              f"{row['first_token_p99_ms']:.1f} | {row['between_tokens_p50_ms']:.1f}, {row['between_tokens_p99_ms']:.1f} | "
              f"{row['idlest_stage']:.2f} to {row['busiest_stage']:.2f} | {row['bytes_per_token']:.0f} |")


def lines_of(rows, test):
    """One line a node count: [(nodes, [(concurrency, tokens/s)])]."""
    counts = sorted({row["nodes"] for row in rows})
    return [(count, sorted((row["concurrency"], row["tokens_per_s"]) for row in rows
                           if row["test"] == test and row["nodes"] == count)) for count in counts]


def write_png(rows, path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    tests = sorted({row["test"] for row in rows})
    figure, panels = pyplot.subplots(1, len(tests), figsize=(5.5 * len(tests), 4), squeeze=False)
    for panel, test in zip(panels[0], tests):
        for count, points in lines_of(rows, test):
            panel.plot(*zip(*points), marker="o", label=f"{count} nodes")
        panel.set(title=test, xlabel="concurrency", ylabel="tokens/s", ylim=(0, None))
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_svg(rows, path):
    width, height, left, top, plot_w, plot_h = 460, 320, 60, 40, 290, 220
    tests = sorted({row["test"] for row in rows})
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * len(tests)}" height="{height}" '
           'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for panel, test in enumerate(tests):
        x0 = panel * width + left
        lines = lines_of(rows, test)
        xs = sorted({x for _, points in lines for x, _ in points})
        top_y = max(y for _, points in lines for _, y in points) * 1.05 or 1
        place_x = {x: x0 + (plot_w * i / (len(xs) - 1) if len(xs) > 1 else plot_w / 2) for i, x in enumerate(xs)}

        def place_y(y, top_y=top_y):
            return top + plot_h * (1 - y / top_y)

        out.append(f'<text x="{x0 + plot_w / 2}" y="20" text-anchor="middle">{html.escape(test)}, tokens/s</text>')
        for tick in range(5):
            y = top_y * tick / 4
            out.append(f'<line x1="{x0}" y1="{place_y(y):.1f}" x2="{x0 + plot_w}" y2="{place_y(y):.1f}" stroke="#ddd"/>'
                       f'<text x="{x0 - 6}" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
        for x in xs:
            out.append(f'<text x="{place_x[x]:.1f}" y="{top + plot_h + 18}" text-anchor="middle">{x}</text>')
        out.append(f'<text x="{x0 + plot_w / 2}" y="{top + plot_h + 38}" text-anchor="middle">concurrency</text>')
        for i, (count, points) in enumerate(lines):
            colour = COLOURS[i % len(COLOURS)]
            path_points = " ".join(f"{place_x[x]:.1f},{place_y(y):.1f}" for x, y in points)
            out.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            out += [f'<circle cx="{place_x[x]:.1f}" cy="{place_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
            out.append(f'<text x="{x0 + plot_w + 10}" y="{top + 14 + 18 * i}" fill="{colour}">{count} nodes</text>')
    out.append("</svg>")
    path.write_text("\n".join(out) + "\n")


def main():
    arguments = sys.argv[1:]
    extra = []
    if "--" in arguments:
        extra = arguments[arguments.index("--") + 1 :]
        arguments = arguments[: arguments.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--cluster", type=pathlib.Path, default=os.environ.get("SHOAL_CLUSTER"))
    parser.add_argument("--nodes", type=numbers, default=[1, 2, 3], help="node counts, e.g. 1,2,3")
    parser.add_argument("--concurrency", type=numbers, default=[1, 2, 4], help="sequences at once, e.g. 1,2,4,8")
    parser.add_argument("-p", "--prompt", type=lengths, default=[128], help="prompt tokens, e.g. 128,512 (0: no prompt test)")
    parser.add_argument("-n", "--generate", type=lengths, default=[64], help="generated tokens (0: no generation test)")
    parser.add_argument("-d", "--depth", type=lengths, default=[], help="tokens of context that generation starts after")
    parser.add_argument("--http", action="store_true", help="through `shoal serve` and not in process")
    parser.add_argument("--listen", default="127.0.0.1:0", help="where that listens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a llama-bench, with its arguments")
    parser.add_argument("--rpc-server", type=pathlib.Path, help="llama.cpp's rpc-server, for peers on several nodes")
    parser.add_argument("--python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("-t", "--threads", type=int, default=1, help="of a peer, and of each of its nodes")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/out")
    parser.add_argument("--png", action="store_true", help="a PNG by matplotlib instead of the SVG")
    options = parser.parse_args(arguments)
    options.extra = extra
    options.depth = options.depth or [0]
    if not options.prompt and not options.generate:
        parser.error("-p 0 and -n 0 leave nothing to measure")
    try:
        options.peers = throughput_peers.parse(options)
    except ValueError as error:
        parser.error(str(error))
    if not options.cluster:
        parser.error("which cluster file? -c FILE")
    if options.repeats < 1:
        parser.error("--repeats takes 1 or more")
    if options.png:
        try:
            __import__("matplotlib")
        except ImportError:
            parser.error("--png needs matplotlib (Debian: python3-matplotlib); without it an SVG is written")
    options.program = options.program.resolve()
    rows = measure(options)
    print_table(rows, options)
    print_details(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "machine": platform.processor()
              or platform.machine(), "command": shlex.join(sys.argv), "cluster": options.cluster.read_text(), "rows": rows}
    (options.out / "throughput.json").write_text(json.dumps(record, indent=1) + "\n")
    plot = options.out / ("throughput.png" if options.png else "throughput.svg")
    (write_png if options.png else write_svg)(rows, plot)
    print(f"\nwrote {options.out / 'throughput.json'} and {plot}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, OSError) as error:
        print(f"throughput: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
