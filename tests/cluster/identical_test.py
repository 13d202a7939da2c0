"""The same greedy tokens, byte for byte, however the model is cut and whoever computes it."""

import unittest

from support import MODEL, ClusterTest, cluster_file, even_layers, run

PROMPT = "The history of navigation by the stars began when sailors noticed that"
GREEDY = ["-q", "--raw", "-p", PROMPT, "--temp", "0", "--ignore-eos"]
LONG = ["-n", "256"]


class Identical(ClusterTest):
    reference = None

    def one_process(self):
        if Identical.reference is None:
            Identical.reference = self.answer([MODEL, *GREEDY, *LONG, "--threads", "1"])
            self.assertGreater(len(Identical.reference), 200)
        return Identical.reference

    def test_threads(self):
        for threads in ("2", "3"):
            self.assertEqual(self.answer([MODEL, *GREEDY, *LONG, "--threads", threads]), self.one_process())

    def test_node_counts(self):
        for nodes in (2, 3, 5):
            with self.subTest(nodes=nodes):
                path = cluster_file(self.folder, nodes, even_layers(nodes))
                self.assertEqual(self.answer(["-c", path, "-m", MODEL, *GREEDY, *LONG], nodes), self.one_process())

    def test_uneven_cut_and_threads(self):
        path = cluster_file(self.folder, 3, ["0-0", "1-27", "28-29"], threads=2)
        self.assertEqual(self.answer(["-c", path, "-m", MODEL, *GREEDY, *LONG], 3), self.one_process())

    def test_output_head_at_home(self):
        path = cluster_file(self.folder, 2, even_layers(2), plan="ends")
        self.assertEqual(self.answer(["-c", path, "-m", MODEL, *GREEDY, *LONG], 2), self.one_process())

    def test_planned_cut(self):
        path = cluster_file(self.folder, 3, memory="110MiB", context=512, sequences=1)
        self.assertEqual(self.answer(["-c", path, "-m", MODEL, *GREEDY, *LONG], 3), self.one_process())

    def test_kernel_tables(self):
        text = run(["probe"]).stdout.decode()
        tables = text.split("available: ")[1].split(")")[0].split(", ")
        self.assertIn("generic", tables)
        for table in tables:
            with self.subTest(table=table):
                answer = self.answer([MODEL, *GREEDY, "-n", "48", "--kernels", table, "--threads", "2"])
                self.assertTrue(self.one_process().startswith(answer.rstrip(b"\n")))

    def test_mixed_tables_in_one_cluster(self):
        path = cluster_file(self.folder, 2, even_layers(2), node_1="kernels: generic, ")
        answer = self.answer(["-c", path, "-m", MODEL, *GREEDY, "-n", "48"], 2)
        self.assertTrue(self.one_process().startswith(answer.rstrip(b"\n")))

    def test_long_prompt_in_chunks(self):
        # One process reads it in chunks of 128 rows, two nodes in chunks of 64, three in chunks of 32.
        prompt = ["-q", "--raw", "-p", PROMPT * 25, "--temp", "0", "--ignore-eos", "-n", "32", "--context", "1024"]
        one = self.answer([MODEL, *prompt])
        for nodes in (2, 3):
            path = cluster_file(self.folder, nodes, even_layers(nodes))
            self.assertEqual(self.answer(["-c", path, "-m", MODEL, *prompt], nodes), one)

    def test_seeded_sampling(self):
        drawn = ["-q", "-p", "Tell me a story.", "--temp", "0.9", "--seed", "42", "-n", "64"]
        one = self.answer([MODEL, *drawn])
        path = cluster_file(self.folder, 3, even_layers(3))
        self.assertEqual(self.answer(["-c", path, "-m", MODEL, *drawn], 3), one)
        other = self.answer([MODEL, *drawn[:-3], "43", "-n", "64"])
        self.assertNotEqual(other, one)


if __name__ == "__main__":
    unittest.main(verbosity=2)
