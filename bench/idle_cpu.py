#!/usr/bin/env python3
"""What an idle node costs: starts `shoal serve`, asks nothing, and prints each process's share of a core.

  bench/idle_cpu.py MODEL.gguf [--seconds 20]                              one node
  bench/idle_cpu.py MODEL.gguf -c configs/three-nodes.yaml --nodes 3       under mpirun

Processor time is utime + stime of /proc/PID/stat, from two seconds after the server is ready. The wanted bound is 1 % of a
core for each node; the exit code is 1 where one takes more. mpirun itself is not counted.
"""
import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOUND_PERCENT = 1.0


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid):
    found = []
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def nodes_of(process, program):
    pids = [process.pid, *descendants(process.pid)]
    return [pid for pid in pids if os.path.realpath(f"/proc/{pid}/exe") == str(program)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-c", "--config", help="cluster file")
    parser.add_argument("--nodes", type=int, default=1, help="processes for mpirun")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/shoal")
    options = parser.parse_args()
    program = options.program.resolve()
    words = [str(program), "serve", "-m", options.model, "--listen", "127.0.0.1:0"]
    if options.config:
        words = ["mpirun", "-n", str(options.nodes), "--oversubscribe", *words, "-c", options.config]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    head = None
    log = ""
    for line in process.stderr:
        log += line
        found = re.search(r"serving .* on http://\S+ \(process (\d+)\)", line)
        if found:
            head = int(found[1])
            break
    if head is None:
        print(f"idle_cpu: the server did not start:\n{log}", file=sys.stderr)
        return 2
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        time.sleep(2)
        pids = nodes_of(process, program)
        before, begin = {pid: processor_seconds(pid) for pid in pids}, time.monotonic()
        time.sleep(options.seconds)
        took = time.monotonic() - begin
        shares = [100 * (processor_seconds(pid) - before[pid]) / took for pid in pids]
    finally:
        os.kill(head, signal.SIGTERM)
        process.wait(30)
    print(f"{len(pids)} idle node{'s' * (len(pids) != 1)}, {took:.0f} s, % of a core: "
          + ", ".join(f"{share:.2f}" for share in shares))
    return 0 if len(pids) == options.nodes and max(shares) < BOUND_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
