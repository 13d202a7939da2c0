"""Random faults under eight streams at once, in network namespaces. What strikes whom, and for how long, comes from the
seed; what the machine makes of it does not."""
import os
import random
import signal
import statistics
import time

from testbed_lib.cgroups import ControlGroups

from .ground import END_S, JOINS_MAX, MIB, descriptors, resident_bytes

STREAMS = 8
OUT_MAX = 2  # nodes that are struck at the same time: the others can hold the model
KINDS = ("kill", "kill", "power", "stop", "unplug", "interface", "one way", "slow link", "slow device")
LENGTHS, STORIES = (60, 120, 240), 4
REFUSALS = ("pipeline_unavailable", "queue_full")
SAMPLE_S = 15
WELL_S = 10


class Mix:
    def __init__(self, ground, oracles, seed):
        self.ground, self.oracles, self.rng = ground, oracles, random.Random(seed)
        self.counts = dict.fromkeys(("answers", "refused", "wrong", "cut short", "hangs"), 0)
        self.kinds, self.live, self.samples = {}, [], []
        self.struck = {}  # node: (until when, what makes it whole)
        self.groups = ControlGroups()
        self.group = f"shoal-chaos-{os.getpid()}/quarter"

    def run(self, seconds, faults):
        for body in self.bodies():
            self.oracles(body)
        self.groups.make(self.group, 0.25, 0)
        try:
            return self.play(seconds, seconds / faults)
        finally:
            self.groups.remove(self.group.split("/")[0])

    def play(self, seconds, pause_s):
        begun = time.monotonic()
        next_fault = begun + pause_s
        while time.monotonic() - begun < seconds:
            self.ask()
            self.collect()
            self.heal()
            if time.monotonic() >= next_fault and len(self.struck) < OUT_MAX and self.strike():
                next_fault += pause_s * self.rng.uniform(0.5, 1.5)
            if not self.samples or time.monotonic() - self.samples[-1]["at"] > SAMPLE_S:
                self.sample()
            time.sleep(0.03)
        self.heal(all_of_them=True)
        healed = time.monotonic()
        self.ground.settle(seconds=60)
        well_s = time.monotonic() - healed
        self.collect(wait=True)
        self.check(self.ground.stream(LENGTHS[0], prompt=story(0)))
        self.sample()
        return well_s

    # ---- Streams ----

    def bodies(self):
        for drawn in ({}, {"temperature": 0.9, "seed": 7}):
            for tokens in LENGTHS:
                for number in range(STORIES):
                    yield self.ground.body(tokens, story(number), **drawn)

    def ask(self):
        while len(self.live) < STREAMS:
            body = self.rng.choice(list(self.bodies()))
            more = {key: body[key] for key in ("temperature", "seed") if key in body}
            self.live.append((time.monotonic(), self.ground.stream(body["max_tokens"], body["prompt"], **more)))

    def collect(self, wait=False):
        for begun, stream in list(self.live):
            if wait:
                stream.join(max(0.0, begun + END_S - time.monotonic()))
            if stream.is_alive() and time.monotonic() - begun < END_S:
                continue
            self.live.remove((begun, stream))
            self.check(stream, patience_s=0)

    def check(self, stream, patience_s=END_S):
        stream.join(patience_s)
        if stream.is_alive():
            self.counts["hangs"] += 1
        elif stream.error:
            self.counts["refused" if stream.error.get("code") in REFUSALS else "wrong"] += 1
            print(f"  an answer ended with {stream.error}", flush=True)
        elif not stream.ended:
            self.counts["cut short"] += 1
        else:
            self.counts["answers"] += 1
            self.counts["wrong"] += stream.text != self.oracles(stream.body)

    # ---- Faults ----

    def strike(self):
        """False where nobody is fit to be struck now: those that came in twice within a minute are left alone, or the
        head would keep them out."""
        states = {node["name"]: node["state"] for node in self.ground.status()["nodes"]}
        fit = [name for name in self.ground.present if name not in self.struck and
               self.ground.recent_joins(name) < JOINS_MAX - 1 and states.get(name) in ("spare", "in use")]
        used = [name for name in fit if states[name] == "in use"]
        if not fit:
            return False
        victim = self.rng.choice(used if used and self.rng.random() < 0.8 else fit)
        kind = self.rng.choice(KINDS)
        until = time.monotonic() + self.rng.uniform(0.3, 8)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.struck[victim] = (until, getattr(self, kind.replace(" ", "_"))(victim))
        return True

    def heal(self, all_of_them=False):
        for victim, (until, undo) in list(self.struck.items()):
            if all_of_them or time.monotonic() > until:
                del self.struck[victim]
                undo()

    def kill(self, victim):
        self.ground.kill(victim)
        return lambda: self.ground.replace(victim)

    def power(self, victim):
        self.ground.network.plug(victim, False)
        self.ground.kill(victim)

        def again():
            self.ground.network.plug(victim, True)
            self.ground.replace(victim)
        return again

    def back(self, victim, undo):
        """It lived on; if it was lost it calls the head by itself."""
        def again():
            undo()
            self.ground.joins[victim].append(time.monotonic())
        return again

    def stop(self, victim):
        self.ground.signal(victim, signal.SIGSTOP)
        return self.back(victim, lambda: self.ground.signal(victim, signal.SIGCONT))

    def unplug(self, victim):
        self.ground.network.plug(victim, False)
        return self.back(victim, lambda: self.ground.network.plug(victim, True))

    def interface(self, victim):
        self.ground.network.interface(victim, False)
        return self.back(victim, lambda: self.ground.network.interface(victim, True))

    def one_way(self, victim):
        way = self.rng.choice(["up", "down"])
        self.ground.network.drop(victim, way, True)
        return self.back(victim, lambda: self.ground.network.drop(victim, way, False))

    def slow_link(self, victim):
        self.ground.network.rate(victim, 1)
        return lambda: self.ground.network.rate(victim, 0)

    def slow_device(self, victim):
        pid = str(self.ground.pid(victim))
        (self.groups.cpu[0] / self.group / "cgroup.procs").write_text(pid)
        return lambda: (self.groups.cpu[0] / "cgroup.procs").write_text(pid)

    # ---- What the head holds ----

    def sample(self):
        pid = self.ground.pid("node-0")
        fds, threads = descriptors(pid)
        self.samples.append({"at": time.monotonic(), "fds": fds, "threads": threads, "rss": resident_bytes(pid)})

    def report(self, seed, seconds, well_s):
        counts = ", ".join(f"{what} {count}" for what, count in self.counts.items())
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        third = max(1, len(self.samples) // 3)
        begin, end = self.samples[:third], self.samples[-third:]

        def both(key, unit):
            return " to ".join(f"{statistics.median(sample[key] for sample in part) / unit:.0f}" for part in (begin, end))
        metric = self.ground.metric
        return [f"seed {seed}, {seconds:.0f} s, {sum(self.kinds.values())} faults ({kinds})",
                f"streams: {counts}; recoveries {metric('shoal_recoveries_total'):.0f}, stood still "
                f"{metric('shoal_recovery_seconds_total'):.0f} s in all, tokens computed again "
                f"{metric('shoal_replayed_tokens_total'):.0f}",
                f"well {well_s:.1f} s after the last fault ended",
                f"the head, median of the first and of the last third: descriptors {both('fds', 1)}, threads "
                f"{both('threads', 1)}, resident {both('rss', MIB)} MiB"]

    def failed(self, well_s):
        return well_s > WELL_S or any(self.counts[what] for what in ("refused", "wrong", "cut short", "hangs"))


def story(number):
    return f"Story {number}, as it was told to me: "
