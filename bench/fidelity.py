#!/usr/bin/env python3
"""The planner against the clock: predicted and measured, on testbed devices of unequal quotas, links and memory.

  sudo bench/fidelity.py --model MODEL.gguf [--only 0,3] [--out FILE]     measure configurations, append to FILE
  bench/fidelity.py --report FILE                                          the table and the summary, for docs/benchmarks.md

Each configuration (a built-in list of 4 to 8 devices, see CONFIGURATIONS) is one `shoal bench` on bench/testbed: the time
to the first token of several prompts, the time a token of one answer, tokens/s of several at once, and of decoding each
stage and hop. The prediction is the plan's, made from what the devices measured of themselves at start-up. An error
is predicted / measured - 1. FILE has one line of JSON for each measured configuration, so that a run can be resumed.
"""
import datetime
import shlex
import statistics
import sys

from planner_runs import append, chosen, measure, options_of, plan_of, read_records, run_script

# The shares' sum is at most one core: the devices share one memory bus.
CONFIGURATIONS = [
    {"cpu": [0.3, 0.3, 0.2, 0.1], "mbps": [100] * 4, "latency_ms": [0.2] * 4, "memory_mib": [120] * 4, "objective": "latency"},
    {"cpu": [0.4, 0.2, 0.2, 0.1], "mbps": [100, 50, 20, 50], "latency_ms": [0.5] * 4, "memory_mib": [140, 120, 120, 120],
     "objective": "latency"},
    {"cpu": [0.25, 0.25, 0.25, 0.2], "mbps": [50] * 4, "latency_ms": [1.0] * 4, "memory_mib": [130] * 4,
     "objective": "throughput"},
    {"cpu": [0.3, 0.2, 0.2, 0.15, 0.1], "mbps": [100, 100, 50, 20, 50], "latency_ms": [0.3, 0.3, 0.5, 1.0, 0.5],
     "memory_mib": [130, 120, 120, 120, 120], "objective": "throughput"},
    {"cpu": [0.25, 0.2, 0.15, 0.15, 0.1, 0.1], "mbps": [100, 50, 100, 20, 100, 50], "latency_ms": [0.3] * 6,
     "memory_mib": [110] * 6, "objective": "throughput"},
    {"cpu": [0.35, 0.15, 0.15, 0.1, 0.1, 0.1], "mbps": [50, 100, 20, 100, 50, 100], "latency_ms": [0.5] * 6,
     "memory_mib": [120] * 6, "objective": "latency"},
    {"cpu": [0.2, 0.15, 0.15, 0.1, 0.1, 0.1, 0.1], "mbps": [100, 20, 50, 100, 20, 50, 100], "latency_ms": [0.2] * 7,
     "memory_mib": [115] * 7, "objective": "latency"},
    {"cpu": [0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "mbps": [100] * 8, "latency_ms": [0.3] * 8,
     "memory_mib": [110] * 8, "objective": "throughput"},
]
TESTS = ["-p", "32,128", "-n", "24", "--concurrency", "1,4", "-r", "1"]


def figures(rows):
    """(what, predicted, measured) of each figure that the plan predicts; seconds, or tokens/s of several at once."""
    found = []
    for row in rows:
        if not row["predicted_ts"]:
            continue
        predicted, measured = row["predicted_ts"], row["avg_ts"]
        if row["n_gen"] == 0:
            found.append((f"first token of {row['n_prompt']}", row["n_prompt"] / predicted, row["n_prompt"] / measured))
        elif row["concurrency"] == 1:
            found.append(("token", 1 / predicted, 1 / measured))
        else:
            found.append((f"{row['concurrency']} at once", predicted, measured))
    return found


def places(rows):
    """(kind, predicted, measured) of each stage and each hop between devices, one answer at a time."""
    for row in rows:
        if row["n_gen"] and row["concurrency"] == 1:
            return [(place["kind"], place["predicted_seconds"], place["measured_seconds"]) for place in row["places"]
                    if place["kind"] in ("stage", "link")]
    return []


def error(predicted, measured):
    return predicted / measured - 1 if measured > 0 else 0.0


def short(what, predicted, measured):
    values = (f"{predicted:.1f} / {measured:.1f}" if what.endswith("at once") else
              f"{1e3 * predicted:.1f} / {1e3 * measured:.1f}")
    return f"{values} ({100 * error(predicted, measured):+.0f} %)"


def summary(name, errors):
    sizes = sorted(abs(e) for e in errors)
    if not sizes:
        return f"{name}: none"
    return f"{name}: {len(sizes)} figures, median error {100 * statistics.median(sizes):.1f} %, worst {100 * sizes[-1]:.1f} %"


def report(records):
    latest = {record["index"]: record for record in records}
    everything, of_places = [], {"stage": [], "link": []}
    columns = None
    for index, record in sorted(latest.items()):
        found = figures(record["rows"])
        if columns is None:
            columns = [what for what, _, _ in found]
            print("| # | devices | objective | plan | " + " | ".join(columns) + " |\n" + "|---" * (4 + len(columns)) + "|")
        print(f"| {index} | {len(record['devices']['cpu'])} | {record['devices']['objective']} | {plan_of(record['rows'])} | "
              + " | ".join(short(*figure) for figure in found) + " |")
        everything += [error(predicted, measured) for _, predicted, measured in found]
        for kind, predicted, measured in places(record["rows"]):
            of_places[kind].append(error(predicted, measured))
    print("\n" + summary("time to the first token, a token, tokens/s", everything))
    print(summary("stages", of_places["stage"]) + "\n" + summary("hops", of_places["link"]))


def main():
    parser = options_of(__doc__, "fidelity", "numbers of configurations, from 0 (default: all)")
    options = parser.parse_args()
    if options.report:
        return report(read_records(options.report))
    if not options.model:
        parser.error("--model is needed")
    for index in chosen(options, len(CONFIGURATIONS)):
        devices = {"sequences": 4, "context": 512, **CONFIGURATIONS[index]}
        print(f"fidelity: configuration {index}, {len(devices['cpu'])} devices", file=sys.stderr, flush=True)
        rows = measure(options.program.resolve(), options.model.resolve(), devices, TESTS)
        record = {"index": index, "when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                  "command": shlex.join(sys.argv), "devices": devices, "rows": rows}
        append(options.out, record)
        report([record])
    return 0


if __name__ == "__main__":
    run_script("fidelity", main)
