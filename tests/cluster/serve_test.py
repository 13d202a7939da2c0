"""shoal serve with the real model: the same text as `shoal run`, OpenAI's objects, and refusals that name the field."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import time
import unittest

from server import Server
from support import MODEL, ClusterTest, cluster_file, even_layers, insist, run

ARGUMENTS = [MODEL, "--context", "512", "--sequences", "4", "--threads", "1"]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PROMPTS = ["The history of navigation by the stars began when", "A recipe for bread:", "Once upon a time",
           "The river rose", "def add(a, b):", "In the year 1848", "My favourite bird is", "Ünïcödé und 漢字:"]


def chat(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **more}


def text(prompt, **more):
    return {"prompt": prompt, "temperature": 0, "max_tokens": 24, **more}


def joined(events):
    """The text of a streamed answer's first choice."""
    assert events[-1] == b"[DONE]", events[-1]
    parts = []
    for event in events[:-1]:
        for choice in json.loads(event)["choices"]:
            if choice["index"] == 0:
                parts.append(choice["delta"].get("content", "") if "delta" in choice else choice["text"])
    return "".join(parts)


class OneServer(ClusterTest):
    """Most tests share one server of one process."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(ARGUMENTS)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None)

    def assert_refused(self, path, body, status, param=None, code=None):
        got, answer = self.server.post(path, body)
        self.assertEqual(got, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        self.assertEqual(answer["error"]["param"], param)
        if code:
            self.assertEqual(answer["error"]["code"], code)


class Answers(OneServer):
    def expected(self, prompt, raw):
        arguments = [*ARGUMENTS, "-q", "-p", prompt, "-n", "24", "--temp", "0", *(["--raw"] if raw else [])]
        return self.answer(arguments).decode().removesuffix("\n")

    def test_text_equals_run_alone_and_eight_at_once(self):
        expected = [self.expected(prompt, raw=True) for prompt in PROMPTS]
        self.assertEqual(len(set(expected)), len(PROMPTS))
        for prompt, want in zip(PROMPTS[:2], expected):
            self.assertEqual(self.server.post(TEXT, text(prompt))[1]["choices"][0]["text"], want)
            self.assertEqual(joined(self.server.stream(TEXT, text(prompt))), want)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            whole = [pool.submit(self.server.post, TEXT, text(prompt)) for prompt in PROMPTS]
            self.assertEqual([w.result()[1]["choices"][0]["text"] for w in whole], expected)
            streams = [pool.submit(self.server.stream, TEXT, text(prompt)) for prompt in PROMPTS]
            self.assertEqual([joined(s.result()) for s in streams], expected)

    def test_chat_equals_run(self):
        want = self.expected("Name three birds.", raw=False)
        status, answer = self.server.post(CHAT, chat("Name three birds."))
        self.assertEqual(status, 200)
        self.assertEqual(answer["choices"][0]["message"], {"role": "assistant", "content": want, "refusal": None})
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        self.assertEqual(answer["usage"]["completion_tokens"], 24)
        events = self.server.stream(CHAT, chat("Name three birds.", stream_options={"include_usage": True}))
        self.assertEqual(joined(events), want)
        self.assertEqual(json.loads(events[0])["choices"][0]["delta"]["role"], "assistant")
        self.assertEqual(json.loads(events[-2])["usage"]["completion_tokens"], 24)

    def test_a_template_without_tools_answers_without_them(self):
        """As chat programs offer some with each request."""
        want = self.server.post(CHAT, chat("Name three birds."))[1]["choices"][0]["message"]
        tools = [{"type": "function", "function": {"name": "now", "description": "the time", "parameters": {}}}]
        for more in ({"tools": tools}, {"tools": tools, "tool_choice": "auto"}, {"tools": tools, "tool_choice": "none"}):
            self.assertEqual(self.server.post(CHAT, chat("Name three birds.", **more))[1]["choices"][0]["message"], want)
        self.assert_refused(CHAT, chat("a", tools=tools, tool_choice="required"), 400, "tool_choice")

    def test_stop_strings_cross_tokens(self):
        whole = self.server.post(TEXT, text(PROMPTS[0], max_tokens=40))[1]["choices"][0]["text"]
        for length in (3, 7, 12):
            for begin in (5, 11, 20):
                stop = whole[begin:begin + length]
                want = whole[:whole.find(stop)]
                answer = self.server.post(TEXT, text(PROMPTS[0], max_tokens=40, stop=[stop]))[1]["choices"][0]
                self.assertEqual((answer["text"], answer["finish_reason"]), (want, "stop"))
                self.assertEqual(joined(self.server.stream(TEXT, text(PROMPTS[0], max_tokens=40, stop=stop))), want)
        # Where the stop string begins with a token, that token and its log-probability are withheld with it.
        tokens = self.server.post(TEXT, text(PROMPTS[0], max_tokens=40, logprobs=0))[1]["choices"][0]["logprobs"]["tokens"]
        for first in (5, 9):
            stop = "".join(tokens[first:first + 3])
            kept = next(i for i in range(first + 1) if "".join(tokens[i:]).startswith(stop))
            answer = self.server.post(TEXT, text(PROMPTS[0], max_tokens=40, logprobs=0, stop=stop))[1]["choices"][0]
            self.assertEqual(answer["logprobs"]["tokens"], tokens[:kept])
            self.assertEqual(answer["text"], "".join(tokens[:kept]))
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 0))

    def test_seeds_and_several_answers(self):
        body = text("Once upon a time", temperature=1, seed=7, n=3)
        first = [c["text"] for c in self.server.post(TEXT, body)[1]["choices"]]
        self.assertEqual(first, [c["text"] for c in self.server.post(TEXT, body)[1]["choices"]])
        self.assertEqual(len(set(first)), 3)
        alone = self.server.post(TEXT, {**body, "n": 1})[1]["usage"]
        usage = self.server.post(TEXT, body)[1]["usage"]
        self.assertEqual(usage["prompt_tokens"], alone["prompt_tokens"])  # a prompt counts once, whatever n is
        self.assertEqual(usage["completion_tokens"], 3 * 24)
        body = text(PROMPTS[:3])
        self.assertEqual([c["index"] for c in self.server.post(TEXT, body)[1]["choices"]], [0, 1, 2])

    def test_logprobs_and_bias(self):
        answer = self.server.post(CHAT, chat("Name three birds.", logprobs=True, top_logprobs=3, max_tokens=6))[1]
        content = answer["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), 6)
        self.assertEqual("".join(t["token"] for t in content), answer["choices"][0]["message"]["content"])
        for token in content:
            self.assertEqual(len(token["top_logprobs"]), 3)
            self.assertEqual(token["top_logprobs"][0]["logprob"], token["logprob"])  # greedy takes the likeliest
            self.assertLessEqual(token["logprob"], 0)
        columns = self.server.post(TEXT, text("The sky is", max_tokens=4, logprobs=2))[1]["choices"][0]
        self.assertEqual("".join(columns["logprobs"]["tokens"]), columns["text"])
        # A token that is lifted beyond all others comes each time; the likeliest, banned, never.
        lifted = self.server.post(TEXT, text([1, 2, 3], max_tokens=3, logit_bias={"1000": 100}, logprobs=0))[1]
        self.assertEqual(len(set(lifted["choices"][0]["logprobs"]["tokens"])), 1)
        token = self.first_token("The sky is")
        free = self.server.post(TEXT, text("The sky is", max_tokens=1, logprobs=2))[1]["choices"][0]["logprobs"]
        second = list(free["top_logprobs"][0])[1]
        banned = self.server.post(TEXT, text("The sky is", max_tokens=1, logit_bias={str(token): -100}))[1]
        self.assertEqual(banned["choices"][0]["text"], second)

    def first_token(self, prompt):
        """The id of the greedy token after a prompt: the one that, banned, changes the answer."""
        free = self.server.post(TEXT, text(prompt, max_tokens=1))[1]["choices"][0]["text"]
        low, high = 0, 49152
        while high - low > 1:  # ban halves of the vocabulary, a thousand ids a request at most
            middle = (low + high) // 2
            bans = [range(a, min(a + 1024, middle)) for a in range(low, middle, 1024)]
            found = any(self.server.post(TEXT, text(prompt, max_tokens=1, logit_bias={str(i): -100 for i in ban}))[1]
                        ["choices"][0]["text"] != free for ban in bans)
            low, high = (low, middle) if found else (middle, high)
        return low

    def test_models_and_state(self):
        model = self.server.get_json("/v1/models")["data"][0]["id"]
        self.assertEqual(model, os.path.basename(MODEL).removesuffix(".gguf"))
        self.assertEqual(self.server.get_json("/v1/models/" + model)["id"], model)
        self.assertEqual(self.server.post(TEXT, text("a", model=model, max_tokens=1))[0], 200)
        self.assert_refused(TEXT, text("a", model="gpt-4"), 404, "model", "model_not_found")
        self.assertEqual(self.server.request("GET", "/health")[0], 200)
        self.assertEqual(self.server.get_json("/ready"), {"ready": True})
        status = self.server.get_json("/status.json")
        self.assertEqual(status["stages"][0]["layer_end"], 30)
        self.assertTrue(all(node["heard"] for node in status["nodes"]))
        page = self.server.request("GET", "/")
        self.assertIn(b"<title>Shoal</title>", page[2])
        before = self.server.metric("shoal_generated_tokens_total")
        self.server.post(TEXT, text("a", max_tokens=5, ignore_eos=True))
        self.assertEqual(self.server.metric("shoal_generated_tokens_total"), before + 5)
        top = run(["top", "--once", "--url", f"http://127.0.0.1:{self.server.port}"])
        self.assertEqual(top.returncode, 0, top.stderr)
        self.assertIn(model.encode(), top.stdout)

    def test_a_client_that_leaves_frees_the_pipeline(self):
        cancelled = self.server.metric("shoal_cancelled_requests_total")
        body = text("Once upon a time", max_tokens=480, ignore_eos=True)
        self.assertEqual(len(self.server.stream(TEXT, body, events_max=3)), 3)
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 0, 2))
        self.assertEqual(self.server.metric("shoal_cancelled_requests_total"), cancelled + 1)
        time.sleep(0.7)  # longer than statistics are kept
        rows = self.server.metric("shoal_stage_rows_total")
        time.sleep(0.7)
        self.assertEqual(self.server.metric("shoal_stage_rows_total"), rows)
        connection = self.server.connect()  # one that waits for a whole answer and leaves
        connection.request("POST", TEXT, json.dumps(body), {"Content-Type": "application/json"})
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 1))
        connection.close()
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 0, 2))

    def test_a_stream_read_too_slowly_is_cut_off(self):
        """What waits for its reader is bounded."""
        cancelled = self.server.metric("shoal_cancelled_requests_total")
        body = text("Once upon a time", max_tokens=480, ignore_eos=True, n=4, logprobs=5, temperature=1, stream=True)
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", self.server.port))
            reader.settimeout(60)
            payload = json.dumps(body).encode()
            reader.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (TEXT.encode(), len(payload), payload))
            answer = b""

            def cut_off():  # a little is read, or it would be dropped as one that has stopped
                nonlocal answer
                answer += reader.recv(512)  # far slower than a busy machine writes
                time.sleep(0.2)
                return self.server.metric("shoal_cancelled_requests_total") == cancelled + 1

            self.assertTrue(self.server.wait_for(cut_off, 60))
            self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 0, 2))
            while part := reader.recv(65536):
                answer += part
        self.assertIn(b"more slowly than it is written", answer)


class Refusals(OneServer):
    def test_fields(self):
        for field, values in {
                "temperature": [-1, 3, "NaN", "1"], "top_p": [-1, 2], "top_k": [-2**31, 1.5], "seed": [2**64, "x"],
                "max_tokens": [-1, 0, 2**40], "n": [0, -1, 10**6], "presence_penalty": [-3, "a"],
                "frequency_penalty": [3], "stream": ["yes"], "logit_bias": [[1], {"a": 1}, {"999999": 1}, {"-1": 1}, {"01": 1}],
                "priority": [4, -4, 0.5, "high"], "timeout": [0, -1, 3601, "1s"],
                "tools": [{}], "user": [5], "model": [[]],
                "response_format": [{"type": "xml"}, "json_object"]}.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    self.assert_refused(CHAT, chat("hi", **{field: value}), 400, field)
        for number in ("1e999", "-1e999"):
            self.assert_refused(CHAT, '{"messages":[{"role":"user","content":"a"}],"temperature":%s}' % number, 400,
                                "temperature")
        self.assert_refused(TEXT, text(""), 400, "prompt")
        self.assert_refused(TEXT, text([10**6]), 400, "prompt")
        self.assert_refused(CHAT, {"messages": []}, 400, "messages")
        self.assert_refused(TEXT, text("hi", best_of=10**6), 400, "best_of")
        self.assert_refused(TEXT, text("hi", stop=["a"] * 10**5), 400, "stop")
        self.assert_refused(TEXT, text("hi", stop=""), 400, "stop")

    def test_a_time_limit(self):
        status, answer = self.server.post(TEXT, text("hi", max_tokens=400, timeout=0.05, ignore_eos=True))
        self.assertEqual((status, answer["error"]["code"]), (504, "deadline_exceeded"), answer)
        events = self.server.stream(TEXT, text("hi", max_tokens=400, timeout=1.5, ignore_eos=True, n=16))
        # 6400 tokens: more than any two cores make in the time given, whose end then falls into the stream.
        self.assertEqual(json.loads(events[-2])["error"]["code"], "deadline_exceeded")
        self.assertEqual(self.server.post(TEXT, text("hi", max_tokens=2, timeout=60, priority=3))[0], 200)

    def test_answers_in_a_given_form(self):
        schema = {"type": "object", "additionalProperties": False, "required": ["name", "wings", "seen"], "properties": {
            "name": {"type": "string", "maxLength": 12}, "wings": {"type": "integer"},
            "seen": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"enum": ["land", "sea"]}}}}
        for path, body in ((CHAT, chat("Describe a bird.")), (TEXT, text("A bird as JSON: "))):
            for temperature in (0, 1.5):
                status, answer = self.server.post(path, {
                    **body, "max_tokens": 120, "temperature": temperature, "seed": 5, "n": 2, "response_format":
                    {"type": "json_schema", "json_schema": {"name": "bird", "schema": schema, "strict": True}}})
                self.assertEqual(status, 200, answer)
                for choice in answer["choices"]:
                    self.assertEqual(choice["finish_reason"], "stop")
                    bird = json.loads(choice["message"]["content"] if path == CHAT else choice["text"])
                    self.assertEqual(sorted(bird), ["name", "seen", "wings"])
                    self.assertLessEqual(len(bird["name"]), 12)
                    self.assertIsInstance(bird["wings"], int)
                    self.assertIn(len(bird["seen"]), (1, 2))
                    self.assertLessEqual(set(bird["seen"]), {"land", "sea"})
        answer = self.server.post(CHAT, chat("Say something.", max_tokens=8, response_format={"type": "json_object"}))[1]
        self.assertEqual(answer["choices"][0]["message"]["content"].lstrip()[0], "{")
        self.assert_refused(CHAT, chat("hi", response_format={"type": "json_schema", "json_schema": {
            "name": "n", "schema": {"type": "string", "pattern": "a"}}}), 400, "response_format.json_schema.schema")

    def test_prompts_beyond_the_context(self):
        began = self.server.metric("shoal_prompt_tokens_total")
        self.assert_refused(TEXT, text("word " * 600), 400, "prompt", "context_length_exceeded")
        self.assert_refused(CHAT, chat("word " * 600), 400, "messages", "context_length_exceeded")
        self.assert_refused(TEXT, text("a" * 3_000_000), 400, "prompt", "context_length_exceeded")
        self.assertEqual(self.server.metric("shoal_prompt_tokens_total"), began)  # no stage has worked
        answer = self.server.post(TEXT, text("word " * 500, max_tokens=4096))[1]
        self.assertEqual(answer["usage"]["total_tokens"], 512)
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")

    def test_bodies(self):
        for body in ("", "{", "[]", "nul", b"\xef\xbb\xbf{}", b'{"prompt":"\xc0\xaf"}', b'{"prompt":"\xed\xa0\x80"}',
                     '{"prompt":"\\ud800"}', '{"prompt":"a"} x', "[" * 100_000, '{"a":' * 3000):
            with self.subTest(body=body[:20]):
                self.assert_refused(TEXT, body, 400)
        self.assertEqual(self.server.post(TEXT, '{"prompt":"a\\u0000b","max_tokens":1}')[0], 200)
        many = json.dumps({**{f"k{i}": i for i in range(4000)}, **text("a", max_tokens=1)})
        self.assertEqual(self.server.post(TEXT, many)[0], 200)

    def test_paths_methods_and_types(self):
        request = self.server.request
        self.assertEqual(request("GET", "/nothing")[0], 404)
        status, headers, _ = request("GET", CHAT)
        self.assertEqual((status, headers["Allow"]), (405, "POST, OPTIONS"))
        self.assertEqual(request("DELETE", "/v1/models")[0], 405)
        for kind in ("text/plain", "application/json; charset=latin1"):
            self.assertEqual(request("POST", CHAT, "{}", {"Content-Type": kind})[0], 415)
        for kind in ("application/json", "Application/JSON ; a=b; charset=UTF-8", 'application/json;charset="utf-8"'):
            self.assertEqual(request("POST", CHAT, "{}", {"Content-Type": kind})[0], 400)
        self.assertEqual(request("HEAD", "/v1/models")[2], b"")
        status, headers, _ = request("OPTIONS", CHAT, headers={"Origin": "http://evil.example"})
        self.assertEqual(status, 204)
        self.assertNotIn("Access-Control-Allow-Origin", headers)
        self.assertEqual(request("GET", "/v1/models", headers={"Host": "evil.example"})[0], 403)
        for host in ("127.0.0.2:80", "192.0.2.7", "[fd00::1]:8080", "localhost.", socket.gethostname() + ":1"):
            self.assertEqual(request("GET", "/v1/models", headers={"Host": host})[0], 200, host)
        name = json.loads(request("GET", "/v1/models")[2])["data"][0]["id"]
        self.assertEqual(request("GET", "/v1/models/" + name.replace("-", "%2D", 1))[0], 200)

    def test_large_bodies_leave_memory_flat(self):
        def resident():
            with open(f"/proc/{self.server.head_pid}/statm", encoding="ascii") as text_file:
                return int(text_file.read().split()[1]) * 4096

        before = resident()
        for head in (b"Content-Length: 1073741824\r\n", b"Transfer-Encoding: chunked\r\n"):
            with socket.create_connection(("127.0.0.1", self.server.port), 20) as raw:
                raw.sendall(b"POST " + TEXT.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
                            b"Content-Type: application/json\r\n" + head + b"\r\n")
                try:
                    for _ in range(64):  # 64 MiB, in chunks of 6 bytes for the second
                        if head.startswith(b"Content"):
                            raw.sendall(b"x" * (1 << 20))
                        else:
                            raw.sendall(b"6\r\nabcdef\r\n" * 95_325)
                except OSError:
                    pass  # closed on us, as it should be
                try:
                    self.assertIn(b" 413 ", raw.recv(4096))
                except ConnectionResetError:
                    pass
        self.assertLess(resident() - before, 16 << 20)
        self.assertEqual(self.server.request("GET", "/health")[0], 200)

    def test_many_connections_that_say_nothing(self):
        idle = [socket.create_connection(("127.0.0.1", self.server.port), 20) for _ in range(1100)]
        try:
            self.assertEqual(self.server.post(TEXT, text("a", max_tokens=2))[0], 200)
        finally:
            for connection in idle:
                connection.close()
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_http_connections") == 1))

    def test_a_burst_with_some_who_leave(self):
        body = text("Once upon a time", max_tokens=4, ignore_eos=True)
        want = self.server.post(TEXT, body)[1]["choices"][0]["text"]

        def one(i):
            if i % 5 == 0:
                return self.server.stream(TEXT, {**body, "max_tokens": 200}, events_max=1) and want
            return self.server.post(TEXT, body)[1]["choices"][0]["text"]

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            self.assertEqual(set(pool.map(one, range(200))), {want})
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 0))


class Doors(ClusterTest):
    def key_file(self, mode=0o600):
        path = os.path.join(self.folder, "keys")
        with open(path, "w", encoding="ascii") as out:
            out.write("# keys\nthe-key-of-this-test\nthe-second-key-of-this-test\n")
        os.chmod(path, mode)
        return path

    def test_keys(self):
        with Server([*ARGUMENTS, "--api-key-file", self.key_file()], key="the-key-of-this-test") as server:
            # The first question for readiness sends a token through the pipeline, which is nobody's traffic.
            self.assertEqual(server.get_json("/ready"), {"ready": True})
            self.assertEqual(server.metric("shoal_generated_tokens_total"), 0)
            self.assertEqual(server.post(TEXT, text("a", max_tokens=1))[0], 200)
            self.assertEqual(server.metric("shoal_generated_tokens_total"), 1)
            self.assertEqual(server.request("GET", "/v1/models", headers={"Host": "a.lan"})[0], 200)
            for key in ("", "another-key-of-this-test"):
                server.key = key
                status, headers, body = server.request("GET", "/v1/models")
                self.assertEqual((status, headers["WWW-Authenticate"]), (401, "Bearer"))
                self.assertEqual(json.loads(body)["error"]["code"], "invalid_api_key")
                self.assertEqual(server.request("GET", "/metrics")[0], 401)
                self.assertEqual(server.request("GET", "/status.json")[0], 401)
                self.assertEqual(server.request("GET", "/health")[0], 200)
            for _ in range(40):  # a wrong key is told of, with whose it was; many are counted
                self.assertEqual(server.request("GET", "/v1/models")[0], 401)
            server.key = "the-key-of-this-test"
        refused = re.findall(r"a request from 127\.0\.0\.1:\d+ was refused: its key is not one for (\S+)", server.log)
        self.assertEqual(refused[:3], ["/v1/models", "/metrics", "/status.json"])
        self.assertIn(len(refused), range(30, 41))  # of 43
        self.assertNotIn("another-key-of-this-test", server.log)
        self.assertNotIn("the-key-of-this-test", server.log)

    def test_a_key_may_ask_so_often_and_no_more(self):
        with Server([*ARGUMENTS, "--api-key-file", self.key_file(), "--requests-per-minute", "3"],
                    key="the-key-of-this-test") as server:
            for _ in range(3):
                self.assertEqual(server.post(TEXT, text("a", max_tokens=1))[0], 200)
            status, headers, body = server.request("POST", TEXT, "{}", {"Content-Type": "application/json"})
            self.assertEqual((status, json.loads(body)["error"]["code"]), (429, "rate_limit_exceeded"))
            self.assertIn(int(headers["Retry-After"]), range(1, 21))
            self.assertEqual(server.request("GET", "/v1/models")[0], 200)
            server.key = "the-second-key-of-this-test"
            self.assertEqual(server.post(TEXT, text("a", max_tokens=1))[0], 200)

    def test_a_key_shares_no_cache_with_another(self):
        with Server([*ARGUMENTS, "--api-key-file", self.key_file()], key="the-key-of-this-test") as server:
            def cached(key):
                server.key = key
                status, answer = server.post(TEXT, text("The river rose over the fields and the " * 8, max_tokens=2))
                self.assertEqual(status, 200, answer)
                return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

            first, second = server.key, "the-second-key-of-this-test"
            self.assertEqual(cached(first), 0)
            self.assertGreater(cached(first), 40)
            self.assertEqual(cached(second), 0)
            self.assertGreater(cached(second), 40)

    def test_web_pages_from_named_origins_may_come(self):
        page = "http://localhost:3000"
        with Server([*ARGUMENTS, "--allow-origin", page]) as server:
            status, headers, _ = server.request("OPTIONS", CHAT, headers={
                "Origin": page, "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, page))
            self.assertEqual(headers["Access-Control-Allow-Headers"], "authorization,content-type,x-stainless-os")
            for path, body, want in ((TEXT, text("a", max_tokens=1), 200), (TEXT, text("a", stream=True, max_tokens=1), 200),
                                     (TEXT, text("a", n=0), 400), ("/v1/nothing", text("a"), 404)):
                status, headers, _ = server.request("POST", path, json.dumps(body),
                                                    {"Content-Type": "application/json", "Origin": page})
                self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (want, page))
            _, headers, _ = server.request("GET", "/v1/models", headers={"Origin": "http://evil.example"})
            self.assertNotIn("Access-Control-Allow-Origin", headers)

    def test_a_trace(self):
        path = os.path.join(self.folder, "trace.json")
        with Server([*ARGUMENTS, "--trace", path]) as server:
            self.assertEqual(server.post(TEXT, text("a", max_tokens=4))[0], 200)
        with open(path, encoding="utf-8") as file:
            events = json.load(file)
        self.assertEqual(sum(event["ph"] == "X" for event in events), 4)
        self.assertEqual({event["name"] for event in events if event["ph"] == "b" and event["cat"] == "request"},
                         {"request 1", "waiting", "prompt", "generating"})

    def refused(self, arguments, *patterns):
        self.assert_refused(run(["serve", *arguments]), 2, *patterns)

    def test_wrong_doors(self):
        self.refused([MODEL, "--listen", "0.0.0.0:0"], "--api-key-file", "--without-api-key")
        self.refused([MODEL, "--listen", "8080"], "--listen: '8080' names no port")
        self.refused([MODEL, "--listen", "[::1]"], "names no port")
        self.refused([MODEL, "--listen", ""], "--listen", "empty")
        self.refused([MODEL, "--api-key-file", self.folder], "cannot be read as a key file: .* a directory")
        self.refused([MODEL, "--listen", "host:1"], "names no IP address")
        self.refused([MODEL, "--allow-origin", "localhost:3000"], "--allow-origin: 'localhost:3000' is no origin")
        self.refused([MODEL, "--allow-origin", "*"], "without API keys", "--api-key-file")
        self.refused([MODEL, "--api-key-file", self.key_file(0o644)], "chmod 600")
        self.refused([MODEL, "--api-key-file", self.folder + "/none"], "no such key file")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            path = cluster_file(self.folder, 2)
            result = run(["serve", "-c", path, "-m", MODEL, "--listen", f"127.0.0.1:{port}"], 2)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(f"cannot listen on 127.0.0.1:{port}", result.stderr.decode())
        self.assertIn("another program has it; choose another port", result.stderr.decode())
        self.assertNotIn("measuring", result.stderr.decode())  # it is said before that
        path = cluster_file(self.folder, 1)
        with open(path, "a", encoding="ascii") as out:
            out.write("serve: {listn: 127.0.0.1:1}\n")
        self.refused(["-c", path, "-m", MODEL], "did you mean 'listen'")


class Ends(ClusterTest):
    def test_a_signal_lets_answers_finish(self):
        with Server([*ARGUMENTS, "--grace", "30"]) as server:
            body = text("Once upon a time", max_tokens=60, ignore_eos=True)
            want = server.post(TEXT, body)[1]["choices"][0]["text"]
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                stream = pool.submit(server.stream, TEXT, body)
                self.assertTrue(server.wait_for(lambda: server.metric("shoal_requests_in_flight") == 1))
                os.kill(server.head_pid, signal.SIGTERM)
                self.assertEqual(joined(stream.result()), want)

    def test_an_answer_beyond_the_grace_ends_with_an_error(self):
        with Server([*ARGUMENTS, "--grace", "0.2"]) as server:
            body = text("Once upon a time", max_tokens=480, ignore_eos=True)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                stream = pool.submit(server.stream, TEXT, body)
                self.assertTrue(server.wait_for(lambda: server.metric("shoal_requests_in_flight") == 1))
                os.kill(server.head_pid, signal.SIGINT)
                self.assertIn(b"error", stream.result()[-2])

    def test_a_signal_that_comes_again_ends_the_grace_and_kills_nobody(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number=number), Server([*ARGUMENTS, "--grace", "60"]) as server:
                body = text("Once upon a time", max_tokens=480, ignore_eos=True)
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    stream = pool.submit(server.stream, TEXT, body)
                    self.assertTrue(server.wait_for(lambda: server.metric("shoal_requests_in_flight") == 1))
                    self.assertEqual(insist(server.process, number), 0)
                    self.assertIn(b"error", stream.result()[-2])


class Cluster(ClusterTest):
    def test_two_nodes_serve_the_same_text(self):
        path = cluster_file(self.folder, 2, even_layers(2))
        one = self.answer([*ARGUMENTS, "-q", "--raw", "-p", PROMPTS[0], "-n", "24", "--temp", "0"])
        with Server(["-c", path, "-m", MODEL], ranks=2) as server:
            answer = server.post(TEXT, text(PROMPTS[0], n=2))[1]
            for choice in answer["choices"]:
                self.assertEqual(choice["text"], one.decode().removesuffix("\n"))
            status = server.get_json("/status.json")
            self.assertEqual([stage["node"] for stage in status["stages"]], ["node-0", "node-1"])
            self.assertEqual([(link["from"], link["to"]) for link in status["links"]],
                             [("node-0", "node-1"), ("node-1", "node-0")])
            self.assertGreater(server.metric("shoal_link_sent_bytes_total"), 24 * 576 * 4)
            self.assertEqual(server.metric("shoal_preempted_sequences_total"), 0)
            # Bias and log-probabilities need candidates from the last stage on the other node.
            lifted = server.post(TEXT, text("a", max_tokens=3, logit_bias={"1000": 100}, logprobs=1))[1]["choices"][0]
            self.assertEqual(len(set(lifted["logprobs"]["tokens"])), 1)

    def test_a_cache_too_small_for_all_changes_no_answer(self):
        path = cluster_file(self.folder, 2, even_layers(2), sequences=8)
        bodies = [text(prompt, max_tokens=90, ignore_eos=True) for prompt in PROMPTS]
        with Server(["-c", path, "-m", MODEL], ranks=2) as server:
            want = [server.post(TEXT, body)[1]["choices"][0]["text"] for body in bodies]
        with Server(["-c", path, "-m", MODEL, "--kv-cells", "512"], ranks=2) as server:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = [pool.submit(server.post, TEXT, body) for body in bodies]
                self.assertEqual([a.result()[1]["choices"][0]["text"] for a in answers], want)
            self.assertGreater(server.metric("shoal_preempted_sequences_total"), 0)


if __name__ == "__main__":
    unittest.main()
