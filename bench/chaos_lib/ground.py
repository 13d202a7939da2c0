"""The cluster that faults are played on, kept alive over the runs of a row: who is in it, whose turn it is to be a victim,
and what the head holds.

A node that died is replaced by another of the cluster file's names, the one that joined least lately: the head lets a name
come in three times a minute.
"""
import os
import re
import signal
import subprocess
import time

from elastic import PROMPT, Elastic, Place

JOINS_MAX, JOINS_WINDOW_S = 3, 62.0
SETTLE_S = 40.0
END_S = 120.0  # an answer that takes longer hangs
MIB = 1 << 20


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as text:
        return int(re.search(r"VmRSS:\s+(\d+) kB", text.read())[1]) * 1024


def descriptors(pid):
    """File descriptors and threads."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


class Ground(Elastic):
    """`live`: nodes that run at the same time, the head included; `names_max`: that the cluster file lists."""

    def __init__(self, folder, live=4, names_max=12, memory="150MiB", objective="latency", context=2048, sequences=4,
                 network=None, environment_of=None, words_of=None, options_of=None, prepare=None, warm=(), keys=""):
        places = network.places(names_max + 1) if network else [Place()] * (names_max + 1)
        options = ["--without-api-key"] if network else []
        super().__init__(folder, nodes=names_max, memory=memory, context=context, sequences=sequences, options=options,
                         places=places, keys=keys)
        self.network, self.words_of, self.options_of, self.prepare, self.warm = network, words_of, options_of, prepare, warm
        self.present = self.names[1:live]  # that are to be there when nothing is wrong
        self.joins = {name: [] for name in self.names[1:]}
        self.moment, self.wall = None, 0
        with open(self.config, "a", encoding="utf-8") as out:
            out.write(f"plan: {{objective: {objective}, keep-on-head: none}}\n")
        if environment_of:
            self.own_environment = {name: environment_of(name) for name in self.names}

    def place(self, name):
        place = super().place(name)
        return Place(place.address, [*place.words, *self.words_of(name)]) if self.words_of else place

    def start_node(self, name, memory=None, options=None):
        if self.prepare:
            self.prepare(name)
        self.joins[name].append(time.monotonic())
        super().start_node(name, memory, self.options_of(name) if self.options_of and options is None else options)

    def __enter__(self):
        try:
            if self.prepare:
                self.prepare("node-0")
            self.start_head()
            for name in self.present:
                self.start_node(name)
            self.settle()
            for prompt in self.warm or [PROMPT]:
                self.complete(4, prompt)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    # ---- Who ----

    def recent_joins(self, name):
        since = time.monotonic() - JOINS_WINDOW_S
        return sum(moment > since for moment in self.joins[name])

    def victims(self, rng, count=1, among=None):
        """Of those that compute, whom the head would let in again; the ones that joined least lately."""
        deadline = time.monotonic() + JOINS_WINDOW_S
        while True:
            able = [name for name in (among or self.used()) if self.recent_joins(name) < JOINS_MAX]
            if len(able) >= count:
                rng.shuffle(able)
                return sorted(able, key=self.recent_joins)[:count]
            if time.monotonic() > deadline:
                raise AssertionError(f"there are no {count} nodes to lose: {self.used()} compute, {self.present} are here")
            time.sleep(0.5)

    def victim(self, rng):
        return self.victims(rng)[0]

    def spares(self):
        used = self.used()
        return [name for name in self.present if name not in used]

    def pid(self, name):
        return self.processes[name].pid

    def kill(self, name):
        self.signal(name, signal.SIGKILL)

    def replace(self, name):
        """Another device comes in the place of one that is gone."""
        self.present.remove(name)
        free = [other for other in self.names[1:] if other not in self.present]
        other = min(free, key=lambda name: (self.recent_joins(name), self.joins[name][-1:]))
        if self.recent_joins(other) >= JOINS_MAX:
            time.sleep(max(0.0, self.joins[other][-JOINS_MAX] + JOINS_WINDOW_S - time.monotonic()))
        self.start_node(other)
        self.present.append(other)
        return other

    def settle(self, without=None, seconds=SETTLE_S):
        """All is well again: a pipeline runs, and all who are to be there are."""
        def well():
            status = self.status()
            states = {node["name"]: node["state"] for node in status["nodes"]}
            here = all(states.get(name) in ("spare", "in use") for name in self.present if name != without)
            return status["state"] == "running" and here
        self.wait_for(well, seconds, f"health with {self.present}")

    # ---- A fault ----

    def fault(self):
        self.moment, self.wall = time.monotonic(), len(self.log("node-0"))

    def said(self, pattern):
        return re.search(pattern, self.log("node-0")[self.wall:])

    def notice(self, pattern, seconds=30):
        """Seconds from the fault until the head's log says `pattern`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.said(pattern):
                return time.monotonic() - self.moment
            time.sleep(0.005)
        raise AssertionError(f"the head did not say '{pattern}' within {seconds} s")

    def notice_loss(self, name):
        return self.notice(rf"node {name} is lost")

    def streams(self, tokens, prompt=PROMPT, other_prompt=None, pieces=8):
        """One greedy answer and one drawn with a seed, both under way."""
        streams = [self.stream(tokens, prompt),
                   self.stream(tokens, other_prompt or prompt, temperature=0.9, seed=7)]
        if not all(stream.wait_for_pieces(pieces) for stream in streams):
            raise AssertionError("no answer began: " + str([stream.error for stream in streams]))
        return streams

    def wait_resumed(self, streams, seconds=60):
        deadline = time.monotonic() + seconds
        for stream in streams:
            while stream.is_alive() and time.monotonic() < deadline and not (stream.times and stream.times[-1] > self.moment):
                time.sleep(0.005)

    def clock_of(self, name):
        return os.path.join(self.folder, "clock-" + name)

    # ---- What it holds ----

    def books(self, name="node-0"):
        """Descriptors, threads and resident bytes of a node, and the layers that it computes."""
        layers = [(s["layer_begin"], s["layer_end"], s["embedding"], s["output"])
                  for s in self.status()["stages"] if s["node"] == name]
        pid = self.pid(name)
        fds, threads = descriptors(pid)
        return {"fds": fds, "threads": threads, "rss": resident_bytes(pid), "layers": str(layers)}


def prlimit(pid, *limits):
    result = subprocess.run(["prlimit", "--pid", str(pid), *limits], check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise OSError(f"prlimit {limits} of {pid}: {result.stderr}")
