"""Adapters in real processes: the same text from one process and from a cluster, requests side by side, and refusals."""

import array
import json
import os
import random
import re
import signal
import struct
import subprocess
import threading
import unittest

from elastic import PROMPT as ELASTIC_PROMPT, Elastic
from server import Server
from support import ENVIRONMENT, MODEL, PROGRAM, ClusterTest, cluster_file, even_layers, run

PROMPT = "The history of navigation by the stars began when sailors noticed that"
GREEDY = ["-q", "--raw", "-p", PROMPT, "--temp", "0", "--ignore-eos", "-n", "24"]
LAYERS, N_EMBD, N_FF, RANK = 30, 576, 1536, 4


def write_adapter(path, seed, architecture="llama", n_in=N_EMBD, deviation=0.3):
    """A random adapter of attn_q and ffn_down for SmolLM2-135M."""
    numbers = random.Random(seed)
    tensors = []
    for layer in range(LAYERS):
        for name, cols, rows in (("attn_q", n_in, N_EMBD), ("ffn_down", N_FF, N_EMBD)):
            for half, dims, size in (("a", (cols, RANK), cols ** -0.5), ("b", (RANK, rows), deviation)):
                values = array.array("f", (numbers.gauss(0, size) for _ in range(dims[0] * dims[1])))
                tensors.append((f"blk.{layer}.{name}.weight.lora_{half}", dims, values.tobytes()))

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 4)
    for key, value in (("general.architecture", architecture), ("general.type", "adapter"), ("adapter.type", "lora")):
        header += text(key) + struct.pack("<I", 8) + text(value)
    header += text("adapter.lora.alpha") + struct.pack("<If", 6, 8)
    data = b""
    for name, dims, values in tensors:
        header += text(name) + struct.pack("<IQQIQ", 2, *dims, 0, len(data))
        data += values + b"\0" * (-len(values) % 32)
    header += b"\0" * (-len(header) % 32)
    with open(path, "wb") as out:
        out.write(header + data)
    return path


class Lora(ClusterTest):
    def setUp(self):
        super().setUp()
        self.tone = write_adapter(os.path.join(self.folder, "tone.gguf"), 1)
        self.law = write_adapter(os.path.join(self.folder, "law.gguf"), 2)
        self.adapters = ["--adapter", "tone=" + self.tone, "--adapter", "law=" + self.law]

    def test_a_cluster_says_what_one_process_says(self):
        plain = self.answer([MODEL, *GREEDY])
        tone = self.answer([MODEL, *self.adapters, "--lora", "tone", *GREEDY])
        law = self.answer([MODEL, *self.adapters, "--lora", "law:0.5", *GREEDY])
        self.assertEqual(len({plain, tone, law}), 3)
        self.assertEqual(self.answer([MODEL, *self.adapters, *GREEDY]), plain)
        self.assertEqual(self.answer([MODEL, *self.adapters, "--lora", "tone:0", *GREEDY]), plain)
        path = cluster_file(self.folder, 3, even_layers(3))
        with open(path, "a", encoding="utf-8") as out:
            out.write("adapters: {tone: tone.gguf, law: law.gguf}\n")
        cluster = ["-c", path, "-m", MODEL]
        self.assertEqual(self.answer([*cluster, "--lora", "tone", *GREEDY], 3), tone)
        self.assertEqual(self.answer([*cluster, "--lora", "law:0.5", *GREEDY], 3), law)
        self.assertEqual(self.answer([*cluster, *GREEDY], 3), plain)

    def test_nodes_without_the_file_fetch_their_share(self):
        tone = self.answer([MODEL, *self.adapters, "--lora", "tone", *GREEDY])
        path = cluster_file(self.folder, 3, even_layers(3))

        def answer(folders, code=0):
            parts = []
            for rank, folder in enumerate(folders):
                parts += [":"] if parts else []
                parts += ["-n", "1", "env", f"XDG_CACHE_HOME={self.folder}/cache-{rank}", PROGRAM, "run", "-c", path, "-m",
                          MODEL, *(f"--adapter={name}={os.path.join(folder, name)}.gguf" for name in ("law", "tone")),
                          "--lora", "tone", *GREEDY]
            result = subprocess.run(["mpirun", "--quiet", *parts], capture_output=True, timeout=180, env=ENVIRONMENT,
                                    stdin=subprocess.DEVNULL, check=False)
            text = result.stderr.decode(errors="replace")
            self.assertEqual(result.returncode, code, text)
            if code == 0:
                self.assertEqual(result.stdout, tone, text)
            return text

        nowhere = os.path.join(self.folder, "nowhere")
        said = re.compile(r"node (node-\d) has no file of adapter 'tone': ([\d.]+) KiB of weights, (\S+ \w+) of them on its "
                          r"disk, (\S+ \w+) fetched")
        size = LAYERS // 3 * RANK * (3 * N_EMBD + N_FF) * 4 / 1024  # of a third of the layers
        for cached in (False, True):  # the second start finds what the first fetched
            found = said.findall(answer([self.folder, nowhere, nowhere]))
            self.assertEqual(sorted(one[0] for one in found), ["node-1", "node-2"])
            for _, needed, on_disk, fetched in found:
                self.assertAlmostEqual(float(needed), size, delta=1)
                self.assertEqual((on_disk, fetched)[cached], "0 B")
        other = os.path.join(self.folder, "other")
        os.mkdir(other)
        write_adapter(os.path.join(other, "tone.gguf"), 3)
        self.assertRegex(answer([self.folder, nowhere, other], 2),
                         "node node-2 has another file of adapter 'tone' than the head node-0: give both the same")
        self.assertRegex(answer([nowhere, self.folder, self.folder], 2), "node node-0: .*nowhere/law.gguf")

    def test_requests_side_by_side(self):
        base = os.path.basename(MODEL)[:-len(".gguf")]
        body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        wishes = [{}, {"lora": "tone"}, {"model": base + ":law"}, {"model": base + ":tone"}, {"lora": "law:0.5"},
                  {"model": "default"}]
        with Server([MODEL, *self.adapters, "--sequences", "6", "--context", "256"]) as server:
            self.assertEqual([model["id"] for model in server.get_json("/v1/models")["data"]],
                             [base, base + ":tone", base + ":law"])
            self.assertEqual(server.get_json(f"/v1/models/{base}:law")["id"], base + ":law")

            def text(wish):
                status, answer = server.post("/v1/completions", {**body, **wish})
                self.assertEqual(status, 200, answer)
                return answer["choices"][0]["text"]

            alone = [text(wish) for wish in wishes]
            self.assertEqual(len(set(alone)), 4)
            self.assertEqual(alone[1], alone[3])
            together = [None] * len(wishes)

            def ask(i):
                together[i] = text(wishes[i])

            threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(wishes))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(together, alone)
            for wish, status, said in (({"lora": "none"}, 400, "there is no adapter 'none'; there are: tone, law"),
                                       ({"model": base + ":none"}, 404, "there is no adapter"),
                                       ({"lora": "tone:x"}, 400, "scale of an adapter"),
                                       ({"model": base + ":law", "lora": "tone"}, 400, "names an adapter already")):
                code, answer = server.post("/v1/completions", {**body, **wish})
                self.assertEqual(code, status, answer)
                self.assertIn(said, answer["error"]["message"])
        for wish, arguments in ((0, []), (1, ["--lora", "tone"]), (4, ["--lora", "law:0.5"])):
            said = self.answer([MODEL, *self.adapters, *arguments, *GREEDY]).decode()
            self.assertEqual(said.rstrip("\n"), alone[wish].rstrip("\n"))

    def test_a_signed_model_wants_its_adapters_signed(self):
        def shoal(*arguments, code=0):
            result = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=180, env=ENVIRONMENT,
                                    stdin=subprocess.DEVNULL, check=False)
            self.assertEqual(result.returncode, code, result.stderr.decode())
            return result

        link = os.path.join(self.folder, "model.gguf")  # the signature lies beside it
        os.symlink(MODEL, link)
        mine, other = os.path.join(self.folder, "mine.key"), os.path.join(self.folder, "other.key")
        shoal("sign", link, "--new-key", mine)
        shoal("sign", "--new-key", other)
        key = ["--model-key", mine + ".pub"]
        arguments = ["--adapter", "tone=" + self.tone, "--lora", "tone", *GREEDY]
        tone = self.answer([MODEL, *arguments])
        self.assert_refused(run(["run", link, *key, *arguments]), 2, "tone.gguf.*signature|signature.*tone.gguf")
        shoal("sign", self.tone, "--key", other)
        self.assert_refused(run(["run", link, *key, *arguments]), 2, "tone.gguf.*was not made with the key")
        shoal("sign", self.tone, "--key", mine)
        self.assertEqual(self.answer([link, *key, *arguments]), tone)
        # A cluster whose other nodes fetch what the head has vouched for, by the signed manifest.
        path = cluster_file(self.folder, 3, even_layers(3))
        with open(path, "a", encoding="utf-8") as out:
            out.write("adapters: {tone: tone.gguf}\nmodel: model.gguf\nmodel-key: %s\n" % os.path.basename(key[1]))
        self.assertEqual(self.answer(["-c", path, "--lora", "tone", *GREEDY], 3), tone)
        with open(self.tone, "r+b") as adapter:  # a weight is changed behind the signature's back
            adapter.seek(-8, os.SEEK_END)
            adapter.write(b"\1\2\3\4")
        self.assert_refused(run(["run", link, *key, *arguments]), 2, "tone.gguf")
        self.assert_refused(run(["run", "-c", path, "--lora", "tone", *GREEDY], 3), 2, "tone.gguf")

    def test_what_overflows_ends_alone_and_nobody_is_blamed(self):
        huge = write_adapter(os.path.join(self.folder, "huge.gguf"), 3, deviation=3e37)
        cluster = Elastic(self.folder, nodes=2, memory="150MiB", sequences=3)  # one alone is too small
        with open(cluster.config, "a", encoding="utf-8") as out:
            out.write(f"adapters: {{tone: {self.tone}, huge: {huge}}}\n")
        with cluster:
            plain, tone = cluster.complete(150), cluster.complete(150, lora="tone")
            streams = [cluster.stream(150), cluster.stream(150, lora="tone")]
            self.assertTrue(all(stream.wait_for_pieces(10) for stream in streams))
            for _ in range(8):
                status, _, answer = cluster.request("POST", "/v1/completions", {
                    "prompt": ELASTIC_PROMPT, "max_tokens": 4, "lora": "huge:100"})
                self.assertEqual(status, 400, answer)
                self.assertIn("ask for a smaller scale", json.loads(answer)["error"]["message"])
            for stream, expected in zip(streams, (plain, tone)):
                stream.join(60)
                self.assertIsNone(stream.error)
                self.assertEqual(stream.text, expected)
            self.assertEqual({event["kind"] for event in cluster.status()["events"]} & {"failed", "suspect", "lost"}, set())

    def test_a_node_is_lost_and_one_without_files_takes_its_layers(self):
        cluster = Elastic(self.folder, nodes=2, memory="150MiB", sequences=2)  # one alone is too small
        with open(cluster.config, "a", encoding="utf-8") as out:
            out.write(f"adapters: {{tone: {self.tone}, law: {self.law}}}\n")
        with cluster:
            plain, tone = cluster.complete(150), cluster.complete(150, lora="tone")
            self.assertNotEqual(plain, tone)
            cluster.start_node("visitor", options=[])
            cluster.wait_for(lambda: cluster.node_state("visitor") in ("spare", "in use"), 20, "the visitor")
            streams = [cluster.stream(150), cluster.stream(150, lora="tone")]
            self.assertTrue(all(stream.wait_for_pieces(10) for stream in streams))
            cluster.signal("node-1", signal.SIGKILL)
            for stream, expected in zip(streams, (plain, tone)):
                stream.join(90)
                self.assertIsNone(stream.error)
                self.assertEqual(stream.text, expected)
            self.assertEqual(cluster.used(), ["visitor"])
            self.assertIn("visitor has no file of adapter '1'", cluster.log("visitor"))
            alone = self.answer([MODEL, *self.adapters, "--lora", "tone", "-q", "--raw", "-p", ELASTIC_PROMPT, "--temp",
                                 "0", "--ignore-eos", "-n", "150"]).decode()
            self.assertEqual(tone.rstrip("\n"), alone.rstrip("\n"))

    def refused(self, said, *arguments):
        self.assert_refused(run(["run", MODEL, *arguments, *GREEDY]), 2, said)

    def test_refusals(self):
        self.refused("--lora: there is no adapter 'tune'; there are: tone", "--adapter", "tone=" + self.tone,
                     "--lora", "tune")
        self.refused("--lora: there is no adapter 'tone'; none was loaded", "--lora", "tone")
        self.refused("write it NAME=FILE.gguf", "--adapter", self.tone)
        self.refused("two adapters 'a'", "--adapter", "a=" + self.tone, "--adapter", "a=" + self.law)
        self.refused("tune.gguf", "--adapter", "tone=" + os.path.join(self.folder, "tune.gguf"))
        self.refused("adapter 'model': .*is no adapter but 'model'", "--adapter", "model=" + MODEL)
        other = write_adapter(os.path.join(self.folder, "other.gguf"), 1, architecture="qwen2")
        self.refused("adapter 'o': .*for the architecture 'qwen2', and the model is a 'llama'", "--adapter", "o=" + other)
        wide = write_adapter(os.path.join(self.folder, "wide.gguf"), 1, n_in=N_EMBD + 32)
        self.refused("does not fit 'blk.0.attn_q.weight'", "--adapter", "w=" + wide)

    def test_the_plan_counts_adapters(self):
        path = cluster_file(self.folder, 1)

        def weights(*adapters):
            result = run(["plan", "-c", path, "-m", MODEL, "--json", *adapters])
            self.assertEqual(result.returncode, 0, result.stderr.decode())
            return json.loads(result.stdout)["stages"][0]["memory_bytes"]["weights"]

        pairs = RANK * (N_EMBD + N_EMBD) + RANK * (N_FF + N_EMBD)
        grown = weights("--adapter", "tone=" + self.tone) - weights()
        self.assertGreaterEqual(grown, LAYERS * pairs * 4)
        self.assertLess(grown, LAYERS * pairs * 4 * 4)  # rows are packed in groups of 16


if __name__ == "__main__":
    unittest.main()
