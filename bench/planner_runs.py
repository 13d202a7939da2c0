"""What bench/fidelity.py and bench/splits.py share: one `shoal bench` on testbed devices, and what it says."""
import argparse
import json
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


class RunError(Exception):
    pass


def measure(program, model, devices, tests, layers=None, timeout_s=120):
    """Runs the tests (flags of `shoal bench`) on `devices`: a mapping with lists cpu, mbps, latency_ms, memory_mib, and
    sequences, context, objective. `layers`: of each device's name (first, last), or None: the planner's choice.
    Returns the rows of `shoal bench -o json`. Raises RunError."""
    def joined(values):
        return ",".join(f"{value:g}" for value in values)

    words = [str(ROOT / "bench/testbed"), "run", "--quiet", "--devices", str(len(devices["cpu"])),
             "--cpu", joined(devices["cpu"]), "--link-mbps", joined(devices["mbps"]),
             "--latency-ms", joined(devices["latency_ms"]),
             "--memory", ",".join(f"{mib:.0f}MiB" for mib in devices["memory_mib"]),
             "--sequences", str(devices["sequences"]), "--context", str(devices["context"]),
             "--objective", devices["objective"], "--timeout-s", str(timeout_s), "--model", str(model)]
    if layers:
        words += ["--layers", ",".join(f"{name}={first}-{last}" for name, (first, last) in layers.items())]
    words += ["--", str(program), "bench", "-q", "-c", "{cluster}", "-o", "json", *tests]
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        raise RunError(f"`{shlex.join(words)}` ended with {result.returncode}:\n{result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)


def plan_of(rows):
    """The stages of a run, as text."""
    for row in rows:
        stages = [place["name"] for place in row["places"] if place["kind"] == "stage"]
        if stages:
            return " → ".join(re.sub(r" \((?:layers? )?(.*)\)", r" \1", stage) for stage in stages)
    return ""


def append(path, record):
    """One line of JSON more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def options_of(doc, name, only):
    """A parser with the options of both scripts; `only` says what --only chooses."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--only", help=only)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / f"bench/out/{name}.jsonl")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE")
    return parser


def chosen(options, count):
    """The numbers of --only, or 0 to count - 1."""
    return [int(word) for word in options.only.split(",")] if options.only else range(count)


def run_script(name, main):
    """Ends the process with main's exit status, or in a sentence."""
    try:
        sys.exit(main())
    except (RunError, OSError, ValueError) as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
