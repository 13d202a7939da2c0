"""A running `shoal serve` for tests, and requests to it with Python's own http.client."""

import http.client
import json
import os
import re
import signal
import threading
import time

from support import MODEL, start


class Server:
    """`with Server([...]) as server`: serves until the block ends, which must be with exit code 0."""

    def __init__(self, arguments=(MODEL,), ranks=0, key=None):
        self.process = start(["serve", *arguments, "--listen", "127.0.0.1:0"], ranks)
        self.key = key
        self.log = ""
        self.serving = threading.Event()
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()
        if not self.serving.wait(120) or not self.port:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + self.log)

    port = head_pid = None

    def read_log(self):
        for line in self.process.stderr:
            self.log += line.decode(errors="replace")
            found = re.search(r"serving .* on http://127.0.0.1:(\d+) \(process (\d+)\)", self.log)
            if found and not self.port:
                self.port, self.head_pid = int(found[1]), int(found[2])
                self.serving.set()
        self.serving.set()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            os.kill(self.head_pid, signal.SIGTERM)
        try:
            code = self.process.wait(30)
        except Exception:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        finally:
            self.reader.join(5)
            self.process.stdout.close()
            self.process.stderr.close()
        if kind is None and code != 0:
            raise AssertionError(f"the server ended with {code}:\n{self.log}")

    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def headers(self, more=None):
        return {**({"Authorization": "Bearer " + self.key} if self.key else {}), **(more or {})}

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body) of one request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path, body):
        """(status, object) of a JSON request. A text is sent as it is."""
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, answer = self.request("POST", path, text, {"Content-Type": "application/json"})
        return status, json.loads(answer)

    def get_json(self, path):
        return json.loads(self.request("GET", path)[2])

    def stream(self, path, body, events_max=None):
        """The events of a streamed answer; after events_max of them the client hangs up."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}),
                           self.headers({"Content-Type": "application/json"}))
        answer = connection.getresponse()
        events = []
        if answer.status != 200:
            raise AssertionError(answer.read())
        while events_max is None or len(events) < events_max:
            line = answer.readline()
            if not line:
                break
            if line.startswith(b"data: "):
                events.append(line[6:].strip())
        answer.close()
        connection.close()
        return events

    def metric(self, name):
        text = self.request("GET", "/metrics")[2].decode()
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.M))

    def wait_for(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True
