"""A weight changes in the memory of a node that computes, as in a device whose memory or processor is bad: one bit, which
--verify finds, and to what is not a number, which the stage itself finds. The bytes are changed from outside, through
/proc/PID/mem."""

import re
import struct
import time
import unittest

from elastic import Elastic
from server import Server
from support import MODEL, ClusterTest, cluster_file, even_layers

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's plain values, by type
IMPROVE_EVERY = 5  # seconds between two looks for a better plan (node/recovery.h)


def norms_of(path):
    """Bytes of each layer's blk.N.ffn_norm.weight (F32) in a GGUF file."""
    with open(path, "rb") as file:
        def number(kind):
            return struct.unpack("<" + kind, file.read(struct.calcsize(kind)))[0]

        def text():
            return file.read(number("Q")).decode()

        def skip(kind):
            if kind == 8:
                text()
            elif kind == 9:
                kind, count = number("I"), number("Q")
                for _ in range(count):
                    skip(kind)
            else:
                file.read(SIZES[kind])

        file.read(8)
        tensors, keys = number("Q"), number("Q")
        alignment = 32
        for _ in range(keys):
            key, kind = text(), number("I")
            if key == "general.alignment":
                alignment = number("I")
            else:
                skip(kind)
        found = {}
        for _ in range(tensors):
            name = text()
            dims = [number("Q") for _ in range(number("I"))]
            kind, offset = number("I"), number("Q")
            layer = re.fullmatch(r"blk\.(\d+)\.ffn_norm\.weight", name)
            if layer and kind == 0:
                found[int(layer[1])] = (offset, 4 * dims[0])
        begin = (file.tell() + alignment - 1) // alignment * alignment
        norms = {}
        for layer, (offset, size) in found.items():
            file.seek(begin + offset)
            norms[layer] = file.read(size)
        return norms


def change_in_memory(pid, old, new):
    """Writes `new` over each copy of `old` in a process's own memory; how many there were."""
    count = 0
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(begin)
                held = memory.read(end - begin)
            except OSError:
                continue
            at = held.find(old)
            while at >= 0:
                memory.seek(begin + at)
                memory.write(new)
                count += 1
                at = held.find(old, at + 1)
    return count


class WrongNumbers(ClusterTest):
    def spoil(self, cluster, bits):
        """Changes a weight of a layer that the last worker in the pipeline computes; its name."""
        stage = next(stage for stage in reversed(cluster.status()["stages"])
                     if stage["node"] != "node-0" and stage["layer_begin"] < stage["layer_end"])
        norm = norms_of(MODEL)[stage["layer_begin"]]
        first = struct.unpack("<I", norm[:4])[0]
        spoiled = struct.pack("<I", bits(first)) + norm[4:]
        self.assertGreater(change_in_memory(cluster.processes[stage["node"]].pid, norm, spoiled), 0)
        return stage["node"]

    def wait_until_settled(self, cluster):
        """Until all nodes are in and no better plan is taken up any more: on a busy machine the first is made before the last
        has joined, and a fault is a moment to move layers."""
        states = ("in use", "spare")
        cluster.wait_for(lambda: all(cluster.node_state(name) in states for name in cluster.names[1:]), 60, "all nodes")
        plan = None
        while plan != cluster.status()["plan"]:
            plan = cluster.status()["plan"]
            time.sleep(IMPROVE_EVERY + 1)

    def failures_of(self, cluster, node):
        text = cluster.request("GET", "/metrics")[2].decode()
        found = re.search(rf'^shoal_step_failures_total{{at="{node}"}} (\d+)$', text, re.M)
        return int(found[1]) if found else 0

    def ask_until_suspect(self, cluster, name):
        """Answers under way when a difference is found end with an error of its own kind. The first difference may be one
        that could be another's doing."""
        for i in range(30):
            stream = cluster.stream(900, f"{i}. A prompt that no cache holds")
            stream.join(90)
            if stream.error is not None:
                self.assertEqual(stream.error["code"], "pipeline_unavailable")
            cluster.wait_for(lambda: cluster.state() == "running", 30, "a plan")
            found = [text for text in self.suspicions(cluster) if re.match(
                rf"node {name} is suspect .*: node {name} \(layers \d+-\d+\) computed other numbers than the head \(--verify, positions", text)]
            if found:
                return self.assertIsNotNone(stream.error)
        return self.fail("it is not suspect; the head said:\n" + cluster.log("node-0"))

    def suspicions(self, cluster):
        return [event["text"] for event in cluster.status()["events"] if event["kind"] == "suspect"]

    def test_a_weight_changes_in_memory(self):
        with Elastic(self.folder, nodes=4, options=["--verify", "100%"]) as cluster:
            self.wait_until_settled(cluster)
            expected = cluster.complete(60)
            # What is not a number is found where it is made: computed again, then the node goes, and the answer goes on.
            broken = self.spoil(cluster, lambda _: 0x7FC00000)
            stream = cluster.stream(60)
            stream.join(90)
            self.assertIsNone(stream.error)
            self.assertEqual(stream.text, expected)
            self.assertEqual(cluster.node_state(broken), "suspect")
            self.assertNotIn(broken, cluster.used())
            self.assertEqual(self.failures_of(cluster, broken), 2)
            self.assertEqual(cluster.metric("shoal_nodes_suspect"), 1)
            self.assertRegex(self.suspicions(cluster)[-1], rf"node {broken} \(layers \d+-\d+\).*not finite")
            self.assertEqual(cluster.metric("shoal_verify_differences_total"), 0)
            # One bit looks right: only who computes it again finds it, and ends the answer, which may be wrong already.
            wrong = self.spoil(cluster, lambda bits: bits ^ 1 << 21)
            self.ask_until_suspect(cluster, wrong)
            self.assertEqual(cluster.node_state(wrong), "suspect")
            self.assertNotIn(wrong, cluster.used())
            self.assertIn(cluster.metric("shoal_verify_differences_total"), (1, 2))
            self.assertEqual(cluster.complete(60), expected)
            verified = cluster.status()["verify"]
            self.assertEqual((verified["share"], verified["failures"]), (1, 0))
            self.assertEqual(verified["steps"], cluster.metric("shoal_verified_steps_total"))

    def test_a_node_that_cannot_be_done_without_reads_its_weights_anew(self):
        with Elastic(self.folder, nodes=2, memory="150MiB", sequences=1, options=["--verify", "100%"]) as cluster:
            expected = cluster.complete(20)
            wrong = self.spoil(cluster, lambda bits: bits ^ 1 << 21)
            self.ask_until_suspect(cluster, wrong)
            self.assertIn(wrong, cluster.used())
            self.assertEqual(cluster.complete(20), expected)

    def test_under_mpirun_answers_are_the_same(self):
        config = cluster_file(self.folder, 3, even_layers(3))
        body = {"prompt": "Why is the sea salt?", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
        texts = []
        for options in ([], ["--verify", "100%"]):
            with Server(["-c", config, "-m", MODEL, *options], ranks=3) as server:
                deadline = time.monotonic() + 60
                while True:
                    texts.append(server.post("/v1/completions", body)[1]["choices"][0]["text"])
                    if not options or server.get_json("/status.json")["verify"]["steps"] >= 2:
                        break
                    self.assertLess(time.monotonic(), deadline)
        self.assertEqual(len(set(texts)), 1)
        self.assertRegex(server.log, r"--verify: \d+ steps \(\d+ rows\) computed again in .* s, 0 of them differed")


if __name__ == "__main__":
    unittest.main()
