"""Faults of disks and memory that strike while a recovery needs them: a stage is killed and those that are to take its layers
have a full disk, no cache, a damaged one, a damaged file, or no memory. Most of the nodes here have no model file."""
import os
import re
import shutil
import threading
import time

from elastic import MODEL, Elastic

from .ground import MIB, prlimit
from .process_faults import Outcome

SMALL_DISK_MIB = 160    # a node's: room for its weights and the 64 MiB that are left to others
FLIPS = 50              # in each cache, each run
ROOM_TO_GROW = 4 * MIB  # of a node that has no memory for more layers
LIMITED_FILE = MIB      # of a file, where the disk refuses more


def cache_of(ground, name):
    return os.path.join(ground.folder, "cache-" + name)


def small_disk(folder):
    """Words before a node's command: its cache is a small disk that goes when it goes."""
    def words(name):
        if name == "node-0":
            return []
        cache = os.path.join(folder, "cache-" + name)
        os.makedirs(cache, exist_ok=True)
        return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={SMALL_DISK_MIB}m none "$0" && exec "$@"', cache]
    return words


def own_cache(folder):
    return lambda name: {"XDG_CACHE_HOME": os.path.join(folder, "cache-" + name)}


def kill_one(ground, rng, before=None, meanwhile=None, tokens=120):
    """What befalls the spares comes first, then a stage is killed."""
    victim = ground.victim(rng)
    streams = ground.streams(tokens)
    if before:
        before()
    ground.fault()
    ground.kill(victim)
    helper = threading.Thread(target=meanwhile, daemon=True) if meanwhile else None
    if helper:
        helper.start()
    noticed = ground.notice_loss(victim)
    ground.wait_resumed(streams)
    if helper:
        helper.join(30)
    ground.replace(victim)
    return Outcome(streams, noticed)


def begun(ground, names):
    return {name: len(ground.log(name)) for name in names}


def said_since(ground, logs, pattern):
    return any(re.search(pattern, ground.log(name)[begin:]) for name, begin in logs.items())


def fill(ground, name):
    """Writes to the node's disk until it takes no more."""
    path = f"/proc/{ground.pid(name)}/root{cache_of(ground, name)}/filler"
    try:
        with open(path, "wb", buffering=0) as out:
            while True:
                out.write(bytes(MIB))
    except OSError:
        pass


def disk_full(ground, rng):
    spares = ground.spares()
    how = rng.choice(["full before", "fills meanwhile", "files refused"])

    def before():
        for spare in spares:
            if how == "full before":
                fill(ground, spare)
            elif how == "files refused":
                prlimit(ground.pid(spare), f"--fsize={LIMITED_FILE}:")

    def meanwhile():
        for spare in spares:
            fill(ground, spare)

    logs = begun(ground, spares)
    outcome = kill_one(ground, rng, before, meanwhile if how == "fills meanwhile" else None)
    outcome.note = "a disk refused weights" if said_since(ground, logs, "cannot be kept|has room for") else ""
    for spare in spares:  # those that are left: those that took layers keep the full disk until their turn to die
        if ground.node_state(spare) == "spare":
            prlimit(ground.pid(spare), "--fsize=unlimited:")
            try:
                os.remove(f"/proc/{ground.pid(spare)}/root{cache_of(ground, spare)}/filler")
            except OSError:
                pass
    return outcome


def cache_missing(ground, rng):
    def before():
        for spare in ground.spares():
            shutil.rmtree(os.path.join(cache_of(ground, spare), "shoal"), ignore_errors=True)
    logs = begun(ground, ground.spares())
    outcome = kill_one(ground, rng, before)
    outcome.note = "weights were fetched during the recovery" if said_since(ground, logs, "fetched") else ""
    return outcome


def weight_files(cache):
    found = []
    for folder, _, names in os.walk(os.path.join(cache, "shoal", "shards")):
        if not folder.endswith("in-use"):
            found += [os.path.join(folder, name) for name in names if not name.endswith(".partial")]
    return sorted(found)


def flip(path, rng, flips=1):
    with open(path, "r+b") as file:
        for _ in range(flips):
            at = rng.randrange(os.path.getsize(path))
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def cache_flipped(ground, rng):
    def before():
        for spare in ground.spares():
            files = weight_files(cache_of(ground, spare))
            for _ in range(FLIPS):
                flip(rng.choice(files), rng)
    logs = begun(ground, ground.spares())
    outcome = kill_one(ground, rng, before)
    found = said_since(ground, logs, "is not what the manifest says")
    outcome.note = "flipped bits were found and mended" if found else ""
    return outcome


def own_file(ground, name):
    return os.path.join(ground.folder, f"model-{name}.gguf")


def file_damaged(ground, rng):
    """Every node has a file of its own; one spare's is spoilt under it."""
    spare = rng.choice(ground.spares())
    path, how = own_file(ground, spare), rng.choice(["flipped", "cut", "replaced"])
    logs = begun(ground, [spare])

    def before():
        if how == "flipped":
            flip(path, rng, 2000)
        elif how == "cut":
            os.truncate(path, os.path.getsize(path) // 3)
        else:
            with open(path + ".new", "wb") as out:
                out.write(b"\x55" * os.path.getsize(path))
            os.rename(path + ".new", path)

    outcome = kill_one(ground, rng, before, tokens=240)
    met = said_since(ground, logs, "manifest|changed") or ground.said(f"node {spare} cannot take its layers")
    outcome.note = "the damage was met" if met else ""
    # The device with the bad file goes home, and comes back with a good one.
    ground.settle()
    if ground.processes[spare].poll() is None:
        ground.kill(spare)
    ground.wait_for(lambda: ground.node_state(spare) == "lost", 10, f"the loss of {spare}")
    shutil.copy(MODEL, path)
    ground.wait_for(lambda: ground.state() == "running", 30, "a plan without it")
    ground.replace(spare)
    return outcome


def no_memory(ground, rng):
    """One spare gets no more memory from its system: it refuses the layers and lives; another takes them."""
    spare = rng.choice(ground.spares())
    pid, logs = ground.pid(spare), begun(ground, [spare])

    def before():
        with open(f"/proc/{pid}/statm", encoding="ascii") as text:
            size = int(text.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        prlimit(pid, f"--as={size + ROOM_TO_GROW}:")

    outcome = kill_one(ground, rng, before)
    ground.settle(without=spare)
    if ground.processes[spare].poll() is not None:
        raise AssertionError(f"{spare} died of the memory it did not get: " + ground.log(spare)[logs[spare]:])
    prlimit(pid, "--as=unlimited:")
    outcome.note = "it was asked for more and refused" if ground.said(f"node {spare} cannot take its layers") else ""
    if outcome.note:  # it would be tried again in a minute
        ground.kill(spare)
        ground.wait_for(lambda: ground.node_state(spare) == "lost", 10, f"the loss of {spare}")
        ground.replace(spare)
    return outcome


def killed_for_memory(ground, rng):
    """One spare lives in a group whose memory is used up: the kernel kills it when it loads layers."""
    from testbed_lib.cgroups import ControlGroups
    groups, group = ControlGroups(quotas=False), f"shoal-chaos-{os.getpid()}/poor"
    spare = rng.choice(ground.spares())
    pid = ground.pid(spare)
    groups.make(group, 0, ROOM_TO_GROW)  # what it held before stays counted where it was

    def before():
        (groups.memory[0] / group / "cgroup.procs").write_text(str(pid))

    try:
        outcome = kill_one(ground, rng, before)
        ground.settle(without=spare)
        died = ground.processes[spare].poll() is not None
        if not died:
            (groups.memory[0] / "cgroup.procs").write_text(str(pid))
    finally:
        time.sleep(0.1)
        groups.remove(f"shoal-chaos-{os.getpid()}")
    outcome.note = "the kernel killed it while it loaded" if died else ""
    if died:
        ground.replace(spare)
    return outcome


def warm_cache(folder):
    """A cache with the model's weights, all but the head's layer: a node without a file was given them."""
    template = os.path.join(folder, "template")
    cluster = Elastic(folder, nodes=2, memory="2GiB", layers=["0-0", "1-29"])
    cluster.own_environment = {"node-1": {"XDG_CACHE_HOME": template}}
    start_node = cluster.start_node
    cluster.start_node = lambda name: start_node(name, options=[])
    with cluster:
        cluster.complete(1)
    return template


def give_cache(folder):
    """Before a node starts: it has all weights on its disk."""
    template = []

    def prepare(name):
        if not template:
            template.append(warm_cache(folder))
        cache = os.path.join(folder, "cache-" + name)
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(template[0], cache, ignore=shutil.ignore_patterns("in-use"))
    return prepare


def give_file(folder):
    return lambda name: shutil.copy(MODEL, os.path.join(folder, f"model-{name}.gguf"))
