"""Embeddings and reranking over HTTP, of encoders divided over processes and of a decoder: the same numbers however they
are divided, in OpenAI's form."""

import base64
import math
import pathlib
import struct
import unittest

from server import Server
from support import ClusterTest, cluster_file

FIXTURES = pathlib.Path(__file__).parents[1] / "sharding" / "fixtures"
TEXTS = ["the sea", "salt is in the sea", "a", "the sea is salt, is it?"]


def model(name):
    return str(FIXTURES / name)


def expected(name, file="embedding_expected.txt"):
    """(token ids, what llama.cpp makes of them) of one model."""
    found, current, tokens = [], "", []
    for line in (FIXTURES / file).read_text(encoding="utf-8").splitlines():
        what, *rest = line.split()
        if what == "model":
            current = rest[0]
        elif what == "input":
            tokens = [int(token) for token in rest]
        elif current == name:
            found.append((tokens, [float(value) for value in rest]))
    return found


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


class Embeddings(ClusterTest):
    def embeddings(self, server, texts, **more):
        status, body = server.post("/v1/embeddings", {"input": texts, **more})
        self.assertEqual(status, 200, body)
        self.assertEqual([entry["index"] for entry in body["data"]], list(range(len(body["data"]))))
        return [entry["embedding"] for entry in body["data"]]

    def assert_refused(self, answer, param, *words):
        status, body = answer
        self.assertEqual(status, 400, body)
        self.assertEqual(body["error"]["param"], param)
        for word in words:
            self.assertIn(word, body["error"]["message"])

    def test_an_encoder_on_one_and_on_three_nodes(self):
        with Server([model("bert_mean.gguf"), "--threads", "1"]) as server:
            self.assertEqual(server.request("GET", "/ready")[0], 200)
            one = self.embeddings(server, TEXTS)
            for tokens, vector in expected("bert_mean.gguf"):
                self.assertGreater(cosine(self.embeddings(server, tokens)[0], vector), 0.9999)
            self.assertEqual(self.embeddings(server, [TEXTS[1]])[0], one[1])
            self.assertEqual(self.embeddings(server, TEXTS[1])[0], one[1])
            status, body = server.post("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64", "dimensions": 24})
            self.assertEqual(status, 200, body)
            for entry, vector in zip(body["data"], one):
                unpacked = struct.unpack("<24f", base64.b64decode(entry["embedding"]))
                self.assertLess(max(abs(x - y) for x, y in zip(unpacked, vector)), 1e-7)
                self.assertAlmostEqual(sum(x * x for x in unpacked), 1, 5)
            self.assertEqual(body["usage"]["prompt_tokens"], body["usage"]["total_tokens"])
            self.assertGreater(body["usage"]["prompt_tokens"], 10)
            many = self.embeddings(server, TEXTS * 50)  # far more than slots
            self.assertEqual(many, one * 50)
            self.assert_refused(server.post("/v1/embeddings", {"input": "a", "dimensions": 8}), "dimensions", "24")
            self.assert_refused(server.post("/v1/embeddings", {"input": ["a", "a " * 70]}), "input[1]", "at most 64")
            self.assert_refused(server.post("/v1/embeddings", {"input": [1, 64]}), "input", "no token 64")
            self.assert_refused(server.post("/v1/rerank", {"query": "a", "documents": ["b"]}), "model", "classifier")
            status, body = server.post("/v1/completions", {"prompt": "the sea"})
            self.assertEqual(status, 400, body)
            self.assertIn("/v1/embeddings", body["error"]["message"])
        path = cluster_file(self.folder, 3, ["0-0", "1-1", "2-2"], context=64)
        with Server(["-c", path, "-m", model("bert_mean.gguf")], 3) as server:
            self.assertEqual(self.embeddings(server, TEXTS), one)
            self.assertEqual(self.embeddings(server, TEXTS * 5), one * 5)

    def test_reranking_on_two_nodes(self):
        request = {"query": "is the sea salt?", "documents": TEXTS}
        with Server([model("bert_rank.gguf")]) as server:
            status, one = server.post("/v1/rerank", request)
            self.assertEqual(status, 200, one)
            scores = [result["relevance_score"] for result in one["results"]]
            self.assertEqual(scores, sorted(scores, reverse=True))
            self.assertEqual(sorted(result["index"] for result in one["results"]), [0, 1, 2, 3])
            _, best = server.post("/v1/rerank", {**request, "top_n": 2, "return_documents": True})
            self.assertEqual([r["index"] for r in best["results"]], [r["index"] for r in one["results"][:2]])
            self.assertEqual(best["results"][0]["document"]["text"], TEXTS[best["results"][0]["index"]])
            self.assert_refused(server.post("/v1/embeddings", {"input": "a"}), "model", "/v1/rerank")
            self.assert_refused(server.post("/v1/rerank", {**request, "documents": ["a", "a " * 70]}), "documents[1]",
                                "at most 64")
        path = cluster_file(self.folder, 2, ["0-1", "2-2"], context=64)
        with Server(["-c", path, "-m", model("bert_rank.gguf")], 2) as server:
            self.assertEqual(server.post("/v1/rerank", request)[1]["results"], one["results"])

    def test_an_encoder_of_t5_on_one_and_on_three_nodes(self):
        wanted = expected("t5_encoder.gguf", "t5_encoder_expected.txt")
        self.assertEqual(len(wanted), 3)
        with Server([model("t5_encoder.gguf"), "--threads", "1"]) as server:
            one = self.embeddings(server, TEXTS)
            for tokens, vector in wanted:
                self.assertGreater(cosine(self.embeddings(server, tokens)[0], vector), 0.9999)
        path = cluster_file(self.folder, 3, ["0-0", "1-1", "2-2"], context=64)
        with Server(["-c", path, "-m", model("t5_encoder.gguf")], 3) as server:
            self.assertEqual(self.embeddings(server, TEXTS), one)
            for tokens, vector in wanted:
                self.assertGreater(cosine(self.embeddings(server, tokens)[0], vector), 0.9999)
            status, body = server.post("/v1/completions", {"prompt": "the sea"})
            self.assertEqual(status, 400, body)
            self.assertIn("/v1/embeddings", body["error"]["message"])

    def test_what_has_no_embeddings(self):
        path = cluster_file(self.folder, 3, ["0-1", "2-3", "4-4"], context=64)
        with Server(["-c", path, "-m", model("t5_gated.gguf")], 3) as server:
            self.assert_refused(server.post("/v1/embeddings", {"input": "a"}), "model", "no embeddings")
            self.assert_refused(server.post("/v1/rerank", {"query": "a", "documents": ["b"]}), "model")


if __name__ == "__main__":
    unittest.main()
