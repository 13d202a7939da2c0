"""What every part of the testbed needs: complaints, tools of the system, sizes."""
import re
import shlex
import subprocess
import sys

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class TestbedError(Exception):
    pass


def say(message):
    print(f"testbed: {message}", file=sys.stderr)


def command(*words, ok=False):
    """Runs a tool; its complaint becomes ours. ok: a failure is fine."""
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode and not ok:
        raise TestbedError(f"`{shlex.join(words)}` failed: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def parse_bytes(text):
    match = re.fullmatch(r"\s*([0-9.]+)\s*(Ki|Mi|Gi|k|M|G|)B?\s*", text)
    if not match:
        raise TestbedError(f"'{text}' is not a size such as 256MiB")
    return int(float(match[1]) * UNITS[match[2]])
