"""shoal pull, list and rm as processes, against hubs on loopback: what a hub may do well, badly or with intent."""

import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import tempfile
import threading
import time
import unittest

from hub import Hub, tiny_gguf

PROGRAM = os.environ["SHOAL_PROGRAM"]
MODEL = os.environ["SHOAL_TEST_MODEL"]
REPOSITORY = "tester/Tiny-GGUF"
NAME = REPOSITORY + ":Q8_0"
FILE = "tiny-q8_0.gguf"
TINY = tiny_gguf()
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
       "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}


class Pull(unittest.TestCase):
    def setUp(self):
        self.handle = tempfile.TemporaryDirectory(prefix="shoal-pull-")
        self.folder = self.handle.name
        self.models = os.path.join(self.folder, "shoal", "models")
        self.hubs = []
        self.hub = self.start({REPOSITORY: {FILE: TINY}})

    def tearDown(self):
        for hub in self.hubs:
            hub.close()
        self.handle.cleanup()

    def start(self, *arguments, **settings):
        self.hubs.append(Hub(*arguments, **settings))
        return self.hubs[-1]

    def environment(self, **more):
        plain = {key: value for key, value in os.environ.items() if not re.match(r"HF_|SHOAL_MIRROR|SSL_CERT", key)}
        return {**plain, "XDG_CACHE_HOME": self.folder, "SHOAL_MIRROR": self.hub.url, **more}

    def shoal(self, *arguments, timeout=120, **more):
        return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=timeout, check=False,
                              stdin=subprocess.DEVNULL, env=self.environment(**more))

    def pulled(self, *arguments, **more):
        result = self.shoal("pull", *(arguments or (NAME,)), **more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def refused(self, pattern, *arguments, code=None, **more):
        result = self.shoal(*(arguments or ("pull", NAME)), **more)
        self.assertIn(result.returncode, (code,) if code else (1, 2), result.stderr)
        self.assertRegex(result.stderr, pattern)
        self.assertNotRegex(result.stderr, "terminate called|Sanitizer")
        self.assertEqual(result.stdout, "")
        return result

    def kept(self):
        """Files of the store, relative."""
        return sorted(os.path.relpath(os.path.join(folder, file), self.models)
                      for folder, _, files in os.walk(self.models) for file in files)

    def left(self):
        """The same, and folders."""
        return self.kept() + sorted(name for _, folders, _ in os.walk(self.models) for name in folders)

    # What goes well.

    def test_pull_list_rm(self):
        path = self.pulled()
        self.assertEqual(path, os.path.join(self.models, REPOSITORY, FILE))
        with open(path, "rb") as made:
            self.assertEqual(made.read(), TINY)
        mask = os.umask(0)
        os.umask(mask)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o666 & ~mask)
        self.assertEqual(self.kept(), [f"{REPOSITORY}/{FILE}", f"{REPOSITORY}/{FILE}.pulled"])
        listed = json.loads(self.shoal("list", "--json").stdout)
        self.assertEqual(len(listed), 1)
        for key, value in {"name": NAME, "path": path, "bytes": len(TINY), "complete": True, "format": "F32",
                           "architecture": "llama", "context": 2048}.items():
            self.assertEqual(listed[0][key], value, key)
        self.assertRegex(self.shoal("list").stdout, rf"{NAME} .*KiB  F32 +llama +2048")
        # Offline from here on.
        seen = len(self.hub.requests)
        self.assertEqual(self.pulled(NAME.lower().replace("tester/tiny-gguf", REPOSITORY)), path)
        self.assertEqual(self.pulled(f"{REPOSITORY}/{FILE}"), path)
        self.assertEqual(len(self.hub.requests), seen)
        self.refused(f"no pulled model is named 'other/r'.*there are: {NAME}", "rm", "other/r", code=2)
        removed = self.shoal("rm", NAME)
        self.assertEqual(removed.returncode, 0, removed.stderr)
        self.assertEqual(os.listdir(self.models), [])
        self.refused("there are none", "rm", NAME, code=2)

    def test_a_file_damaged_at_equal_size_is_noticed_and_fetched_anew(self):
        path = self.pulled()
        self.assertEqual(self.shoal("list", "--verify").returncode, 0)
        self.assertIs(json.loads(self.shoal("list", "--verify", "--json").stdout)[0]["damaged"], False)
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"?")
        listed = self.shoal("list", "--verify")
        self.assertEqual(listed.returncode, 1, listed.stderr)
        self.assertRegex(listed.stdout, f"{NAME} .*damaged: '{FILE}' has another SHA-256")
        self.assertNotIn("damaged", json.loads(self.shoal("list", "--json").stdout)[0])
        result = self.shoal("pull", NAME)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(f"'{FILE}' has another SHA-256 than it was pulled with: getting it anew", result.stderr)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), TINY)
        self.assertIn("its SHA-256 is right", self.shoal("pull", NAME).stderr)
        self.assertEqual(len(self.hub.downloads()), 2)

    def test_a_pulled_name_is_a_model(self):
        with open(MODEL, "rb") as model:
            self.hub.files[REPOSITORY]["real-Q4_1.gguf"] = model.read()
        name = REPOSITORY + ":Q4_1"
        arguments = ("-p", "What is the capital of France?", "-n", "8", "--temp", "0", "-q")
        expected = self.shoal("run", MODEL, *arguments).stdout
        self.assertTrue(expected)
        self.refused(f"model '{name}': .*get it with: shoal pull {name}", "run", name, *arguments, code=2)
        cluster = os.path.join(self.folder, "cluster.yaml")
        with open(cluster, "w", encoding="utf-8") as out:
            out.write(f"model: {name}\ncontext: 256\nsequences: 1\nnodes: {{a: {{memory: 2GiB, threads: 1}}}}\n")
        self.refused(f"get it with: shoal pull {name}", "plan", "-c", cluster, code=2)
        self.pulled(name)
        self.hub.close()
        self.hubs.remove(self.hub)
        for model in ((name,), ("-c", cluster)):
            answer = self.shoal("run", *model, *arguments)
            self.assertEqual(answer.returncode, 0, answer.stderr)
            self.assertEqual(answer.stdout, expected)
        self.assertIn("Smollm2", self.shoal("inspect", name).stdout)

    @unittest.skipIf(shutil.which("mpirun") is None, "needs mpirun")
    def test_a_node_without_the_pulled_model_fetches_its_share(self):
        with open(MODEL, "rb") as model:
            self.hub.files[REPOSITORY]["real-Q4_1.gguf"] = model.read()
        name = REPOSITORY + ":Q4_1"
        cluster = os.path.join(self.folder, "cluster.yaml")
        with open(cluster, "w", encoding="utf-8") as out:
            out.write(f"model: {name}\ncontext: 256\nsequences: 1\nhead: a\nnodes:\n"
                      "  a: {address: 127.0.0.1, memory: 2GiB, threads: 1}\n"
                      "  b: {address: 127.0.0.1, memory: 2GiB, threads: 1}\n"
                      "links: [{between: [a, b], bandwidth: 10Gbps, latency: 30us}]\n"
                      "plan: {keep-on-head: none, layers: {a: 0-14, b: 15-29}}\n")
        ask = ["-p", "What is the capital of France?", "-n", "8", "--temp", "0", "-q"]
        self.pulled(name)

        def both(*folders):
            parts = []
            for folder in folders:
                parts += [":"] if parts else []
                parts += ["-n", "1", "env", f"XDG_CACHE_HOME={folder}", PROGRAM, "run", "-c", cluster, *ask]
            return subprocess.run(["mpirun", "--quiet", *parts], capture_output=True, text=True, timeout=120, check=False,
                                  stdin=subprocess.DEVNULL, env={**self.environment(), **MPI})

        empty = os.path.join(self.folder, "empty")
        answer = both(self.folder, empty)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual(answer.stdout, self.shoal("run", name, *ask).stdout)
        self.assertIn("node b has no model file", answer.stderr)
        refused = both(empty, self.folder)
        self.assertEqual(refused.returncode, 2, refused.stderr)
        self.assertRegex(refused.stderr, f"node a: model '{name}': .*get it with: shoal pull {name}")

    def test_all_parts_of_a_split_model(self):
        parts = {f"Q4_0/big-Q4_0-{i:05}-of-00003.gguf": tiny_gguf(i) for i in (1, 2, 3)}
        self.hub.files[REPOSITORY].update(parts)
        self.hub.page = 2
        path = self.pulled(REPOSITORY + ":q4_0")
        self.assertTrue(path.endswith("Q4_0/big-Q4_0-00001-of-00003.gguf"))
        for file, body in parts.items():
            with open(os.path.join(self.models, REPOSITORY, file), "rb") as made:
                self.assertEqual(made.read(), body)
        self.pulled()
        self.assertEqual(self.shoal("rm", REPOSITORY + ":Q4_0").returncode, 0)
        self.assertEqual(self.kept(), [f"{REPOSITORY}/{FILE}", f"{REPOSITORY}/{FILE}.pulled"])

    def test_redirects_take_no_token_along(self):
        cdn = self.start({REPOSITORY: {}})
        cdn.answer = lambda handler: cdn.send(handler, 200, TINY)
        self.hub.cdn = cdn
        result = self.shoal("pull", NAME, HF_TOKEN="hf_secret")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("hf_secret", result.stderr + result.stdout)
        self.assertEqual({request[2] for request in self.hub.requests}, {"Bearer hf_secret"})
        self.assertEqual([request[2] for request in cdn.requests], [None])
        for folder, _, files in os.walk(self.models):
            for file in files:
                with open(os.path.join(folder, file), "rb") as made:
                    self.assertNotIn(b"hf_secret", made.read())

    def test_the_mirror_of_the_flag_comes_first(self):
        other = self.start({REPOSITORY: {FILE: TINY}})
        self.pulled("--mirror", other.url + "/", NAME, HF_ENDPOINT="http://127.0.0.1:1")
        self.assertEqual(self.hub.requests, [])

    # What breaks.

    def test_broken_transfers_go_on_where_they_broke(self):
        self.hub.cut_after = [1000, 5000]
        result = self.shoal("pull", NAME)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([request[1] for request in self.hub.downloads()], [None, "bytes=1000-", "bytes=6000-"])
        self.assertIn("trying again", result.stderr)

    def test_a_hub_without_ranges_sends_all_again(self):
        self.hub.cut_after = [1000]
        self.hub.ranges = False
        self.pulled()
        self.assertEqual([request[1] for request in self.hub.downloads()], [None, "bytes=1000-"])

    def test_an_interrupt_leaves_what_arrived(self):
        self.hub.pace = (1000, 0.02)
        process = subprocess.Popen([PROGRAM, "pull", NAME], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=self.environment())
        partial = os.path.join(self.models, REPOSITORY, FILE + ".partial")
        deadline = time.monotonic() + 60
        while not os.path.exists(partial) or os.path.getsize(partial) < 3000:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1, said)
        self.assertRegex(said, "interrupted; what has arrived is kept, and the same command goes on")
        size = os.path.getsize(partial)
        self.assertFalse(os.path.exists(partial[:-len(".partial")]))
        self.assertRegex(self.shoal("list").stdout, f"{NAME} .*incomplete: .*shoal pull goes on")
        self.refused("only a part of it is here; get it with: shoal pull", "run", NAME, "-p", "x", code=2)
        self.hub.pace = None
        self.pulled()
        self.assertEqual(self.hub.downloads()[-1][1], f"bytes={size}-")
        self.assertFalse(os.path.exists(partial))

    def test_two_at_once_download_once(self):
        self.hub.pace = (20000, 0.05)
        processes = [subprocess.Popen([PROGRAM, "pull", NAME], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                      env=self.environment()) for _ in range(2)]
        said = [process.communicate(timeout=60)[1] for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0], said)
        self.assertEqual(len(self.hub.downloads()), 1, said)

    def test_what_is_left_of_another_version_is_not_used(self):
        os.makedirs(os.path.join(self.models, REPOSITORY))
        partial = os.path.join(self.models, REPOSITORY, FILE + ".partial")
        with open(partial, "wb") as out:
            out.write(b"x" * 1000)
        result = self.shoal("pull", NAME)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("does not belong to this file; beginning anew", result.stderr)

    def test_a_wrong_checksum_leaves_nothing_to_run(self):
        self.hub.altered = lambda body: body[:-1] + b"?"
        wrong = hashlib.sha256(TINY[:-1] + b"?").hexdigest()
        self.refused(f"another SHA-256 \\({wrong}\\) than the hub says", code=1)
        self.assertEqual(self.left(), [])
        self.assertEqual(len(self.hub.downloads()), 1)

    def test_what_was_refused_leaves_nothing(self):
        def too_long(handler, *_):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + TINY + b"x" * 100000)

        def is_refused(said, *arguments, **more):
            with self.subTest(said=said):
                self.refused(said, *(arguments or ("pull", NAME)), code=1, **more)
                self.assertEqual(self.left(), [])

        self.hub.altered = lambda body: body + b"more"
        is_refused("is about to send")
        self.hub.altered, download = None, self.hub.download
        self.hub.download = too_long
        is_refused("sends more than the")
        self.hub.download = download
        for status in (404, 403, 401):
            self.hub.status = [None, (status, {})]
            is_refused("has no such thing|does not give access")
        self.hub.cut_after = [0]
        is_refused("ended early$", "pull", NAME, "--tries", "1")
        self.hub.cut_after = []
        # Of two parts the first is there, and stays.
        parts = {f"big-Q4_0-{i:05}-of-00002.gguf": tiny_gguf(i) for i in (1, 2)}
        self.hub.files[REPOSITORY].update(parts)
        self.hub.status = [None, None, (404, {})]
        self.refused("has no such thing", "pull", REPOSITORY + ":Q4_0", code=1)
        first = f"{REPOSITORY}/big-Q4_0-00001-of-00002.gguf"
        self.assertEqual(self.kept(), [first, first + ".pulled"])

    def test_who_is_refused_keeps_what_arrived_before(self):
        self.hub.cut_after = [3000]
        self.refused("ended early", "pull", NAME, "--tries", "1", code=1)
        self.hub.status = [None, (401, {})]
        self.refused("does not give access", code=1)
        self.assertEqual(self.kept(), [f"{REPOSITORY}/{FILE}.partial", f"{REPOSITORY}/{FILE}.pulled"])
        self.pulled()
        self.assertEqual(self.hub.downloads()[-1][1], "bytes=3000-")

    def test_an_interrupt_before_anything_arrived_leaves_nothing(self):
        reached = threading.Event()

        def silent(*_):
            reached.set()
            time.sleep(3)

        self.hub.download = silent
        process = subprocess.Popen([PROGRAM, "pull", NAME], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=self.environment())
        self.assertTrue(reached.wait(60))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1, said)
        self.assertEqual(self.left(), [])

    def test_temporary_trouble_is_waited_for(self):
        self.hub.status = [(503, {}), (429, {"Retry-After": "1"}), None, (500, {}), None]
        begun = time.monotonic()
        self.pulled()
        self.assertGreater(time.monotonic() - begun, 1)
        self.hub.status = [(429, {"Retry-After": "3600"})]
        self.assertEqual(self.shoal("rm", NAME).returncode, 0)
        self.refused("too many requests from here: it asks to wait 3600 s", code=1)

    def test_trouble_that_stays_is_told(self):
        self.hub.status = [(502, {})] * 2
        self.refused("status 502: trouble of its own; try again later", "pull", NAME, "--tries", "2", code=1)
        self.assertEqual(self.hub.status, [])
        self.hub.cut_after = [3000, 0]
        self.refused(r"ended early; 2\.93 KiB of .* are kept", "pull", NAME, "--tries", "2", code=1)
        self.assertEqual(self.hub.cut_after, [])
        self.hub.status = [(401, {})]
        self.refused(r"does not give access to tester/Tiny-GGUF \(401\).*HF_TOKEN", code=1)
        self.hub.status = [None, (404, {})]
        self.refused("has no such thing", code=1)
        self.refused("has no Q2_K; it has Q8_0", "pull", REPOSITORY + ":Q2_K")
        self.refused("has no such thing", "pull", "nobody/nothing:Q8_0")
        self.refused("is no name of a model.*did you mean 'tinyllama'", "pull", "tinylama", code=2)
        self.refused("--mirror: .*must begin with https://", "pull", NAME, "--mirror", "ftp://x", code=2)
        self.refused("'-x' is no name of a model", "pull", "--", "-x", code=2)
        for words in (("-x",), ("-x", "y"), (NAME,)):
            self.refused("'--mirror' is one argument too many: behind '--' no word is a flag", "pull", "--", *words, "--mirror",
                         self.hub.url, code=2)
        self.refused("unknown flag '--miror'; did you mean '--mirror'", "pull", "--miror", "x", "--", NAME, "--mirror", code=2)
        self.refused("HF_TOKEN holds blanks", HF_TOKEN="a\nb", code=2)

    def test_no_hub_at_all(self):
        for mirror, said in (("http://127.0.0.1:1", "Connection refused"), ("https://hub.invalid", "host 'hub.invalid'")):
            self.refused(said, "pull", NAME, "--mirror", mirror, "--tries", "1", code=1)

    def test_a_disk_that_does_not_let_it(self):
        limited = f'ulimit -f 100; "{PROGRAM}" pull {NAME}'
        result = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=60, check=False,
                                env=self.environment())
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, "cannot write .*partial.*make room .*goes on from there")
        self.pulled()  # and it does
        self.assertRegex(self.hub.downloads()[-1][1], r"bytes=\d+-")
        self.shoal("rm", NAME)
        blocked = os.path.join(self.folder, "file")
        with open(blocked, "w", encoding="utf-8"):
            pass
        self.refused("cannot make the folder", XDG_CACHE_HOME=blocked, code=1)
        self.hub.size[FILE] = 1 << 49
        self.refused(r"needs 512\.0 TiB more on the disk", code=1)

    # What is meant badly.

    def test_hostile_listings(self):
        for listing, said in ((b"<html>hello</html>", "no JSON list"), (b"[" * 1000000, "no JSON list"),
                              (b"{}", "no JSON list"), (b"[" + b" " * (9 << 20) + b"]", "longer than 8 MiB")):
            self.hub.listing = listing
            self.refused(said, code=1)
        self.hub.listing = None
        for path in ("../../x-q8_0.gguf", "/x-q8_0.gguf", "a/../x-q8_0.gguf", "\x1b[2J-q8_0.gguf"):
            self.hub.files[REPOSITORY] = {path: TINY}
            said = self.refused("it names a file '", code=1).stderr
            self.assertNotIn("\x1b", said)
        self.assertEqual(self.kept(), [])
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_listing_without_end(self):
        answer = self.hub.answer
        self.hub.answer = lambda handler: self.hub.send(handler, 200, b"[]", {"Link": f'<{handler.path}>; rel="next"'})
        self.refused("more than 50 pages", code=1)
        self.hub.answer = answer

    def test_bodies_that_are_not_what_was_said(self):
        self.hub.altered = lambda body: body + b"more"
        self.refused("is about to send .* where .* are missing", code=1)
        self.hub.altered = lambda body: body[:-4]
        self.refused("is about to send", code=1)
        self.hub.altered = None

        def without_length(handler, *_):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + TINY + b"x" * 100000)

        self.hub.download = without_length
        self.refused("sends more than the", code=1)
        self.hub.download = lambda handler, *_: handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100000)
        self.refused("no HTTP|header", code=1)
        self.hub.download = lambda handler, *_: handler.wfile.write(b"\0\1\2\3" * 100)
        self.refused("no HTTP", code=1)
        self.assertNotIn(f"{REPOSITORY}/{FILE}", self.kept())

    def test_redirects_are_bounded_and_stay_safe(self):
        path = f"/{REPOSITORY}/resolve/main/{FILE}"
        for location, said in ((self.hub.url + path, "more than 5 redirects"), ("file:///etc/passwd", "redirects wrongly"),
                               ("http://192.0.2.1/x", "is not encrypted"), ("http://u:p@127.0.0.1/", "user name")):
            self.hub.redirect = location
            self.refused(said, code=1)

    def test_plain_http_elsewhere_needs_a_flag(self):
        self.refused("not encrypted: use https, or pass --allow-http", "pull", NAME, "--mirror", "http://192.0.2.1:1", code=1)

    def test_certificates_are_checked(self):
        key, certificate = (os.path.join(self.folder, name) for name in ("key.pem", "certificate.pem"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-keyout", key, "-out", certificate, "-subj", "/CN=hub", "-addext",
                        "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        hub = self.start({REPOSITORY: {FILE: TINY}}, context=context)
        self.refused("certificate is not trusted.*SSL_CERT_FILE", "pull", NAME, "--mirror", hub.url, code=1)
        self.assertEqual(hub.requests, [])
        # Trusted, but for another name.
        named = hub.url.replace("127.0.0.1", "localhost")
        self.refused("certificate is not trusted", "pull", NAME, "--mirror", named, SSL_CERT_FILE=certificate, code=1)
        self.assertEqual(hub.requests, [])
        # From an encrypted hub nothing leads to an unencrypted one.
        hub.redirect = self.hub.url + "/x"
        self.refused("which is not encrypted", "pull", NAME, "--mirror", hub.url, SSL_CERT_FILE=certificate, code=1)
        hub.redirect = None
        hub.requests.clear()
        self.pulled("--mirror", hub.url, NAME, SSL_CERT_FILE=certificate, HF_TOKEN="t")
        self.assertEqual({request[2] for request in hub.requests}, {"Bearer t"})


if __name__ == "__main__":
    unittest.main()
