"""`shoal bench`'s rows as a client of `shoal serve` sees them; for bench/throughput.py --http."""
import concurrent.futures
import http.client
import json
import os
import re
import signal
import subprocess
import time

START_S = 180


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


class Server:
    """`shoal serve` under the launcher's words, until the block ends."""

    def __init__(self, words):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, env=environment)
        said, found, deadline = "", None, time.monotonic() + START_S
        while not found and time.monotonic() < deadline:
            line = self.process.stderr.readline()
            if not line:
                break
            said += line
            found = re.search(r"on http://(\S+):(\d+) \(process (\d+)\)", line)
        if not found:
            self.process.kill()
            raise OSError(f"the server did not start:\n{said}")
        self.host, self.port, self.pid = found[1], int(found[2]), int(found[3])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGTERM)
        self.process.stderr.close()
        self.process.wait(30)

    def open(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        connection.request(method, path, body, {"Content-Type": "application/json", "Host": "localhost"})
        return connection, connection.getresponse()

    def metric(self, name, *by):
        """The values of a metric by some of its labels, joined with " to ", summed over the others."""
        connection, answer = self.open("GET", "/metrics")
        values = {}
        for labels, value in re.findall(rf"^{name}{{([^}}]*)}} (\S+)$", answer.read().decode(), re.M):
            key = " to ".join(re.search(rf'\b{label}="([^"]*)"', labels)[1] for label in by)
            values[key] = values.get(key, 0.0) + float(value)
        connection.close()
        return values

    def answer(self, prompt, generate):
        """When each token of a streamed answer came."""
        body = {"prompt": prompt, "max_tokens": generate, "temperature": 0, "ignore_eos": True, "stream": True, "seed": 1}
        connection, answer = self.open("POST", "/v1/completions", json.dumps(body))
        if answer.status != 200:
            raise OSError(f"the server answered {answer.status}: {answer.read()[:300]}")
        times = []
        while line := answer.readline():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise OSError(event["error"]["message"])
                if event["choices"][0]["text"]:
                    times.append(time.monotonic())
        connection.close()
        return times


def sent_bytes(server):
    return server.metric("shoal_link_sent_bytes_total", "node", "peer")


def measure(server, prompt, generate, concurrency, seed):
    """One row of the JSON that `shoal bench` prints. A piece of text counts as a token: bytes of one character that
    come in several tokens count once."""
    prompts = [[3 + (seed * 7919 + i * 104729 + j * 31) % 250 for j in range(prompt)] for i in range(concurrency)]
    busy, sent = server.metric("shoal_stage_busy_seconds_total", "stage"), sent_bytes(server)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda tokens: server.answer(tokens, generate), prompts))
    end = time.monotonic()
    time.sleep(1.1)  # older figures of the nodes than this are not shown
    busy_after = server.metric("shoal_stage_busy_seconds_total", "stage")
    sent_after = sent_bytes(server)
    answers = [times for times in answers if times]
    all_begun = max(times[0] for times in answers)
    late = [t for times in answers for t in times if t > all_begun]
    gaps = [b - a for times in answers for a, b in zip(times, times[1:]) if b > all_begun]
    firsts = [times[0] - begin for times in answers]
    speed = len(late) / (end - all_begun) if generate > 1 else prompt * concurrency / (all_begun - begin)
    test = f"pp{prompt}" if generate <= 1 else f"tg{generate}" + (f" @ d{prompt}" if prompt > 1 else "")
    return {"test": test, "concurrency": concurrency, "avg_ts": speed,
            "first_token_ms": {"p50": 1e3 * percentile(firsts, 0.5), "p99": 1e3 * percentile(firsts, 0.99)},
            "between_tokens_ms": {"p50": 1e3 * percentile(gaps, 0.5), "p99": 1e3 * percentile(gaps, 0.99)},
            "stage_busy": [(busy_after[s] - busy[s]) / (end - begin) for s in sorted(busy, key=int)],
            "link_bytes_per_token": {link: (sent_after[link] - sent.get(link, 0)) / (concurrency * (prompt + generate))
                                     for link in sent_after}}


def rows(words, tests, concurrencies):
    """tests: (prompt, generate). Each is run twice; the first warms up."""
    with Server(words) as server:
        found = []
        for prompt, generate in tests:
            for concurrency in concurrencies:
                measure(server, prompt, generate, concurrency, 1)
                found.append(measure(server, prompt, generate, concurrency, 2))
        stages = len(found[0]["stage_busy"]) if found else 0
        return [{**row, "nodes": stages} for row in found]
