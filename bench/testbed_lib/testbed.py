"""A testbed's life: made, used, removed."""
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

from .cgroups import ControlGroups
from .common import TestbedError, command, parse_bytes, say

STATE_ROOT = pathlib.Path("/run/shoal-testbed")
CYCLE_S = 0.001  # of the time slots
PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "testbed"
SUBNET = "10.77.0"


class Device:
    def __init__(self, index, options):
        self.index = index
        self.name = f"d{index}"
        self.address = f"{SUBNET}.{index + 1}"
        self.cpu = options.cpu[index]
        self.link_mbps = options.link_mbps[index]
        self.latency_s = options.latency_ms[index] / 1000
        self.memory_text = options.memory[index]
        self.memory = parse_bytes(self.memory_text) if self.memory_text else 0
        self.threads = options.threads[index]
        self.core = None  # where it has its time slot; None: any core, under a quota if `cpu` is set


def cores_for(shares, cores):
    """A core for each share, first fit by size, or None if they do not fit."""
    free = {core: 1.0 for core in cores}
    placed = {}
    for index in sorted(range(len(shares)), key=lambda i: -shares[i]):
        core = next((core for core in cores if free[core] >= shares[index] - 1e-9), None)
        if core is None:
            return None
        free[core] -= shares[index]
        placed[index] = core
    return [placed[i] for i in range(len(shares))]


class Testbed:
    def __init__(self, options):
        self.options = options
        self.id = f"shoal-{os.getpid()}"
        self.state = STATE_ROOT / str(os.getpid())
        self.devices = [Device(i, options) for i in range(options.devices)]
        self.control_cores = sorted(os.sched_getaffinity(0))
        slots = self._place_on_cores()
        self.groups = ControlGroups(quotas=not slots)
        self.helpers = []  # the relay, and the processes that switch time slots

    def _place_on_cores(self):
        """Gives every limited device a core to have its time slot on, and keeps the last cores for the rest: the
        relay, mpirun, the switching. False: no slots."""
        limited = [device for device in self.devices if device.cpu]
        if not limited or self.options.cpu_by == "quota":
            return False
        placed = cores_for([device.cpu for device in limited], self.control_cores[:-1])
        if placed is None or not ControlGroups().memory:
            why = "no control group for memory" if placed else "the shares do not fit all cores but one"
            if self.options.cpu_by == "slots":
                raise TestbedError(f"--cpu-by slots: {why}")
            say(f"CPU quotas instead of time slots, which slow short steps too little: {why}")
            return False
        for device, core in zip(limited, placed):
            device.core = core
        self.control_cores = [core for core in self.control_cores if core not in placed]
        return True

    def namespace(self, name):
        return f"{self.id}-{name}"

    def inside(self, name):
        """The words that run a program in a namespace, without hiding the control groups as `ip netns exec` does."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(name)}"]

    def up(self):
        self.state.mkdir(parents=True, mode=0o700)
        (self.state / "tmp").mkdir()
        (self.state / "owner").write_text(f"{os.getpid()} {start_time(os.getpid())}")
        switch = self.namespace("switch")
        command("ip", "netns", "add", switch)
        self._quiet(switch)
        relayed = any(device.latency_s or device.link_mbps for device in self.devices)
        if not relayed:
            command("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
            command("ip", "-n", switch, "link", "set", "br0", "up")
        ports = [(self._link("control", f"{SUBNET}.254", relayed), 0.0, 0.0)]
        for device in self.devices:
            port = self._link(device.name, device.address, relayed)
            ports.append((port, device.latency_s, device.link_mbps * 1e6 / 8))
            self.groups.make(f"{self.id}/{device.name}", 0 if device.core is not None else device.cpu, device.memory)
        if relayed:
            self._start("relay", *(f"{port}={delay}={rate}" for port, delay, rate in ports))
        for core in sorted({device.core for device in self.devices} - {None}):
            shares = [f"{self.groups.tasks_file(f'{self.id}/{d.name}')}={d.cpu}" for d in self.devices if d.core == core]
            self._start("slots", str(core), str(CYCLE_S), *shares)
        self._write_files()

    def _quiet(self, namespace):
        # No IPv6: its router and neighbour chatter is no part of the measurement.
        command("nsenter", f"--net=/run/netns/{namespace}", "sh", "-c",
                "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6",
                ok=True)

    def _link(self, name, address, relayed):
        space, switch, port = self.namespace(name), self.namespace("switch"), f"p-{name}"
        command("ip", "netns", "add", space)
        self._quiet(space)
        command("ip", "link", "add", "e0", "netns", space, "type", "veth", "peer", "name", port, "netns", switch)
        if not relayed:
            command("ip", "-n", switch, "link", "set", port, "master", "br0")
        command("ip", "-n", switch, "link", "set", port, "up")
        command("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "e0")
        command("ip", "-n", space, "link", "set", "lo", "up")
        command("ip", "-n", space, "link", "set", "e0", "up")
        return port

    def _on_control_cores(self):
        return ["taskset", "-c", ",".join(map(str, self.control_cores))]

    def _start(self, part, *arguments):
        """A process of the testbed itself; in the switch's namespace, so that `clean` finds it."""
        words = [*self.inside("switch"), *self._on_control_cores(), sys.executable, str(PROGRAM), part, *arguments]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        self.helpers.append(process)
        if process.stdout.readline() != b"ready\n":
            raise TestbedError({"relay": "the relay did not start; without --latency-ms and --link-mbps it is not needed",
                                "slots": "time slots are not permitted here; --cpu-by quota does without",
                                "wire": "the wire did not start: it needs /dev/net/tun"}[part])
        return process

    def start_wire(self, device, tap, weather, seed):
        """A bad link in the place of a device's: a process that ends with the testbed, or before (testbed_lib/wire.py)."""
        return self._start("wire", f"p-{device}", tap, str(seed), *weather.words())

    def end_helper(self, process):
        self.helpers.remove(process)
        self._end(process)

    def _write_files(self):
        prefix = shlex.quote(self.id)
        self._script("rsh", f"""\
            # mpirun's remote shell: a "host" is a device of this testbed.
            while [[ $1 == -* ]]; do shift; done
            host=$1
            shift
            exec nsenter --net="/run/netns/"{prefix}"-$host" unshare --uts bash -c 'hostname "$0"; eval "$1"' "$host" "$*"
        """)
        folders = " ".join(shlex.quote(str(folder)) for folder in self.groups.folders(self.id))
        cores = "".join(f"{d.name}) cores={','.join(map(str, self.control_cores if d.core is None else [d.core]))};; "
                        for d in self.devices)
        self._script("enter", f"""\
            # Puts the device's process, and not mpirun's daemon, under the device's limits.
            for folder in {folders}; do echo $$ >"$folder/$(hostname)/cgroup.procs"; done
            case $(hostname) in {cores}esac
            exec taskset -c "$cores" "$@"
        """)
        (self.state / "hosts").write_text("".join(f"{device.name} slots=1\n" for device in self.devices))
        (self.state / "cluster.yaml").write_text(self.cluster_file())

    def _script(self, name, text):
        path = self.state / name
        lines = [line.strip() for line in text.strip().splitlines()]
        path.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
        path.chmod(0o700)

    def cluster_file(self):
        options = self.options
        lines = ["# Written by bench/testbed.", "cluster: testbed"]
        if options.model:
            lines.append(f"model: {json.dumps(str(pathlib.Path(options.model).resolve()))}")
        lines += [f"context: {options.context}", f"sequences: {options.sequences}", "head: d0", "nodes:"]
        for device in self.devices:
            memory = device.memory_text or "1GiB"
            lines.append(f"  {device.name}: {{address: {device.address}, memory: {memory}, threads: {device.threads}}}")
        plan = [f"objective: {options.objective}"]
        if options.keep_on_head:
            plan.append(f"keep-on-head: {options.keep_on_head}")
        if options.layers:
            plan.append("layers: {" + ", ".join(item.replace("=", ": ") for item in options.layers.split(",")) + "}")
        lines.append(f"plan: {{{', '.join(plan)}}}")
        return "\n".join(lines) + "\n"

    def mpirun(self):
        """The words that start ranks on the devices; `-n N PROGRAM...` follows."""
        settings = {
            "plm_rsh_agent": self.state / "rsh", "plm_rsh_no_tree_spawn": 1, "orte_tmpdir_base": self.state / "tmp",
            "pml": "ob1", "btl": "tcp,self", "btl_tcp_if_include": f"{SUBNET}.0/24",
            "oob_tcp_if_include": f"{SUBNET}.0/24",
        }
        words = ["mpirun", "--bind-to", "none", "--hostfile", str(self.state / "hosts")]
        for key, value in settings.items():
            words += ["--mca", key, str(value)]
        return words

    def run(self, words, under_mpirun):
        cluster = str(self.state / "cluster.yaml")
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                           SHOAL_CLUSTER=cluster, SHOAL_DEVICES=str(len(self.devices)))
        words = [word.replace("{cluster}", cluster) for word in words]
        if "/" in words[0]:
            words[0] = str(pathlib.Path(words[0]).absolute())  # ranks may start in another folder
        if under_mpirun:
            words = [*self.mpirun(), "-n", str(len(self.devices)), str(self.state / "enter"), *words]
        else:
            # The launch prefix ends with `-n N PROGRAM`; a wrapper of our own puts `enter` before PROGRAM.
            self._script("mpirun", f"""\
                # mpirun -n N PROGRAM... over the devices, each PROGRAM under its device's limits.
                if [[ $1 != -n ]]; then echo "testbed's mpirun wants: -n N PROGRAM..." >&2; exit 2; fi
                exec {shlex.join(self.mpirun())} -n "$2" {shlex.quote(str(self.state / "enter"))} "${{@:3}}"
            """)
            environment["SHOAL_MPIRUN"] = str(self.state / "mpirun")
        process = subprocess.Popen([*self.inside("control"), *self._on_control_cores(), *words], env=environment)
        try:
            code = process.wait(timeout=self.options.timeout_s or None)
        except subprocess.TimeoutExpired:
            say(f"still running after {self.options.timeout_s} s; ended")
            code = 124
        except KeyboardInterrupt:
            self._end(process)
            raise
        self._end(process)
        return code if code >= 0 else 128 - code

    @staticmethod
    def _end(process):
        """mpirun is asked first, so that it tells its ranks; down() kills what is left."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def report(self):
        say("device  cpu   by             link Mbit/s  memory peak / limit")
        for device in self.devices:
            peak, throttled, kills = self.groups.usage(f"{self.id}/{device.name}")
            by = f"slot of core {device.core}" if device.core is not None else f"{100 * throttled:.0f} % throttled"
            limit = f"{device.memory / 2**20:.0f} MiB" if device.memory else "none"
            killed = f"  KILLED for want of memory ({kills})" if kills else ""
            say(f"{device.name:<6}  {device.cpu or 'all':<4}  {by if device.cpu else '':<13}  "
                f"{device.link_mbps or 'free':<11}  {peak / 2**20:5.0f} MiB / {limit:<9}{killed}")

    def down(self):
        remove(os.getpid(), self.groups)
        for process in self.helpers:
            process.wait()


def start_time(pid):
    """Clock ticks since boot at which the process started, or None if there is none: tells a reused pid apart."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def namespaces(pid):
    folder = pathlib.Path("/run/netns")
    return sorted(path.name for path in folder.glob(f"shoal-{pid}-*")) if folder.exists() else []


def remove(pid, groups):
    """Everything that the testbed of process `pid` made: processes, namespaces, control groups, files."""
    deadline = time.monotonic() + 10
    while True:
        inside = groups.processes(f"shoal-{pid}")
        for space in namespaces(pid):
            inside.update(int(word) for word in command("ip", "netns", "pids", space, ok=True).split())
        inside.discard(os.getpid())
        if not inside or time.monotonic() > deadline:
            break
        for process in inside:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    for space in namespaces(pid):
        command("ip", "netns", "del", space, ok=True)
    groups.remove(f"shoal-{pid}")
    shutil.rmtree(STATE_ROOT / str(pid), ignore_errors=True)


def clean():
    groups = ControlGroups()
    pids = {path.name for path in STATE_ROOT.glob("*")} if STATE_ROOT.exists() else set()
    pids |= {name.split("-")[1] for name in namespaces("*")}
    for pid in sorted(filter(str.isdigit, pids)):
        owner = STATE_ROOT / pid / "owner"
        alive = start_time(pid)
        if owner.exists() and alive is not None and str(alive) in owner.read_text().split()[1:]:
            say(f"testbed {pid} is running; left alone")
            continue
        remove(int(pid), groups)
        say(f"removed what testbed {pid} left")
