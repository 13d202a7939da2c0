"""Control groups: a device's CPU quota and memory limit."""
import pathlib

from .common import TestbedError, say

QUOTA_PERIOD_US = 5000
QUOTA_MIN_US = 1000  # the kernel refuses a smaller quota


def mounts():
    with open("/proc/mounts") as file:
        for line in file:
            _, where, kind, options = line.split()[:4]
            yield pathlib.Path(where), kind, options.split(",")


class ControlGroups:
    """Where CPU quotas and memory limits are set on this machine; version 1, version 2 or a mix of both. Without
    `quotas` groups of the CPU are left alone: a kernel with RT_GROUP_SCHED grants theirs no real-time threads."""

    def __init__(self, quotas=True):
        self.cpu = self.memory = None  # (folder under which to make groups, version)
        for where, kind, options in mounts():
            if kind == "cgroup":
                if "cpu" in options:
                    self.cpu = (where, 1)
                if "memory" in options:
                    self.memory = (where, 1)
        for where, kind, _ in mounts():
            if kind != "cgroup2":
                continue
            controllers = (where / "cgroup.controllers").read_text().split()
            if "cpu" in controllers and not self.cpu:
                self.cpu = (where, 2)
            if "memory" in controllers and not self.memory:
                self.memory = (where, 2)
        if not quotas:
            self.cpu = None

    def tasks_file(self, name):
        """The file that lists the threads of group `name`, which has a memory hierarchy."""
        root, version = self.memory
        return root / name / ("cgroup.threads" if version == 2 else "tasks")

    def folders(self, name):
        """The folder of group `name` under each hierarchy in use."""
        roots = {root for root, _ in filter(None, (self.cpu, self.memory))}
        return [root / name for root in sorted(roots)]

    def make(self, name, cpu, memory):
        if cpu and not self.cpu:
            raise TestbedError("no control group for the CPU on this machine: leave --cpu out")
        if memory and not self.memory:
            raise TestbedError("no control group for memory on this machine: leave --memory out")
        try:
            for folder in self.folders(name):
                self._make_folder(folder)
            if cpu:
                period = max(QUOTA_PERIOD_US, round(QUOTA_MIN_US / cpu))
                self._limit_cpu(name, round(cpu * period), period)
            if memory:
                self._limit_memory(name, memory)
        except OSError as error:
            raise TestbedError(f"cannot set up control group {name}: {error}; in a container it may need --privileged")

    def _make_folder(self, folder):
        root = self.cpu[0] if self.cpu and folder.is_relative_to(self.cpu[0]) else self.memory[0]
        folder.mkdir(parents=True, exist_ok=True)
        if not (root / "cgroup.subtree_control").exists():
            return  # version 1: every group has its hierarchy's controllers
        wanted = [kind for kind, at in (("cpu", self.cpu), ("memory", self.memory)) if at == (root, 2)]
        parent = folder.parent
        chain = []
        while parent.is_relative_to(root):
            chain.append(parent)
            if parent == root:
                break
            parent = parent.parent
        for group in reversed(chain):
            enabled = (group / "cgroup.subtree_control").read_text().split()
            for kind in wanted:
                if kind not in enabled:
                    (group / "cgroup.subtree_control").write_text(f"+{kind}")

    def _limit_cpu(self, name, quota_us, period_us):
        root, version = self.cpu
        if version == 2:
            (root / name / "cpu.max").write_text(f"{quota_us} {period_us}")
            return
        (root / name / "cpu.cfs_period_us").write_text(str(period_us))
        (root / name / "cpu.cfs_quota_us").write_text(str(quota_us))

    def _limit_memory(self, name, memory):
        root, version = self.memory
        group = root / name
        if version == 2:
            (group / "memory.max").write_text(str(memory))
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0")
            return
        (group / "memory.limit_in_bytes").write_text(str(memory))
        try:
            (group / "memory.memsw.limit_in_bytes").write_text(str(memory))
        except OSError:
            pass  # a kernel that does not account swap

    def usage(self, name):
        """What happened in the group: peak bytes, share of periods throttled, kills for want of memory."""

        def table(path):
            try:
                return dict(line.split()[:2] for line in path.read_text().splitlines() if len(line.split()) >= 2)
            except OSError:
                return {}

        def number(path):
            try:
                return int(path.read_text())
            except (OSError, ValueError):
                return 0

        peak = kills = 0
        throttled = 0.0
        if self.memory:
            group = self.memory[0] / name
            if self.memory[1] == 2:
                peak, kills = number(group / "memory.peak"), int(table(group / "memory.events").get("oom_kill", 0))
            else:
                peak = number(group / "memory.max_usage_in_bytes")
                kills = int(table(group / "memory.oom_control").get("oom_kill", 0))
        if self.cpu:
            stat = table(self.cpu[0] / name / "cpu.stat")
            periods = int(stat.get("nr_periods", 0))
            throttled = int(stat.get("nr_throttled", 0)) / periods if periods else 0.0
        return peak, throttled, kills

    def processes(self, name):
        found = set()
        for top in self.folders(name):
            for file in top.rglob("cgroup.procs") if top.exists() else ():
                try:
                    found.update(int(line) for line in file.read_text().split())
                except OSError:
                    pass
        return found

    def remove(self, name):
        for top in self.folders(name):
            folders = sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True) if top.exists() else []
            for folder in [*folders, top]:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    say(f"cannot remove {folder}: {error}")
