#!/usr/bin/env python3
"""Crowds at the HTTP door: what a user's stream feels of connections that say nothing, and of those that say it slowly.

  bench/crowd.py [--model FILE.gguf] [--program build/release/shoal] [--idle 10000] [--slow 1000] [--tokens 1000] [--runs 3]

One user streams an answer, alone and then in each crowd, in turns; a row tells the 50th and 99th percentile of the time
between two of its pieces, how long the first took, and the server's memory. The model is SHOAL_TEST_MODEL where none is named.
The crowd comes from a process of its own, which needs as many open files as it has connections, and a processor: the server
computes with --threads, so that they do not take it from each other.
"""
import argparse
import collections
import json
import multiprocessing
import os
import re
import resource
import select
import socket
import statistics
import subprocess
import sys
import time


def crowd(port, count, slow, ready, end):
    """`count` connections, each from one of a hundred addresses; slow ones send a byte of a header every 2 s. One that
    the server closes is replaced."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Padding: " + b"a" * 4096
    opened = 0

    def connect():
        nonlocal opened
        sock = socket.socket()
        sock.bind((f"127.0.1.{1 + opened % 100}", 0))
        sock.settimeout(2)
        try:
            sock.connect(("127.0.0.1", port))
        except OSError:
            sock.close()
            return None
        sock.setblocking(False)
        opened += 1
        return [sock, 0]

    def closed(sock):
        try:
            return sock.recv(4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    # No scan over all of them: a burst of work every two seconds, of the crowd's own making, would be felt by the stream
    # where the machine has few cores. Closed ones wake the loop, and slow ones take turns.
    closing, held = select.epoll(), {}

    def add():
        one = connect()
        if one:
            held[one[0].fileno()] = one
            turns.append(one)
            closing.register(one[0], select.EPOLLIN | select.EPOLLRDHUP)

    turns = collections.deque()
    for _ in range(count):
        add()
    ready.put(len(held))
    while not end.is_set():
        pause = 2 / len(held) if slow and held else 0.2
        for fileno, _ in closing.poll(pause, 64):
            one = held[fileno]
            if closed(one[0]):
                del held[fileno]
                one[0].close()
                if slow:
                    add()
        if slow and turns:
            one = turns.popleft()
            if one[0].fileno() < 0:
                continue
            turns.append(one)
            try:
                one[0].send(request[one[1] % len(request):][:1])
                one[1] += 1
            except OSError:
                pass
    ready.put((opened, len(held)))


def stream(port, tokens):
    """Seconds to the first piece, and between pieces, of one answer."""
    body = json.dumps({"prompt": "The sea is", "max_tokens": tokens, "stream": True, "temperature": 0, "ignore_eos": True})
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        begin = time.monotonic()
        sock.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}").encode())
        times, tail = [], b""
        while True:
            part = sock.recv(65536)
            if not part:
                break
            now = time.monotonic()
            times += [now] * (tail[-5:] + part).count(b"data: ")
            tail = part
    if len(times) < tokens // 2:
        sys.exit(f"crowd.py: the stream ended early: {tail[-200:]}")
    return times[0] - begin, [b - a for a, b in zip(times, times[1:])]


def memory_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("SHOAL_TEST_MODEL"))
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--idle", type=int, default=10000)
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.model:
        parser.error("name a model (--model), or set SHOAL_TEST_MODEL")
    server = subprocess.Popen([arguments.program, "serve", arguments.model, "--listen", "127.0.0.1:0",
                               "--threads", str(arguments.threads)],
                              stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            found = re.search(r"serving .* on http://127\.0\.0\.1:(\d+)", line)
            if found:
                port = int(found[1])
                break
        else:
            sys.exit("crowd.py: the server did not start")
        stream(port, 20)  # warm
        rows = {"alone": [], f"{arguments.idle} idle": [], f"{arguments.slow} slow": []}
        for _ in range(arguments.runs):
            for name, count, slow in (("alone", 0, False), (f"{arguments.idle} idle", arguments.idle, False),
                                      (f"{arguments.slow} slow", arguments.slow, True)):
                ready, end = multiprocessing.Queue(), multiprocessing.Event()
                worker = None
                if count:
                    worker = multiprocessing.Process(target=crowd, args=(port, count, slow, ready, end))
                    worker.start()
                    if ready.get(timeout=120) < count * 0.9:
                        sys.exit("crowd.py: the crowd could not connect")
                    time.sleep(3)  # they are there, not arriving
                first, gaps = stream(port, arguments.tokens)
                rows[name].append((first, percentile(gaps, 0.5), percentile(gaps, 0.99), memory_mib(server.pid)))
                if worker:
                    end.set()
                    ready.get(timeout=60)
                    worker.join()
        print("| crowd | first piece ms | p50 ms | p99 ms | server MiB |\n|---|---|---|---|---|")
        for name, runs in rows.items():
            middle = [statistics.median(run[i] for run in runs) for i in range(4)]
            print(f"| {name} | {middle[0] * 1e3:.1f} | {middle[1] * 1e3:.2f} | {middle[2] * 1e3:.2f} | {middle[3]:.0f} |")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
