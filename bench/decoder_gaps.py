#!/usr/bin/env python3
"""What those who are reading an answer notice when somebody sends a long prompt: time between tokens with and without it.

  bench/decoder_gaps.py -c CLUSTER.yaml --nodes 2
  bench/testbed exec --devices 4 --cpu 0.2 --objective throughput --sequences 8 --context 4608 --model MODEL.gguf -- \\
    bench/decoder_gaps.py --nodes 4 --listen 10.77.0.1:0

Starts `shoal serve` on the first --nodes nodes of the cluster file. --decoders clients stream answers; when each has
--tokens of them a prompt of --prompt tokens comes in. Then the same answers are streamed again over the same tokens, with
no prompt. Prints one JSON object: p50, p99 and the longest time between tokens of the decoders without the prompt and while
it was read, and the time to its first token beside them. Options after `--` go to shoal serve.
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

import http_bench
import throughput

GIVE_UP_S = 500


class Decoder(threading.Thread):
    """A client that reads an answer until it is told to leave."""

    def __init__(self, server, number, tokens_max):
        super().__init__(daemon=True)
        self.server, self.number, self.tokens_max = server, number, tokens_max
        self.times, self.leave, self.error = [], False, None

    def run(self):
        prompt = [3 + (self.number * 104729 + i * 31) % 250 for i in range(16)]
        body = {"prompt": prompt, "max_tokens": self.tokens_max, "temperature": 0, "ignore_eos": True, "stream": True}
        try:
            connection, answer = self.server.open("POST", "/v1/completions", json.dumps(body))
            if answer.status != 200:
                raise OSError(f"the server answered {answer.status}: {answer.read()[:300]}")
            while not self.leave and (line := answer.readline()):
                if line.startswith(b"data: {") and json.loads(line[6:]).get("choices", [{}])[0].get("text"):
                    self.times.append(time.monotonic())
            connection.close()
        except (OSError, ValueError) as error:
            self.error = error


def wait_for(decoders, tokens):
    deadline = time.monotonic() + GIVE_UP_S
    while min(len(decoder.times) for decoder in decoders) < tokens:
        for decoder in decoders:
            if decoder.error:
                raise OSError(f"a decoder: {decoder.error}")
            if not decoder.is_alive():
                raise OSError("a decoder's answer ended early: raise --tokens-max")
        if time.monotonic() > deadline:
            raise OSError(f"not {tokens} tokens each in {GIVE_UP_S} s")
        time.sleep(0.01)


def gaps_between(decoders, begin, end):
    """Of all decoders, those too that were open when the time began or ended."""
    return [b - a for decoder in decoders for a, b in zip(decoder.times, decoder.times[1:]) if begin < b and a < end]


def describe(gaps):
    return {"p50_ms": 1e3 * http_bench.percentile(gaps, 0.5), "p99_ms": 1e3 * http_bench.percentile(gaps, 0.99),
            "max_ms": 1e3 * max(gaps, default=0), "count": len(gaps)}


def start_decoders(server, options):
    decoders = [Decoder(server, i, options.tokens_max) for i in range(options.decoders)]
    for decoder in decoders:
        decoder.start()
    wait_for(decoders, 8 + options.tokens)
    return decoders


def stop(decoders):
    for decoder in decoders:
        decoder.leave = True
    for decoder in decoders:
        decoder.join(60)


def measure(server, options):
    decoders = start_decoders(server, options)
    sent = time.monotonic()
    prompt = [3 + (i * 7919 + i * i) % 250 for i in range(options.prompt)]
    answered = server.answer(prompt, 1)
    end = answered[0] if answered else time.monotonic()  # a token without text counts as well
    stop(decoders)
    beside = describe(gaps_between(decoders, sent, end))
    # The same answers once more, over the same tokens, with no prompt beside them: a token takes longer the more there are
    # before it.
    tokens = max(sum(t <= end for t in decoder.times) for decoder in decoders)
    decoders = start_decoders(server, options)
    begin = time.monotonic()
    wait_for(decoders, tokens)
    end_alone = time.monotonic()
    stop(decoders)
    without = describe(gaps_between(decoders, begin, end_alone))
    return {"decoders": options.decoders, "prompt": options.prompt, "tokens": tokens, "without": without, "beside": beside,
            "p99_ratio": beside["p99_ms"] / without["p99_ms"], "first_token_s": end - sent}


def main():
    arguments, extra = sys.argv[1:], []
    if "--" in arguments:
        extra = arguments[arguments.index("--") + 1 :]
        arguments = arguments[: arguments.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--cluster", type=pathlib.Path, default=os.environ.get("SHOAL_CLUSTER"))
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--decoders", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=100, help="of each decoder until the prompt comes")
    parser.add_argument("--tokens-max", type=int, default=3000, help="of each decoder in all")
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--program", type=pathlib.Path, default=throughput.ROOT / "build/release/shoal")
    options = parser.parse_args(arguments)
    if not options.cluster:
        parser.error("which cluster file? -c FILE")
    with tempfile.TemporaryDirectory(prefix="shoal-gaps-") as folder:
        text = throughput.cut_cluster(options.cluster.read_text(), options.nodes, options.cluster)
        cluster = pathlib.Path(folder) / "cluster.yaml"
        cluster.write_text(throughput.absolute_model(text, options.cluster.parent))
        words = [*throughput.launch_count(throughput.launch_words(), options.nodes), str(options.program.resolve()), "serve",
                 "-c", str(cluster), "--listen", options.listen, "--without-api-key", *extra]
        with http_bench.Server(words) as server:
            print(json.dumps({"nodes": options.nodes, **measure(server, options)}))


if __name__ == "__main__":
    try:
        main()
    except (throughput.BenchError, OSError) as error:
        print(f"decoder_gaps: {error}", file=sys.stderr)
        sys.exit(1)
