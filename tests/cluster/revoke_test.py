"""A device is shut out of a running cluster: the answer goes on without it, and it does not come in again, at any node."""

import os
import re
import socket
import ssl
import subprocess
import time
import unittest

from elastic import Elastic
from support import PROGRAM, ClusterTest


class Revoke(ClusterTest):
    def revoke(self, cluster, *arguments):
        return subprocess.run([PROGRAM, "revoke", "-c", cluster.config, *arguments], capture_output=True, text=True,
                              timeout=30, check=False, env=cluster.environment)

    def connect(self, cluster, name, caller):
        """A connection to node `name` that shows the certificate of `caller`."""
        port = int(re.findall(r"listens on port (\d+)", cluster.log(name))[-1])
        kept = os.path.join(cluster.environment["XDG_DATA_HOME"], "shoal", "nodes", caller)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(os.path.join(kept, "node.crt"), os.path.join(kept, "node.key"))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port)))

    def refusal(self, cluster, name, caller):
        """Why node `name` does not let in who shows the certificate of `caller`; None: it does."""
        with self.connect(cluster, name, caller) as talk:
            talk.settimeout(1)
            try:
                self.assertEqual(talk.recv(1), b"")
                return "closed without a word"
            except TimeoutError:  # it waits for a hello
                return None
            except ssl.SSLError as error:
                return str(error)

    def test_a_device_is_shut_out_while_it_computes(self):
        with Elastic(self.folder, nodes=4) as cluster:
            expected = cluster.complete(200)
            for name, words in (("node-0", "is the head"), ("../x", "a node's name is")):
                refused = self.revoke(cluster, name)
                self.assertEqual(refused.returncode, 2)
                self.assertIn(words, refused.stderr)
            stolen = cluster.used()[-1]
            others = [name for name in cluster.names[1:] if name != stolen]
            self.assertIsNone(self.refusal(cluster, others[0], stolen))
            stream = cluster.stream(200)
            self.assertTrue(stream.wait_for_pieces(5))
            moment, open_now = time.monotonic(), [self.connect(cluster, name, stolen) for name in others]
            said = self.revoke(cluster, stolen)
            self.assertEqual(said.returncode, 0, said.stderr)
            # Every node is told within a second, and ends what connects it with that device.
            told = re.compile(rf"the connection with node {stolen} at 127\.0\.0\.1:\d+ was ended")
            cluster.wait_for(lambda: all(told.search(cluster.log(name)) for name in others), 2, "the end of its links")
            for connection in open_now:
                connection.close()
            for name in others:
                self.assertIn("revoked", self.refusal(cluster, name, stolen) or "")
            self.assertLess(time.monotonic() - moment, 2)
            logged = re.compile(rf"127\.0\.0\.1:\d+ was not let in.*of node {stolen}")
            cluster.wait_for(lambda: all(logged.search(cluster.log(name)) for name in others), 2, "the refusals' log")
            cluster.wait_for(lambda: stolen not in cluster.used() and cluster.node_state(stolen) == "lost", 10,
                             "the plan without it")
            self.assertLess(time.monotonic() - moment, 8)
            stream.join(90)
            self.assertEqual((stream.error, stream.text), (None, expected))
            self.assertIn("shut out of the cluster (shoal revoke)", cluster.log("node-0"))
            names = os.path.join(cluster.environment["XDG_DATA_HOME"], "shoal", "clusters", "test", "revoked")
            self.assertEqual(os.stat(names).st_mode & 0o777, 0o600)
            # It calls on, with a certificate that is good but for that, and is not let in.
            cluster.processes[stolen].kill()
            cluster.processes[stolen].wait()
            cluster.start_node(stolen)
            cluster.wait_for(lambda: "shut out of the cluster" in cluster.log(stolen), 20, "its refusal")
            self.assertEqual(cluster.node_state(stolen), "lost")
            self.assertIsNone(self.refusal(cluster, others[0], others[1]))
            # One that was away meanwhile knows it when it is back.
            cluster.signal(others[1], 9)
            cluster.start_node(others[1])
            cluster.wait_for(lambda: cluster.node_state(others[1]) in ("spare", "in use"), 30, "the return of another")
            self.assertIn("revoked", self.refusal(cluster, others[1], stolen) or "")
            again = self.revoke(cluster, stolen)
            self.assertIn("was shut out already", again.stderr)
            self.assertEqual(self.revoke(cluster, stolen, "--undo").returncode, 0)
            if cluster.processes[stolen].poll() is not None:
                cluster.start_node(stolen)
            cluster.wait_for(lambda: cluster.node_state(stolen) in ("spare", "in use"), 30, "its return")
            self.assertIsNone(self.refusal(cluster, others[0], stolen))
            self.assertEqual(cluster.complete(200), expected)

    # Twelve seconds, of which eight pass before they are renewed.
    def test_certificates_are_renewed_while_answers_stream(self):
        with Elastic(self.folder, nodes=3, keys="certificate-days: 0.00014\n") as cluster:
            expected, during, deadline = cluster.complete(100), set(), time.monotonic() + 30
            while len(during) < len(cluster.names):
                self.assertLess(time.monotonic(), deadline, "renewed so far: " + str(during))
                missing = set(cluster.names) - during
                stream = cluster.stream(100)
                while stream.is_alive():
                    during |= {name for name in missing if f"the certificate of {name} was renewed" in cluster.log(name)}
                    time.sleep(0.02)
                self.assertEqual((stream.error, stream.text), (None, expected))
            self.assertEqual(cluster.metric("shoal_nodes_lost_total"), 0)
            # Of two devices that go now one comes back in time, on what it was given last, after the first has ended; the
            # other stays away for too long.
            cluster.signal("node-2", 9)
            first = os.path.join(cluster.environment["XDG_DATA_HOME"], "shoal", "clusters", "test", "issued", "node-1.crt")
            cluster.wait_for(lambda: self.has_ended(first), 15, "the end of the first certificate")
            cluster.signal("node-1", 9)
            cluster.start_node("node-1")
            cluster.wait_for(lambda: cluster.node_state("node-1") in ("spare", "in use"), 30, "its return")
            cluster.wait_for(lambda: cluster.state() == "running", 30, "a plan with it")
            self.assertEqual(cluster.complete(100), expected)
            kept = os.path.join(cluster.environment["XDG_DATA_HOME"], "shoal", "nodes", "node-2", "node.crt")
            cluster.wait_for(lambda: self.has_ended(kept), 15, "the end of the other's")
            cluster.start_node("node-2")
            self.assertEqual(cluster.processes["node-2"].wait(20), 2)
            self.assertIn("has expired: run `shoal invite -c CLUSTER.yaml --name node-2`", cluster.log("node-2"))

    def has_ended(self, certificate):
        return subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-checkend", "0"], capture_output=True,
                              check=False).returncode != 0


if __name__ == "__main__":
    unittest.main()
