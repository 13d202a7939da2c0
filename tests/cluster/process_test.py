"""Processes come and go: Ctrl-C at any moment, a killed worker, memory within its promise, the table, a closed pipe."""

import json
import os
import re
import signal
import subprocess
import time
import unittest

from support import (ENVIRONMENT, MODEL, PROGRAM, ClusterTest, cluster_file, command, even_layers, processes_of, run, start,
                     wait_until_gone)

PROMPT = ["-p", "Write a very long story.", "--temp", "0", "--ignore-eos", "-n", "2000", "--context", "4096"]


class Interrupted(ClusterTest):
    def test_ctrl_c_at_any_moment(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=4096, sequences=1)
        for moment in (0.05, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0):
            with self.subTest(moment=moment):
                process = start(["run", "-c", path, "-m", MODEL, *PROMPT], 3)
                time.sleep(moment)
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
                process.communicate(timeout=20)
                self.assertNotEqual(process.returncode, 0)
                self.assertTrue(wait_until_gone(path, 3), "a process outlived Ctrl-C")

    def test_ctrl_c_of_one_process(self):
        process = start(["run", MODEL, *PROMPT])
        process.stdout.read(20)  # it generates
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=5)
        self.assertEqual(process.returncode, -signal.SIGINT)  # a shell shows 130
        self.assertEqual(said, b"")  # who pressed it needs no message

    def process_of_rank(self, path, rank):
        found = []
        for pid in processes_of(path):
            with open(f"/proc/{pid}/environ", "rb") as env:
                if f"OMPI_COMM_WORLD_RANK={rank}\0".encode() in env.read():
                    found.append(pid)
        self.assertEqual(len(found), 1)
        return found[0]

    def test_a_worker_falls_silent(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=4096, sequences=1)
        asked = ["-m", MODEL, "-q", "-p", "Write a very long story.", "--temp", "0", "--ignore-eos", "-n", "300"]
        expected = self.answer([MODEL, *asked[2:], "--context", "4096"])
        for rank in (1, 2):
            with self.subTest(rank=rank):
                process = start(["run", "-c", path, *asked, "--stall-timeout", "2s"], 3)
                begun = process.stdout.read(20)  # it generates
                os.kill(self.process_of_rank(path, rank), signal.SIGSTOP)
                rest, said = process.communicate(timeout=60)
                self.assertRegex(said.decode(), rf"node node-{rank} is lost: gave no sign of life")
                self.assertEqual(begun + rest, expected)
                self.assertTrue(wait_until_gone(path, 15), "a process outlived the silence of a worker")

    def test_a_worker_is_killed(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=4096, sequences=1)
        process = start(["run", "-c", path, "-m", MODEL, *PROMPT], 3)
        process.stdout.read(20)  # it generates
        os.kill(self.process_of_rank(path, 2), signal.SIGKILL)
        process.communicate(timeout=20)
        self.assertNotEqual(process.returncode, 0)
        self.assertTrue(wait_until_gone(path, 5), "a process outlived the loss of a worker")

    def test_a_server_that_lost_a_worker_ends_when_told(self):
        # mpirun lets the survivors live, so that nobody ends them; each says with which code it ended.
        path = cluster_file(self.folder, 3, even_layers(3))
        said = 'echo "$OMPI_COMM_WORLD_RANK ended with $?" >&2'
        process = subprocess.Popen(
            ["mpirun", "--quiet", "--enable-recovery", "-n", "3", "sh", "-c", f'"$0" "$@"; {said}', PROGRAM, "serve", "-c",
             path, "-m", MODEL, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=ENVIRONMENT, start_new_session=True)
        head = None
        while not head:
            head = re.search(rb"on http://.* \(process (\d+)\)", process.stderr.readline())
        workers = [pid for pid in processes_of(path) if self.runs(pid) and self.rank_of(pid) == "2"]
        os.kill(workers[0], signal.SIGKILL)
        time.sleep(2)
        os.kill(int(head[1]), signal.SIGTERM)
        _, said = process.communicate(timeout=40)
        self.assertIn(b"node node-2 is lost", said)
        self.assertIn(b"answers go on", said)
        self.assertIn(b"0 ended with 0", said)
        self.assertTrue(wait_until_gone(path, 5), "a process outlived the end of the server")

    def test_a_node_that_dies_while_the_cluster_starts_is_noticed_by_the_others(self):
        """Under --enable-recovery the others live on, and MPI would wait for the lost one for ever."""
        for victim in ("2", "0"):
            with self.subTest(victim=victim):
                path = cluster_file(self.folder, 3)  # no plan: it is measured
                said = 'echo "$OMPI_COMM_WORLD_RANK ended with $?" >&2'
                process = subprocess.Popen(
                    ["mpirun", "--quiet", "--enable-recovery", "-n", "3", "sh", "-c", f'"$0" "$@"; {said}', PROGRAM, "run",
                     "-c", path, "-m", MODEL, *PROMPT], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, env=ENVIRONMENT, start_new_session=True)
                deadline, lost = time.monotonic() + 60, None
                while lost is None and time.monotonic() < deadline:
                    lost = next((pid for pid in processes_of(path)
                                 if self.reads_the_model(pid) and self.rank_of(pid) == victim), None)
                self.assertIsNotNone(lost)
                os.kill(lost, signal.SIGKILL)
                begun = time.monotonic()
                _, said = process.communicate(timeout=60)
                self.assertLess(time.monotonic() - begun, 30)
                self.assertIn(f"the process of rank {victim} ".encode(), said)
                for rank in {"0", "1", "2"} - {victim}:
                    self.assertIn(f"{rank} ended with 1".encode(), said)
                self.assertTrue(wait_until_gone(path, 5), "a process outlived the others")

    @staticmethod
    def reads_the_model(pid):
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
                if MODEL in maps.read():
                    return True
            return any(os.path.realpath(MODEL) == os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return False

    @staticmethod
    def runs(pid):
        return os.readlink(f"/proc/{pid}/exe") == os.path.realpath(PROGRAM)

    @staticmethod
    def rank_of(pid):
        with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as env:
            return re.search(r"OMPI_COMM_WORLD_RANK=(\d+)", env.read())[1]

    def test_reader_closes_the_pipe(self):
        process = start(["run", MODEL, *PROMPT])
        process.stdout.read(10)
        process.stdout.close()
        process.stdout = None
        process.communicate(timeout=20)
        self.assertIn(process.returncode, (1, -signal.SIGPIPE))

    def test_answer_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([PROGRAM, "run", MODEL, "-q", "-p", "Hi", "-n", "4"], stdout=full,
                                    stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"could not be written", result.stderr)


class Table(ClusterTest):
    UNITS = {"B": 1, "KiB": 1024, "MiB": 1024 ** 2, "GiB": 1024 ** 3}

    def rows(self, text):
        """node -> (weights, kv, resident, sent) in bytes, of the table that a run prints."""
        found = {}
        for line in text.splitlines():
            sizes = re.findall(r"([\d.]+) (B|KiB|MiB|GiB)\b", line)
            if line.startswith("node-") and len(sizes) == 4:
                found[line.split()[0]] = [float(n) * self.UNITS[u] for n, u in sizes]
        return found

    def test_resident_memory_and_wire_bytes(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=2048, sequences=2)
        result = run(["run", "-c", path, "-m", MODEL, "-p", "Hello there", "--temp", "0", "-n", "100",
                      "--ignore-eos"], 3)
        text = result.stderr.decode()
        self.assertEqual(result.returncode, 0, text)
        rows = self.rows(text)
        self.assertEqual(sorted(rows), ["node-0", "node-1", "node-2"], text)
        model = os.path.getsize(MODEL)
        for node, (weights, kv, resident, sent) in rows.items():
            with self.subTest(node=node):
                self.assertLess(weights, model * 0.75)
                self.assertLess(resident, weights + kv + 64 * 1024 ** 2)
                self.assertGreater(sent, 0)
        # A hop carries 576 floats a row and at most 256 bytes more; prompt rows and statistics are small beside 100 tokens.
        self.assertLess(rows["node-1"][3], (576 * 4 + 256) * 160)
        self.assertRegex(text, r"generation 100 tokens, [\d.]+ tokens/s")

    def test_bench_formats(self):
        result = run(["bench", MODEL, "-p", "64", "-n", "16", "-r", "2", "-o", "json"])
        rows = json.loads(result.stdout)
        self.assertEqual([row["test"] for row in rows], ["pp64", "tg16"])
        for row in rows:
            self.assertEqual(len(row["samples_ts"]), 2)
            self.assertGreater(row["avg_ts"], 0)
        result = run(["bench", MODEL, "-p", "64", "-n", "0", "-r", "1", "-o", "md"])
        self.assertRegex(result.stdout.decode(), r"\| +pp64 \|")
        result = run(["bench", MODEL, "-p", "0", "-n", "8", "-r", "1", "-o", "csv", "--concurrency", "1,3"])
        self.assertEqual(len(result.stdout.decode().strip().splitlines()), 3)

    def test_plan_json(self):
        path = cluster_file(self.folder, 3, memory="110MiB", context=512, sequences=1)
        for ranks in (0, 3):
            result = run(["plan", "-c", path, "-m", MODEL, "--json"], ranks)
            self.assertEqual(result.returncode, 0, result.stderr.decode())
            plan = json.loads(result.stdout)
            layers = sorted((s["layer_begin"], s["layer_end"]) for s in plan["stages"])
            self.assertEqual(layers[0][0], 0)
            self.assertEqual(layers[-1][1], 30)
        explained = run(["plan", "-c", path, "-m", MODEL, "--explain"])
        both = json.loads(run(["plan", "-c", path, "-m", MODEL, "--explain", "--json"]).stdout)
        self.assertEqual(len(both["stages"]), 3)
        for name in ("node-0", "node-1", "node-2"):
            self.assertIn(name, explained.stdout.decode())
            self.assertIn(name, both["explanation"])

    def test_warnings(self):
        result = run(["run", MODEL, "-q", "--raw", "-p", "Once upon a time", "--context", "16", "--ignore-eos"])
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stderr.decode(), r"^shoal: warning: the answer ends because the context is full: .* 16 ")
        result = run(["run", MODEL, "-q", "-p", "x", "--context", "16384", "-n", "2"])
        self.assertRegex(result.stderr.decode(), r"context is 16384 tokens and the model was trained on 8192")
        result = run(["run", MODEL, "-q", "--raw", "-p", "x", "-n", "2"])
        self.assertEqual(result.stderr, b"")
        path = cluster_file(self.folder, 1, memory="900TiB", sequences=1)
        result = run(["run", "-c", path, "-m", MODEL, "-q", "-p", "x", "-n", "2"])
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr.decode(), r"warning: .*nodes\.node-0\.memory is 900\.0 TiB and its device has")

    def test_concurrent_sequences_on_three_nodes(self):
        path = cluster_file(self.folder, 3, even_layers(3), context=256, sequences=8)
        result = run(["bench", "-c", path, "-m", MODEL, "-p", "0", "-n", "24", "-r", "1", "--concurrency", "1,8", "-o",
                      "json"], 3)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        self.assertEqual([row["concurrency"] for row in json.loads(result.stdout)], [1, 8])

    def test_inspect_shows_a_rendered_prompt(self):
        path = os.path.join(self.folder, "conversation.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"messages": [{"role": "user", "content": "What is a shoal?"}]}, out)
        shown = run(["inspect", MODEL, "--template", "--conversation", path])
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertTrue(shown.stdout.decode().rstrip("\n").endswith(
            "<|im_start|>user\nWhat is a shoal?<|im_end|>\n<|im_start|>assistant"), shown.stdout)
        self.assertIn(b"tokens; takes system messages", shown.stderr)
        self.assertIn(b"<|im_start|>", run(["inspect", MODEL, "--template"]).stdout)

    def test_chat(self):
        process = subprocess.run(command(["chat", MODEL, "--temp", "0", "-n", "24", "-q"]),
                                 input=b"Say hello.\nWhat did I ask you to say?\n/exit\n", capture_output=True,
                                 env=ENVIRONMENT, timeout=120, check=False)
        self.assertEqual(process.returncode, 0, process.stderr.decode())
        self.assertGreaterEqual(len(process.stdout.decode().strip().splitlines()), 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
