"""The official `openai` Python client, unchanged, against shoal serve. Exit code 77, which ctest shows as skipped, where
the module is not installed (pip install openai, or tools/setup.sh --test)."""

import asyncio
import os
import sys
import tempfile
import unittest

from server import Server
from support import MODEL, ClusterTest

# Where tools/setup.sh --test puts it, before what is installed otherwise: its parts may be too old for it.
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
sys.path.insert(0, os.path.join(CACHE, "shoal", "python-%d.%d" % sys.version_info[:2]))

try:
    import openai
except ImportError:
    print("SKIPPED: the Python module openai is not installed (tools/setup.sh --test)")
    sys.exit(77)

KEY = "the-key-of-this-test"
BIRDS = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Name three birds."}]


class OfficialClient(ClusterTest):
    @classmethod
    def setUpClass(cls):
        cls.folder_of_keys = tempfile.TemporaryDirectory(prefix="shoal-test-")
        path = os.path.join(cls.folder_of_keys.name, "keys")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as out:
            out.write(KEY + "\n")
        cls.server = Server([MODEL, "--context", "512", "--sequences", "4", "--threads", "1", "--api-key-file", path],
                            key=KEY)
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key=KEY, max_retries=0)
        cls.model = cls.client.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__(None)
        cls.folder_of_keys.cleanup()

    def chat(self, **more):
        return self.client.chat.completions.create(**{"model": self.model, "messages": BIRDS, "temperature": 0,
                                                      "max_completion_tokens": 24, **more})

    def test_chat(self):
        whole = self.chat()
        self.assertEqual(whole.choices[0].message.role, "assistant")
        self.assertEqual(whole.usage.completion_tokens, 24)
        parts, usage = [], None
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            if chunk.choices:
                parts.append(chunk.choices[0].delta.content or "")
            usage = chunk.usage or usage
        self.assertEqual("".join(parts), whole.choices[0].message.content)
        self.assertEqual(usage, whole.usage.model_copy(update={"prompt_tokens_details": usage.prompt_tokens_details}))

    def test_choices_seeds_and_stop(self):
        answer = self.chat(n=3, seed=5, temperature=1, stop=["\n"])
        self.assertEqual(len({c.message.content for c in answer.choices}), 3)
        again = self.chat(n=3, seed=5, temperature=1, stop=["\n"])
        self.assertEqual([c.message.content for c in again.choices], [c.message.content for c in answer.choices])
        self.assertEqual(again.system_fingerprint, answer.system_fingerprint)

    def test_logprobs_and_completions(self):
        content = self.chat(logprobs=True, top_logprobs=2, max_completion_tokens=3).choices[0].logprobs.content
        self.assertEqual([len(token.top_logprobs) for token in content], [2, 2, 2])
        answer = self.client.completions.create(model=self.model, prompt=["The sky is", "Once"], max_tokens=4,
                                                temperature=0, logprobs=1)
        self.assertEqual([len(c.logprobs.tokens) for c in answer.choices], [4, 4])
        stream = self.client.completions.create(model=self.model, prompt="The sky is", max_tokens=4, temperature=0,
                                                stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in stream), answer.choices[0].text)

    def test_a_stream_that_is_closed_frees_the_pipeline(self):
        stream = self.chat(stream=True, max_completion_tokens=400, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("shoal_requests_in_flight") == 0, 3))

    def test_refusals_are_the_client_s_exceptions(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat(temperature=9)
        self.assertEqual(refused.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat(messages=[{"role": "user", "content": "word " * 600}])
        self.assertEqual(refused.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError):
            self.chat(model="gpt-4")
        wrong = openai.OpenAI(base_url=self.client.base_url, api_key="not-a-key-of-this-test", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            wrong.models.list()
        wrong.close()

    def test_many_at_once(self):
        want = self.chat().choices[0].message.content

        async def ask():
            async with openai.AsyncOpenAI(base_url=self.client.base_url, api_key=KEY, max_retries=0) as client:
                return await asyncio.gather(*(client.chat.completions.create(
                    model=self.model, messages=BIRDS, temperature=0, max_completion_tokens=24) for _ in range(12)))

        self.assertEqual({answer.choices[0].message.content for answer in asyncio.run(ask())}, {want})


if __name__ == "__main__":
    unittest.main()
