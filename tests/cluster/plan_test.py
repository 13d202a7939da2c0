"""shoal plan from profiles: every question through the program, no device and no model needed."""

import json
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ["SHOAL_PROGRAM"]
SHELF = os.path.join(ROOT, "configs", "shelf.json")


def plan(*arguments, locale="C", stdin=""):
    environment = {**os.environ, "LC_ALL": locale}
    return subprocess.run([PROGRAM, "plan", *arguments], capture_output=True, text=True, env=environment, timeout=60, input=stdin,
                          encoding="utf-8", check=False)


class PlanFromProfile(unittest.TestCase):
    def answer(self, *arguments, **options):
        result = plan("--profile", SHELF, *arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def refused(self, pattern, *arguments, code=2, **options):
        result = plan(*arguments, **options)
        self.assertEqual(result.returncode, code, result.stdout)
        self.assertRegex(result.stderr, pattern)
        self.assertEqual(result.stdout, "")

    def as_json(self, *arguments):
        return json.loads(self.answer(*arguments, "--json"))

    def test_explanation_in_plain_and_box_characters(self):
        plain = self.answer("--explain")
        self.assertTrue(plain.isascii())
        for word in ("desktop", "bottleneck", "left out", "one stream", "What if", "f16"):
            self.assertIn(word, plain)
        boxes = self.answer("--explain", locale="C.UTF-8")
        self.assertIn("┌", boxes)

    def test_json_is_a_profile_and_a_running_plan(self):
        first = self.as_json("--what-if", "--pareto", "--simulate", "--requests", "20")
        for key in ("stages", "predicted", "service", "what_if", "pareto", "simulation", "link_formats", "profile"):
            self.assertIn(key, first)
        self.assertEqual([option["runs"] for option in first["link_formats"]], [True, False, False])
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(first, file)
            file.flush()
            again = plan("--profile", file.name, "--replan-from", file.name, "--json")
            self.assertEqual(again.returncode, 0, again.stderr)
            again = json.loads(again.stdout)
        for mine, theirs in zip(first["stages"], again["stages"]):
            self.assertEqual([mine[k] for k in ("device", "layer_begin", "layer_end")],
                             [theirs[k] for k in ("device", "layer_begin", "layer_end")])
        self.assertFalse(again["replan"]["move"])

    def test_drift_is_worth_a_move_only_with_time(self):
        running = self.as_json()
        drifted = running["profile"]
        for device in drifted["devices"]:
            if device["name"] == "desktop":
                for point in device["decode_layer"]:
                    point["seconds"] *= 4
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("running.json", "now.json")]
            for path, value in zip(paths, (running, drifted)):
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(value, file)
            ask = ["--profile", paths[1], "--replan-from", paths[0], "--json"]
            long = json.loads(plan(*ask, "--horizon", "36000").stdout)["replan"]
            self.assertTrue(long["move"])
            self.assertGreaterEqual(long["gain"], 0.15)
            self.assertTrue(long["moves"])
            self.assertFalse(json.loads(plan(*ask, "--horizon", "10").stdout)["replan"]["move"])

    def test_energy_takes_less_than_latency(self):
        energy, latency = self.as_json("--objective", "energy"), self.as_json()
        self.assertLess(energy["predicted"]["joules_per_token"], latency["predicted"]["joules_per_token"])

    def test_what_if(self):
        answers = self.as_json("--without", "desktop", "--add", "type=pi5,count=2", "--link", "laptop,desktop=1Gbps")
        self.assertEqual(len(answers["what_if"]), 4)
        for answer in answers["what_if"]:
            self.assertIn("first_token_seconds", answer["before"])
            self.assertIn("first_token_seconds", answer["after"])

    def test_targets_and_models(self):
        met = self.as_json("--ms-per-token", "150", "--power-cap", "60")
        self.assertLessEqual(met["service"]["seconds_per_token"], 0.150)
        self.assertLessEqual(met["service"]["peak_watts"], 60)
        with open(SHELF, encoding="utf-8") as file:
            small = json.load(file)
        small["model"]["name"] = "small"
        for device in small["devices"]:
            for point in device["decode_layer"]:
                point["seconds"] /= 3
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(small, file)
            file.flush()
            result = plan("--profile", SHELF, "--profile", file.name, "--ms-per-token", "60", "--json")
            self.assertEqual(result.returncode, 0, result.stderr)
            chosen = json.loads(result.stdout)
            self.assertEqual(chosen["profile"]["model"]["name"], "small")
            self.assertEqual(len(chosen["rejected"]), 1)
            self.refused("no target", "--profile", SHELF, "--profile", file.name)

    def test_trade_off_files(self):
        with tempfile.TemporaryDirectory() as folder:
            csv, svg = os.path.join(folder, "a.csv"), os.path.join(folder, "a.svg")
            self.answer("--pareto", "--csv", csv, "--svg", svg)
            with open(csv, encoding="utf-8") as file:
                self.assertGreaterEqual(len(file.readlines()), 3)
            with open(svg, encoding="utf-8") as file:
                self.assertIn("</svg>", file.read())

    def test_simulation_repeats(self):
        ask = ["--simulate", "--requests", "40", "--rate", "0.5"]
        self.assertEqual(self.answer(*ask, "--seed", "5"), self.answer(*ask, "--seed", "5"))
        self.assertNotEqual(self.answer(*ask, "--seed", "5"), self.answer(*ask, "--seed", "6"))

    def test_refusals_name_what_is_wrong(self):
        self.refused("no such profile", "--profile", "/nonexistent.json")
        self.refused("not JSON", "--profile", os.path.join(ROOT, "README.md"))
        self.refused("did you mean desktop", "--profile", SHELF, "--without", "deskto")
        self.refused("head", "--profile", SHELF, "--without", "laptop")
        self.refused("a number from 1", "--profile", SHELF, "--add", "pi-1,count=-2")
        self.refused("5Mbps", "--profile", SHELF, "--link", "laptop")
        self.refused("no such plan", "--profile", SHELF, "--replan-from", "/nonexistent.json")
        self.refused("not both", "--profile", SHELF, "-c", SHELF)
        self.refused("misses: a token", "--profile", SHELF, "--ms-per-token", "1")

    def test_a_pipe_whose_other_end_is_missing_is_not_waited_for(self):
        with tempfile.TemporaryDirectory() as folder:
            fifo = os.path.join(folder, "fifo")
            os.mkfifo(fifo)
            self.refused("fifo: cannot be read as a profile: it is a FIFO that nobody writes to", "--profile", fifo)
            for flag in ("--csv", "--svg"):
                self.refused(rf"fifo: cannot be written \({flag}\): it is a FIFO that nobody reads", "--profile", SHELF,
                             "--pareto", flag, fifo, code=1)
        self.refused("/dev/stdin.*not JSON", "--profile", "/dev/stdin", stdin="read to its end")
        self.assertIn("\nfirst_token_s,", "\n" + self.answer("--pareto", "--csv", "/dev/stdout"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
