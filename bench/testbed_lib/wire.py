"""A bad link, in user space, where the kernel has no netem: delay, jitter, loss, and frames that others overtake, from a seed.

One end is a device's port at the switch, taken off its bridge; the other is a tap device that takes the port's place there.
Frames carry their offload header along, so checksums that were left to the hardware stay so. A share of the frames is
lost, each by itself; the others arrive after the delay give or take the jitter, in the order in which they were sent, but
for a share that is held back so long that those behind it come first.
"""
import dataclasses
import fcntl
import heapq
import os
import random
import select
import struct
import time

from .relay import FRAME_BYTES_MAX, packet_socket, take_priority

TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x2, 0x1000, 0x4000
BURST = 64  # frames taken from one end before the other's turn


@dataclasses.dataclass
class Weather:
    delay_ms: float = 0
    jitter_ms: float = 0     # less than the delay
    lost: float = 0          # share of the frames
    held_back: float = 0     # share of them
    held_back_ms: float = 10

    def words(self):
        return [str(getattr(self, field.name)) for field in dataclasses.fields(self)]


class Way:
    """One direction: when does a frame that is sent now arrive?"""

    def __init__(self, weather, seed):
        self.weather, self.rng, self.last = weather, random.Random(seed), 0.0

    def arrival(self, now):
        """None: never."""
        weather = self.weather
        if self.rng.random() < weather.lost:
            return None
        due = now + (weather.delay_ms + self.rng.uniform(-1, 1) * weather.jitter_ms) / 1000
        if self.rng.random() < weather.held_back:
            return max(due, self.last) + weather.held_back_ms / 1000
        self.last = max(due, self.last)
        return self.last


def tap_end(interface):
    """A tap device that lives as long as this process."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    return end


def wire(port, tap, weather, seed):
    """Passes frames between a port and a new tap device, until it is ended by a signal."""
    ends = (packet_socket(port).detach(), tap_end(tap))
    ways = {ends[0]: (ends[1], Way(weather, f"{seed} up")), ends[1]: (ends[0], Way(weather, f"{seed} down"))}
    take_priority()
    waiting, serial = [], 0  # (due, serial, end, frame)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(waiting)
            try:
                os.write(to, frame)
            except OSError:
                pass  # an interface that is down, or whose queue is full, drops the frame
        timeout = max(0.0, waiting[0][0] - now) if waiting else None
        for ready in select.select(ends, [], [], timeout)[0]:
            to, way = ways[ready]
            for _ in range(BURST):
                try:
                    frame = os.read(ready, FRAME_BYTES_MAX)
                except OSError:
                    break  # nothing more now, or the interface is not up yet
                due = way.arrival(time.monotonic())
                if due is not None:
                    serial += 1
                    heapq.heappush(waiting, (due, serial, to, frame))
