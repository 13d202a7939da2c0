"""Shares of a processor core as time slots: what makes a device of the testbed uniformly slow.

A CPU quota of a control group is a bucket: a group that has been idle runs at full speed until the quota is used up, and
the kernel looks only at its ticks (every 4 ms at 250 Hz) and grants no quota below 1 ms. A stage of a pipeline computes
for a few milliseconds and then waits for the others, so a quota would hardly slow it. Here a core is cut into cycles
of about a millisecond, and the threads of a device run in their slot of each cycle and not outside: a burst of
work of 0.3 ms or longer takes 1 / share times as long as on the whole core, whatever was before.

In its slot a device's threads are real-time (SCHED_FIFO). Outside they are SCHED_IDLE, and a spinner keeps them from
running: it is real-time below them, because the fair scheduler now and then lets an idle thread run until its next tick.
A second spinner of normal priority takes what the kernel reserves for normal threads beside real-time ones. The switching is done on the devices' core itself: whatever delays it delays the devices too,
so that no slot is ever longer than it should be.
"""
import os
import pathlib
import signal
import sys
import time

SWITCH_S = 30e-6  # of a slot is lost until its device runs, with its caches cold: added to each
PRIORITY_SPINNER, PRIORITY_DEVICE, PRIORITY_SWITCH = 1, 10, 50
RESCAN_S = 0.02  # threads started meanwhile run at normal priority, beside the spinner, for so long
IN_SLOT = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK


class Share:
    """One device: the file that lists its threads, and its part of the cycle."""

    def __init__(self, tasks, share):
        self.tasks = pathlib.Path(tasks)
        self.share = share
        self.threads = []

    def rescan(self):
        try:
            self.threads = [int(line) for line in self.tasks.read_text().split()]
        except OSError:
            self.threads = []

    def schedule(self, policy, parameter):
        for thread in self.threads:
            try:
                os.sched_setscheduler(thread, policy, parameter)
            except ProcessLookupError:
                pass  # it has ended; the next scan forgets it


def spin(core, priority):
    """Keeps the core busy, in a process of its own, for as long as its parent lives. Priority 0: not real-time."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    os.sched_setaffinity(0, {core})
    if priority:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    else:
        os.nice(5)  # behind the kernel's own threads on this core, far before idle ones
    while os.getppid() == parent:
        for _ in range(10**6):
            pass
    os._exit(0)


def run(core, cycle_s, shares):
    """Gives each share its slot of every cycle until ended by a signal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY_SWITCH))
    spinners = [spin(core, 0), spin(core, PRIORITY_SPINNER)]
    real_time, idle = os.sched_param(PRIORITY_DEVICE), os.sched_param(0)
    print("ready", flush=True)
    begin = scanned = time.monotonic()
    try:
        while True:
            if begin - scanned > RESCAN_S:
                for share in shares:
                    share.rescan()
                scanned = begin
            for share in shares:
                share.schedule(IN_SLOT, real_time)
                time.sleep(share.share * cycle_s + SWITCH_S)
                share.schedule(os.SCHED_IDLE, idle)
            begin = max(begin + cycle_s, time.monotonic() - cycle_s)  # late by more than a cycle: not made up for
            time.sleep(max(0.0, begin - time.monotonic()))
    finally:
        for spinner in spinners:
            os.kill(spinner, signal.SIGKILL)
            os.waitpid(spinner, 0)
