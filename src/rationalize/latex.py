r"""Whether two answers in LaTeX are equal: `math-verify`, the extra `math`, in a child process.

Its parser can hang, and its own time limits are signals, which work in no thread but the main one.
So it runs in a process that is killed where a pair takes too long. No torch here.

    python -m rationalize.latex    the child: pairs as lines of JSON in, `true` or `false` out
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

from rationalize.numerals import whole_number

log = logging.getLogger(__name__)

SECONDS = 3.0
"""Processor time that a pair may take."""
_PATIENCE = 20  # times as long on the clock, where the machine is busy
_START_SECONDS = 120.0  # the child's imports
_LONGEST = 300
_MEMORY = 4 << 30  # bytes of address space of the child, where the system has such a limit

_COMMAND = re.compile(r"\\[A-Za-z]+|\\[{}|]|\^|(?<!\\)\$.+(?<!\\)\$", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]{3,}")
_MATHS = re.compile(r"\\(?:[A-Za-z]+|[()\[\]])|(?<!\\)\$")
_DELIMITERS = re.compile(r"\\[()\[\]]|(?<!\\)\$")


def is_latex(text: str) -> bool:
    r"""Whether the text has LaTeX that is mathematics, not words.

    >>> [is_latex(t) for t in ("\\frac{\\pi}{2}", "x^2", "$3x$", "\\text{Tuesday}", "3 \\$", "7")]
    [True, True, True, False, False, False]
    """
    if not _COMMAND.search(text) or len(text) > _LONGEST:
        return False
    return not _WORD.search(_MATHS.sub(" ", text))


def equal_latex(prediction: str, answer: str) -> bool:
    """Whether the two have one value. False where neither is LaTeX, and where that is not known:
    without the extra, of which a LaTeX answer is told once, and where it takes too long.
    """
    if not (is_latex(prediction) or is_latex(answer)):
        return False
    if any(_WORD.search(_MATHS.sub(" ", t)) or len(t) > _LONGEST for t in (prediction, answer)):
        return False
    if not available():
        if is_latex(answer) and whole_number(answer) is None:
            _tell()
        return False
    return _asked(_bare(prediction), _bare(answer))


@functools.cache
def available() -> bool:
    """Whether the extra `math` is installed."""
    return importlib.util.find_spec("math_verify") is not None


@functools.cache
def _tell() -> None:
    log.warning(
        "some gold answers are LaTeX, and are compared as text and as numbers only; "
        "`pip install 'rationalize[math]'` compares their values"
    )


def _bare(text: str) -> str:
    return _DELIMITERS.sub("", text).strip().rstrip(".").strip()


@functools.lru_cache(maxsize=1 << 16)
def _asked(prediction: str, answer: str) -> bool:
    with _LOCK:
        if not _CHILDREN or _CHILDREN[-1].owner != os.getpid():
            _CHILDREN[:] = [Child()]
        return _CHILDREN[-1].equal(prediction, answer)


class Child:
    """The process that compares; it is begun where there is a pair, and anew after one that took
    longer than `seconds` of processor time.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.owner = os.getpid()  # a fork must not share it
        self._seconds = seconds
        self._reader = ThreadPoolExecutor(1)
        self._process: subprocess.Popen[str] | None = None
        self._broken = False
        atexit.register(self.stop)

    def equal(self, prediction: str, answer: str) -> bool:
        """Whether it finds them equal; False where it takes too long."""
        process = self._process or self._start()
        if process is None:
            return False
        try:
            assert process.stdin
            process.stdin.write(json.dumps([prediction, answer]) + "\n")
            process.stdin.flush()
            return self._line(process, _PATIENCE * self._seconds) == "true"
        except (OSError, TimeoutError):
            log.debug("not compared: %r and %r", prediction, answer)
            self.stop()
            return False

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None and self.owner == os.getpid():
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[str] | None:
        if self._broken:
            return None
        home = str(Path(__file__).parents[1])  # of this very package
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rationalize.latex", str(self._seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        try:
            self._line(self._process, _START_SECONDS)  # it is ready
        except (OSError, TimeoutError):
            self.stop()
            self._broken = True
            log.warning("the extra `math` cannot be used: `import math_verify` fails in a child")
        return self._process

    def _line(self, process: subprocess.Popen[str], seconds: float) -> str:
        """The next line that it writes. Raises `TimeoutError`, and `OSError` where it has ended."""
        assert process.stdout
        line = self._reader.submit(process.stdout.readline).result(seconds)
        if not line:
            raise OSError("it has ended")
        return line.strip()


_LOCK = threading.Lock()
_CHILDREN: list[Child] = []


def _compare_lines(seconds: float) -> None:
    """The child: it ends with its parent, and with a pair that takes more than it may."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()  # it warns that its own time limits are off
    config = [LatexExtractionConfig()]

    def value(text: str) -> list:
        return parse(f"${text}$", config, parsing_timeout=None, raise_on_error=False)

    def equal(prediction: str, answer: str) -> bool:
        try:
            gold, predicted = value(answer), value(prediction)
            return bool(gold and predicted and verify(gold, predicted, timeout_seconds=None))
        except Exception:  # of somebody's parser on any text
            return False

    equal("x", "\\frac{1}{2}")  # what it loads on first use is no pair's time
    with contextlib.suppress(ImportError, ValueError, OSError):  # no such limit there
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        _limit(seconds)
        found = equal(*json.loads(line))
        _limit(0)
        print(json.dumps(found), flush=True)


def _limit(seconds: float) -> None:
    """End this process after so much processor time (0: do not), where the system can do that."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    _compare_lines(float(sys.argv[1]))
