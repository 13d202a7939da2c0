"""Wrong input at every door: a message that names the thing and the way out, the right exit code, nothing left behind."""

import os
import shutil
import socket
import subprocess
import unittest

from elastic import free_port
from support import ENVIRONMENT, MODEL, PROGRAM, ClusterTest, cluster_file, even_layers, run

FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sharding", "fixtures")


class ModelFile(ClusterTest):
    def model(self, data):
        path = os.path.join(self.folder, "bad.gguf")
        with open(path, "wb") as out:
            out.write(data)
        return path

    def test_missing(self):
        path = os.path.join(self.folder, "none.gguf")
        self.assert_refused(run(["run", path, "-p", "x"]), 2, r"^shoal: error: .*none\.gguf")

    def test_not_gguf(self):
        self.assert_refused(run(["run", self.model(b"\x7fELF" + b"x" * 100), "-p", "x"]), 2, r"bad\.gguf.*GGUF")

    def test_empty_and_folder(self):
        self.assert_refused(run(["run", self.model(b""), "-p", "x"]), 2, r"bad\.gguf")
        self.assert_refused(run(["run", self.folder, "-p", "x"]), 2, self.folder)

    def test_truncated(self):
        whole = os.path.getsize(MODEL)
        for size in (5, 30, 4000, 1_000_000, whole // 2, whole - 1):
            path = os.path.join(self.folder, "short.gguf")
            with open(MODEL, "rb") as source, open(path, "wb") as out:
                out.write(source.read(size))
            with self.subTest(size=size):
                self.assert_refused(run(["run", path, "-p", "x"]), 2, r"short\.gguf")

    def test_unknown_architecture(self):
        with open(MODEL, "rb") as source:
            data = bytearray(source.read(2_000_000))
        at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
        data[at:at + 5] = b"mamba"
        self.assert_refused(run(["inspect", self.model(bytes(data))]), 2, r"bad\.gguf")  # truncated as well
        path = os.path.join(self.folder, "arch.gguf")
        shutil.copy(MODEL, path)
        with open(path, "r+b") as out:
            out.seek(at)
            out.write(b"mamba")
        self.assert_refused(run(["run", path, "-p", "x"]), 2, r"mamba", r"llama")


class ClusterFile(ClusterTest):
    def refused(self, text, *patterns):
        path = os.path.join(self.folder, "c.yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        self.assert_refused(run(["plan", "-c", path, "-m", MODEL]), 2, *patterns)

    def test_unknown_key(self):
        self.refused("nodes: {a: {memory: 1GiB}}\ncontxt: 4096\n", r"c\.yaml:2.*contxt.*context")
        self.refused("nodes: {a: {memory: 1GiB, adress: 1.2.3.4}}\n", r"adress.*address")

    def test_node_without_memory(self):
        self.refused("nodes: {a: {memory: 1GiB}, b: {threads: 1}}\n", r"'b' has no memory")

    def test_duplicate_name(self):
        self.refused("nodes:\n  a: {memory: 1GiB}\n  a: {memory: 2GiB}\n", r"'a' is given twice")

    def test_values(self):
        self.refused("nodes: {a: {memory: lots}}\n", r"nodes\.a\.memory.*lots.*2GiB")
        self.refused("nodes: {a: {memory: 0}}\n", r"nodes\.a\.memory.*leaves no memory to use")
        self.refused("nodes: {a: {memory: 1GiB}}\ncontext: -5\n", r"context.*-5")
        self.refused("nodes: {a: {memory: 1GiB}}\nhead: z\n", r"head 'z'")
        self.refused("nodes: {a: {memory: 1GiB}}\nplan: {objective: speed}\n", r"objective.*speed")
        self.refused("nodes: {a: {memory: 1GiB}}\nlinks: [{between: [a, q]}]\n", r"'q'")
        self.refused("nodes: {a: {memory: 1GiB}}\nverify: 0.01\n", r"c\.yaml:2.*verify.*write a share like 1%")
        self.refused("nodes: [1, 2\n", r"c\.yaml:\d")
        self.refused("", r"c\.yaml: the cluster file is empty")
        self.refused("nodes: " + "[" * 100_000, r"nested too deeply")
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
        self.refused(bomb + "nodes: {a: {memory: 1GiB}}\n", r"unknown key 'a0'")

    def test_link_given_twice(self):
        path = cluster_file(self.folder, 3)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        again = text.replace("links:\n", "links:\n  - {between: [node-2, node-1], latency: 1ms}\n")
        self.refused(again, r"link between 'node-1' and 'node-2' is given twice")

    def test_one_line_a_problem(self):
        path = os.path.join(self.folder, "a b.yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write("nodes: {a: {memory: 10MiB}}\n")
        result = run(["run", "-c", path, "-m", MODEL, "-p", "x"])
        self.assert_refused(result, 2, r"node a is alone, has 10\.0 MiB and needs .* MiB are missing")
        self.assertNotIn(b"keep-on-head", result.stderr)
        self.assertEqual(result.stderr.count(b"\n"), 1)
        self.assert_refused(run(["run", "-c", self.folder, "-p", "x"]), 2, r"not a file but a folder")
        self.assert_refused(run(["run", "-c", path, "-m", self.folder, "-p", "x"]), 2, r"a directory")
        self.assert_refused(run(["run", "-c", path, "-m", MODEL, "-p", ""]), 2, r"-p \(--prompt\) is empty")

    def test_address_that_is_not_ours(self):
        for address, said in (("192.0.2.77", r"192\.0\.2\.77"), ("no-such-host.invalid", r"no-such-host\.invalid")):
            for ranks in (0, 2):
                with self.subTest(address=address, ranks=ranks):
                    text = f"nodes:\n  a: {{memory: 1GiB{'' if ranks else ', address: ' + address}}}\n"
                    text += f"  b: {{memory: 1GiB, address: {address}}}\n" if ranks else ""
                    path = os.path.join(self.folder, "address.yaml")
                    with open(path, "w", encoding="utf-8") as out:
                        out.write("context: 256\n" + text)
                    node = "b" if ranks else "a"
                    self.assert_refused(run(["run", "-c", path, "-m", MODEL, "-p", "x"], ranks), 2,
                                        rf"nodes\.{node}\.address: .*{said}")

    def test_layers_by_hand(self):
        for spans in (["0-9", "11-29"], ["0-15", "10-29"], ["0-14", "15-40"], ["9-0", "10-29"]):
            with self.subTest(spans=spans):
                path = cluster_file(self.folder, 2, spans)
                self.assert_refused(run(["plan", "-c", path, "-m", MODEL]), 2, r"layer|0-9")

    def test_no_file(self):
        self.assert_refused(run(["plan", "-c", self.folder + "/none.yaml"]), 2, r"none\.yaml")

    def test_too_little_memory(self):
        path = cluster_file(self.folder, 2, memory="60MiB")
        self.assert_refused(run(["plan", "-c", path, "-m", MODEL]), 2, r"MiB")


class Launch(ClusterTest):
    def test_ranks_and_nodes(self):
        path = cluster_file(self.folder, 3)
        for ranks in (0, 2, 4):
            with self.subTest(ranks=ranks):
                result = run(["run", "-c", path, "-m", MODEL, "-p", "x"], ranks)
                self.assert_refused(result, 2, r"3 nodes", r"mpirun -n 3")
                self.assertEqual(result.stderr.count(b"lists 3 nodes"), 1, result.stderr)

    def test_mixed_numeric_classes(self):
        path = cluster_file(self.folder, 2, node_1="kernels: blas, ")
        result = run(["run", "-c", path, "-m", MODEL, "-p", "x"], 2)
        self.assert_refused(result, 2, r"node-1 computes in numeric class 'blas', the head node-0 in 'exact'")

    def test_port_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            path = cluster_file(self.folder, 2, even_layers(2), node_1=f"port: {port}, ")
            result = run(["run", "-c", path, "-m", MODEL, "-p", "x"], 2)
        self.assert_refused(result, 1, rf"node-1.*127\.0\.0\.1:{port}")

    def test_another_model_on_one_node(self):
        other = os.path.join(self.folder, "other.gguf")
        shutil.copy(MODEL, other)
        with open(other, "r+b") as out:  # other weights under the same header
            out.seek(os.path.getsize(MODEL) // 2)
            out.write(b"\x01" * 4_000_000)
        path = cluster_file(self.folder, 2, even_layers(2))
        script = os.path.join(self.folder, "rank.sh")
        with open(script, "w", encoding="utf-8") as out:
            out.write('#!/bin/sh\nmodel=$1; shift\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && model=' + other +
                      '\nexec "$SHOAL_PROGRAM" run -m "$model" "$@"\n')
        os.chmod(script, 0o755)
        result = subprocess.run(["mpirun", "--quiet", "-n", "2", script, MODEL, "-c", path, "-p", "x"],
                                capture_output=True, timeout=120, env=ENVIRONMENT, check=False)
        self.assert_refused(result, 2, r"node-1 has another model file than the head node-0")

    def test_prompt_longer_than_context(self):
        result = run(["run", MODEL, "--raw", "-p", "word " * 300, "--context", "64"])
        self.assert_refused(result, 2, r"prompt has \d+ tokens", r"context holds 64")

    def test_usage(self):
        self.assert_refused(run(["run", MODEL]), 2, r"--prompt")
        self.assert_refused(run(["run", MODEL, "-p", "x", "--temp", "-1"]), 2, r"temp")
        self.assert_refused(run(["run", MODEL, "-p", "x", "--top-p", "7"]), 2, r"top.p")
        self.assert_refused(run(["run", MODEL, "-p", "x", "--kernels", "mmx"]), 2, r"mmx", r"generic")
        self.assert_refused(run(["run", "-p", "x"]), 2, r"no model")
        self.assert_refused(run(["frobnicate"]), 2, r"^shoal: error: unknown command 'frobnicate' .*run.*--help")
        self.assert_refused(run(["bnech", MODEL]), 2, r"unknown command 'bnech'; did you mean 'bench'\?")
        self.assert_refused(run([]), 2, r"^shoal: error: no command given .*run.*--help")
        self.assert_refused(run(["run", MODEL, "-p", "x", "--tmep", "1"]), 2, r"'--tmep'; did you mean '--temp'\?")
        self.assert_refused(run(["run", MODEL, "-p", "two", "words"]), 2, r"'words' is one argument too many")
        self.assert_refused(run(["bench", MODEL, "-p", "0", "-n", "0"]), 2, r"-p 0 and -n 0 leave nothing to measure")
        for flag, values in {"-n": ("0", "-3", "1.5", "99999999999"), "--seed": ("-1", "18446744073709551616"),
                             "--top-k": ("-3", "1.5"), "--threads": ("0", "x"), "--temp": ("warm",)}.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    result = run(["run", MODEL, "-p", "x", flag, value])
                    self.assert_refused(result, 2, r"^shoal: error: .*" + flag, f"not '{value}'")
                    self.assertEqual(result.stderr.count(b"\n"), 1)

    def test_a_flag_with_nothing_behind_its_sign(self):
        """It does not take the next word, which may be a flag, for its value."""
        for words, flag in ((["invite", "-c", "x.yaml", "--name=", "--wait", "1"], "--name"),
                            (["revoke", "--config=", "pi-1", "x.yaml"], "--config"),
                            (["node", "--join", "127.0.0.1:9", "--token-file=", "--insecure"], "--token-file"),
                            (["serve", "--log-level", "off", "--listen=", "--quiet"], "--listen"),
                            (["run", "m.gguf", "-p", "--seed=", "--lora=", "x"], "--lora"),
                            (["--log-level=", "run", "m.gguf", "-p", "x"], "--log-level")):
            with self.subTest(flag=flag):
                result = run(words)
                self.assert_refused(result, 2, rf"^shoal: error: {flag}= has no value: .* leave {flag} out .*--help")
                self.assertEqual(result.stderr.count(b"\n"), 1)
        self.assert_refused(run(["inspect", "--", "--name="]), 2, r"^shoal: error: .*--name=.* No such file")
        self.assert_refused(run(["invite", "-c", "x.yaml", "--name", ""]), 2, r"--name: .*an empty text")

    def test_a_node_looks_at_its_own_flags_first(self):
        """A token serves once: it is not spent where the node cannot start anyway."""
        for flag, value in (("--memory", "lots"), ("--memory", "0 GiB"), ("--cache-size", "3parsecs"),
                            ("-m", "/no/such/model.gguf")):
            with self.subTest(flag=flag, value=value):
                result = run(["node", "--join", "127.0.0.1:9", "--name", "never-invited", flag, value])
                self.assert_refused(result, 2, value)

    def test_a_cluster_that_is_not_here_shuts_nobody_out(self):
        """A slip of the pen after cluster: makes no authority that nobody asked for, or says so."""
        env = {**ENVIRONMENT, "XDG_DATA_HOME": self.folder}
        path = cluster_file(self.folder, 2)
        revoke = ["revoke", "-c", path, "--force", "node-1"]

        def invited():
            """What it says on stderr before its token."""
            with subprocess.Popen([PROGRAM, "invite", "-c", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as inviting:
                self.assertTrue(any(b"--token" in line for line in inviting.stdout))
                inviting.terminate()
                return inviting.stderr.read().decode()

        self.assert_refused(run(revoke, env=env), 2, r"there is no cluster test on this machine .*/shoal/clusters/test\)")
        self.assertFalse(os.path.exists(os.path.join(self.folder, "shoal")))
        self.assertRegex(invited(), r"NEW AUTHORITY: cluster test had none .*, in .*/shoal/clusters/test\.")
        self.assertEqual(run(revoke, env=env).returncode, 0)
        self.assertEqual(invited(), "")
        with open(path, encoding="utf-8") as text:
            mistyped = text.read().replace("cluster: test", "cluster: tset")
        with open(path, "w", encoding="utf-8") as out:
            out.write(mistyped)
        self.assert_refused(run(revoke, env=env), 2, r"there is no cluster tset .*; did you mean test\?")
        self.assertRegex(invited(), r"(?s)NEW AUTHORITY: cluster tset .* authority of test already: did you mean test\?")

    def test_a_list_of_who_is_shut_out_that_cannot_be_read_whole(self):
        env = {**ENVIRONMENT, "XDG_DATA_HOME": self.folder}
        path = cluster_file(self.folder, 2)
        with open(path, encoding="utf-8") as text:
            at_port = text.read().replace("node-0: {", f"node-0: {{port: {free_port()}, ")
        with open(path, "w", encoding="utf-8") as out:
            out.write(at_port)
        with subprocess.Popen([PROGRAM, "invite", "-c", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as inviting:
            self.assertTrue(any(b"--token" in line for line in inviting.stdout))  # the cluster has its authority
            inviting.terminate()
        revoked = os.path.join(self.folder, "shoal", "clusters", "test", "revoked")
        with open(revoked, "w", encoding="utf-8") as out:
            out.write("pi-1\npi 2\n")
        os.chmod(revoked, 0o600)
        for words in (["serve", "-c", path, "-m", MODEL, "--await-nodes", "--listen", "127.0.0.1:0"], ["invite", "-c", path],
                      ["revoke", "-c", path, "node-1"], ["revoke", "-c", path, "--undo", "--force", "pi-1"]):
            with self.subTest(words=words):
                self.assert_refused(run(words, env=env, timeout=60), 2, r"^shoal: error: .*/revoked:2: 'pi 2' is no node's name: who is")
        with open(revoked, encoding="utf-8") as text:
            self.assertEqual(text.read(), "pi-1\npi 2\n")

    def test_usage_is_told_once(self):
        path = cluster_file(self.folder, 3)
        for wrong in (["--bogus"], ["--top-p", "7"], ["-n", "0"]):
            with self.subTest(wrong=wrong):
                result = run(["run", "-c", path, "-m", MODEL, "-p", "x", *wrong], 3)
                self.assert_refused(result, 2, wrong[0])
                self.assertEqual(result.stderr.count(b"shoal: error"), 1, result.stderr)

    def test_verify_where_it_cannot_be(self):
        path = cluster_file(self.folder, 1)
        asked = ["run", "-c", path, "-m", MODEL, "-p", "x", "--verify"]
        for share in ("0%", "101%", "-1%", "1", "half", "nan%"):
            with self.subTest(share=share):
                self.assert_refused(run([*asked, share]), 2, f"--verify: write a share like 1%, .* not '{share}'")
        self.assert_refused(run([*asked, "1%", "--kernels", "blas"]), 2, r"--verify: the nodes compute in numeric class 'blas'")
        self.assert_refused(run(["serve", MODEL, "--verify", "1%"]), 2, r"--verify 1% is for a cluster: .* -c")
        for encodes in ("t5_gated", "bert_mean"):
            result = run(["serve", "-c", path, "-m", os.path.join(FIXTURES, encodes + ".gguf"), "--context", "64", "--verify", "1%"])
            self.assert_refused(result, 2, rf"--verify: .*{encodes}\.gguf has an encoder")
        small = cluster_file(self.folder, 2, memory="20MiB")
        result = run(["run", "-c", small, "-m", MODEL, "-p", "x", "--verify", "1%"], 2)
        self.assert_refused(result, 2, r"--verify: the head node-0 needs .* MiB .* may spend 20\.0 MiB: raise")
        self.assertEqual(result.stderr.count(b"shoal: error"), 1, result.stderr)

    def test_mpirun_without_cluster_file(self):
        self.assert_refused(run(["run", MODEL, "-p", "x"], 2), 2, r"no cluster file")


if __name__ == "__main__":
    unittest.main(verbosity=2)
