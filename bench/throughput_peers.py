"""Other engines' tokens/s, for bench/throughput.py: llama-bench alone and over rpc-servers, and llama-cpp-python."""
import contextlib
import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import time

import compare

START_S = 60
RPC_PORT = 50052  # inside a testbed, whose devices have nothing else on it
DEVICE_ADDRESS = "10.77.0.{}"


def parse(options):
    """Peers by name: the words of a llama-bench, or None for llama-cpp-python. ValueError: what is wrong."""
    peers = {name: shlex.split(words) for name, _, words in (peer.partition("=") for peer in options.peer)}
    if len(peers) != len(options.peer) or not all(peers.values()):
        raise ValueError("--peer takes NAME=PATH, each name once")
    for name, words in peers.items():
        if not shutil.which(words[0]):
            raise ValueError(f"--peer {name}: there is no program {words[0]}")
    if options.rpc_server and not shutil.which(str(options.rpc_server)):
        raise ValueError(f"--rpc-server: there is no program {options.rpc_server}")
    if options.python:
        found = subprocess.run([options.python, "-c", "import llama_cpp"], stdin=subprocess.DEVNULL, capture_output=True)
        if found.returncode:
            raise ValueError(f"--python: {options.python} has no llama-cpp-python")
        peers["llama-cpp-python"] = None
    if peers and 1 not in options.concurrency:
        raise ValueError("a peer is compared at concurrency 1: add it to --concurrency")
    return peers


def launched(count):
    """Words that start a program on the first `count` devices of a testbed; without a testbed none."""
    mpirun = os.environ.get("SHOAL_MPIRUN")
    return [*shlex.split(mpirun), "-n", str(count)] if mpirun else []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(address, port, processes):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            break
        try:
            return socket.create_connection((address, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
    raise OSError(f"no rpc-server answers at {address}:{port}")


@contextlib.contextmanager
def rpc_servers(options, count):
    """As many as there are nodes, on the testbed's devices where there is one; their addresses as --rpc takes them."""
    program = str(options.rpc_server.resolve())
    threads = ["-t", str(options.threads)]
    if words := launched(count):
        where = [(DEVICE_ADDRESS.format(i + 1), RPC_PORT) for i in range(count)]
        commands = [[*words, program, "-H", "0.0.0.0", "-p", str(RPC_PORT), *threads]]
    else:
        where = [("127.0.0.1", free_port()) for _ in range(count)]
        commands = [[program, "-H", address, "-p", str(port), *threads] for address, port in where]
    processes = [subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                 for words in commands]
    try:
        for address, port in where:
            wait_for(address, port, processes)
        yield ",".join(f"{address}:{port}" for address, port in where)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def bench_rows(prefix, program, options, extra):
    """(test, tokens/s) of each run of a program with llama-bench's arguments."""
    prompts, generate = (",".join(map(str, values)) or "0" for values in (options.prompt, options.generate))
    tests = [["-p", prompts, "-n", generate if 0 in options.depth else "0"]]
    tests += [compare.depth_arguments(program[0], depth, generate) for depth in options.depth if depth]
    rows = []
    for arguments in tests:
        if set(arguments[1::2]) == {"0"}:
            continue
        found, _ = compare.run_json([*prefix, *program, *extra, "-t", str(options.threads), "-r", "1", "-o", "json", *arguments])
        for row in found:
            after_prompt = row["n_gen"] and row["n_prompt"]  # ik_llama.cpp's -gp counts the context as a prompt
            depth = row["n_prompt"] if after_prompt else row.get("n_depth", 0)
            rows.append((compare.test_name(0 if after_prompt else row["n_prompt"], row["n_gen"], depth), row["avg_ts"]))
    return rows


def python_rows(options, model):
    rows = []
    for depth in options.depth:
        for generate in options.generate or [0]:
            found, _ = compare.run_json(
                [options.python, str(pathlib.Path(compare.__file__).resolve()), "--peer-worker", model, str(options.threads),
                 json.dumps(options.prompt), str(0 if depth else generate), str(depth), str(generate if depth else 0)])
            rows += [(compare.test_name(row["n_prompt"], row["n_gen"], row["n_depth"]), row["avg_ts"]) for row in found]
    return rows


def run(options, model, count):
    """(peer, test, tokens/s) on `count` nodes. More than one takes rpc-servers, which llama-cpp-python has not."""
    rows = []
    for name, words in options.peers.items():
        if count > 1 and (words is None or not options.rpc_server):
            continue
        print(f"throughput: {name}, {count} nodes", file=sys.stderr)
        try:
            if words is None:
                found = python_rows(options, model)
            elif count == 1:
                found = bench_rows(launched(1), words, options, ["-m", model])
            else:
                with rpc_servers(options, count) as addresses:
                    found = bench_rows([], words, options, ["-m", model, "--rpc", addresses, "-ngl", "99"])
        except compare.BenchError as error:
            raise OSError(f"{name}: {error}")
        rows += [(name, test, speed) for test, speed in found]
    return rows
