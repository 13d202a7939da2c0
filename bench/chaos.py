#!/usr/bin/env python3
"""Plays the fault matrix with real processes, again and again, and writes a table of what came of it.

    bench/chaos.py --model MODEL.gguf --runs 20 [--only ROW...] [-o RUNS.jsonl]    plays rows, one JSON line a run
    bench/chaos.py --table RUNS.jsonl                                             the table over such lines
    bench/chaos.py --model MODEL.gguf --mix SECONDS [--faults 100] [--seed S]      random faults under eight streams

A row has one cluster that lives through all its runs: a head, and nodes that joined it by address. A run streams answers (one
greedy, one drawn with a seed), plays one fault, compares every answer with that of one process that was left alone, and waits
until the cluster is well again; who died was replaced. A run is wrong where an answer differs or ends with an error, hangs
where one does not end, and leaks where the head keeps descriptors or threads that it did not have when the row began.
`noticed`: from the fault until the head's log says so. `resumed`: from the fault until the last of the answers goes on.
Rows with links of their own run in network namespaces (bench/testbed) and need root, as do small disks and groups of memory.
"""
import argparse
import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..")
sys.path[:0] = [os.path.join(ROOT, "tests", "cluster"), HERE]

FAKETIME = "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1".format(os.uname().machine)
FDS_MORE, THREADS_MORE = 6, 2  # than when the row began: a plan of another shape has other links


@dataclasses.dataclass
class Row:
    title: str
    fault: str                              # a function of process_faults or store_faults
    ground: dict = dataclasses.field(default_factory=dict)
    network: bool = False
    special: Callable | None = None         # folder -> more of the ground's settings


def on_small_disks(folder):
    from chaos_lib import store_faults as store
    return {"words_of": store.small_disk(folder), "environment_of": store.own_cache(folder), "options_of": lambda _: []}


def on_own_caches(folder):
    from chaos_lib import store_faults as store
    return {"environment_of": store.own_cache(folder), "options_of": lambda _: []}


def on_warm_caches(folder):
    from chaos_lib import store_faults as store
    return {**on_own_caches(folder), "prepare": store.give_cache(folder)}


def on_own_files(folder):
    from chaos_lib import store_faults as store
    return {"prepare": store.give_file(folder), "options_of": lambda name: ["-m", os.path.join(folder, f"model-{name}.gguf")]}


def under_false_clocks(folder):
    from chaos_lib.process_faults import set_clock
    if not os.path.isfile(FAKETIME):
        sys.exit(f"chaos.py: the rows of clocks need {FAKETIME}: apt-get install faketime, or leave them out with --only")

    def environment(name):
        path = os.path.join(folder, "clock-" + name)
        set_clock(path, 0)
        return {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": path, "DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_CACHE_DURATION": "1"}
    return {"environment_of": environment}


def at_length(folder):
    from chaos_lib.process_faults import LONG, OTHER_LONG
    return {"warm": [LONG, OTHER_LONG]}


THREE = {"live": 4, "memory": "170MiB"}   # three stages and a spare
SPARES = {"live": 5, "memory": "170MiB"}  # and one spare more
ROWS = {
    "kill-decode": Row("kill -9 of a stage at 1k context, a spare there", "kill_decode", THREE, special=at_length),
    "kill-apart": Row("the same with two different prompts", "kill_apart", THREE, special=at_length),
    "kill-no-spare": Row("kill -9 of a stage at 1k context, no spare", "kill_without_spare",
                         {"live": 3, "memory": "260MiB", "objective": "throughput"}, special=at_length),
    "kill-prefill": Row("kill -9 of a stage while prompts are read", "kill_prefill", THREE),
    "kill-loading": Row("kill -9 of a second one while the first's layers load", "kill_loading", SPARES),
    "kill-two": Row("kill -9 of two stages at once", "kill_two", SPARES),
    "flap": Row("one node killed three times, and kept out the fourth", "flap", {**THREE, "names_max": 26}),
    "stop": Row("SIGSTOP of a stage, SIGCONT after it was replaced", "stop", SPARES),
    "head": Row("kill -9 of the head, started again", "head", {"live": 4, "names_max": 4, "memory": "170MiB"}),
    "join": Row("a node joins while answers stream", "join", {**THREE, "names_max": 14}),
    "slow": Row("a stage stopped three quarters of the time", "slow", THREE),
    "quota": Row("a stage with a quarter of a core", "quota", THREE, network=True),
    "slow-link": Row("a stage's link at 1 Mbit/s", "slow_link", THREE, network=True),
    "delay": Row("a stage's link with a delay of 50 ms, give or take 20", "delayed", THREE, network=True),
    "loss": Row("a stage's link loses 1 % of its frames, 5 % are overtaken", "lossy", THREE, network=True),
    "far": Row("a stage's link with a delay of 200 ms that loses 1 %", "far", THREE, network=True),
    "interface": Row("a stage's interface down, up again later", "interface_down", SPARES, network=True),
    "unplugged": Row("a stage unplugged beyond its switch, plugged in later", "unplugged", SPARES, network=True),
    "one-way": Row("all lost one way, to or from a stage", "one_way", SPARES, network=True),
    "power": Row("a stage's device loses its power", "power_off", SPARES, network=True),
    "disk-full": Row("a full disk where layers are to be fetched", "disk_full", SPARES, special=on_small_disks),
    "cache-missing": Row("the cache gone where layers are to be loaded", "cache_missing", SPARES, special=on_own_caches),
    "cache-flipped": Row("50 bits flipped in the caches of the spares", "cache_flipped", SPARES, special=on_warm_caches),
    "file-damaged": Row("a spare's own model file flipped, cut or replaced", "file_damaged", SPARES, special=on_own_files),
    "no-memory": Row("a spare gets no memory for more layers", "no_memory", SPARES),
    "killed-for-memory": Row("a spare is killed for memory while it loads", "killed_for_memory", SPARES),
    "clock": Row("a node's or the head's clock jumps by 30 days and back", "clock_jump", THREE, special=under_false_clocks),
    "clock-behind": Row("a node joins with a clock 30 days behind, set right later", "join_behind",
                        {**THREE, "names_max": 10}, special=under_false_clocks),
    "clock-ahead": Row("the same 30 days ahead, certificates hold for 7", "join_ahead",
                       {**THREE, "names_max": 10, "keys": "certificate-days: 7\n"}, special=under_false_clocks),
}


class Oracles:
    """What one process says that is left alone."""

    def __init__(self, arguments):
        self.arguments, self.known = arguments, {}

    def __call__(self, body):
        key = (body["prompt"], body["max_tokens"], body["temperature"] > 0)
        if key not in self.known:
            more = ["--temp", "0.9", "--seed", "7"] if key[2] else ["--temp", "0"]
            words = [self.arguments.program, "run", self.arguments.model, "-q", "--raw", "-p", key[0], "-n", str(key[1]),
                     "--ignore-eos", "--context", "2048", *more]
            result = subprocess.run(words, capture_output=True, timeout=300, check=True)
            self.known[key] = result.stdout.decode()[:-1]
        return self.known[key]


def check(stream, oracles, result):
    from chaos_lib.ground import END_S
    stream.join(END_S)
    if stream.is_alive():
        result["hangs"] += 1
    elif stream.error or not stream.ended:
        result["wrong"] += 1
        print(f"  an answer ended with {stream.error}", flush=True)
    else:
        result["wrong"] += stream.text != oracles(stream.body)


def play(row, ground, rng, oracles, before):
    """One run. `before`: books by process, from when the row began."""
    from chaos_lib import process_faults, store_faults
    fault = getattr(process_faults, row.fault, None) or getattr(store_faults, row.fault)
    result = {"noticed": None, "resumed": None, "wrong": 0, "hangs": 0, "leaks": 0, "alarms": 0, "note": ""}
    outcome = fault(ground, rng)
    for stream in outcome.streams:
        check(stream, oracles, result)
    gaps = [s.gap_after(ground.moment) for s in outcome.streams if s.times and s.times[-1] > ground.moment]
    result["noticed"] = outcome.noticed
    quiet = outcome.noticed is None or row.fault.startswith("join")
    if not (quiet or gaps or result["wrong"] or result["hangs"]):
        raise AssertionError("the answers were over before the fault")
    result["resumed"] = outcome.resumed if outcome.resumed is not None or quiet else max(gaps, default=None)
    result["alarms"] = int(outcome.note == "false alarm")
    result["note"] = "" if result["alarms"] else outcome.note
    ground.settle()
    time.sleep(0.3)
    books = ground.books(outcome.watched)
    books["pid"] = ground.pid(outcome.watched)
    first = before.setdefault(books["pid"], books)
    result["leaks"] = int(books["fds"] > first["fds"] + FDS_MORE or books["threads"] > first["threads"] + THREADS_MORE)
    result["books"] = books
    return result


def new_ground(row, stack):
    from chaos_lib.ground import Ground
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-chaos-"))
    network = None
    if row.network:
        from chaos_lib.network import Network
        network = stack.enter_context(Network(row.ground.get("names_max", 12)))
    settings = {**row.ground, **(row.special(folder) if row.special else {})}
    return Ground(folder, network=network, **settings)


def play_row(name, arguments, oracles, record):
    """Runs of one row; a run that fails is counted as a hang, and the next one has a new cluster."""
    row, done = ROWS[name], 0
    while done < arguments.runs:
        with contextlib.ExitStack() as stack:
            try:
                ground = stack.enter_context(new_ground(row, stack))
                before = {ground.pid("node-0"): {**ground.books(), "pid": ground.pid("node-0")}}
                while done < arguments.runs:
                    seed = arguments.seed + done
                    done += 1
                    begun = time.monotonic()
                    result = play(row, ground, random.Random(seed), oracles, before)
                    record({"row": name, "seed": seed, "seconds": time.monotonic() - begun, **result})
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                done += done == 0
                print(f"{name}, seed {arguments.seed + done - 1}: {error}", flush=True)
                record({"row": name, "seed": arguments.seed + done - 1, "seconds": 0, "noticed": None, "resumed": None,
                        "wrong": 0, "hangs": 1, "leaks": 0, "alarms": 0, "note": "failed"})


def play_rows(arguments):
    from chaos_lib.results import row_line
    oracles, bad = Oracles(arguments), 0
    for name in arguments.only or ROWS:
        runs = []

        def record(run):
            runs.append(run)
            if arguments.output:
                with open(arguments.output, "a", encoding="utf-8") as out:
                    out.write(json.dumps(run) + "\n")
            if any(run[key] for key in ("wrong", "hangs", "leaks", "alarms")):
                print(f"{name}, seed {run['seed']}: {run}", flush=True)
        begun = time.monotonic()
        play_row(name, arguments, oracles, record)
        bad += sum(run[key] for run in runs for key in ("wrong", "hangs", "leaks", "alarms"))
        print(row_line(ROWS[name].title, runs) + f"  [{time.monotonic() - begun:.0f} s]", flush=True)
    return 1 if bad else 0


def play_mix(arguments):
    from chaos_lib.mix import Mix
    row = Row("", "", {"live": 6, "names_max": 14, "memory": "170MiB", "sequences": 8, "context": 1024}, network=True,
              special=on_own_caches)  # the nodes have no model file
    with contextlib.ExitStack() as stack:
        ground = stack.enter_context(new_ground(row, stack))
        mix = Mix(ground, Oracles(arguments), arguments.seed)
        print(f"seed {arguments.seed}", flush=True)
        well_s = float("inf")
        try:
            well_s = mix.run(arguments.mix, arguments.faults)
        finally:
            print("\n".join(mix.report(arguments.seed, arguments.mix, well_s)), flush=True)
        return 1 if mix.failed(well_s) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "shoal"))
    parser.add_argument("--model")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=list(ROWS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--faults", type=int, default=100, help="of --mix")
    parser.add_argument("-o", "--output", metavar="RUNS.jsonl")
    parser.add_argument("--table", metavar="RUNS.jsonl")
    arguments = parser.parse_args()
    if arguments.table:
        from chaos_lib.results import table
        print("\n".join(table({name: row.title for name, row in ROWS.items()}, arguments.table)))
        return 0
    if not arguments.model:
        parser.error("--model: which?")
    arguments.program, arguments.model = os.path.abspath(arguments.program), os.path.abspath(arguments.model)
    os.environ.update(SHOAL_PROGRAM=arguments.program, SHOAL_TEST_MODEL=arguments.model)
    return play_mix(arguments) if arguments.mix > 0 else play_rows(arguments)


if __name__ == "__main__":
    sys.exit(main())
