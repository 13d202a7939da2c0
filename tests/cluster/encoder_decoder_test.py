"""A T5 model, encoder and decoder, divided over processes: the same answers as one process gives, over HTTP too."""

import concurrent.futures
import pathlib
import unittest

from server import Server
from support import ClusterTest, cluster_file, run

FIXTURES = pathlib.Path(__file__).parents[1] / "sharding" / "fixtures"
MODEL = str(FIXTURES / "t5_gated.gguf")  # 3 layers of encoder, 2 of decoder
PROMPT = "the salt of the sea is in the sand, and a ship?"
GREEDY = ["-q", "-p", PROMPT, "--temp", "0", "--ignore-eos", "-n", "24"]


def expected():
    """(input ids, text that llama.cpp answers with) of the gated model."""
    found, model, tokens = [], "", []
    for line in (FIXTURES / "t5_expected.txt").read_text(encoding="utf-8").splitlines():
        what, _, rest = line.partition(" ")
        if what == "model":
            model = rest
        elif what == "input":
            tokens = [int(token) for token in rest.split()]
        elif what == "text" and model == "t5_gated.gguf":
            found.append((tokens, rest))
    return found


def text(prompt, **more):
    return {"prompt": prompt, "temperature": 0, "max_tokens": 12, "ignore_eos": True, **more}


class Run(ClusterTest):
    def test_any_cut(self):
        one = self.answer([MODEL, *GREEDY, "--threads", "1"])
        self.assertGreater(len(one), 8)
        cuts = [["0-2", "3-4"], ["0-0", "1-3", "4-4"], ["0-1", "2-2", "3-4"]]
        for layers in cuts:
            with self.subTest(layers=layers):
                path = cluster_file(self.folder, len(layers), layers, context=64)
                self.assertEqual(self.answer(["-c", path, "-m", MODEL, *GREEDY], len(layers)), one)

    def test_planned_cut(self):
        one = self.answer([MODEL, *GREEDY])
        path = cluster_file(self.folder, 3, context=64)
        self.assertEqual(self.answer(["-c", path, "-m", MODEL, *GREEDY], 3), one)

    def test_an_input_too_long(self):
        self.assert_refused(run(["run", MODEL, "-q", "-p", "a " * 600]), 2, "encoder reads at most 512")
        self.assert_refused(run(["run", MODEL, "-q", "-p", "a", "--system", "b"]), 2, "--system")


class Serve(ClusterTest):
    def test_three_nodes(self):
        path = cluster_file(self.folder, 3, ["0-1", "2-3", "4-4"], context=64)
        with Server(["-c", path, "-m", MODEL], 3) as server:
            wanted = expected()
            self.assertEqual(len(wanted), 4)
            for tokens, answer in wanted:  # those of llama.cpp
                status, body = server.post("/v1/completions", text(tokens))
                self.assertEqual(status, 200, body)
                self.assertEqual(body["choices"][0]["text"].strip(), answer.strip())
                self.assertEqual(body["usage"]["prompt_tokens"], len(tokens))
            # More sequences than slots at once, all answered as they are alone.
            jobs = wanted * 3
            with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
                answers = list(pool.map(lambda job: server.post("/v1/completions", text(job[0]))[1], jobs))
            for (_, answer), body in zip(jobs, answers):
                self.assertEqual(body["choices"][0]["text"].strip(), answer.strip())
            # Without a chat template the last user message is the prompt.
            _, plain = server.post("/v1/completions", text(PROMPT))
            messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"},
                        {"role": "assistant", "content": "z"}, {"role": "user", "content": PROMPT}]
            status, chat = server.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 12,
                                                                "ignore_eos": True})
            self.assertEqual(status, 200, chat)
            self.assertEqual(chat["choices"][0]["message"]["content"], plain["choices"][0]["text"])
            for body in (text([3] * 513), text("a " * 600)):
                status, answer = server.post("/v1/completions", body)
                self.assertEqual(status, 400)
                self.assertIn("encoder reads at most 512", answer["error"]["message"])
                self.assertEqual(answer["error"]["code"], "context_length_exceeded")


if __name__ == "__main__":
    unittest.main()
