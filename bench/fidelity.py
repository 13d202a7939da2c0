#!/usr/bin/env python3
"""The planner against the clock: predicted and measured ms a token on testbed devices, and the equal split.

  sudo bench/fidelity.py --model MODEL.gguf --device-memory 120MiB,112MiB,112MiB CONFIGURATION...

A CONFIGURATION is CPU:MBPS:LATENCY, each one value or one for each device, such as 0.4,0.2,0.2:100,50,20:0.5. For each
one bench/testbed runs the program --repeats times with the planner's choice and with the layers in equal parts, in turns;
the figures are medians. The error of a stage is what its device computed a token against the plan's; what the token took
beyond computing is compared with the plan's hops. Prints a table for docs/benchmarks.md; --out FILE keeps all as JSON.
"""
import argparse
import datetime
import json
import pathlib
import re
import shlex
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNITS_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}
PROMPT = "Tell me about fish."


class BenchError(Exception):
    pass


def testbed(options, configuration, layers):
    cpu, mbps, latency = configuration.split(":")
    words = [str(ROOT / "bench/testbed"), "run", "--quiet", "--devices", str(options.devices), "--cpu", cpu,
             "--link-mbps", mbps, "--latency-ms", latency, "--memory", options.device_memory, "--sequences", "1",
             "--context", str(options.context), "--timeout-s", "120", "--model", str(options.model)]
    if layers:
        words += ["--layers", layers]
    words += ["--", str(options.program), "run", "-c", "{cluster}", "-p", PROMPT, "-n", str(options.tokens), "--ignore-eos"]
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        raise BenchError(f"`{shlex.join(words)}` ended with {result.returncode}:\n{result.stderr.strip()[-2000:]}")
    return result.stderr


def parse(text):
    """One run: the plan's figures and the clock's, ms a token; stages in the pipeline's order, by device."""
    number, unit = r"([0-9.]+)", r"(s|ms|us|µs|ns)\b"
    plan = {}
    for line in text.splitlines():
        row = re.match(rf"\s+(d\d+)\s+(\S+)\s.*%\s+{number} {unit}\s+{number} {unit}\s*$", line)
        if row:
            plan[row[1]] = {"layers": row[2], "predicted": float(row[3]) * UNITS_MS[row[4]],
                            "hop_out": float(row[5]) * UNITS_MS[row[6]]}
    for name, computing in re.findall(r"^(d\d+)\s.*?([0-9.]+) ms/tk\s+[0-9.]+ ms/tk", text, re.MULTILINE):
        if name in plan:
            plan[name]["measured"] = float(computing)
    total = re.search(rf"{number} ms a token, the plan said {number}", text)
    if not total or not plan or any("measured" not in stage for stage in plan.values()):
        raise BenchError(f"no figures in what the program printed:\n{text[-2000:]}")
    measured, predicted = float(total[1]), float(total[2])
    return {"measured": measured, "predicted": predicted, "stages": plan,
            "hops_measured": measured - sum(stage["measured"] for stage in plan.values()),
            "hops_predicted": predicted - sum(stage["predicted"] for stage in plan.values())}


def layers_of(runs):
    return " ".join(f"{name}={stage['layers']}" for name, stage in runs["stages"].items())


def measure(options, configuration):
    chosen, equal = [], []
    for repeat in range(options.repeats):
        print(f"fidelity: {configuration}, run {repeat + 1} of {options.repeats}", file=sys.stderr)
        chosen.append(parse(testbed(options, configuration, None)))
        equal.append(parse(testbed(options, configuration, equal_split(options))))
    middle = sorted(chosen, key=lambda run: run["measured"])[len(chosen) // 2]
    return {"configuration": configuration, "chosen": chosen, "equal": equal, "middle": middle,
            "equal_measured": statistics.median(run["measured"] for run in equal),
            "equal_predicted": statistics.median(run["predicted"] for run in equal)}


def equal_split(options):
    bounds = [options.layers * i // options.devices for i in range(options.devices + 1)]
    return ",".join(f"d{i}={bounds[i]}-{bounds[i + 1] - 1}" for i in range(options.devices))


def percent(predicted, measured):
    return f"{100 * (predicted / measured - 1):+.0f} %" if measured > 0 else "-"


def print_row(row):
    run = row["middle"]
    stages = ", ".join(f"{name} {stage['layers']}: {percent(stage['predicted'], stage['measured'])}"
                       for name, stage in run["stages"].items())
    print(f"| {row['configuration'].replace(':', ' · ')} | {run['predicted']:.1f} | {run['measured']:.1f} | "
          f"{percent(run['predicted'], run['measured'])} | {stages} | "
          f"{run['hops_predicted']:.1f} / {run['hops_measured']:.1f} | "
          f"{row['equal_measured']:.1f} ({percent(row['equal_predicted'], row['equal_measured'])}) | "
          f"{row['equal_measured'] / run['measured']:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--layers", type=int, default=30, help="of the model, for the equal split")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--device-memory", required=True, help="of each device, e.g. 120MiB,112MiB,112MiB")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("-n", "--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file of all runs")
    parser.add_argument("configurations", nargs="+", metavar="CPU:MBPS:LATENCY")
    options = parser.parse_args()
    for configuration in options.configurations:
        if configuration.count(":") != 2:
            parser.error(f"'{configuration}' is not CPU:MBPS:LATENCY")
    options.model, options.program = options.model.resolve(), options.program.resolve()
    print("| cores · Mbit/s · ms | predicted | measured | error | error by stage | hops, predicted / measured | "
          "equal split (error) | equal / chosen |\n" + "|---" * 8 + "|", flush=True)
    rows = []
    for configuration in options.configurations:
        rows.append(measure(options, configuration))
        print_row(rows[-1])
    if options.out:
        record = {"when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                  "command": shlex.join(sys.argv), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, OSError) as error:
        print(f"fidelity: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
