"""Nodes are killed, stopped, drained and brought back while answers are streamed: the answers stay those of an
undisturbed run. docs/reliability.md says what is promised; bench/chaos.py plays the same faults at length."""

import http.client
import os
import random
import shutil
import signal
import subprocess
import time
import unittest
from unittest import mock

from elastic import PROMPT, Elastic
from lora_test import write_adapter
from support import (ENVIRONMENT, MODEL, PROGRAM, ClusterTest, cluster_file, even_layers, insist, processes_of,
                     wait_until_gone)

LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "shoal-cluster")


class Recovery(ClusterTest):
    def whole(self, stream, expected):
        stream.join(90)
        self.assertFalse(stream.is_alive(), "the stream hangs")
        self.assertIsNone(stream.error)
        self.assertTrue(stream.ended)
        self.assertEqual(stream.text, expected)

    def test_killed_and_stopped_while_answers_stream(self):
        with Elastic(self.folder, nodes=4) as cluster:
            greedy, drawn = cluster.complete(200), cluster.complete(200, temperature=0.9, seed=7)
            # Killed: a spare takes the layers.
            streams = [cluster.stream(200), cluster.stream(200, temperature=0.9, seed=7)]
            self.assertTrue(all(stream.wait_for_pieces(10) for stream in streams))
            victim = cluster.used()[-1]
            moment = time.monotonic()
            cluster.signal(victim, signal.SIGKILL)
            self.whole(streams[0], greedy)
            self.whole(streams[1], drawn)
            self.assertLess(streams[0].gap_after(moment), 10)
            # Stopped: its system still answers, its heart does not beat.
            stream = cluster.stream(300)
            self.assertTrue(stream.wait_for_pieces(10))
            victim = cluster.used()[0]
            cluster.signal(victim, signal.SIGSTOP)
            stream.join(90)
            self.assertIsNone(stream.error)
            self.assertTrue(stream.text.startswith(greedy))
            # Gone on, it finds that it is out, and comes in again as a spare.
            cluster.signal(victim, signal.SIGCONT)
            cluster.wait_for(lambda: cluster.node_state(victim) in ("spare", "in use"), 20, "the stopped node's return")
            self.assertEqual(cluster.complete(200), greedy)
            self.assertEqual(cluster.metric("shoal_nodes_lost_total"), 2)
            self.assertGreaterEqual(cluster.metric("shoal_recoveries_total"), 2)
            self.assertNotIn("a result from node", cluster.log("node-0"))  # late ones are no matter for the log

    def test_a_spare_has_fetched_ahead_what_it_gets(self):
        cluster = Elastic(self.folder, nodes=4, memory="140MiB")
        cluster.own_environment = {name: {"XDG_CACHE_HOME": os.path.join(self.folder, "ahead-" + name)} for name in cluster.names[1:]}
        start_node = cluster.start_node
        cluster.start_node = lambda name: start_node(name, options=[])  # without the model's file
        with cluster:
            expected = cluster.complete(60)
            (spare,) = set(cluster.names[1:]) - set(cluster.used())
            stream = cluster.stream(60)
            self.whole(stream, expected)  # it fetches while answers stream
            cluster.wait_for(lambda: ("fetched ahead", spare) in [(event["kind"], event["node"]) for event in cluster.status()["events"]],
                             30, "what it would get")
            self.assertEqual(cluster.metric("shoal_fetched_ahead_bytes"), cluster.metric("shoal_fetch_ahead_bytes"))
            begun = len(cluster.log(spare))
            stream = cluster.stream(60)
            self.assertTrue(stream.wait_for_pieces(5))
            cluster.signal(cluster.used()[-1], signal.SIGKILL)
            self.whole(stream, expected)
            self.assertIn(spare, cluster.used())
            self.assertRegex(cluster.log(spare)[begun:], r"no model file: (\S+ \S+) of weights, \1 of them on its disk, 0 B fetched")

    def test_killed_while_it_reads_a_prompt_and_twice_at_once(self):
        prompt = "A long story about the sea, and what lies beneath it. " * 60
        with Elastic(self.folder, nodes=5) as cluster:
            expected = cluster.complete(20, prompt)
            stream = cluster.stream(20, prompt + " ")
            other = cluster.stream(20, prompt)
            time.sleep(0.15)
            for victim in cluster.used()[:2]:
                cluster.signal(victim, signal.SIGKILL)
            self.whole(other, expected)
            stream.join(60)
            self.assertIsNone(stream.error)

    def test_too_little_is_left(self):
        # Each alone is too small, and so are the head and one other.
        with Elastic(self.folder, nodes=3, memory="100MiB", context=512, sequences=1) as cluster:
            expected = cluster.complete(40)
            self.assertEqual(len(set(cluster.used())), 2)
            stream = cluster.stream(400)
            self.assertTrue(stream.wait_for_pieces(5))
            victim = cluster.used()[0]
            cluster.signal(victim, signal.SIGKILL)
            stream.join(60)
            self.assertEqual(stream.error["code"], "pipeline_unavailable")
            status, headers, _ = cluster.request("POST", "/v1/completions", cluster.body(5))
            self.assertEqual(status, 503)
            self.assertGreater(int(headers["Retry-After"]), 0)
            self.assertEqual(cluster.state(), "down")
            self.assertNotIn("in use", [cluster.node_state(f"node-{i}") for i in range(3)])
            lost = subprocess.run([PROGRAM, "drain", victim, "--url", f"http://127.0.0.1:{cluster.http_port}"],
                                  capture_output=True, timeout=60, check=False)
            self.assertIn(b"is not there", lost.stderr)
            cluster.start_node(victim)  # a replacement under its name
            cluster.wait_for(lambda: cluster.state() == "running", 30, "the service's return")
            self.assertEqual(cluster.complete(40), expected)

    def test_the_head_is_killed_or_ended_and_started_again(self):
        with Elastic(self.folder, nodes=3, layers=["0-9", "10-19", "20-29"]) as cluster:
            expected = cluster.complete(40)
            used = set(cluster.used())
            for number in (signal.SIGKILL, signal.SIGTERM):
                plan = cluster.metric("shoal_plan")
                cluster.signal("node-0", number)
                self.assertEqual(cluster.processes["node-0"].wait(20), -number if number == signal.SIGKILL else 0)
                begun = {name: len(cluster.log(name)) for name in used}
                moment = time.monotonic()
                cluster.start_head()
                cluster.wait_for(lambda: cluster.state() == "running", 15, "the second head's plan")
                self.assertEqual(cluster.complete(40), expected)
                self.assertLess(time.monotonic() - moment, 15)
                self.assertEqual(cluster.metric("shoal_plan"), plan + 1)  # by the order that the nodes show it
                for name in used:
                    self.assertRegex(cluster.log(name)[begun[name]:], r"in memory already: (\d+) of \1 layers")

    def test_the_head_comes_back_with_other_weights_or_adapters(self):
        """A file of the same fingerprint, as a damaged one is and the one that takes its place."""
        model, size = os.path.join(self.folder, "changed.gguf"), os.path.getsize(MODEL)
        shutil.copy(MODEL, model)
        with open(model, "r+b") as out:
            places = random.Random(1)
            for _ in range(10):  # sectors none of which the fingerprint samples
                out.seek(places.randrange(size // 3, size * 95 // 100) // 4096 * 4096)
                out.write(bytes(4096))
        fingerprints = {subprocess.run([PROGRAM, "inspect", path], capture_output=True, text=True, check=True)
                        .stdout.partition("fingerprint")[2].split()[0] for path in (MODEL, model)}
        self.assertEqual(len(fingerprints), 1)
        alone = subprocess.run([PROGRAM, "run", MODEL, "-q", "--raw", "-p", PROMPT, "--temp", "0", "--ignore-eos", "-n",
                                "40"], capture_output=True, text=True, check=True).stdout.removesuffix("\n")
        with mock.patch("elastic.MODEL", model):
            cluster = Elastic(self.folder, nodes=2, memory="150MiB", sequences=2)  # the head cannot hold all
            start_node = cluster.start_node
            cluster.start_node = lambda name: start_node(name, options=[])  # without the model's file

            def begin_anew():
                begun = len(cluster.log("node-1"))
                cluster.start_head()
                cluster.wait_for(lambda: cluster.state() == "running", 20, "the second head's plan")
                self.assertIn("this node begins anew", cluster.log("node-1")[begun:])

            with cluster:
                self.assertNotEqual(cluster.complete(40), alone)
                cluster.signal("node-0", signal.SIGTERM)
                cluster.processes["node-0"].wait(20)
                shutil.copy(MODEL, model)
                begin_anew()
                self.assertEqual(cluster.complete(40), alone)
                cluster.signal("node-0", signal.SIGKILL)
                with open(cluster.config, "a", encoding="utf-8") as out:
                    out.write(f"adapters: {{tone: {write_adapter(os.path.join(self.folder, 'tone.gguf'), 1)}}}\n")
                begin_anew()
                self.assertEqual(cluster.complete(40), alone)
                self.assertNotEqual(cluster.complete(40, lora="tone"), alone)

    def test_join_while_serving_and_drain(self):
        with Elastic(self.folder, nodes=3) as cluster:
            expected = cluster.complete(100)
            self.check_who_may_come_in(cluster)
            stream = cluster.stream(100)
            self.assertTrue(stream.wait_for_pieces(3))
            cluster.start_node("visitor", options=[])  # it has no model file
            cluster.wait_for(lambda: cluster.node_state("visitor") in ("spare", "in use"), 20, "the visitor")
            self.whole(stream, expected)
            leaving = cluster.used()[0]
            stream = cluster.stream(100)
            self.assertTrue(stream.wait_for_pieces(3))
            drained = subprocess.run([PROGRAM, "drain", leaving, "--url", f"http://127.0.0.1:{cluster.http_port}"],
                                     capture_output=True, timeout=60, check=False)
            self.assertEqual(drained.returncode, 0, drained.stderr)
            self.assertNotIn(leaving, cluster.used())
            self.whole(stream, expected)
            self.check_that_a_drain_stands(cluster, leaving)
            # Those that are left are lost: the visitor takes the layers, which it has to fetch.
            stream = cluster.stream(100)
            self.assertTrue(stream.wait_for_pieces(3))
            for name in cluster.used():
                if name != "visitor":
                    cluster.signal(name, signal.SIGKILL)
            cluster.signal(leaving, signal.SIGKILL)
            self.whole(stream, expected)
            self.assertIn("visitor", cluster.used())
            self.assertIn("fetched", cluster.log("visitor"))
            refused = subprocess.run([PROGRAM, "drain", "node-0", "--url", f"http://127.0.0.1:{cluster.http_port}"],
                                     capture_output=True, timeout=60, check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn(b"is the head", refused.stderr)

    def check_that_a_drain_stands(self, cluster, drained):
        """Over a start of the head and of the node, until it is undone."""
        cluster.signal("node-0", signal.SIGKILL)
        cluster.signal(drained, signal.SIGKILL)
        cluster.start_head()
        cluster.start_node(drained)
        cluster.wait_for(lambda: cluster.state() == "running" and cluster.node_state(drained) == "drained", 30, "the plan")
        self.assertNotIn(drained, cluster.used())
        undo = [PROGRAM, "drain", drained, "--undo", "--url", f"http://127.0.0.1:{cluster.http_port}"]
        undone = subprocess.run(undo, capture_output=True, timeout=60, check=False)
        self.assertEqual(undone.returncode, 0, undone.stderr)
        again = subprocess.run(undo, capture_output=True, timeout=60, check=False)
        self.assertIn(b"is not drained", again.stderr)
        cluster.wait_for(lambda: cluster.node_state(drained) in ("spare", "in use"), 10, "its use")
        cluster.wait_for(lambda: cluster.node_state("visitor") in ("spare", "in use"), 20, "the visitor")

    def test_a_node_that_calls_nobody_ends_in_order(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with subprocess.Popen([PROGRAM, "node", "--insecure", "--join", "127.0.0.1:9", "--name", "caller"], text=True,
                                  stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
                while "calls the head" not in (line := process.stderr.readline()):
                    self.assertTrue(line, "it ended before it called")
                self.assertEqual(insist(process, number), 0)

    def test_signals_that_come_again_kill_nobody_who_ends_in_order(self):
        """Neither a node at any moment of its way into the cluster, nor the head while it serves nobody any more."""
        with Elastic(self.folder, nodes=2, layers=["0-14", "15-29"]) as cluster:
            for moment in ("calls the head", "listens on port", "the plan's layers"):
                with self.subTest(moment=moment):
                    cluster.signal("node-1", signal.SIGKILL)
                    begun = len(cluster.log("node-1"))
                    cluster.start_node("node-1")
                    if moment == "the plan's layers":
                        cluster.wait_for(lambda: cluster.node_state("node-1") == "in use", 30, moment)
                    else:
                        cluster.wait_for(lambda: moment in cluster.log("node-1")[begun:], 30, moment)
                    self.assertEqual(insist(cluster.processes["node-1"]), 0)
            self.assertEqual(insist(cluster.processes["node-0"]), 0)

    def check_who_may_come_in(self, cluster):
        """A device without a certificate does not, nor does one with a used token; a proxy's client drains nothing."""
        def join(name, *more):
            return subprocess.run([PROGRAM, "node", "--join", f"127.0.0.1:{cluster.port}", "--name", name, *more],
                                  capture_output=True, text=True, timeout=30, check=False, env=cluster.environment)
        stranger = join("stranger")
        self.assertEqual(stranger.returncode, 2)
        self.assertIn("shoal invite", stranger.stderr)
        token, inviting = cluster.invite()
        wrong = join("stranger", "--token", token[:-4] + "0123")
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("Nothing was sent", wrong.stderr)
        taken = join("node-0", "--token", token)
        self.assertEqual(taken.returncode, 1)
        self.assertIn("the head's name", taken.stderr)
        nowhere = os.path.join(self.folder, "nowhere")
        os.symlink("/nonexistent/folder", nowhere)
        kept = subprocess.run([PROGRAM, "node", "--join", f"127.0.0.1:{cluster.port}", "--name", "stranger", "--token", token],
                              capture_output=True, text=True, timeout=30, check=False,
                              env={**cluster.environment, "XDG_DATA_HOME": nowhere})
        self.assertEqual(kept.returncode, 1)
        inviting.kill()
        self.assertNotIn("has its certificate", inviting.stdout.read())  # the token was not used up for nothing
        late = join("stranger", "--token", token)
        self.assertEqual(late.returncode, 1)
        self.assertIn("nobody waits for this token", late.stderr)
        connection = http.client.HTTPConnection("127.0.0.1", cluster.http_port, timeout=20)
        connection.request("POST", "/cluster/drain", '{"node": "node-1"}',
                           {"Content-Type": "application/json", "X-Forwarded-For": "10.0.0.7"})
        self.assertEqual(connection.getresponse().status, 403)
        connection.close()
        inviting = cluster.invite("--name", cluster.names[1])[1]  # a name that another device has
        inviting.kill()
        self.assertIn(f"{cluster.names[1]} HAS A CERTIFICATE ALREADY", inviting.stderr.read())

    def test_flapping_is_kept_out(self):
        with Elastic(self.folder, nodes=2) as cluster:
            expected = cluster.complete(20)
            for _ in range(3):
                cluster.start_node("moth")
                cluster.wait_for(lambda: cluster.node_state("moth") in ("spare", "in use"), 20, "the moth")
                cluster.signal("moth", signal.SIGKILL)
                cluster.wait_for(lambda: cluster.node_state("moth") == "lost", 10, "the moth's loss")
            cluster.start_node("moth")
            cluster.wait_for(lambda: "it may come back in" in cluster.log("moth"), 20, "the quarantine")
            self.assertEqual(cluster.node_state("moth"), "quarantined")
            self.assertEqual(cluster.complete(20), expected)


class Launcher(ClusterTest):
    def worker(self, path, rank):
        for pid in processes_of(path):
            try:
                if os.readlink(f"/proc/{pid}/exe") != os.path.realpath(PROGRAM):
                    continue
                with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as env:
                    if f"OMPI_COMM_WORLD_RANK={rank}\0" in env.read():
                        return pid
            except OSError:
                continue
        raise AssertionError(f"no process of rank {rank}")

    def start(self, path, *more):
        return subprocess.Popen([LAUNCHER, "--quiet", "-n", "3", "--", "run", "-c", path, "-m", MODEL, "-q", "--raw", "-p",
                                 "Once upon a time", "--temp", "0", "--ignore-eos", *more],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                                env={**ENVIRONMENT, "SHOAL_PROGRAM": PROGRAM}, start_new_session=True)

    def test_a_rank_is_killed_and_the_answer_goes_on(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=1024, sequences=1)
        expected = self.answer([MODEL, "-q", "--raw", "-p", "Once upon a time", "--temp", "0", "--ignore-eos", "-n", "400",
                                "--context", "1024"])
        process = self.start(path, "-n", "400")
        begun = process.stdout.read(30)
        os.kill(self.worker(path, 2), signal.SIGKILL)
        while len(begun) < len(expected) // 2:
            piece = process.stdout.read(64)
            self.assertTrue(piece, "the answer ended early")
            begun += piece
        os.kill(self.worker(path, 1), signal.SIGSTOP)  # which cannot end: it is not waited for
        while len(begun) < len(expected) and (piece := process.stdout.read(64)):
            begun += piece
        moment = time.monotonic()
        rest, said = process.communicate(timeout=90)
        self.assertLess(time.monotonic() - moment, 12)  # 15 s is what is given up after
        self.assertEqual(process.returncode, 0, said)
        self.assertEqual(begun + rest, expected)
        self.assertTrue(wait_until_gone(path, 5), "a process was left")

    def test_the_exit_code_is_the_heads(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=64, sequences=1)
        process = self.start(path, "-n", "5", "--top-p", "7")
        _, said = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 2, said)
        self.assertTrue(wait_until_gone(path, 5), "a process was left")


if __name__ == "__main__":
    unittest.main()
