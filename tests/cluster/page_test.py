"""The live page in headless Chromium, against a cluster of two. Exit code 77, which ctest shows as skipped, where no
Chromium is installed (apt-get install chromium-headless-shell). SHOAL_SCREENSHOTS names a folder for pictures of it."""

import os
import re
import shutil
import subprocess
import sys
import unittest

from server import Server
from support import MODEL, ClusterTest, cluster_file, even_layers

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None)
if BROWSER is None:
    print("skipped: no Chromium is installed")
    sys.exit(77)


class Page(ClusterTest):
    def browse(self, address, *arguments):
        # The page has no end of its own: the browser lets its clock run ahead for some polls and prints what is there.
        result = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                                 f"--user-data-dir={self.folder}/browser", "--virtual-time-budget=5000", *arguments,
                                 address], capture_output=True, timeout=120, check=True)
        return result.stdout.decode()

    def test_what_it_shows(self):
        path = cluster_file(self.folder, 2, even_layers(2))
        with Server(["-c", path, "-m", MODEL], ranks=2) as server:
            address = f"http://127.0.0.1:{server.port}/"
            server.post("/v1/completions", {"prompt": "Once", "max_tokens": 5, "ignore_eos": True})
            page = self.browse(address, "--dump-dom")
            self.assertIn('<span id="state" role="status" class="good">running</span>', page)
            self.assertEqual(len(re.findall(r'<div class="device">', page)), 2)
            for text in ("node-0", "node-1", "embedding, layers 0–14", "layers 15–29, output", "home to node-0"):
                self.assertIn(text, page)
            self.assertIn('<b id="tokens">5</b>', page)
            folder = os.environ.get("SHOAL_SCREENSHOTS")
            for name, size in (("wide", "1200,900"), ("phone", "390,1300")) if folder else ():
                self.browse(address, f"--window-size={size}", f"--screenshot={folder}/{name}.png")

    def test_it_asks_for_a_key(self):
        keys = os.path.join(self.folder, "keys")
        with open(os.open(keys, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as out:
            out.write("the-key-of-this-test\n")
        with Server([MODEL, "--context", "256", "--api-key-file", keys], key="the-key-of-this-test") as server:
            page = self.browse(f"http://127.0.0.1:{server.port}/", "--dump-dom")
            self.assertIn(">locked</span>", page)
            self.assertRegex(page, r'<main id="main" hidden')


if __name__ == "__main__":
    unittest.main()
