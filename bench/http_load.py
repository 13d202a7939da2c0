#!/usr/bin/env python3
"""Many clients at once against a running `shoal serve`: every answer is compared, some clients leave.

    shoal serve MODEL.gguf --listen 127.0.0.1:8080 --sequences 16 &
    bench/http_load.py --url http://127.0.0.1:8080 --requests 10000 --connections 500 --pid $!

    bench/http_load.py --url http://127.0.0.1:8080 --same-as http://127.0.0.1:8081 ...

With --same-as another server is asked first, one request at a time, and every answer must equal its text: a server of one
process beside one of a cluster, for instance. Otherwise the first answer to each prompt is what the others must equal.

Half of the answers are streamed. Each twentieth client asks for a long answer and leaves at its first byte. Equal prompts
must get equal text; statuses are counted, and with --pid the server's resident memory is printed every few seconds. Exit
code 1 where two texts differ or a connection fails. Needs nothing but Python.
"""

import argparse
import asyncio
import collections
import json
import sys
import time
import urllib.parse

PROMPTS = 7
LEAVES_EVERY = 20


def request_of(number, tokens, stream):
    body = json.dumps({"prompt": [1, 2, 3 + number % PROMPTS], "temperature": 0, "ignore_eos": True, "max_tokens": tokens,
                       "stream": stream}).encode()
    return (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body)


def address_of(text):
    url = urllib.parse.urlsplit(text)
    return url.hostname, url.port or 80


class Load:
    def __init__(self, options):
        self.options = options
        self.host, self.port = address_of(options.url)
        self.left = list(range(options.requests))
        self.statuses = collections.Counter()
        self.texts = {}
        self.failures = []

    def resident_mib(self):
        if not self.options.pid:
            return float("nan")
        with open(f"/proc/{self.options.pid}/statm", encoding="ascii") as fields:
            return int(fields.read().split()[1]) * 4096 / 2**20

    def report(self, begun):
        print(f"{time.monotonic() - begun:6.1f} s  {len(self.left)} left  {dict(self.statuses)}  "
              f"{self.resident_mib():.1f} MiB", flush=True)

    async def read_text(self, reader, head):
        """The text of an answer, streamed or whole; None where it is a refusal."""
        if b"chunked" in head:
            data = b""
            while size := int(await reader.readline(), 16):
                data += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
            events = [json.loads(line[6:]) for line in data.decode().split("\n\n") if line.startswith("data: {")]
            return "".join(event["choices"][0]["text"] for event in events if "choices" in event)
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        answer = json.loads(await reader.readexactly(int(lengths[0].split(b":")[1])))
        return answer["choices"][0]["text"] if "choices" in answer else None

    async def ask(self, reader, writer, number):
        """One request; whether the connection can be used again."""
        leaves = number % LEAVES_EVERY == 0
        writer.write(request_of(number, 200 if leaves else self.options.tokens, leaves or number % 2 == 0))
        head = await reader.readuntil(b"\r\n\r\n")
        if leaves:
            self.statuses["left"] += 1
            writer.close()
            return False
        text = await self.read_text(reader, head)
        self.statuses[int(head[9:12])] += 1
        if text is not None and self.texts.setdefault(number % PROMPTS, text) != text:
            self.failures.append(f"request {number}: {text!r}, and before {self.texts[number % PROMPTS]!r}")
        return b"connection: close" not in head.lower()

    async def ask_reference(self):
        reader, writer = await asyncio.open_connection(*address_of(self.options.same_as))
        for number in range(PROMPTS):
            writer.write(request_of(number, self.options.tokens, False))
            self.texts[number] = await self.read_text(reader, await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def client(self):
        writer = None
        while self.left:
            number = self.left.pop()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                if not await self.ask(reader, writer, number):
                    writer = None
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(f"request {number}: {error!r}")
                writer = None
        if writer:
            writer.close()

    async def run(self):
        if self.options.same_as:
            await self.ask_reference()
        begun = time.monotonic()
        self.report(begun)
        clients = [asyncio.create_task(self.client()) for _ in range(self.options.connections)]
        while any(not client.done() for client in clients):
            await asyncio.wait(clients, timeout=5)
            self.report(begun)
        for client in clients:
            client.result()
        for failure in self.failures[:10]:
            print(failure, file=sys.stderr)
        return 1 if self.failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=4, help="of each answer")
    parser.add_argument("--same-as", metavar="URL", help="of a server whose texts the answers must equal")
    parser.add_argument("--pid", type=int, help="of the server, for its memory")
    return asyncio.run(Load(parser.parse_args()).run())


if __name__ == "__main__":
    sys.exit(main())
