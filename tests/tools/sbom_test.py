#!/usr/bin/env python3
"""tools/sbom.py --vulnerabilities by a made-up tracker; and that it never says "none" where it does not know."""
import contextlib
import gzip
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
TOOL = HERE.parent.parent / "tools" / "sbom.py"
FIXTURE = HERE / "fixtures" / "tracker.json"
sys.path.insert(0, str(TOOL.parent))

import sbom


def package(source, version):
    return {"name": "lib" + source, "version": version, "source": source, "source_version": version}


def tool(*arguments):
    environment = {**os.environ, "https_proxy": "", "http_proxy": ""}
    return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=90, check=False,
                          env=environment)


@unittest.skipIf(shutil.which("dpkg") is None, "needs dpkg")
class Open(unittest.TestCase):
    def setUp(self):
        self.tracker = sbom.read_tracker(str(FIXTURE))

    def test_what_is_open_in_the_installed_version(self):
        self.assertEqual(sbom.open_in(package("tidy", "1.2-3+deb12u1"), self.tracker),
                         [("CVE-2025-1002", "high, fixed in 1.2-3+deb12u2"), ("CVE-2025-1006", "low, undetermined"),
                          ("CVE-2026-1001", "unimportant"), ("CVE-2026-20002", "not yet assigned")])
        newer = [cve for cve, _ in sbom.open_in(package("tidy", "1.2-3+deb12u2"), self.tracker)]
        self.assertEqual(newer, ["CVE-2025-1006", "CVE-2026-1001", "CVE-2026-20002"])

    def test_the_table(self):
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            changes = pathlib.Path(folder, "libtidy")
            changes.mkdir()
            with gzip.open(changes / "changelog.Debian.gz", "wt") as text:
                text.write("  * Fix CVE-2025-1003 and CVE-2024-99999 (CVE-2025-1003)\n")
            with mock.patch.object(sbom, "DOCUMENTS", folder), contextlib.redirect_stdout(said):
                sbom.print_vulnerabilities([package("tidy", "1.2-3+deb12u2"), package("clean", "1.0-1"), package("other", "1")],
                                           self.tracker)
        self.assertEqual(said.getvalue().splitlines()[2:], [
            "| libtidy | 1.2-3+deb12u2 | CVE-2024-99999, CVE-2025-1003 | CVE-2025-1006 (low, undetermined), "
            "CVE-2026-1001 (unimportant), CVE-2026-20002 (not yet assigned) |",
            "| libclean | 1.0-1 | - | none |",
            "| libother | 1 | - | the tracker has no entry |"])


class NotKnown(unittest.TestCase):
    def refused(self, where, *words):
        result = tool("--vulnerabilities", "--tracker=" + where, sys.executable)
        self.assertEqual(result.returncode, sbom.NO_TRACKER, result.stderr)
        self.assertEqual(result.stdout, "")
        for word in ("which holes are open is not known", *words):
            self.assertIn(word, result.stderr)

    def test_a_tracker_that_cannot_be_had(self):
        self.refused("http://127.0.0.1:9/", "refused")
        self.refused("/nonexistent/tracker.json", "No such file")

    def test_a_file_that_is_no_tracker(self):
        with tempfile.TemporaryDirectory() as folder:
            other = pathlib.Path(folder, "other.json")
            for text in ("", "<html>", "[]", "{}", '{"a": 1}', '{"a": {"CVE-2024-1": 1}}',
                         '{"a": {"CVE-2024-1": {"releases": {"trixie": {"status": "open"}}}}}'):
                with self.subTest(text=text):
                    other.write_text(text, encoding="utf-8")
                    self.refused(str(other))

    def test_usage(self):
        for words in (["--tracker=x"], ["--fixes", "--vulnerabilities"], ["--vulnerabilities", "--tracker="], ["--none"]):
            with self.subTest(words=words):
                self.assertEqual(tool(*words).returncode, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
