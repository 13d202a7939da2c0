"""Only the head has the model file: the others fetch their shares, keep them, and never compute with a wrong one."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
import unittest

from support import ENVIRONMENT, MODEL, PROGRAM, ClusterTest, cluster_file, even_layers, processes_of

ASK = ["-q", "--raw", "-p", "The history of navigation by the stars began when sailors noticed that", "--temp", "0",
       "--ignore-eos", "-n", "48"]
SAID = re.compile(r"node (\S+) has no model file: ([\d.]+ \w+) of weights, ([\d.]+ \w+) of them on its disk, "
                  r"([\d.]+ \w+) fetched")
UNITS = {"B": 1, "KiB": 1024, "MiB": 1024 ** 2, "GiB": 1024 ** 3}


def size(text):
    number, unit = text.split()
    return float(number) * UNITS[unit]


class Weights(ClusterTest):
    reference = None

    def setUp(self):
        super().setUp()
        self.path = cluster_file(self.folder, 3, even_layers(3))
        self.model = os.path.join(self.folder, "head", "model.gguf")
        os.makedirs(os.path.dirname(self.model))
        os.symlink(MODEL, self.model)
        if Weights.reference is None:
            Weights.reference = self.answer([MODEL, *ASK])

    def command(self, more=(), prefix=()):
        """One rank a node, each with a cache of its own; only the head's path leads to the model."""
        parts = []
        for rank in range(3):
            model = self.model if rank == 0 else os.path.join(self.folder, "nowhere.gguf")
            parts += [":"] if parts else []
            parts += ["-n", "1", "env", f"XDG_CACHE_HOME={self.folder}/cache-{rank}", *prefix, PROGRAM, "run", "-c",
                      self.path, "-m", model, *ASK, *more]
        return ["mpirun", "--quiet", *parts]

    def start(self, **how):
        return subprocess.Popen(self.command(**how), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
                                stdin=subprocess.DEVNULL, start_new_session=True)

    def run_all(self, code=0, **how):
        """node -> (needed, on disk, fetched) in bytes; the text of stderr."""
        result = subprocess.run(self.command(**how), capture_output=True, timeout=180, env=ENVIRONMENT,
                                stdin=subprocess.DEVNULL, check=False)
        text = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, code, text)
        if code == 0:
            self.assertEqual(result.stdout, self.reference, text)
        return {node: (size(a), size(b), size(c)) for node, a, b, c in SAID.findall(text)}, text

    def cached(self, rank):
        """Files of weights in a node's cache."""
        found = []
        for folder, _, names in os.walk(f"{self.folder}/cache-{rank}/shoal/shards"):
            if not folder.endswith("in-use"):
                found += [os.path.join(folder, name) for name in names]
        return sorted(found)

    def cached_bytes(self, rank):
        """While a node fetches: a tensor that is complete takes another name under our eyes."""
        total = 0
        for path in self.cached(rank):
            try:
                total += os.path.getsize(path)
            except FileNotFoundError:
                pass
        return total

    def test_cold_then_warm(self):
        said, text = self.run_all()
        self.assertEqual(sorted(said), ["node-1", "node-2"], text)
        for rank in (1, 2):
            needed, on_disk, fetched = said[f"node-{rank}"]
            on_disk_now = sum(os.path.getsize(path) for path in self.cached(rank))
            self.assertEqual(on_disk, 0)
            self.assertAlmostEqual(fetched, needed, delta=0.01 * needed)
            self.assertAlmostEqual(on_disk_now, needed, delta=0.01 * needed)
            self.assertLess(needed, 0.75 * os.path.getsize(MODEL))
            for path in self.cached(rank):
                self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        said, text = self.run_all()
        for needed, on_disk, fetched in said.values():
            self.assertEqual((on_disk, fetched), (needed, 0), text)

    def test_killed_while_fetching(self):
        self.run_all()
        for rank in (1, 2):  # as if a fetch had been cut: some tensors whole, one partial, the rest not there
            files = self.cached(rank)
            for path in files[len(files) // 3:]:
                os.remove(path)
        os.rename(self.cached(1)[0], self.cached(1)[0] + ".partial")
        before = self.cached_bytes(1)
        process = self.start()
        deadline = time.monotonic() + 60
        while self.cached_bytes(1) < before + 1_000_000:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.002)
        for pid in processes_of(self.path):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.communicate(timeout=60)
        kept = sum(os.path.getsize(path) for path in self.cached(1))
        said, text = self.run_all()
        needed, on_disk, fetched = said["node-1"]
        self.assertGreaterEqual(on_disk, 0.95 * kept, text)
        self.assertAlmostEqual(on_disk + fetched, needed, delta=0.02 * needed)

    def test_damaged_cache(self):
        self.run_all()
        random.seed(20261128)
        for path in random.sample(self.cached(1), 5):
            with open(path, "r+b") as file:
                at = random.randrange(os.path.getsize(path))
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << random.randrange(8)]))
        os.truncate(self.cached(2)[0], 10)
        _, text = self.run_all()
        self.assertRegex(text, r"node node-1: tensor \S+ in .*shards is not what the manifest says \(block \d+: SHA-256 "
                               r"[0-9a-f]{12}\.\.\., should be [0-9a-f]{12}")
        self.assertRegex(text, r"node node-1: [1-5] blocks? of these weights (was|were) not what the manifest says")
        _, text = self.run_all()
        self.assertNotIn("is not what the manifest says", text)

    def test_other_model_in_the_cache_and_on_a_node(self):
        self.run_all()
        wrong = os.path.join(self.folder, "nowhere.gguf")
        shutil.copy(MODEL, wrong)
        with open(wrong, "r+b") as file:  # much of it is other, as in a model tuned further
            file.seek(os.path.getsize(MODEL) // 2)
            file.write(b"\x55" * 20_000_000)
        _, text = self.run_all(code=2)
        self.assertRegex(text, r"node node-1 has another model file than the head node-0.*remove it there")

    def test_no_room(self):
        # A disk that refuses is made by a limit on files: 8 MiB, less than the embedding and more than MPI's own.
        limit = ["bash", "-c", 'ulimit -f 8192; exec "$0" "$@"']
        said, text = self.run_all(prefix=limit)
        self.assertRegex(text, r"node node-2: weights cannot be kept: .*\.partial cannot be written: File too large")
        self.assertIn("are fetched while loading and not kept", text)
        self.assertEqual(len(said), 2)
        shutil.rmtree(f"{self.folder}/cache-1")
        shutil.rmtree(f"{self.folder}/cache-2")
        said, text = self.run_all(more=["--cache-size", "1MiB"])
        self.assertRegex(text, r"has room for .*1\.00 MiB.*cache-size")
        for rank in (1, 2):
            self.assertLessEqual(sum(os.path.getsize(path) for path in self.cached(rank)), 1 << 20)
        self.run_all(more=["--cache-size", "none"])

    def test_head_without_a_file(self):
        os.remove(self.model)
        _, text = self.run_all(code=2)
        self.assertRegex(text, r"cannot open file .*head/model\.gguf")


if __name__ == "__main__":
    unittest.main(verbosity=2)
