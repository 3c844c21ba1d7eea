"""How long the parts of a run took, and how much memory the process had held by then.

`times.jsonl` has a line for each part of a stage, by the clock on the wall and by that of the
processor: what `rationalize plan` predicts is compared with it. A part's seconds are without those
of the parts inside it, so that they add up. Of a part that was killed there is no line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TIMES = "times.jsonl"

_inner: ContextVar[list[float] | None] = ContextVar("inner", default=None)
"""What the parts inside the one that is going on took by both clocks."""


@contextmanager
def timed(folder: Path, part: str, *, written: bool = True) -> Iterator[None]:
    """Append a line about the block to the run's `times.jsonl`, unless it raises."""
    outer, inner = _inner.get(), [0.0, 0.0]
    token = _inner.set(inner)
    started = _clocks()
    try:
        yield
    finally:
        _inner.reset(token)
        took = [now - then for now, then in zip(_clocks(), started, strict=True)]
        if outer is not None:
            outer[:] = [a + b for a, b in zip(outer, took, strict=True)]
    if written:
        seconds, cpu = (round(a - b, 3) for a, b in zip(took, inner, strict=True))
        line = {"part": part, "seconds": seconds, "cpu_seconds": cpu, "peak_MiB": peak_mib()}
        with open(folder / TIMES, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")  # one write: a kill cuts the last line


def _clocks() -> list[float]:
    return [time.monotonic(), time.process_time()]


def peak_mib() -> int | None:
    """MiB that this process has held at most so far; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # what follows would count the parent's too
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if marks:
            return round(int(marks[0].split()[1]) / 1024)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
