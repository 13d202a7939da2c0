"""The switch of a testbed, in user space: gives links their rate and their latency.

Not every kernel has netem, and a token bucket (tc tbf) lets a message shorter than its bucket pass as if the link were
infinitely fast, which is just what a token's activations are. Here every frame occupies the sender's link and then the
receiver's for its bytes / rate, as on a wire, and arrives after both links' delays.
"""
import heapq
import os
import select
import socket
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
VNET_HEADER_BYTES = 10
FRAME_BYTES_MAX = 1 << 17
PACKET_BYTES = 1514  # of a frame on the wire; a large segment is cut into such, so both links carry it at once
QUEUE_S_MAX = 0.05  # what waits longer for a link is dropped, as a switch would
PRIORITY = 40


def packet_socket(interface):
    """A device's port: whole frames, with their offload header along, so that large segments stay whole."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    end.bind((interface, ETH_P_ALL))
    end.setblocking(False)
    return end


def take_priority():
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        pass  # at normal priority it may be a little late


class Port:
    """One link's end at the switch. The link carries both directions at once."""

    def __init__(self, interface, delay_s, bytes_per_s):
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s or float("inf")
        self.up_free = self.down_free = 0.0  # when the last frame has left the link
        self.socket = packet_socket(interface)


def send_up(port, now, size):
    """A frame leaves its device: when its first packet, and when all of it, is at the switch. None: dropped."""
    begin = max(now, port.up_free)
    if begin - now > QUEUE_S_MAX:
        return None
    port.up_free = begin + size / port.bytes_per_s
    first = begin + min(size, PACKET_BYTES) / port.bytes_per_s
    return first + port.delay_s, port.up_free + port.delay_s


def send_down(port, first, all_of_it, size):
    """When a frame that reaches the switch between `first` and `all_of_it` is at its device. None: dropped."""
    begin = max(first, port.down_free)
    if begin - first > QUEUE_S_MAX:
        return None
    port.down_free = max(begin + size / port.bytes_per_s, all_of_it + min(size, PACKET_BYTES) / port.bytes_per_s)
    return port.down_free + port.delay_s


def relay(ports):
    """Forwards frames between `ports` until ended by a signal."""
    take_priority()
    port_of = {port.socket: port for port in ports}
    home = {}  # MAC address to port, learned
    waiting, serial = [], 0  # (due, serial, port, frame)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(waiting)
            try:
                to.socket.send(frame)
            except OSError:
                pass  # a full queue drops the frame
        timeout = max(0.0, waiting[0][0] - now) if waiting else None
        # select and not epoll, which counts in milliseconds.
        for ready in select.select(list(port_of), [], [], timeout)[0]:
            source = port_of[ready]
            for _ in range(64):
                try:
                    frame = ready.recv(FRAME_BYTES_MAX)
                except BlockingIOError:
                    break
                size = len(frame) - VNET_HEADER_BYTES
                home[frame[VNET_HEADER_BYTES + 6 : VNET_HEADER_BYTES + 12]] = source
                known = home.get(frame[VNET_HEADER_BYTES : VNET_HEADER_BYTES + 6])
                at_switch = send_up(source, time.monotonic(), size)
                if at_switch is None:
                    continue
                for to in ports if known is None else (known,):
                    due = send_down(to, *at_switch, size) if to is not source else None
                    if due is not None:
                        serial += 1
                        heapq.heappush(waiting, (due, serial, to, frame))
