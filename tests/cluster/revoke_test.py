"""A device is shut out of a running cluster: the answer goes on without it, and it does not come in again."""

import os
import subprocess
import time
import unittest

from elastic import Elastic
from support import PROGRAM, ClusterTest


class Revoke(ClusterTest):
    def revoke(self, cluster, *arguments):
        return subprocess.run([PROGRAM, "revoke", "-c", cluster.config, *arguments], capture_output=True, text=True,
                              timeout=30, check=False, env=cluster.environment)

    def test_a_device_is_shut_out_while_it_computes(self):
        with Elastic(self.folder, nodes=4) as cluster:
            expected = cluster.complete(200)
            for name, words in (("node-0", "is the head"), ("../x", "a node's name is")):
                refused = self.revoke(cluster, name)
                self.assertEqual(refused.returncode, 2)
                self.assertIn(words, refused.stderr)
            stream = cluster.stream(200)
            self.assertTrue(stream.wait_for_pieces(5))
            stolen, moment = cluster.used()[-1], time.monotonic()
            said = self.revoke(cluster, stolen)
            self.assertEqual(said.returncode, 0, said.stderr)
            cluster.wait_for(lambda: stolen not in cluster.used() and cluster.node_state(stolen) == "lost", 10,
                             "the plan without it")
            self.assertLess(time.monotonic() - moment, 8)
            stream.join(90)
            self.assertEqual((stream.error, stream.text), (None, expected))
            self.assertIn(f"{stolen}", cluster.log("node-0"))
            self.assertIn("shut out of the cluster (shoal revoke)", cluster.log("node-0"))
            names = os.path.join(cluster.environment["XDG_DATA_HOME"], "shoal", "clusters", "test", "revoked")
            self.assertEqual(os.stat(names).st_mode & 0o777, 0o600)
            # It calls on, with a certificate that is good but for that, and is not let in.
            cluster.processes[stolen].kill()
            cluster.processes[stolen].wait()
            cluster.start_node(stolen)
            cluster.wait_for(lambda: "shut out of the cluster" in cluster.log(stolen), 20, "its refusal")
            self.assertEqual(cluster.node_state(stolen), "lost")
            again = self.revoke(cluster, stolen)
            self.assertIn("was shut out already", again.stderr)
            self.assertEqual(self.revoke(cluster, stolen, "--undo").returncode, 0)
            if cluster.processes[stolen].poll() is not None:
                cluster.start_node(stolen)
            cluster.wait_for(lambda: cluster.node_state(stolen) in ("spare", "in use"), 30, "its return")
            self.assertEqual(cluster.complete(200), expected)


if __name__ == "__main__":
    unittest.main()
