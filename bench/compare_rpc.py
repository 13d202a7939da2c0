#!/usr/bin/env python3
"""Shoal against llama.cpp's RPC backend, both over nodes of one thread each on this machine, in turns.

  bench/compare_rpc.py MODEL.gguf --llama-bin BUILD/bin --rounds 3
  bench/compare_rpc.py MODEL.gguf --llama-bin BUILD/bin --rounds 1 --json out.json     # three times: rounds are added up

BUILD is llama.cpp built with -DGGML_RPC=ON -DGGML_NATIVE=ON, Release, targets llama-bench, llama-server and
ggml-rpc-server (rpc-server in older versions). The peer's nodes are RPC servers of one thread each with the layers split
evenly over them (--tensor-split 1/1), nothing computed by the client; ours are `mpirun -n NODES` on a cluster file with
the layers split evenly by hand and one thread each.

Three tests a round: a prompt (pp512) and one answer (tg128) as llama-bench and shoal bench measure them, and the sum of
generated tokens a second with so many clients at once (8) over HTTP: the same requests to llama-server and to shoal serve.
A ratio above 1 means that Shoal is the faster; it is the median of the rounds' ratios. The record keeps every round.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_S = 180
TARGETS = {"prompt": 3.0, "generation": 1.8, "clients": 4.0}


class BenchError(Exception):
    pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_json(words, env=None):
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if result.returncode:
        raise BenchError(f"`{' '.join(words)}` ended with {result.returncode}:\n{result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)


@contextlib.contextmanager
def running(words, env=None, end=None):
    """A process until the block ends. end(process) asks it to end; a signal to it does otherwise."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)

        def said():
            log.seek(0)
            return log.read()
        process.said = said
        try:
            yield process
        finally:
            (end or (lambda p: p.terminate()))(process)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(process, ready, what):
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{what} did not start:\n{process.said()[-2000:]}")
        time.sleep(0.2)


def reachable(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def healthy(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def ask(port, prompt, generate):
    body = {"prompt": prompt, "max_tokens": generate, "temperature": 0, "ignore_eos": True, "seed": 1}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise BenchError(f"the server answered {answer.status}: {text[:300]}")
    connection.close()
    count = json.loads(text)["usage"]["completion_tokens"]
    if count != generate:
        raise BenchError(f"an answer of {generate} tokens has {count}")
    return count


def clients_speed(options, port):
    """Generated tokens a second, all clients together; the second of two rounds, the first warms up."""
    for seed in (1, 2):
        prompts = [[3 + (seed * 7919 + i * 104729 + j * 31) % 250 for j in range(options.client_prompt)]
                   for i in range(options.clients)]
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
            count = options.client_generate if seed == 2 else 4
            tokens = sum(pool.map(lambda prompt, count=count: ask(port, prompt, count), prompts))
        speed = tokens / (time.monotonic() - begun)
    return speed


class Peer:
    def __init__(self, options):
        self.options = options
        folder = pathlib.Path(options.llama_bin)
        self.server = next((p for p in (folder / "ggml-rpc-server", folder / "rpc-server") if p.exists()), None)
        if self.server is None:
            raise BenchError(f"{folder}: holds no ggml-rpc-server: build llama.cpp with -DGGML_RPC=ON")
        self.folder = folder

    @contextlib.contextmanager
    def nodes(self):
        """The arguments that name two servers that run."""
        with contextlib.ExitStack() as stack:
            ports = []
            for _ in range(self.options.nodes):
                port = free_port()
                process = stack.enter_context(running([str(self.server), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]))
                wait_for(process, lambda port=port: reachable(port), "the RPC server")
                ports.append(port)
            split = "/".join(["1"] * len(ports))
            yield ["--rpc", ",".join(f"127.0.0.1:{port}" for port in ports), "-ngl", "99", "-t", "1", "-m",
                   self.options.model], split

    def alone(self):
        options = self.options
        with self.nodes() as (words, split):
            rows = run_json([str(self.folder / "llama-bench"), *words, "-ts", split, "-p", str(options.prompt),
                             "-n", str(options.generate), "-r", "1", "-o", "json"])
        return {"prompt" if row["n_prompt"] else "generation": row["avg_ts"] for row in rows}

    def clients(self):
        port = free_port()
        with self.nodes() as (words, split):
            words = [str(self.folder / "llama-server"), *words, "-ts", split.replace("/", ","), "--host", "127.0.0.1",
                     "--port", str(port), "-np", str(self.options.clients), "-c", str(512 * self.options.clients),
                     "--fit", "off"]
            with running(words) as process:
                wait_for(process, lambda: healthy(port), "llama-server")
                return {"clients": clients_speed(self.options, port)}


class Shoal:
    def __init__(self, options):
        self.options = options

    def words(self, command, folder):
        options = self.options
        layers = self.layers()
        cuts = [layers * i // options.nodes for i in range(options.nodes + 1)]
        names = [f"node-{i}" for i in range(options.nodes)]
        path = os.path.join(folder, "cluster.yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"cluster: compare\nhead: node-0\nmodel: {options.model}\nnodes:\n")
            for name in names:
                out.write(f"  {name}: {{address: 127.0.0.1, memory: 6GiB, threads: 1}}\n")
            spans = ", ".join(f"{name}: {a}-{b - 1}" for name, a, b in zip(names, cuts, cuts[1:]))
            out.write(f"plan: {{keep-on-head: none, layers: {{{spans}}}}}\n")
        return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(options.nodes), options.program, command, "-c", path]

    def layers(self):
        text = subprocess.run([self.options.program, "inspect", self.options.model], capture_output=True, text=True,
                              check=True).stdout
        found = re.search(r"(\d+) layers", text) or re.search(r"layers\s+(\d+)", text) or re.search(r"block_count\D+(\d+)", text)
        if not found:
            raise BenchError("`shoal inspect` tells no number of layers")
        return int(found[1])

    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def alone(self):
        options = self.options
        with tempfile.TemporaryDirectory() as folder:
            rows = run_json([*self.words("bench", folder), "-p", str(options.prompt), "-n", str(options.generate), "-r", "1",
                             "-o", "json"], self.environment)
        return {"prompt" if row["test"].startswith("pp") else "generation": row["avg_ts"] for row in rows}

    def clients(self):
        pattern = r"on http://\S+:(\d+) \(process (\d+)\)"

        def end(process):
            found = re.search(pattern, process.said())
            os.kill(int(found[2]) if found else process.pid, signal.SIGTERM)
        with tempfile.TemporaryDirectory() as folder:
            words = [*self.words("serve", folder), "--listen", "127.0.0.1:0", "--sequences", str(self.options.clients),
                     "--context", "512"]
            with running(words, self.environment, end) as process:
                wait_for(process, lambda: re.search(pattern, process.said()), "shoal serve")
                return {"clients": clients_speed(self.options, int(re.search(pattern, process.said())[1]))}


def table(record, options):
    names = {"prompt": f"pp{options.prompt}", "generation": f"tg{options.generate}",
             "clients": f"{options.clients} clients, tg{options.client_generate}"}
    lines = ["| test | shoal, tokens/s | rpc-server, tokens/s | ratio (target) | rounds |", "|---|---|---|---|---|"]
    for test, target in TARGETS.items():
        pairs = [(r["shoal"][test], r["peer"][test]) for r in record["rounds"]]
        ratio = statistics.median(a / b for a, b in pairs)
        lines.append(f"| {names[test]} | {statistics.median(a for a, _ in pairs):.1f} | "
                     f"{statistics.median(b for _, b in pairs):.1f} | {ratio:.2f} ({target}: "
                     f"{'reached' if ratio >= target else 'missed'}) | {', '.join(f'{a / b:.2f}' for a, b in pairs)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-bin", required=True, help="folder of llama-bench, llama-server and ggml-rpc-server")
    parser.add_argument("--program", default=str(ROOT / "build/release/shoal"))
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=128)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--client-prompt", type=int, default=8)
    parser.add_argument("--client-generate", type=int, default=64)
    parser.add_argument("--json", help="a record that rounds are added to")
    options = parser.parse_args()
    record = {"rounds": []}
    try:
        if options.json and os.path.exists(options.json):
            with open(options.json, encoding="utf-8") as file:
                record = json.load(file)
        peer, shoal = Peer(options), Shoal(options)
        for _ in range(options.rounds):
            found = {"peer": {}, "shoal": {}}
            for step in ("alone", "clients"):
                found["peer"].update(getattr(peer, step)())
                found["shoal"].update(getattr(shoal, step)())
            print(json.dumps(found), file=sys.stderr, flush=True)
            record["rounds"].append(found)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
    except (BenchError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(record, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
