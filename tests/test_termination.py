"""A SIGTERM: where it raises, what it lets end first, and how the program ends."""

import signal
import subprocess
import sys

import pytest

BLOCK = """
import os, signal
from rationalize.termination import Terminated, heed_sigterm, postponed

def kill():
    os.kill(os.getpid(), signal.SIGTERM)

heed_sigterm()
done = []
try:
    with postponed():
        with postponed():
            kill()
            done.append("inner")
        done.append("outer")
    done.append("never")
except Terminated:
    kill()  # a second one changes nothing
    with postponed():
        done.append("saved")
print(*done)
"""


def run(code, *args):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=100
    )


def test_a_block_ends_before_it_raises():
    assert run(BLOCK).stdout == "inner outer saved\n"


def test_a_verb_that_waits_ends_with_143(tmp_path):
    asked = [sys.executable, "-m", "rationalize", "score", "-", "--rewards", "correctness"]
    with subprocess.Popen(
        [*asked, "--out", tmp_path / "out.jsonl"], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as child:  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=2)
        child.send_signal(signal.SIGTERM)
        assert "stopped by SIGTERM" in child.communicate(timeout=20)[1]
    assert child.returncode == 143
