#!/usr/bin/env python3
"""What encrypted links cost: the same cluster with TLS and with --insecure, in turns.

  sudo bench/testbed exec --devices 3 --cpu 0.25 --link-mbps 1000 --latency-ms 0.1 --objective latency --sequences 1 \\
    --context 512 --layers d0=0-9,d1=10-19,d2=20-29 --model "$(tools/fetch_model.sh)" -- \\
    bench/tls_cost.py --nodes 3 --at-once 1 --rounds 7 --tokens 128

The layers are given (these are SmolLM2-135M's), since two runs that measure and plan for themselves may not divide the model alike.
Each of --rounds runs `shoal bench` twice, with the order of the two changed every round: one answer, and eight at once (--at-once).
Prints the medians in tokens/s and how much slower TLS was: the median of the rounds and their range. Outside of the
testbed give -c CLUSTER.yaml of nodes on loopback.
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INSECURE = ["--insecure", "--trust-network"]


def speeds(options, words):
    """{what: tokens/s} of one cluster's run."""
    launcher = shlex.split(os.environ.get("SHOAL_MPIRUN", "mpirun --oversubscribe --bind-to none"))
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    result = subprocess.run([*launcher, "-n", str(options.nodes), str(options.program), "bench", "-c", options.cluster, "-p", "0",
                             "-n", str(options.tokens), "-r", "1", "--concurrency", *map(str, options.at_once), "-o", "json",
                             *(["--model", options.model] if options.model else []), *words],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=900, check=False)
    if result.returncode:
        sys.exit(f"tls_cost: the run ended with {result.returncode}:\n{result.stderr.strip()[-2000:]}")
    found = {}
    for row in json.loads(result.stdout):
        found[f"{row['concurrency']} at once"] = row["avg_ts"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--cluster", default=os.environ.get("SHOAL_CLUSTER"))
    parser.add_argument("--model", help="in place of the cluster file's")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8], help="answers; the cluster needs as many sequences")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    options = parser.parse_args()
    if not options.cluster:
        parser.error("which cluster? -c FILE, or inside of bench/testbed exec")
    rounds = []
    for i in range(options.rounds):
        order = [("tls", []), ("insecure", INSECURE)]
        rounds.append({name: speeds(options, words) for name, words in (order if i % 2 == 0 else order[::-1])})
    print("| what | TLS, tokens/s | --insecure | slower with TLS, median (range) |\n|---|---|---|---|")
    for what in rounds[0]["tls"]:
        tls, plain = ([one[name][what] for one in rounds] for name in ("tls", "insecure"))
        cost = [100 * (1 - a / b) for a, b in zip(tls, plain)]
        print(f"| {what} | {statistics.median(tls):.1f} | {statistics.median(plain):.1f} | "
              f"{statistics.median(cost):.1f} % ({min(cost):.1f} to {max(cost):.1f}) |")


if __name__ == "__main__":
    main()
