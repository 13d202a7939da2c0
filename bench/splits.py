#!/usr/bin/env python3
"""The planner's choice against three simple splits on random clusters of testbed devices, measured and not predicted.

  sudo bench/splits.py --model MODEL.gguf [--only 0,1] [--out FILE]    measure clusters, append to FILE
  bench/splits.py --report FILE                                         who won, for docs/benchmarks.md

Cluster N is made from seed N: 3 to 6 devices, shares of one core together, links of 10 to 100 Mbit/s, memory, and the
objective (latency, or throughput with four answers at once) at random. The planner chooses; then the same devices run the
layers in equal parts, in proportion to memory, and in proportion to speed (the shares), all devices in their
order. The program refuses a split that does not fit a device's memory: it counts as not runnable. Compared is what
the objective asks for: ms a token of one answer, or tokens/s of four. FILE has one line of JSON for each cluster.
"""
import datetime
import random
import shlex
import statistics
import sys

from planner_runs import RunError, append, chosen, measure, options_of, plan_of, read_records, run_script

SPLITS = ("chosen", "equal", "memory", "speed")
TIMEOUT_S = 90  # of one run: start-up, measuring the devices, the test
BASE_MIB = 46  # of a process and its scratch: memory beyond it holds layers
MODEL_MIB = {30: 92.0, 22: 612.0}  # by layers: what the models of docs/benchmarks.md need, to draw memory by


def random_cluster(seed, layers):
    draw = random.Random(seed)
    count = draw.randint(3, 6)
    shares = [draw.uniform(0.15, 1) for _ in range(count)]
    cores = 0.95 / sum(shares)
    need = MODEL_MIB[layers] * 1.25
    parts = [draw.uniform(0.5, 1.5) for _ in range(count)]
    offered = draw.uniform(1.3, 2.2) * need
    head_more = need * 0.25  # the embedding is there, and with a tied head at the end too
    memory = [BASE_MIB + head_more + offered * part / sum(parts) for part in parts]
    return {"cpu": [round(share * cores, 2) for share in shares],
            "mbps": [draw.choice([10, 20, 50, 100]) for _ in range(count)],
            "latency_ms": [draw.choice([0.2, 0.5, 1.0]) for _ in range(count)],
            "memory_mib": [round(mib) for mib in memory], "sequences": 4, "context": 256,
            "objective": draw.choice(["latency", "throughput"])}


def split_by(weights, layers):
    """Whole layers in proportion to the weights, by largest remainder; every device has at least one."""
    exact = [layers * weight / sum(weights) for weight in weights]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) < layers:
        counts[max(range(len(counts)), key=lambda i: exact[i] - counts[i])] += 1
    while sum(counts) > layers:
        counts[max(range(len(counts)), key=lambda i: (counts[i] > 1, counts[i] - exact[i]))] -= 1
    ranges, first = {}, 0
    for index, count in enumerate(counts):
        ranges[f"d{index}"] = (first, first + count - 1)
        first += count
    return ranges


def splits_of(devices, layers):
    return {"chosen": None, "equal": split_by([1] * len(devices["cpu"]), layers),
            "memory": split_by([mib - BASE_MIB for mib in devices["memory_mib"]], layers),
            "speed": split_by(devices["cpu"], layers)}


def tests_of(devices, tokens, repetitions):
    at_once = "4" if devices["objective"] == "throughput" else "1"
    return ["-p", "0", "-n", str(tokens), "--concurrency", at_once, "-r", str(repetitions)]


def run_cluster(options, index):
    devices = random_cluster(index, options.layers)
    results = {}
    for name, ranges in splits_of(devices, options.layers).items():
        tests = tests_of(devices, options.tokens, options.repetitions)
        try:
            rows = measure(options.program.resolve(), options.model.resolve(), devices, tests, ranges, TIMEOUT_S)
            results[name] = {"tokens_per_s": rows[-1]["avg_ts"], "predicted": rows[-1]["predicted_ts"], "plan": plan_of(rows)}
        except RunError as failure:
            said = str(failure).split("ended with", 1)[-1]
            late = "still running after" in said
            if name == "chosen" or not (late or "MiB" in said):
                raise
            results[name] = {"late" if late else "does_not_fit": said.splitlines()[-1]}
    return {"index": index, "when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv), "model": options.model.name, "devices": devices, "results": results}


def wins(record):
    """Is the choice at least as good as every split that runs? Within 2 %, what two runs of one plan differ by."""
    results = record["results"]
    return all(results["chosen"]["tokens_per_s"] >= 0.98 * result["tokens_per_s"]
               for result in results.values() if "tokens_per_s" in result)


def cell(record, name):
    result = record["results"][name]
    if "tokens_per_s" not in result:
        return f"not within {TIMEOUT_S} s" if "late" in result else "does not fit"
    rate = result["tokens_per_s"]
    return f"{1e3 / rate:.1f} ms" if record["devices"]["objective"] == "latency" else f"{rate:.1f}/s"


def report(records, heading=True):
    latest = {(record["model"], record["index"]): record for record in records}
    if heading:
        print("| cluster | cores · Mbit/s | plan | chosen | equal | by memory | by speed | chosen is best |\n" + "|---" * 8 + "|")
    gains = {name: [] for name in SPLITS[1:]}
    for (_, index), record in sorted(latest.items()):
        devices, results = record["devices"], record["results"]
        print(f"| {index} | {','.join(map(str, devices['cpu']))} · {','.join(map(str, devices['mbps']))} | "
              f"{results['chosen']['plan']} | " + " | ".join(cell(record, name) for name in SPLITS) +
              f" | {'yes' if wins(record) else 'no'} |", flush=True)
        for name in gains:
            if "tokens_per_s" in results[name]:
                gains[name].append(results["chosen"]["tokens_per_s"] / results[name]["tokens_per_s"])
    if not heading:
        return
    won = sum(wins(record) for record in latest.values())
    print(f"\nThe choice is best in {won} of {len(latest)} clusters. Times faster than a split, where it runs: " + "; ".join(
        f"{name} {statistics.median(values):.2f} (median of {len(values)}, least {min(values):.2f})" if values else
        f"{name} never runs" for name, values in gains.items()))


def main():
    parser = options_of(__doc__, "splits", "numbers of clusters (default: 0 to 9)")
    parser.add_argument("--layers", type=int, default=30, choices=sorted(MODEL_MIB), help="of the model")
    parser.add_argument("-n", "--tokens", type=int, default=24)
    parser.add_argument("-r", "--repetitions", type=int, default=2)
    options = parser.parse_args()
    if options.report:
        return report(read_records(options.report))
    if not options.model:
        parser.error("--model is needed")
    for index in chosen(options, 10):
        record = run_cluster(options, index)
        append(options.out, record)
        report([record], heading=False)
    return 0


if __name__ == "__main__":
    run_script("splits", main)
