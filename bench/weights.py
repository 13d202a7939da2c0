#!/usr/bin/env python3
"""How fast a node without the model file comes to its share: cold over a link, and warm from its own disk.

  sudo bench/testbed exec --devices 2 --link-mbps 1000 --latency-ms 0.1 --model MODEL.gguf -- bench/weights.py MODEL.gguf

Starts `shoal run` with one token under mpirun, --repeats times with an empty cache and as often with a full one, in turn.
Only rank 0 finds the model. Prints a table: bytes and rate of the fetch as the node says them, the rate as a share of the
link (--link-mbps here is only for that), how much more than these bytes the head's interface sent during the whole run
(headers, the plan, the step's rows; in the testbed alone), and the seconds of the whole start; medians. Without the testbed it runs on
loopback. Needs --layers A (of rank 1: the last A layers), 20 by default.
"""
import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

SAID = re.compile(r"node (\S+) has no model file: ([\d.]+ \w+) of weights, ([\d.]+ \w+) of them on its disk, "
                  r"([\d.]+ \w+) fetched(?: in ([\d.]+ \w+) \(([\d.]+ \S+)\))?")
UNITS = {"B": 1, "KiB": 1024, "MiB": 1024 ** 2, "GiB": 1024 ** 3, "bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9,
         "ms": 1e-3, "s": 1, "us": 1e-6, "min": 60}


def value(text):
    number, unit = text.split()
    return float(number) * UNITS[unit]


# What a device's interfaces have sent so far, without loopback.
SENT = "sent() { awk -F '[: ]+' '/:/ && !/ lo:/ {n += $(NF - 7)} END {print n + 0}' /proc/net/dev; }"


def start(options, config, folder):
    """Seconds of the whole command, what rank 1 said, and the bytes that the head's device sent meanwhile."""
    launcher = os.environ.get("SHOAL_MPIRUN")
    mpirun = [launcher] if launcher else ["mpirun", "--oversubscribe", "--bind-to", "none"]
    # Every rank runs one command line; which one finds the model, and where its cache is, goes by its rank.
    script = (f'{SENT}; before=$(sent); export XDG_CACHE_HOME={folder}/cache-$OMPI_COMM_WORLD_RANK; m={os.path.abspath(options.model)}; '
              f'[ "$OMPI_COMM_WORLD_RANK" = 0 ] || m={folder}/nowhere.gguf; '
              f'{os.path.abspath(options.program)} run -c {config} -m $m --raw -p Hello -n 1 --temp 0 -q; code=$?; '
              f'[ "$OMPI_COMM_WORLD_RANK" = 0 ] && echo "head sent $(($(sent) - before)) bytes" >&2; exit $code')
    began = time.monotonic()
    result = subprocess.run([*mpirun, "-n", "2", "bash", "-c", script], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    said = SAID.search(result.stderr)
    if result.returncode != 0 or not said:
        sys.exit(f"the run failed ({result.returncode}):\n{result.stderr}")
    return seconds, said, int(re.search(r"head sent (\d+) bytes", result.stderr)[1])


def config_for(options, folder):
    """The testbed's cluster file with the layers divided by hand, or one on loopback."""
    text = "head: d0\nnodes:\n  d0: {memory: 8GiB, threads: 1}\n  d1: {memory: 8GiB, threads: 1}\n"
    given = os.environ.get("SHOAL_CLUSTER")
    if given:
        with open(given, encoding="utf-8") as file:
            text = file.read()
    first = options.n_layer - options.layers
    text = re.sub(r"(?m)^plan:.*\n?", "", text)
    text += f"plan: {{keep-on-head: none, layers: {{d0: 0-{first - 1}, d1: {first}-{options.n_layer - 1}}}}}\n"
    if "links:" not in text:
        text += "links: [{between: [d0, d1], bandwidth: 1Gbps, latency: 200us}]\n"
    path = os.path.join(folder, "cluster.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--n-layer", type=int, default=30)
    parser.add_argument("--link-mbps", type=float, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-weights-") as folder:
        config = config_for(options, folder)
        cold, warm, rates, sent, size = [], [], [], [], 0
        for _ in range(options.repeats):
            shutil.rmtree(f"{folder}/cache-1", ignore_errors=True)
            seconds, said, of_head = start(options, config, folder)
            sent.append(of_head)
            cold.append(seconds)
            size = value(said[4])
            rates.append(size * 8 / value(said[5]))
            seconds, said, _ = start(options, config, folder)
            warm.append(seconds)
            if value(said[4]) != 0:
                sys.exit(f"a warm start fetched {said[4]}")
    rate = statistics.median(rates)
    print("| fetched | in | rate | of the link | sent by the head | cold start | warm start |\n|---|---|---|---|---|---|---|")
    print(f"| {size / 1024 ** 2:.1f} MiB | {size * 8 / rate:.2f} s | {rate / 1e6:.0f} Mbit/s | "
          f"{rate / options.link_mbps / 1e6:.2f} | {100 * (statistics.median(sent) / size - 1):+.2f} % | "
          f"{statistics.median(cold):.2f} s | {statistics.median(warm):.2f} s |")


if __name__ == "__main__":
    main()
