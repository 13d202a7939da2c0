"""What hostile clients send, to a real server: each is answered with the right status and the name of the field, quickly,
and afterwards the server answers as before with no more memory. The rows are bug classes that brought other servers down
(the CVE numbers are theirs)."""

import concurrent.futures
import json
import os
import socket
import time
import unittest

from server import Server
from support import MODEL, ClusterTest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
QUICK_MS = 50
FLAT_BYTES = 24 << 20


def tool(parameters):
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


def nested(depth, key):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {key: schema}}
    return schema


CHAIN = {f"r{i}": {"$ref": f"#/$defs/r{i + 1}"} for i in range(5000)}

# row, path, body, parameter that the refusal names
REFUSED = [
    ("H1 CVE-2026-21869", CHAT, {"messages": HI, "n_discard": -1}, "n_discard"),
    ("H2 CVE-2026-34756", CHAT, {"messages": HI, "n": 1_000_000}, "n"),
    ("H2", TEXT, {"prompt": "a", "n": 1_000_000}, "n"),
    ("H2 CVE-2024-8939", TEXT, {"prompt": "a", "best_of": 10**9}, "best_of"),
    ("H2", CHAT, {"messages": HI, "best_of": 10**9}, "best_of"),
    ("H3 CVE-2024-8768", TEXT, {"prompt": ""}, "prompt"),
    ("H3", TEXT, {"prompt": " \n\t"}, "prompt"),
    ("H3", TEXT, {"prompt": []}, "prompt"),
    ("H3", TEXT, {"prompt": [""]}, "prompt[0]"),
    ("H3", CHAT, {"messages": []}, "messages"),
    ("H3", CHAT, {"messages": [{"role": "user", "content": " \n"}]}, "messages"),
    ("H8", TEXT, '{"prompt":"a","n":1,"n":2}', "n"),
    ("H8", CHAT, '{"messages":[{"role":"user","content":"a","content":"b"}]}', "messages[0].content"),
    ("H8", TEXT, '{"prompt":"a","temperature":1e999}', "temperature"),
    ("H8", TEXT, '{"prompt":"a","seed":1e999}', "seed"),
    ("H8", TEXT, '{"prompt":"a","x":' + "[" * 3000 + "]" * 3000 + "}", None),
    ("H8", TEXT, "[" * 100_000, None),
    ("H8", TEXT, '{"prompt":"a",' + ",".join(f'"{i}":1' for i in range(300_000)) + "}", None),
    ("H9", CHAT, {"messages": HI, "grammar": "(" * 60_000}, "grammar"),
    ("H9", TEXT, {"prompt": "a", "grammar": "root ::= "}, "grammar"),
    ("H9", TEXT, {"prompt": "a", "guided_regex": "foo**"}, "guided_regex"),
    ("H9", TEXT, {"prompt": "a", "structured_outputs": {"regex": "^+"}}, "structured_outputs"),
    ("H9", CHAT, {"messages": HI, "response_format": form({"type": "string", "pattern": "foo**"})},
     "response_format.json_schema.schema"),
    ("H9", CHAT, {"messages": HI, "response_format": form({"$ref": "#/$defs/r0", "$defs": CHAIN})}, "members"),
    ("H9", CHAT, {"messages": HI, "response_format": form({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})},
     "response_format.json_schema.schema"),
    ("H9", CHAT, {"messages": HI, "response_format": form({"type": "oject"})}, "response_format.json_schema.schema"),
    ("H9", CHAT, {"messages": HI, "response_format": form("no schema")}, "response_format.json_schema.schema"),
    ("H10", CHAT, {"messages": HI, "tools": tool("no schema")}, "tools[0].function.parameters"),
    ("H10", CHAT, {"messages": HI, "tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
    ("H11 CVE-2025-62164", TEXT, {"prompt": "a", "prompt_embeds": "gASVAAAA"}, "prompt_embeds"),
    ("H11", TEXT, {"prompt_embeds": "gASVAAAA"}, "prompt"),
    ("H11", CHAT, {"messages": HI, "prompt_embeds": "gASVAAAA"}, "prompt_embeds"),
    ("H12 CVE-2025-6242", CHAT, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}]}]}, "messages[0].content[0].type"),
    ("H12", CHAT, {"messages": [{"role": "user", "content": [
        {"type": "file", "file": {"file_data": "file:///etc/passwd"}}]}]}, "messages[0].content[0].type"),
    ("H13", TEXT, {"prompt": "a" * 3_900_000}, "prompt"),
    ("H13", CHAT, {"messages": [{"role": "user", "content": "é" * 600_000}]}, "messages"),
    *[("H14", TEXT, {"prompt": "a", key: value}, key)
      for key in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
      for value in ("NaN", -3, [], {})],
    ("H14", TEXT, '{"prompt":"a","top_p":-1e999}', "top_p"),
    ("H14", TEXT, {"prompt": "a", "top_k": -2**31}, "top_k"),
    ("H14", TEXT, {"prompt": "a", "seed": 2**64}, "seed"),
    ("H14", TEXT, {"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ("H14", CHAT, {"messages": HI, "max_completion_tokens": 0}, "max_completion_tokens"),
    ("H14", TEXT, {"prompt": "a", "logit_bias": {"49152": 1}}, "logit_bias"),
    ("H14", TEXT, {"prompt": "a", "logit_bias": {"-1": 1}}, "logit_bias"),
    ("H14", TEXT, {"prompt": [49152]}, "prompt"),
    ("H14", TEXT, {"prompt": [-1]}, "prompt"),
    ("H15", TEXT, b'{"prompt":"\xff"}', None),
    ("H15", TEXT, b'{"prompt":"\xc0\xaf"}', None),
    ("H15", TEXT, b'{"prompt":"\xed\xa0\x80"}', None),
    ("H15", TEXT, '{"prompt":"\\ud800"}', None),
    ("H15", TEXT, b'\xef\xbb\xbf{"prompt":"a"}', None),
    ("H15", TEXT, {"prompt": "a", "stop": ["x"] * 100_000}, "stop"),
    ("H15", TEXT, {"prompt": "a", "stop": ""}, "stop"),
    ("H15", TEXT, {"prompt": "a", "stop": ["a", ""]}, "stop[1]"),
    ("H16", TEXT, {"prompt": "word " * 600}, "prompt"),
    ("H16", CHAT, {"messages": [{"role": "user", "content": "word " * 600}]}, "messages"),
]

# row, bytes sent, statuses of which one comes before the connection is closed
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
RAW = [
    ("H4 giant header", b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * (1 << 20) + b"\r\n\r\n", (431,)),
    ("H4 many headers", b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: a\r\n" * 100_000, (431,)),
    ("H4 endless target", b"GET /" + b"a" * (1 << 20), (431,)),
    ("H5 no length", HEAD + b"Connection: close\r\n\r\n", (400,)),
    ("H7 negative length", HEAD + b"Content-Length: -1\r\n\r\n{}", (400,)),
    ("H7 both", HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", (400,)),
    ("H7 two lengths", HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", (400,)),
    ("H7 length past 2^64", HEAD + b"Content-Length: 18446744073709551618\r\n\r\n{}", (400,)),
    ("H7 chunk past 2^64", HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n", (400,)),
    ("H17 1 GB body", HEAD + b"Content-Length: 1073741824\r\n\r\n{", (413,)),
]


class Hostile(ClusterTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server([MODEL, "--context", "512", "--sequences", "4", "--threads", "1"])
        cls.want = cls.answer_now()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # the whole cache is touched once, and then resident
            list(pool.map(lambda i: cls.server.post(TEXT, {"prompt": [1000 + i] * 500, "max_tokens": 12, "ignore_eos": True}),
                          range(4)))
        cls.resident = cls.resident_bytes()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None)

    @classmethod
    def answer_now(cls):
        status, answer = cls.server.post(TEXT, {"prompt": "The sky is", "max_tokens": 8, "temperature": 0})
        assert status == 200, answer
        return answer["choices"][0]["text"]

    @classmethod
    def resident_bytes(cls):
        with open(f"/proc/{cls.server.head_pid}/statm", encoding="ascii") as fields:
            return int(fields.read().split()[1]) * 4096

    def tearDown(self):
        self.assertEqual(self.answer_now(), self.want)  # the same server, and it computes what it did
        self.assertLess(self.resident_bytes() - self.resident, FLAT_BYTES)
        super().tearDown()

    def test_bodies_are_refused_by_the_field_s_name_and_soon(self):
        prompts = self.server.metric("shoal_prompt_tokens_total")
        for row, path, body, param in REFUSED:
            data = body if isinstance(body, (bytes, str)) else json.dumps(body)
            with self.subTest(row=row, body=data[:80]):
                took_ms = []
                for _ in range(3):  # the quickest counts: other processes share this machine
                    begun = time.monotonic()
                    status, answer = self.server.post(path, data)
                    took_ms.append(1e3 * (time.monotonic() - begun))
                self.assertEqual(status, 400, answer)
                error = answer["error"]
                if param == "members":
                    self.assertIn("members", error["message"])
                elif param is None:
                    self.assertIn(error["param"], (None, ""))
                else:
                    self.assertTrue(error["param"].startswith(param), error)
                self.assertLess(len(error["message"]), 400)
                self.assertNotRegex(json.dumps(answer), r"/root|/home|/tmp|0x[0-9a-f]{6}|\.cc\b|stage|node-\d")  # H20
                self.assertLess(min(took_ms), QUICK_MS)
        self.assertEqual(self.server.metric("shoal_prompt_tokens_total"), prompts)  # no stage has worked

    def raw(self, data, more=b"", seconds=20):
        """What the server sends until it closes. `more` is sent again and again until it does."""
        with socket.create_connection(("127.0.0.1", self.server.port), seconds) as connection:
            deadline = time.monotonic() + seconds
            try:
                connection.sendall(data)
                while more and time.monotonic() < deadline:
                    connection.sendall(more)
            except OSError:
                pass  # closed on us
            got = b""
            try:
                while part := connection.recv(65536):
                    got += part
            except ConnectionResetError:
                pass
            return got

    def test_malformed_requests_end_their_connection(self):
        for row, data, statuses in RAW:
            with self.subTest(row=row):
                begun = time.monotonic()
                got = self.raw(data)
                self.assertIn(int(got[9:12]), statuses, got[:200])
                self.assertIn(b"connection: close", got.lower())
                self.assertLess(time.monotonic() - begun, 5)

    def test_endless_headers_and_bodies_are_cut_off(self):
        for row, head, more, status in (
                ("H4 endless line", b"GET /health HTTP/1.1\r\nA: ", b"a" * 65536, b" 431 "),
                ("H5 endless chunks", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65536 + b"\r\n",
                 b" 413 "),
                ("H6 CVE-2025-23310", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"6\r\nabcdef\r\n" * 5000, b" 413 ")):
            with self.subTest(row=row):
                got = self.raw(head, more)
                self.assertTrue(got == b"" or status in got[:20], got[:200])  # "": reset before it was read

    def test_three_megabytes_in_small_chunks(self):
        body = json.dumps({"prompt": "The sky is", "max_tokens": 8, "temperature": 0, "pad": "p" * 3_000_000}).encode()
        chunks = b"".join(b"6\r\n%s\r\n" % body[i:i + 6] for i in range(0, len(body) - 6, 6))
        rest = body[(len(body) - 1) // 6 * 6:]
        with socket.create_connection(("127.0.0.1", self.server.port), 30) as connection:
            connection.sendall(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks +
                               b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
            got = b""
            while part := connection.recv(65536):
                got += part
        self.assertEqual(json.loads(got.split(b"\r\n\r\n")[1])["choices"][0]["text"], self.want)

    def test_tools_with_odd_schemas_end_nothing(self):
        for parameters in ({"type": "oject"}, {"type": 5}, {"type": "object", "properties": {"a": {"pattern": "foo**"}}},
                           {"type": "string", "pattern": "(?<=x)" * 1000}, nested(20, "a"), {}):
            body = {"messages": HI, "tools": tool(parameters), "max_tokens": 2}
            self.assertEqual(self.server.post(CHAT, body)[0], 200)  # they are text for the template, and no more
        for penalty in (-2, 2, 0, 0.01, 100):
            key = "repetition_penalty" if penalty in (0.01, 100) else "frequency_penalty"
            self.assertEqual(self.server.post(TEXT, {"prompt": "a", "max_tokens": 3, key: penalty})[0], 200)

    def test_a_stream_never_splits_a_character(self):
        events = self.server.stream(TEXT, {"prompt": "漢字とひらがな \U0001f41f", "max_tokens": 60, "temperature": 1.5, "seed": 3})
        for event in events[:-1]:
            json.loads(event.decode("utf-8"))["choices"][0]["text"].encode("utf-8")

    def test_silent_readers_lose_their_places(self):
        """H18: as many as there are places ask for all that the context holds and read nothing."""
        dropped = self.server.metric("shoal_http_connections_dropped_total")
        body = json.dumps({"prompt": "Once", "max_tokens": 505, "ignore_eos": True, "stream": True, "logprobs": 20}).encode()
        silent = []
        for _ in range(4):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", self.server.port))
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            silent.append(connection)
        try:
            self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 4))
            begun = time.monotonic()
            self.assertEqual(self.answer_now(), self.want)
            self.assertLess(time.monotonic() - begun, 15)  # 5 s without reading, and two processors shared by all
            self.assertTrue(self.server.wait_for(
                lambda: self.server.metric("shoal_http_connections_dropped_total") == dropped + 4))
        finally:
            for connection in silent:
                connection.close()

    def test_slow_senders_keep_nobody_waiting(self):
        """H18: a header and a body that come a byte at a time."""
        slow = []
        for begin in (b"GET /health HT", HEAD + b"Content-Length: 100\r\n\r\n{"):
            for _ in range(20):
                slow.append(socket.create_connection(("127.0.0.1", self.server.port), 60))
                slow[-1].sendall(begin)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertEqual({answer.result() for answer in [pool.submit(self.answer_now) for _ in range(4)]}, {self.want})
        for connection in slow[:20]:  # 10 s for a header
            connection.settimeout(15)
            self.assertEqual(connection.recv(100), b"")
        for connection in slow:
            connection.close()

    def test_h20_a_failure_names_nothing_inside(self):
        for path in ("/v1/models/../../etc/passwd", "/..%2f..%2fetc/passwd", "/v1/models/" + "a" * 3000, "/%00", "/status.json/x"):
            status, _, body = self.server.request("GET", path)
            self.assertEqual(status, 404, path)
            self.assertNotIn(os.path.dirname(MODEL).encode(), body)
            self.assertLess(len(body), 400)


if __name__ == "__main__":
    unittest.main()
