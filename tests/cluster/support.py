"""Starts real clusters for the tests: the built program, real processes, mpirun, sockets on loopback.

The environment names what to test: SHOAL_PROGRAM (the binary) and SHOAL_TEST_MODEL (a GGUF file).
"""

import os
import signal
import subprocess
import tempfile
import time
import unittest

PROGRAM = os.environ["SHOAL_PROGRAM"]
MODEL = os.environ.get("SHOAL_TEST_MODEL", "")  # where a test needs it, its label is `model`

ENVIRONMENT = dict(
    os.environ,
    OMPI_ALLOW_RUN_AS_ROOT="1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    OMPI_MCA_rmaps_base_oversubscribe="1",
    OMPI_MCA_hwloc_base_binding_policy="none",
)


def cluster_file(folder, nodes, layers=None, context=512, sequences=4, memory="2GiB", threads=1, plan="", node_1=""):
    """Writes a cluster file of `nodes` local nodes; `layers` splits by hand: one "a-b" a node. `node_1`: more keys
    for that node."""
    names = [f"node-{i}" for i in range(nodes)]
    text = f"cluster: test\ncontext: {context}\nsequences: {sequences}\nhead: node-0\nnodes:\n"
    for name in names:
        more = node_1 if name == "node-1" else ""
        text += f"  {name}: {{{more}address: 127.0.0.1, memory: {memory}, threads: {threads}}}\n"
    # Links are given, so that a test does not spend its time measuring loopback.
    if nodes > 1:
        text += "links:\n"
        for i in range(nodes):
            for j in range(i):
                text += f"  - {{between: [{names[j]}, {names[i]}], bandwidth: 10Gbps, latency: 30us}}\n"
    if layers:
        text += f"plan: {{keep-on-head: {plan or 'none'}, layers: {{"
        text += ", ".join(f"{name}: {span}" for name, span in zip(names, layers)) + "}}\n"
    elif plan:
        text += f"plan: {{keep-on-head: {plan}}}\n"
    path = os.path.join(folder, f"cluster-{nodes}-{len(os.listdir(folder))}.yaml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    return path


def even_layers(nodes, layers=30):
    """Nearly equal spans of layers, both ends included."""
    cuts = [layers * i // nodes for i in range(nodes + 1)]
    return [f"{cuts[i]}-{cuts[i + 1] - 1}" for i in range(nodes)]


def command(arguments, ranks=1):
    if ranks == 0:  # without mpirun
        return [PROGRAM, *arguments]
    return ["mpirun", "--quiet", "-n", str(ranks), PROGRAM, *arguments]


def run(arguments, ranks=0, timeout=180, env=None):
    """Runs to the end; the result has returncode, stdout and stderr as bytes."""
    return subprocess.run(command(arguments, ranks), capture_output=True, timeout=timeout, env=env or ENVIRONMENT,
                          stdin=subprocess.DEVNULL, check=False)


def start(arguments, ranks=0):
    # Unbuffered: communicate() does not give what a read before it left in a buffer.
    return subprocess.Popen(command(arguments, ranks), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                            env=ENVIRONMENT, stdin=subprocess.DEVNULL, start_new_session=True)


def processes_of(marker):
    """Process ids whose command line holds `marker`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as text:
                if marker.encode() in text.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def wait_until_gone(marker, seconds):
    deadline = time.monotonic() + seconds
    while processes_of(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def insist(process, number=signal.SIGTERM, seconds=30):
    """Sends the signal again and again until the process has ended; returns its status."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.001)
    return process.wait(1)


class ClusterTest(unittest.TestCase):
    def setUp(self):
        self.folder_handle = tempfile.TemporaryDirectory(prefix="shoal-test-")
        self.folder = self.folder_handle.name

    def tearDown(self):
        # Whatever a failed test left behind ends here; only processes whose command line names our own folder.
        for pid in processes_of(self.folder):
            os.kill(pid, signal.SIGKILL)
        self.folder_handle.cleanup()

    def answer(self, arguments, ranks=0, timeout=180):
        result = run(["run", *arguments], ranks, timeout)
        self.assertEqual(result.returncode, 0, result.stderr.decode(errors="replace"))
        return result.stdout

    def assert_refused(self, result, code, *patterns):
        text = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, code, text)
        for pattern in patterns:
            self.assertRegex(text, pattern)
        self.assertNotRegex(text, r"terminate called|Aborted|Segmentation|Signal:")
        self.assertEqual(result.stdout, b"")
