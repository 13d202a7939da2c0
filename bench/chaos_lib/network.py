"""Devices in network namespaces (bench/testbed) and what can happen to their links, from the outside. Needs root."""
import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from elastic import Place
from testbed_lib.command import parse_options
from testbed_lib.common import command
from testbed_lib.testbed import Testbed
from testbed_lib.wire import Weather

CLONE_NEWNET = 0x40000000
GSO_SEGMENTS_MAX = "65535"  # as an interface comes
TBF_BURST, TBF_QUEUE = "8kb", "50kb"  # a queue of 0.4 s at 1 Mbit/s


def enter(path):
    """This thread, and what it starts from now on, is in that network namespace."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns " + path)
    finally:
        os.close(fd)


class Network:
    """`with Network(devices) as network`: node-i is device i, at 10.77.0.(i+1); this thread is on the control host."""

    def __init__(self, devices):
        self.testbed = Testbed(parse_options(["run", "--devices", str(devices), "--", "true"]))
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.wires = {}  # by device

    def __enter__(self):
        try:
            self.testbed.up()
            enter(f"/run/netns/{self.testbed.namespace('control')}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        enter(f"/proc/self/fd/{self.home}")
        os.close(self.home)
        self.testbed.down()

    def places(self, count):
        devices = self.testbed.devices[:count]
        return [Place(device.address, self.testbed.inside(device.name)) for device in devices]

    def device(self, node):
        return "d" + node.split("-")[1]

    def _at_device(self, node, *words):
        command(*words[:1], "-n", self.testbed.namespace(self.device(node)), *words[1:])

    def _at_switch(self, *words):
        command(*words[:1], "-n", self.testbed.namespace("switch"), *words[1:])

    def interface(self, node, up):
        """The device's own interface is taken down, or up."""
        self._at_device(node, "ip", "link", "set", "e0", "up" if up else "down")

    def plug(self, node, plugged):
        """Beyond the switch: nobody sees a carrier go."""
        port = f"p-{self.device(node)}"
        self._at_switch("ip", "link", "set", port, *(["master", "br0"] if plugged else ["nomaster"]))

    def drop(self, node, way, drops):
        """All that goes `up` from the device, or `down` to it, is lost."""
        verb = ["replace"] if drops else ["del"]
        rest = ["root", "pfifo", "limit", "0"] if drops else ["root"]
        if way == "up":
            self._at_device(node, "tc", "qdisc", *verb, "dev", "e0", *rest)
        else:
            self._at_switch("tc", "qdisc", *verb, "dev", f"p-{self.device(node)}", *rest)

    def rate(self, node, mbps):
        """Of the device's link, both ways; 0: as fast as it goes."""
        tbf = ["root", "tbf", "rate", f"{mbps}mbit", "burst", TBF_BURST, "limit", TBF_QUEUE]
        verb, rest = ("replace", tbf) if mbps else ("del", ["root"])
        self._at_device(node, "tc", "qdisc", verb, "dev", "e0", *rest)
        self._at_switch("tc", "qdisc", verb, "dev", f"p-{self.device(node)}", *rest)

    def weather(self, node, seed=0, **weather):
        """The device's link is bad from now on (testbed_lib/wire.py), or with no `weather` as good as it was."""
        device = self.device(node)
        port, tap = f"p-{device}", f"w-{device}"
        if device in self.wires:
            self.testbed.end_helper(self.wires.pop(device))  # its tap goes with it
            self._at_device(node, "ip", "link", "set", "e0", "gso_max_segs", GSO_SEGMENTS_MAX)
            self._at_switch("ip", "link", "set", port, "master", "br0")
        if weather:
            # Frames of a packet each: of a large segment all would be lost at once.
            self._at_device(node, "ip", "link", "set", "e0", "gso_max_segs", "1")
            self.wires[device] = self.testbed.start_wire(device, tap, Weather(**weather), seed)
            self._at_switch("ip", "link", "set", port, "nomaster")
            self._at_switch("ip", "link", "set", tap, "master", "br0", "up")
