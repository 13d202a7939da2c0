"""Faults of processes, links and the clock. Each takes the ground and a random generator, plays once, and says what came of
it; the ground is well again when its settle() returns."""
import dataclasses
import json
import os
import re
import signal
import time

LONG = "A long story about the sea, and what lies beneath it. " * 75  # about a thousand tokens
OTHER_LONG = "A history of bridges, and of those who crossed them. " * 75
MIDDLE = [f"Chapter {i + 1}. " + "The harbour was quiet, and the ships lay still. " * 24 for i in range(6)]  # 270 tokens each


@dataclasses.dataclass
class Outcome:
    streams: list
    noticed: float | None = None
    resumed: float | None = None  # where it is not the streams that tell
    watched: str = "node-0"       # whose books are compared
    note: str = ""                # something that is counted by its name


def kill_under(ground, victim, streams):
    """Kills a node under streams, and gives it a successor when they go on."""
    ground.fault()
    ground.kill(victim)
    noticed = ground.notice_loss(victim)
    ground.wait_resumed(streams)
    ground.replace(victim)
    return Outcome(streams, noticed)


def kill_decode(ground, rng, other_prompt=None):
    victim = ground.victim(rng)
    return kill_under(ground, victim, ground.streams(120, LONG, other_prompt))


def kill_apart(ground, rng):
    return kill_decode(ground, rng, OTHER_LONG)


def kill_without_spare(ground, rng):
    # All compute: those that came back take layers again at a quiet moment.
    ground.wait_for(lambda: len(ground.used()) == len(ground.present), 30, "layers on every node")
    return kill_decode(ground, rng)


def kill_prefill(ground, rng):
    # The other prompt than last time: that one is still in the cache.
    ground.turn = 1 - getattr(ground, "turn", 0)
    prompt = (LONG, OTHER_LONG)[ground.turn]
    victim = ground.victim(rng)
    streams = [ground.stream(40, prompt), ground.stream(40, prompt, temperature=0.9, seed=7)]
    time.sleep(rng.uniform(0.1, 0.6))
    return kill_under(ground, victim, streams)


def kill_loading(ground, rng):
    first, second = ground.victims(rng, 2)
    streams = ground.streams(120)
    ground.fault()
    ground.kill(first)
    noticed = ground.notice_loss(first)
    ground.notice(r"plan \d+:")
    time.sleep(rng.uniform(0, 0.1))
    loading = ground.processes["node-0"].poll() is None and not ground.said("answers go on")
    ground.kill(second)
    ground.notice_loss(second)
    ground.wait_resumed(streams)
    for victim in (first, second):
        ground.replace(victim)
    return Outcome(streams, noticed, note="the second died before the first was made good" if loading else "")


def kill_two(ground, rng):
    victims = ground.victims(rng, 2)
    streams = ground.streams(120)
    ground.fault()
    for victim in victims:
        ground.signal(victim, signal.SIGKILL)
    noticed = max(ground.notice_loss(victim) for victim in victims)
    ground.wait_resumed(streams)
    for victim in victims:
        ground.replace(victim)
    return Outcome(streams, noticed)


def returns(ground, name):
    """It was lost, and comes in again by itself."""
    ground.joins[name].append(time.monotonic())
    # One that chance strikes three times within a minute is kept out for another.
    ground.wait_for(lambda: ground.node_state(name) in ("spare", "in use"), 100, f"the return of {name}")


def stop(ground, rng):
    victim = ground.victim(rng)
    streams = ground.streams(120)
    ground.fault()
    ground.signal(victim, signal.SIGSTOP)
    noticed = ground.notice_loss(victim)
    ground.wait_resumed(streams)
    ground.signal(victim, signal.SIGCONT)
    returns(ground, victim)
    return Outcome(streams, noticed)


def head(ground, rng):
    streams = ground.streams(200)
    begun = {name: len(ground.log(name)) for name in ground.present}
    stages = [stage for stage in ground.status()["stages"] if stage["node"] != "node-0"]
    with_layers = [stage["node"] for stage in stages if stage["layer_end"] > stage["layer_begin"]]
    ground.fault()
    ground.kill("node-0")
    for stream in streams:
        stream.join(10)
        if stream.is_alive() or stream.ended:
            raise AssertionError("an answer of a dead head hangs, or says that it is whole")
    ground.start_head()
    ground.wait_for(lambda: ground.state() == "running", 20, "the second head's plan")
    resumed = time.monotonic() - ground.moment
    ground.settle()
    for name in with_layers:
        if not re.search(r"in memory already: (\d+) of \1 layers", ground.log(name)[begun[name]:]):
            raise AssertionError(f"{name} loaded its layers again: {ground.log(name)[begun[name]:]}")
    again = [ground.stream(40), ground.stream(40, temperature=0.9, seed=7)]
    return Outcome(again, resumed=resumed, watched=stages[0]["node"])


def join(ground, rng):
    streams = ground.streams(120)
    free = [name for name in ground.names[1:] if name not in ground.present]
    visitor = min(free, key=lambda name: len(ground.joins[name]))
    ground.fault()
    ground.start_node(visitor)
    noticed = ground.notice(f"node {visitor} has joined")
    for stream in streams:
        stream.join(60)
    ground.kill(visitor)
    ground.notice_loss(visitor)
    return Outcome(streams, noticed)


def flap(ground, rng):
    """One name comes and goes; the fourth time it is kept out. A name for each run."""
    streams = ground.streams(300)
    moth = next(name for name in ground.names[1:] if name not in ground.present and not ground.joins[name])
    ground.fault()
    for _ in range(3):
        ground.start_node(moth)
        ground.wait_for(lambda: ground.node_state(moth) in ("spare", "in use"), 30, "the moth")
        ground.kill(moth)
        ground.wait_for(lambda: ground.node_state(moth) == "lost", 10, "the moth's loss")
    ground.start_node(moth)
    ground.wait_for(lambda: "it may come back in" in ground.log(moth), 30, "the quarantine")
    ground.kill(moth)
    if ground.node_state(moth) != "quarantined":
        raise AssertionError("the fourth time it was let in")
    return Outcome(streams)


# ---- Slow, and not dead ----

def no_alarm(play):
    """Nobody is lost and no step fails."""
    def played(ground, *what):
        metrics = ("shoal_nodes_lost_total", "shoal_step_failures_total")
        before = [ground.metric(name) for name in metrics]
        outcome = play(ground, *what)
        for stream in outcome.streams:
            stream.join(120)
        if [ground.metric(name) for name in metrics] != before:
            outcome.note = "false alarm"
        return outcome
    return played


@no_alarm
def slow(ground, rng):
    """Stopped three quarters of the time."""
    victim = rng.choice(ground.used())
    streams = [ground.stream(60, MIDDLE[0]), ground.stream(60, temperature=0.9, seed=7)]
    ground.fault()
    while any(stream.is_alive() for stream in streams) and time.monotonic() - ground.moment < 100:
        ground.signal(victim, signal.SIGSTOP)
        time.sleep(0.075)
        ground.signal(victim, signal.SIGCONT)
        time.sleep(0.025)
    return Outcome(streams)


@no_alarm
def quota(ground, rng):
    """A quarter of a core, in pieces of the testbed's period."""
    from testbed_lib.cgroups import ControlGroups
    groups, group = ControlGroups(), f"shoal-chaos-{os.getpid()}/quarter"
    victim = rng.choice(ground.used())
    groups.make(group, 0.25, 0)
    where = groups.cpu[0] / group / "cgroup.procs"
    prompt = MIDDLE[rng.randrange(len(MIDDLE))]
    ground.fault()
    try:
        where.write_text(str(ground.pid(victim)))
        streams = [ground.stream(60, prompt), ground.stream(60, temperature=0.9, seed=7)]
        for stream in streams:
            stream.join(120)
    finally:
        (groups.cpu[0] / "cgroup.procs").write_text(str(ground.pid(victim)))
        groups.remove(f"shoal-chaos-{os.getpid()}")
    return Outcome(streams)


@no_alarm
def slow_link(ground, rng):
    """1 Mbit/s, while the plan believes in more; each prompt is another, so that it is read."""
    victim = rng.choice(ground.used())
    ground.turn = (getattr(ground, "turn", 0) + 1) % len(MIDDLE)
    ground.fault()
    ground.network.rate(victim, 1)
    try:
        streams = [ground.stream(30, MIDDLE[ground.turn]), ground.stream(30, temperature=0.9, seed=7)]
        for stream in streams:
            stream.join(120)
    finally:
        ground.network.rate(victim, 0)
    return Outcome(streams)


def bad_link(tokens, **weather):
    """Frames of one stage's link come late, out of order or not at all; each prompt is another, so that it is read."""
    @no_alarm
    def play(ground, rng):
        victim = rng.choice(ground.used())
        ground.turn = (getattr(ground, "turn", 0) + 1) % len(MIDDLE)
        ground.fault()
        ground.network.weather(victim, rng.randrange(1 << 30), **weather)
        try:
            streams = [ground.stream(tokens, MIDDLE[ground.turn]), ground.stream(tokens, temperature=0.9, seed=7)]
            for stream in streams:
                stream.join(120)
        finally:
            ground.network.weather(victim)
        return Outcome(streams)
    return play


delayed = bad_link(40, delay_ms=50, jitter_ms=20)
lossy = bad_link(40, lost=0.01, held_back=0.05)
far = bad_link(20, delay_ms=200, jitter_ms=20, lost=0.01)


def jump(ground, rng):
    days = rng.choice([-30, 30])
    victim = rng.choice(["node-0", *ground.used()])
    streams = ground.streams(200)
    ground.fault()
    set_clock(ground.clock_of(victim), days)
    for stream in streams:
        stream.join(60)
    time.sleep(max(0.0, ground.moment + 2.5 - time.monotonic()))  # the library looks at its file once a second
    again = ground.stream(20)
    again.join(60)
    answer = json.loads(ground.request("POST", "/v1/completions", ground.body(1))[2])
    off = round((answer["created"] - time.time()) / 86400)
    if off != (days if victim == "node-0" else 0):
        raise AssertionError(f"the head's date is {off} days off: the clock of {victim} did not jump by {days}")
    set_clock(ground.clock_of(victim), 0)
    time.sleep(1.2)
    return Outcome([*streams, again, ground.stream(20)], note="it was the head's" if victim == "node-0" else "")


clock_jump = no_alarm(jump)


def join_under_clock(days, says):
    """A node comes in with a clock so many days off, and says what is wrong; then the clock is set right."""
    @no_alarm
    def refused_at_first(ground, rng, visitor):
        begun = len(ground.log(visitor)) if ground.joins[visitor] else 0
        streams = ground.streams(120)
        set_clock(ground.clock_of(visitor), days)
        ground.fault()
        ground.start_node(visitor)
        ground.wait_for(lambda: re.search(says, ground.log(visitor)[begun:]), 20, f"a word of {visitor} on its clock")
        noticed = time.monotonic() - ground.moment
        for stream in streams:
            stream.join(60)
        time.sleep(2.5)  # it has called again
        if ground.processes[visitor].poll() is not None or ground.node_state(visitor) in ("joining", "spare", "in use"):
            raise AssertionError(f"{visitor} ended or was let in: {ground.log(visitor)[begun:]}")
        set_clock(ground.clock_of(visitor), 0)
        ground.wait_for(lambda: ground.node_state(visitor) in ("spare", "in use"), 30, f"the way in of {visitor}")
        return Outcome([*streams, ground.stream(20)], noticed)

    def play(ground, rng):
        free = [name for name in ground.names[1:] if name not in ground.present]
        visitor = min(free, key=lambda name: len(ground.joins[name]))
        outcome = refused_at_first(ground, rng, visitor)
        ground.kill(visitor)
        ground.notice_loss(visitor)
        return outcome
    return play


join_behind = join_under_clock(-30, r"is not valid yet: it is valid from .* this device's clock says")
join_ahead = join_under_clock(30, r"(has ended|has expired).* this device's clock says")


def set_clock(path, days):
    with open(path + ".new", "w", encoding="ascii") as out:
        out.write(f"{days:+d}d\n")
    os.rename(path + ".new", path)


# ---- Links, in network namespaces ----

def cut_off(ground, rng, cut, mend, again=True):
    """`again`: it lived on, and comes in by itself."""
    victim = ground.victim(rng)
    streams = ground.streams(120)
    ground.fault()
    cut(victim)
    try:
        noticed = ground.notice_loss(victim)
        ground.wait_resumed(streams)
    finally:
        mend(victim)
    if again:
        returns(ground, victim)
    else:
        ground.replace(victim)
    return Outcome(streams, noticed)


def interface_down(ground, rng):
    network = ground.network
    return cut_off(ground, rng, lambda v: network.interface(v, False), lambda v: network.interface(v, True))


def unplugged(ground, rng):
    network = ground.network
    return cut_off(ground, rng, lambda v: network.plug(v, False), lambda v: network.plug(v, True))


def one_way(ground, rng):
    network, way = ground.network, rng.choice(["up", "down"])
    return cut_off(ground, rng, lambda v: network.drop(v, way, True), lambda v: network.drop(v, way, False))


def power_off(ground, rng):
    """Nothing of it says goodbye: the network is gone before the process is."""
    def off(victim):
        ground.network.plug(victim, False)
        ground.kill(victim)
    return cut_off(ground, rng, off, lambda v: ground.network.plug(v, True), again=False)
