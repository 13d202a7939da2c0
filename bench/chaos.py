#!/usr/bin/env python3
"""Plays the fault matrix with real processes on loopback, again and again, and writes a table of what came of it.

    bench/chaos.py --program build/release/shoal --model MODEL.gguf --runs 20 [--only NAME] [-o TABLE.md]

Each run starts from a healthy cluster of a head and nodes that joined it, streams answers (one greedy, one drawn with a
seed), plays one fault and compares every answer with that of one process that is left alone. A run is wrong where an
answer differs, hangs where one does not end, and leaks where the head keeps file descriptors or threads that it did not
have before. `noticed`: from the fault until the head's log says so; `resumed`: from the fault until answers go on.
--mix SECONDS plays random faults under concurrent streams for so long instead.
"""

import argparse
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tests", "cluster"))


class Proxy:
    """Stands in a node's way to its head, and can stop carrying bytes without closing anything."""

    def __init__(self, port):
        self.target, self.carries = port, {"up": True, "down": True}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                continue
            for source, sink, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self.carry, args=(source, sink, way), daemon=True).start()

    def carry(self, source, sink, way):
        try:
            while True:
                data = source.recv(65536)
                while not self.carries[way]:
                    time.sleep(0.05)
                if not data:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Run:
    """One cluster, one fault."""

    tokens = 220

    def __init__(self, folder, nodes, memory, proxied=False, **more):
        from elastic import Elastic
        self.cluster = Elastic(folder, nodes=nodes, memory=memory, context=2048, **more)
        self.proxies = {}
        if proxied:
            start = self.cluster.start_node

            def start_node(name, memory=None):
                self.proxies[name] = self.proxies.get(name) or Proxy(self.cluster.port)
                port, self.cluster.port = self.cluster.port, self.proxies[name].port
                log = self.cluster.log_path
                self.cluster.log_path = lambda of: os.path.join(folder, f"{of}-{port}.log")
                start(name, memory)
                self.cluster.port, self.cluster.log_path = port, log

            self.cluster.start_node = start_node
        self.moment = None

    def fault(self):
        self.moment = time.monotonic()
        self.wall = len(self.cluster.log("node-0"))

    def streams(self, tokens=None, prompt=None):
        args = {"prompt": prompt} if prompt else {}
        return [self.cluster.stream(tokens or self.tokens, **args),
                self.cluster.stream(tokens or self.tokens, temperature=0.9, seed=7, **args)]

    def notice(self, pattern, seconds=30):
        """Seconds from the fault until the head's log says `pattern`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if re.search(pattern, self.cluster.log("node-0")[self.wall:]):
                return time.monotonic() - self.moment
            time.sleep(0.005)
        return None


LONG = "A long story about the sea, and what lies beneath it. " * 75  # about a thousand tokens


def kill_stage(run, rng, prompt=None, pieces=8):
    streams = run.streams(prompt=prompt)
    assert all(stream.wait_for_pieces(pieces) for stream in streams), "no answer began"
    victim = rng.choice(run.cluster.used())
    run.fault()
    run.cluster.signal(victim, signal.SIGKILL)
    return streams, run.notice(rf"node {victim} is lost"), victim


def fault_kill_decode(run, rng):
    run.tokens = 500  # the first answer must not be over when the second begins
    streams, noticed, _ = kill_stage(run, rng, LONG)
    return streams, noticed


def fault_kill_prefill(run, rng):
    streams = run.streams(prompt=LONG)
    time.sleep(rng.uniform(0.05, 0.4))
    victim = rng.choice(run.cluster.used())
    run.fault()
    run.cluster.signal(victim, signal.SIGKILL)
    return streams, run.notice(rf"node {victim} is lost")


def fault_kill_loading(run, rng):
    streams, noticed, _ = kill_stage(run, rng)
    if run.notice(r"plan \d+:") is not None:
        time.sleep(rng.uniform(0, 0.1))
        left = [name for name in run.cluster.used() if run.cluster.processes[name].poll() is None]
        assert left, "nobody is left to kill: the head computes all"
        run.cluster.signal(rng.choice(left), signal.SIGKILL)
    return streams, noticed


def fault_kill_two(run, rng):
    streams = run.streams()
    assert all(stream.wait_for_pieces(8) for stream in streams)
    victims = rng.sample(run.cluster.used(), 2)
    run.fault()
    for victim in victims:
        run.cluster.signal(victim, signal.SIGKILL)
    return streams, run.notice(rf"node {victims[1]} is lost")


def fault_stop(run, rng):
    streams = run.streams()
    assert all(stream.wait_for_pieces(8) for stream in streams)
    victim = rng.choice(run.cluster.used())
    run.fault()
    run.cluster.signal(victim, signal.SIGSTOP)
    noticed = run.notice(rf"node {victim} is lost")
    for stream in streams:
        stream.join(60)
    run.cluster.signal(victim, signal.SIGCONT)
    run.cluster.wait_for(lambda: run.cluster.node_state(victim) in ("spare", "in use"), 20, "its return")
    return streams, noticed


def fault_cut(run, rng, ways=("up", "down")):
    streams = run.streams()
    assert all(stream.wait_for_pieces(8) for stream in streams)
    victim = rng.choice(run.cluster.used())
    run.fault()
    for way in ways:
        run.proxies[victim].carries[way] = False
    noticed = run.notice(rf"node {victim} is lost")
    for stream in streams:
        stream.join(60)
    for way in ways:
        run.proxies[victim].carries[way] = True
    run.cluster.wait_for(lambda: run.cluster.node_state(victim) in ("spare", "in use"), 20, "its return")
    return streams, noticed


def fault_one_way(run, rng):
    return fault_cut(run, rng, [rng.choice(["up", "down"])])


def fault_slow(run, rng):
    """Stopped three quarters of the time: four times slower, and not dead."""
    streams = run.streams(tokens=100)
    assert all(stream.wait_for_pieces(5) for stream in streams)
    victim = rng.choice(run.cluster.used())
    run.fault()
    while any(stream.is_alive() for stream in streams) and time.monotonic() - run.moment < 60:
        run.cluster.signal(victim, signal.SIGSTOP)
        time.sleep(0.075)
        run.cluster.signal(victim, signal.SIGCONT)
        time.sleep(0.025)
    if run.cluster.metric("shoal_nodes_lost_total") > 0:
        raise AssertionError("a slow node was taken for dead")
    return streams, None


def fault_head(run, rng):
    streams = run.streams()
    assert all(stream.wait_for_pieces(8) for stream in streams)
    run.fault()
    run.cluster.signal("node-0", signal.SIGKILL)
    for stream in streams:
        stream.join(10)
    run.cluster.start_head()
    run.cluster.wait_for(lambda: run.cluster.state() == "running", 20, "the second head's plan")
    return run.streams(tokens=40), None


def fault_join(run, rng):
    streams = run.streams()
    assert all(stream.wait_for_pieces(8) for stream in streams)
    run.fault()
    run.cluster.start_node("visitor")
    return streams, run.notice("node visitor has joined")


# The plan at first: by hand, so that every run has stages to lose. All others are spares.
def first_layers(name, nodes):
    staged = nodes if name in ("kill-no-spare", "slow", "head", "join") else 3
    return even_layers(staged)


# name: (title, fault, nodes, memory of each, through proxies)
FAULTS = {
    "kill-decode": ("kill -9 of a stage at 1k context, a spare there", fault_kill_decode, 4, "300MiB", False),
    "kill-no-spare": ("the same without a spare", fault_kill_decode, 3, "400MiB", False),
    "kill-prefill": ("kill -9 of a stage while prompts are read", fault_kill_prefill, 4, "300MiB", False),
    "kill-loading": ("kill -9 of a second one while the first's layers load", fault_kill_loading, 5, "190MiB", False),
    "kill-two": ("kill -9 of two stages at once", fault_kill_two, 5, "190MiB", False),
    "stop": ("SIGSTOP of a stage, SIGCONT after it was replaced", fault_stop, 4, "300MiB", False),
    "cut": ("a node's way to the head cut, mended later", fault_cut, 4, "300MiB", True),
    "one-way": ("the same one way", fault_one_way, 4, "300MiB", True),
    "slow": ("a stage slowed four times", fault_slow, 3, "300MiB", False),
    "head": ("kill -9 of the head, started again", fault_head, 3, "300MiB", False),
    "join": ("a node joins while answers stream", fault_join, 3, "300MiB", False),
}


def even_layers(nodes, layers=30):
    cuts = [layers * i // nodes for i in range(nodes + 1)]
    return [f"{cuts[i]}-{cuts[i + 1] - 1}" for i in range(nodes)]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def oracle(arguments, tokens, prompt, drawn):
    more = ["--temp", "0.9", "--seed", "7"] if drawn else ["--temp", "0"]
    result = subprocess.run([arguments.program, "run", arguments.model, "-q", "--raw", "-p", prompt, "-n", str(tokens),
                             "--ignore-eos", "--context", "2048", *more], capture_output=True, timeout=300, check=True)
    return result.stdout.decode()[:-1]


class Oracles:
    def __init__(self, arguments):
        self.arguments, self.known = arguments, {}

    def __call__(self, body):
        drawn = body["temperature"] > 0
        key = (body["prompt"], body["max_tokens"], drawn)
        if key not in self.known:
            self.known[key] = oracle(self.arguments, body["max_tokens"], body["prompt"], drawn)
        return self.known[key]


def play(name, arguments, oracles, seed):
    """(noticed, resumed, wrong, hangs, leaks) of one run."""
    _, fault, nodes, memory, proxied = FAULTS[name]
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="shoal-chaos-") as folder:
        run = Run(folder, nodes, memory, proxied, layers=first_layers(name, nodes))
        with run.cluster:
            run.cluster.complete(8)
            before = descriptors(run.cluster.processes["node-0"].pid)
            streams, noticed = fault(run, rng)
            wrong = hangs = 0
            resumed = []
            for stream in streams:
                stream.join(120)
                if stream.is_alive() or not stream.ended:
                    hangs += stream.is_alive()
                    wrong += stream.error is None and not stream.is_alive()
                    wrong += stream.error is not None and stream.error.get("code") != "pipeline_unavailable"
                    continue
                wrong += stream.text != oracles(stream.body)
                if stream.times[-1] > run.moment:  # else it was over before
                    resumed.append(stream.gap_after(run.moment))
            time.sleep(0.3)
            head = run.cluster.processes["node-0"].pid
            after = descriptors(head)
            leaks = int(name != "head" and (after[0] > before[0] + 2 * len(run.proxies) + 4 or after[1] > before[1] + 1))
            return noticed, max(resumed) if resumed else None, wrong, hangs, leaks


def shown(values):
    values = sorted(v for v in values if v is not None)
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} / {values[-1]:.2f} s"


def table(arguments):
    lines = ["| fault | runs | noticed, median / worst | resumed, median / worst | wrong | hangs | leaks |",
             "|---|---|---|---|---|---|---|"]
    oracles, bad = Oracles(arguments), 0
    for name, (title, *_) in FAULTS.items():
        if arguments.only and name not in arguments.only:
            continue
        results = []
        for i in range(arguments.runs):
            try:
                results.append(play(name, arguments, oracles, arguments.seed + i))
            except (AssertionError, OSError) as error:
                print(f"{name} run {i} (seed {arguments.seed + i}): {error}", file=sys.stderr)
                results.append((None, None, 0, 1, 0))
            if any(results[-1][2:]):
                print(f"{name} run {i} (seed {arguments.seed + i}): {results[-1]}", file=sys.stderr)
        sums = [sum(result[k] for result in results) for k in (2, 3, 4)]
        bad += sum(sums)
        lines.append(f"| {title} | {len(results)} | {shown(r[0] for r in results)} | {shown(r[1] for r in results)} | "
                     f"{sums[0]} | {sums[1]} | {sums[2]} |")
        print(lines[-1], flush=True)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
    return 1 if bad else 0


def mix(arguments):
    """Random faults under concurrent streams; every whole answer must be right, and the end healthy."""
    rng, oracles = random.Random(arguments.seed), Oracles(arguments)
    counts = {"answered": 0, "refused": 0, "wrong": 0, "faults": 0}
    with tempfile.TemporaryDirectory(prefix="shoal-chaos-") as folder:
        run = Run(folder, 5, "300MiB", True)
        with run.cluster as cluster:
            cluster.complete(8)
            head, begun = cluster.processes["node-0"].pid, time.monotonic()
            before, stopped = descriptors(head), {}
            live = []
            while time.monotonic() - begun < arguments.mix or live:
                over = time.monotonic() - begun >= arguments.mix
                while len(live) < 8 and not over:
                    drawn = rng.random() < 0.5
                    live.append(cluster.stream(rng.choice([40, 80, 120]), prompt=f"Story {rng.randrange(4)}: ",
                                               **({"temperature": 0.9, "seed": 7} if drawn else {})))
                for stream in [s for s in live if not s.is_alive()]:
                    live.remove(stream)
                    if stream.ended and not stream.error:
                        counts["answered"] += 1
                        counts["wrong"] += stream.text != oracles(stream.body)
                    else:
                        counts["refused"] += 1
                        counts["wrong"] += not stream.error or stream.error.get("code") not in (
                            "pipeline_unavailable", "queue_full")
                if not over and rng.random() < 0.02:
                    counts["faults"] += 1
                    victim = rng.choice(cluster.names[1:])
                    kind = rng.choice(["kill", "stop", "cut"])
                    if kind == "kill" and cluster.processes[victim].poll() is None:
                        cluster.signal(victim, signal.SIGCONT)
                        cluster.signal(victim, signal.SIGKILL)
                        stopped[victim] = (time.monotonic() + rng.uniform(1, 10), lambda v=victim: cluster.start_node(v))
                    elif kind == "stop" and victim not in stopped:
                        cluster.signal(victim, signal.SIGSTOP)
                        stopped[victim] = (time.monotonic() + rng.uniform(0.2, 8),
                                           lambda v=victim: cluster.signal(v, signal.SIGCONT))
                    elif kind == "cut" and victim not in stopped:
                        run.proxies[victim].carries.update(up=False, down=False)
                        stopped[victim] = (time.monotonic() + rng.uniform(0.2, 8),
                                           lambda v=victim: run.proxies[v].carries.update(up=True, down=True))
                for victim, (until, undo) in list(stopped.items()):
                    if time.monotonic() > until or over:
                        undo()
                        del stopped[victim]
                time.sleep(0.05)
            cluster.wait_for(lambda: cluster.state() == "running", 10, "health after the last fault")
            after = descriptors(head)
            print(f"{counts}; descriptors and threads of the head {before} before, {after} after; "
                  f"recoveries {cluster.metric('shoal_recoveries_total'):.0f}")
            return 1 if counts["wrong"] else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "shoal"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", type=float, default=0, metavar="SECONDS")
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    arguments.program = os.path.abspath(arguments.program)
    os.environ.update(SHOAL_PROGRAM=arguments.program, SHOAL_TEST_MODEL=os.path.abspath(arguments.model))
    return mix(arguments) if arguments.mix > 0 else table(arguments)


if __name__ == "__main__":
    sys.exit(main())
