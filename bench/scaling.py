#!/usr/bin/env python3
"""What more nodes bring, against the targets: many users, one long prompt, answers beside it, one user.

  sudo bench/scaling.py --model "$(tools/fetch_model.sh)" --model tinyllama-Q4_0.gguf --out scaling.jsonl
  bench/scaling.py --report scaling.jsonl

Devices are bench/testbed's, of equal shares that add up to 0.8 of a core, on links of 1 Gbit/s and 0.1 ms. Each test runs its
node counts in turn, --rounds times, and compares medians with one such device alone. --only takes the names of tests:

  pair      2 devices, 8 answers at once                tokens/s to one device's >= 1.9
  four      4 devices, 128 at once                      >= 0.9 x 4
  eight     8 devices, 256 at once                      >= 0.9 x 8
  prompt2   one prompt of 2048 tokens, 2 devices        time to its first token <= 0.6 of one device's
  prompt4   the same, 4 devices                         <= 0.35
  batch     1 node, no testbed, 8 answers at once       tokens/s to one answer's >= 3
  gaps2, gaps4  7 answers beside a prompt of 4096       p99 between tokens <= 2 x that of the same tokens alone
  gaps1     the same on one node of this machine, no testbed;  gapsloop: on two
  single    1 answer on 2 nodes of this machine         tokens/s to 1 node's >= 0.95

and with every test of more than one node the bytes a token on the busiest link: <= n_embd x 4 + 256. For the prompts the
layers are divided evenly by hand: the planner balances steps of answers, in which the output head takes its part.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINKS = ["--link-mbps", "1000", "--latency-ms", "0.1"]
TIMEOUT_S = 900  # of one run
# Test: nodes, share of a core each (0: no testbed), answers at once, prompt, generated tokens, target.
TESTS = {
    "pair": ([1, 2], 0.4, 8, 0, 48, ("speed", 1.9)),
    "four": ([1, 4], 0.2, 128, 0, 16, ("speed", 3.6)),
    "eight": ([1, 8], 0.1, 256, 0, 10, ("speed", 7.2)),
    "prompt2": ([1, 2], 0.4, 1, 2048, 0, ("time", 0.6)),
    "prompt4": ([1, 4], 0.2, 1, 2048, 0, ("time", 0.35)),
    "single": ([1, 2], 0, 1, 0, 96, ("speed", 0.95)),
}
GAPS = {"gaps1": (1, 0), "gapsloop": (2, 0), "gaps2": (2, 0.4), "gaps4": (4, 0.2)}
GAP_TARGET, BATCH_TARGET = 2.0, 3.0


class ScalingError(Exception):
    pass


def run(words):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    try:
        result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment,
                                timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ScalingError(f"`{' '.join(words)}` took longer than {TIMEOUT_S} s")
    if result.returncode:
        raise ScalingError(f"`{' '.join(words)}` ended with {result.returncode}:\n{result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)


def inspected(model, what):
    """A number that `shoal inspect` tells of the model."""
    text = subprocess.run([str(ROOT / "build/release/shoal"), "inspect", str(model)], capture_output=True, text=True).stdout
    for line in text.splitlines():
        if line.split()[:1] == [what]:
            return int(line.split()[1])
    raise ScalingError(f"{model}: `shoal inspect` tells no {what}")


def even_layers(model, count):
    """The testbed's option that divides the layers evenly, earlier devices having one more."""
    layers = int(inspected(model, "layers"))
    ends = [(i * layers + count - 1) // count for i in range(count + 1)]
    return ["--layers", ",".join(f"d{i}={ends[i]}-{ends[i + 1] - 1}" for i in range(count))]


def on_nodes(options, model, count, share, sequences, context, command, more=()):
    """Runs a command on `count` nodes, with their cluster file at {cluster} in its words."""
    if share:
        words = [str(ROOT / "bench/testbed"), "exec", "--devices", str(count), "--cpu", str(share), *LINKS, "--objective",
                 "throughput", "--sequences", str(sequences), "--context", str(context), "--model", str(model),
                 "--memory", "2GiB", "--timeout-s", str(TIMEOUT_S - 20), "--quiet", *more, "--", *command]
        return run([word.replace("{listen}", "10.77.0.1:0") for word in words])
    with tempfile.TemporaryDirectory(prefix="shoal-scaling-") as folder:
        cluster = pathlib.Path(folder) / "cluster.yaml"
        nodes = "".join(f"  n{i}: {{address: 127.0.0.1, memory: 2GiB, threads: 1}}\n" for i in range(count))
        cluster.write_text(f"cluster: loopback\nmodel: {json.dumps(str(model))}\ncontext: {context}\n"
                           f"sequences: {sequences}\nhead: n0\nnodes:\n{nodes}plan: {{objective: throughput}}\n")
        return run([word.replace("{cluster}", str(cluster)).replace("{listen}", "127.0.0.1:0") for word in command])


def bench(options, model, count, share, at_once, prompt, generate):
    """The JSON row of `shoal bench`."""
    arguments = f"-p {prompt} -n {generate} -r 1 --concurrency {at_once} -o json"
    start = "${SHOAL_MPIRUN:-mpirun --oversubscribe --bind-to none}"
    command = ["bash", "-c", f'{start} -n {count} "$0" bench -c {{cluster}} {arguments}', str(options.program)]
    context = max(prompt, generate) + 64
    more = even_layers(model, count) if share and not generate else []
    return on_nodes(options, model, count, share, at_once, context, command, more)[0]


def measure_counts(options, model, name):
    counts, share, at_once, prompt, generate, (kind, target) = TESTS[name]
    rows = {count: [] for count in counts}
    for _ in range(options.rounds):
        for count in counts:
            rows[count].append(bench(options, model, count, share, at_once, prompt, generate))
    key = (lambda row: row["first_token_ms"]["p50"]) if kind == "time" else (lambda row: row["avg_ts"])
    medians = {count: statistics.median(map(key, rows[count])) for count in counts}
    one, many = (medians[count] for count in counts)
    last = rows[counts[-1]][-1]
    return {"figure": f"{'ms' if kind == 'time' else 'tokens/s'}", "one": one, "many": many, "ratio": many / one,
            "target": target, "reached": many / one <= target if kind == "time" else many / one >= target,
            "samples": {str(count): list(map(key, rows[count])) for count in counts}, "nodes": counts[-1],
            "nodes_used": last["nodes"], "share": share, "at_once": at_once, "busy": last["stage_busy"],
            "bytes_per_token": max(last["link_bytes_per_token"].values(), default=0),
            "stages": [place["name"] for place in last["places"] if place["kind"] == "stage"]}


def measure_batch(options, model):
    rows = []
    for _ in range(options.rounds):
        words = [str(options.program), "bench", str(model), "-t", "1", "-p", "0", "-n", "32", "-r", "1", "--concurrency", "1",
                 "8", "-o", "json"]
        rows.append([row["avg_ts"] for row in run(words)])
    one, eight = (statistics.median(row[i] for row in rows) for i in range(2))
    return {"figure": "tokens/s", "one": one, "many": eight, "ratio": eight / one, "target": BATCH_TARGET,
            "reached": eight / one >= BATCH_TARGET, "samples": rows, "nodes": 1, "nodes_used": 1, "share": 0, "at_once": 8}


def measure_gaps(options, model, name):
    count, share = GAPS[name]
    script = str(ROOT / "bench/decoder_gaps.py")
    command = [sys.executable, script, "-c", "{cluster}", "--nodes", str(count), "--listen", "{listen}", "--program",
               str(options.program), "--tokens-max", "4400", "--", "--kv-cells", "36864"]  # room for all of it at once
    rows = [on_nodes(options, model, count, share, 8, 4608, command) for _ in range(options.rounds)]
    without, beside = (statistics.median(row[key]["p99_ms"] for row in rows) for key in ("without", "beside"))
    return {"figure": "p99 ms", "one": without, "many": beside, "ratio": beside / without, "target": GAP_TARGET,
            "reached": beside / without <= GAP_TARGET, "samples": rows, "nodes": count, "nodes_used": count, "share": share,
            "at_once": 7}


def measure(options):
    for name in options.only:
        for model in options.model:
            print(f"scaling: {name}, {model.name}", file=sys.stderr)
            try:
                record = (measure_batch(options, model) if name == "batch" else measure_gaps(options, model, name)
                          if name in GAPS else measure_counts(options, model, name))
            except (ScalingError, ValueError) as error:
                print(f"scaling: {name}, {model.name}: {error}", file=sys.stderr)
                continue
            record = {"when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "test": name,
                      "model": model.name, "row_bytes": 4 * inspected(model, "embedding"), "rounds": options.rounds, **record}
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


def report(path):
    print("| test | model | devices (used) | share | at once | figure | one | all | ratio | target | busy stages | bytes a token |")
    print("|---" * 12 + "|")
    for line in path.read_text().splitlines():
        row = json.loads(line)
        busy = f"{min(row['busy']):.2f} to {max(row['busy']):.2f}" if row.get("busy") else ""
        sent, limit = row.get("bytes_per_token", 0), row["row_bytes"] + 256
        sent = f"{sent:.0f}" + (f" (at most {limit}: {'reached' if sent <= limit else 'missed'})" if row["row_bytes"] else "") if sent else ""
        print(f"| {row['test']} | {row['model']} | {row['nodes']} ({row['nodes_used']}) | {row['share'] or 'whole'} | {row['at_once']} | "
              f"{row['figure']} | {row['one']:.1f} | {row['many']:.1f} | {row['ratio']:.3f} | "
              f"{row['target']:g}: {'reached' if row['reached'] else 'missed'} | {busy} | {sent} |")


def main():
    names = [*TESTS, "batch", *GAPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda text: pathlib.Path(text).resolve(), action="append", default=[])
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help=",".join(names))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "build/release/shoal")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/out/scaling.jsonl")
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args()
    if options.report:
        return report(options.report)
    if not options.model:
        parser.error("which model? --model FILE, once or more")
    if unknown := [name for name in options.only if name not in names]:
        parser.error(f"--only: no test '{unknown[0]}'; there are {', '.join(names)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    measure(options)
    report(options.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
