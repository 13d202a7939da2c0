"""A cluster whose nodes join by address, as real processes, to be killed, stopped and brought back: on loopback, or each
in a place of its own (bench/testbed makes such)."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from support import ENVIRONMENT, MODEL, PROGRAM

PROMPT = "The lighthouse keeper opened his book and began to read aloud: "


# Without keys a server answers to its own machine's names alone.
HEADERS = {"Content-Type": "application/json", "Host": "localhost"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Place:
    """Where a process runs: the address that others reach it by, and the words before its command."""

    def __init__(self, address="127.0.0.1", words=()):
        self.address, self.words = address, list(words)


class Stream(threading.Thread):
    """A streamed answer: its text, when each piece came, and how it ended."""

    def __init__(self, cluster, body):
        super().__init__(daemon=True)
        self.cluster, self.body = cluster, body
        self.text, self.error, self.status, self.ended = "", None, None, False
        self.times = []
        self.start()

    def run(self):
        try:
            connection = http.client.HTTPConnection(self.cluster.places[0].address, self.cluster.http_port, timeout=120)
            connection.request("POST", "/v1/completions", json.dumps({**self.body, "stream": True}), HEADERS)
            answer = connection.getresponse()
            self.status, self.headers = answer.status, dict(answer.headers)
            if answer.status != 200:
                self.error = json.loads(answer.read())["error"]
                return
            for line in answer:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        self.error = event["error"]
                    elif event["choices"]:
                        self.text += event["choices"][0]["text"]
                        self.times.append(time.monotonic())
                elif line.startswith(b"data: [DONE]"):
                    self.ended = True
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            self.error = {"message": str(error), "code": "connection"}

    def wait_for_pieces(self, count, seconds=60):
        deadline = time.monotonic() + seconds
        while len(self.times) < count and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        return len(self.times) >= count

    def gap_after(self, moment):
        """Seconds from `moment` to the first piece that came after the longest silence since then."""
        times = [moment] + [t for t in self.times if t > moment]
        gaps = [(b - a, b - moment) for a, b in zip(times, times[1:])]
        return max(gaps)[1] if gaps else float("inf")


class Elastic:
    """`with Elastic(folder, nodes=3) as cluster`: node-0 is the head; the others join it."""

    def __init__(self, folder, nodes=3, memory="220MiB", context=1024, sequences=4, options=(), layers=None,
                 places=None, keys=""):
        self.folder, self.memory = folder, memory
        self.places = places or [Place()] * (nodes + 1)  # the last one is for visitors
        self.names = [f"node-{i}" for i in range(nodes)]
        self.port = free_port()
        self.config = os.path.join(folder, f"elastic-{self.port}.yaml")
        self.options = list(options)
        self.processes, self.http_port = {}, None
        self.invited, self.invitations = set(), []
        self.own_environment = {}  # of single nodes, by name
        self.environment = {**ENVIRONMENT, "XDG_DATA_HOME": os.path.join(folder, f"data-{self.port}"),
                            "XDG_CACHE_HOME": os.path.join(folder, "cache")}
        text = f"cluster: test\ncontext: {context}\nsequences: {sequences}\nhead: node-0\n{keys}nodes:\n"
        for i, name in enumerate(self.names):
            port = f", port: {self.port}" if i == 0 else ""
            text += f"  {name}: {{address: {self.places[i].address}, memory: {memory}, threads: 1{port}}}\n"
        text += "links:\n"
        for i in range(nodes):
            for j in range(i):
                text += f"  - {{between: [{self.names[j]}, {self.names[i]}], bandwidth: 10Gbps, latency: 30us}}\n"
        if layers:
            text += "plan: {keep-on-head: none, layers: {"
            text += ", ".join(f"{name}: {span}" for name, span in zip(self.names, layers)) + "}}\n"
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(text)

    def log_path(self, name):
        return os.path.join(self.folder, f"{name}-{self.port}.log")

    def log(self, name):
        with open(self.log_path(name), encoding="utf-8", errors="replace") as text:
            return text.read()

    def place(self, name):
        return self.places[self.names.index(name) if name in self.names else len(self.names)]

    def spawn(self, name, arguments):
        with open(self.log_path(name), "ab") as log:
            self.processes[name] = subprocess.Popen([*self.place(name).words, PROGRAM, *arguments],
                                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                                                    env={**self.environment, **self.own_environment.get(name, {})})

    def start_head(self):
        begun = os.path.getsize(self.log_path("node-0")) if os.path.exists(self.log_path("node-0")) else 0
        self.spawn("node-0", ["serve", "-c", self.config, "-m", MODEL, "--await-nodes", "--listen",
                              f"{self.places[0].address}:0", *self.options])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = re.findall(r"serving .* on http://[\d.]+:(\d+)", self.log("node-0")[begun:])
            if found:
                self.http_port = int(found[0])
                return
            if self.processes["node-0"].poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError("the head did not start:\n" + self.log("node-0"))

    def invite(self, *options):
        """A token, and the process that waits for who comes with it."""
        process = subprocess.Popen([*self.places[0].words, PROGRAM, "invite", "-c", self.config, *options], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)
        self.invitations.append(process)
        for line in process.stdout:
            if "--token " in line:
                return line.split("--token ")[1].strip(), process
        raise AssertionError("no token: " + process.stderr.read())

    def start_node(self, name, memory=None, options=None):
        """With its model file, unless `options` say otherwise. The first time it is invited."""
        arguments = ["node", "--join", f"{self.places[0].address}:{self.port}", "--name", name, "-t", "1",
                     "--memory", memory or self.memory, "--address", self.place(name).address,
                     *(["-m", MODEL] if options is None else options)]
        if name not in self.invited:
            arguments += ["--token", self.invite("--name", name)[0]]
            self.invited.add(name)
        self.spawn(name, arguments)

    def __enter__(self):
        try:
            self.start_head()
            for name in self.names[1:]:
                self.start_node(name)
            self.wait_for(lambda: self.state() == "running", 60, "a first plan")
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind, *_):
        for name, process in self.processes.items():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM if name == "node-0" else signal.SIGKILL)
        for process in self.invitations:
            process.kill()
            process.communicate()
        code = self.processes["node-0"].wait(40)
        for process in self.processes.values():
            process.wait(10)
        if kind is None and code not in (0, 1, -signal.SIGKILL):
            raise AssertionError(f"the head ended with {code}:\n{self.log('node-0')}")

    def signal(self, name, number):
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait(10)

    # ---- What the head says ----

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.places[0].address, self.http_port, timeout=60)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, HEADERS)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def status(self):
        return json.loads(self.request("GET", "/status.json")[2])

    def state(self):
        return self.status()["state"]

    def node_state(self, name):
        return next((node["state"] for node in self.status()["nodes"] if node["name"] == name), "unknown")

    def used(self):
        """Names of the nodes that compute stages, the head left out, in pipeline order."""
        return [stage["node"] for stage in self.status()["stages"] if stage["node"] != "node-0"]

    def metric(self, name):
        found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.request("GET", "/metrics")[2].decode(), re.M)
        return float(found[1])

    def wait_for(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come within {seconds} s; the head said:\n{self.log('node-0')}")
            time.sleep(0.02)

    # ---- Answers ----

    def body(self, tokens, prompt=PROMPT, **more):
        return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}

    def stream(self, tokens, prompt=PROMPT, **more):
        return Stream(self, self.body(tokens, prompt, **more))

    def complete(self, tokens, prompt=PROMPT, **more):
        status, _, answer = self.request("POST", "/v1/completions", self.body(tokens, prompt, **more))
        if status != 200:
            raise AssertionError(f"{status}: {answer}")
        return json.loads(answer)["choices"][0]["text"]
