"""Strangers at the ports of a running cluster: they learn nothing, and everybody else is served on."""

import os
import re
import socket
import ssl
import subprocess
import threading
import time
import unittest

from server import Server
from support import ClusterTest, MODEL, cluster_file, even_layers, processes_of, run

# A TLS alert is one record of two bytes in clear, or encrypted under keys that the stranger has too: 24 bytes. What a
# server says of itself before it asks for a certificate (ServerHello to Finished) is public.
ALERT_BYTES = 24
PROMPT = {"prompt": "The quick brown fox", "max_tokens": 24, "temperature": 0}


def listening_ports(pids):
    """TCP ports on which these processes listen, from /proc."""
    inodes = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}")))
            except OSError:
                pass
    ports = []
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            # Open MPI's own ports are on all addresses.
            if fields[3] == "0A" and fields[9] in inodes and address == "0100007F":
                ports.append(int(port, 16))
    return ports


def received(sock, seconds=4.0):
    """All that comes until the other side closes; fails where it does not close in time."""
    sock.settimeout(seconds)
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return data
        data += part


class Capture:
    """What crosses the loopback device between ports of interest, as tcpdump would see it. Needs root."""

    def __enter__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self.packets, self.stopping = [], False
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        while not self.stopping:
            try:
                self.packets.append(self.socket.recv(65536))
            except TimeoutError:
                pass

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join()
        self.socket.close()

    def between(self, ports):
        """The TCP payloads from or to these ports. Called when all was sent; the reader may be behind, so it waits for a
        packet of its own (there is always traffic: signs of life, other programs)."""
        mark, deadline = os.urandom(16), time.monotonic() + 30
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not any(packet.endswith(mark) for packet in self.packets):
                if time.monotonic() > deadline:
                    raise AssertionError("the capture does not see what is sent")
                sender.sendto(mark, ("127.0.0.1", 9))
                time.sleep(0.2)
        payloads = []
        for packet in self.packets:
            ip = packet[14:]
            if len(ip) < 40 or ip[0] >> 4 != 4 or ip[9] != 6:
                continue
            tcp = ip[(ip[0] & 15) * 4:]
            if {int.from_bytes(tcp[0:2], "big"), int.from_bytes(tcp[2:4], "big")} & set(ports):
                payloads.append(tcp[(tcp[12] >> 4) * 4:])
        return b"".join(payloads)


class LinksTest(ClusterTest):
    def serve(self, *more):
        config = cluster_file(self.folder, 3, even_layers(3))
        return Server(["-c", config, "-m", MODEL, *more], ranks=3)

    def node_ports(self, server):
        pids = [pid for pid in processes_of(self.folder) if "shoal" in os.readlink(f"/proc/{pid}/exe")]
        ports = [port for port in listening_ports(pids) if port != server.port]
        self.assertEqual(len(ports), 3)
        return ports

    def test_strangers_are_refused_and_told_nothing(self):
        with self.serve() as server:
            expected = server.post("/v1/completions", PROMPT)
            self.assertEqual(expected[0], 200)
            key, certificate = os.path.join(self.folder, "key.pem"), os.path.join(self.folder, "certificate.pem")
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-days", "1", "-subj", "/O=test/CN=node-1", "-keyout", key, "-out", certificate],
                           check=True, capture_output=True)
            for port in self.node_ports(server):
                with self.subTest("plain text", port=port), socket.create_connection(("127.0.0.1", port)) as plain:
                    begin = time.monotonic()
                    plain.sendall(b"SHL1" + bytes(60))
                    self.assertLessEqual(len(received(plain)), ALERT_BYTES)
                    self.assertLess(time.monotonic() - begin, 1)
                for what, version, show in (("TLS 1.2", ssl.TLSVersion.TLSv1_2, False),
                                            ("no certificate", ssl.TLSVersion.TLSv1_3, False),
                                            ("a certificate of its own making", ssl.TLSVersion.TLSv1_3, True)):
                    with self.subTest(what, port=port):
                        self.assert_not_let_in(port, version, (certificate, key) if show else None)
            with self.subTest("silence"), socket.create_connection(("127.0.0.1", port)) as silent:
                self.assertEqual(received(silent), b"")
            self.assertEqual(server.post("/v1/completions", PROMPT)[1]["choices"], expected[1]["choices"])
        self.assertRegex(server.log, r"127\.0\.0\.1:\d+.*certificate")  # whoever it was is in the log

    def assert_not_let_in(self, port, version, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        if certificate:
            context.load_cert_chain(*certificate)
        begin = time.monotonic()
        with self.assertRaises(OSError):  # a handshake or a read that fails; ssl.SSLError is one
            with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as talk:
                talk.sendall(b"SHL1" + bytes(60))  # TLS 1.3 lets a client speak before it is refused
                self.assertEqual(received(talk), b"")
                raise ConnectionError("closed without a word")
        self.assertLess(time.monotonic() - begin, 1)

    @unittest.skipUnless(os.geteuid() == 0, "capturing packets needs root")
    def test_what_crosses_the_network_can_be_read_only_where_it_was_asked_for(self):
        for more, readable in ((["--insecure"], True), ([], False)):
            with self.subTest(more=more), self.serve(*more) as server, Capture() as capture:
                ports = self.node_ports(server)
                self.assertEqual(server.post("/v1/completions", PROMPT)[0], 200)
                crossed = capture.between(ports)
                self.assertGreater(len(crossed), 24 * 2 * 576 * 4)  # the activations of each token, twice
                self.assertEqual(b"SHL1" in crossed, readable)  # what each frame begins with

    def test_off_loopback_insecure_needs_a_second_flag(self):
        config = cluster_file(self.folder, 1)
        with open(config, encoding="utf-8") as text:
            changed = text.read().replace("127.0.0.1", "0.0.0.0")
        with open(config, "w", encoding="utf-8") as out:
            out.write(changed)
        self.assert_refused(run(["run", "-c", config, "-m", MODEL, "-p", "a", "--insecure"]), 2, "node-0.*0.0.0.0",
                            "--trust-network")
        join = ["node", "--name", "a", "--insecure", "--join"]
        self.assert_refused(run([*join, "192.0.2.1:7400"]), 2, "the head.*192.0.2.1", "--trust-network")
        self.assert_refused(run([*join, "127.0.0.1:1", "--address", "0.0.0.0"]), 2, "node a.*0.0.0.0", "--trust-network")


if __name__ == "__main__":
    unittest.main()
