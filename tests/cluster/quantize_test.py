"""shoal quantize as a process: a file that runs, its report, and messages for what is wrong."""

import os
import re
import signal
import subprocess
import tempfile
import time
import unittest

PROGRAM = os.environ["SHOAL_PROGRAM"]
MODEL = os.environ["SHOAL_TEST_MODEL"]
TEXT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sharding", "fixtures", "text.txt")


def shoal(*arguments, stdin=""):
    return subprocess.run([PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=300, check=False)


class Quantize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = os.path.join(cls.folder.name, "out.gguf")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_result_runs_and_report_says_how_near_it_is(self):
        text = os.path.join(self.folder.name, "text.txt")
        with open(TEXT, encoding="utf-8") as source, open(text, "w", encoding="utf-8") as short:
            short.write(source.read()[:1500])
        made = shoal("quantize", MODEL, self.out, "Q8_0", "--allow-requantize", "--report", text)
        self.assertEqual(made.returncode, 0, made.stderr)
        self.assertRegex(made.stderr, r"Q8_0: .*MiB -> .*\(F32 \d+, Q8_0 \d+\)")
        perplexity, source = map(float, re.search(r"perplexity +([\d.]+), source ([\d.]+)", made.stdout).groups())
        divergence = float(re.search(r"KL divergence +([\d.]+)", made.stdout).group(1))
        self.assertLess(abs(perplexity / source - 1), 0.02)
        self.assertGreater(divergence, 0)
        self.assertLess(divergence, 0.02)
        answer = shoal("run", self.out, "-p", "What is the capital of France?", "-n", "12", "--temp", "0", "-q")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertIn("Paris", answer.stdout)

    def test_three_bits_run_too_and_the_report_tells_their_price(self):
        out = os.path.join(self.folder.name, "three.gguf")
        with open(TEXT, encoding="utf-8") as source:
            text = source.read()[:600]
        # The text may come through a pipe.
        made = shoal("quantize", MODEL, out, "IQ3_S", "--allow-requantize", "--report", "/dev/stdin", stdin=text)
        self.assertEqual(made.returncode, 0, made.stderr)
        # Rows of 576 are no multiple of 256, those of 1536 are.
        self.assertRegex(made.stderr, r"\(F32 \d+, IQ3_S 30, IQ4_NL \d+, Q8_0 1\)")
        perplexity, source = map(float, re.search(r"perplexity +([\d.]+), source ([\d.]+)", made.stdout).groups())
        divergence = float(re.search(r"KL divergence +([\d.]+)", made.stdout).group(1))
        # Without importance it is dear, in llama.cpp's reckoning of the same file too (docs/quantizing.md).
        self.assertGreater(perplexity / source, 1.05)
        self.assertLess(perplexity / source, 2.5)
        self.assertGreater(divergence, 0.1)
        self.assertLess(divergence, 1.5)
        answer = shoal("run", out, "-p", "What is the capital of France?", "-n", "12", "--temp", "0", "-q")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertGreater(len(answer.stdout), 3)

    def refused(self, pattern, *arguments, code=2):
        result = shoal("quantize", *arguments)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertRegex(result.stderr, pattern)
        self.assertEqual(result.stdout, "")

    def test_refusals(self):
        other = os.path.join(self.folder.name, "other.gguf")
        self.refused("known are F16, BF16, Q8_0", MODEL, other, "Q4_M")
        self.refused("--allow-requantize", MODEL, other, "Q4_0")
        self.refused("give --imatrix FILE", MODEL, other, "IQ2_XS", "--allow-requantize")
        self.refused("is the source itself", MODEL, MODEL, "Q8_0", "--allow-requantize")
        self.refused("is not a GGUF file|cannot", MODEL, other, "Q8_0", "--imatrix", TEXT)
        self.refused("--report cannot be read", MODEL, other, "Q8_0", "--report", other + ".txt")
        self.assertEqual([f for f in os.listdir(self.folder.name) if f.startswith("other")], [])

    def test_a_full_disk_is_named_and_leaves_nothing(self):
        other = os.path.join(self.folder.name, "full.gguf")
        limited = f'ulimit -f 1024; "{PROGRAM}" quantize "{MODEL}" "{other}" Q8_0 --allow-requantize'
        result = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, "full.gguf' could not be written")
        self.assertEqual([f for f in os.listdir(self.folder.name) if f.startswith("full")], [])

    def test_a_signal_ends_it_and_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            other = os.path.join(self.folder.name, "ended.gguf")
            process = subprocess.Popen([PROGRAM, "quantize", MODEL, other, "Q5_K", "--allow-requantize", "-t", "1"],
                                       stderr=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while not [f for f in os.listdir(self.folder.name) if f.startswith("ended.gguf.partial")]:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            process.send_signal(number)
            process.communicate(timeout=30)
            self.assertEqual(process.returncode, -number)
            self.assertEqual([f for f in os.listdir(self.folder.name) if f.startswith("ended")], [])


if __name__ == "__main__":
    unittest.main()
