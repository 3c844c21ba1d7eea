"""Progress of long work: done of total, tokens per second, time left.

A bar on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rationalize.termination import Terminated

Progress = Callable[[int, int, int], None]
"""`progress(done, total, tokens)`, all counted from the start of the work."""

_LINE_EVERY = 20.0  # seconds between lines of a log


def say(text: str) -> None:
    """Print a line to stderr at once."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(description: str, unit: str = "") -> Iterator[Progress]:
    """A `Progress` that draws a bar on a terminal, and elsewhere prints a line every 20 seconds.

    A SIGTERM that arrives during the work is told how far it was.
    """
    place = description

    def noted(done: int, total: int, tokens: int) -> None:
        nonlocal place
        place = f"{description} at {done} of {total} {unit}".rstrip()
        report(done, total, tokens)

    try:
        if sys.stderr.isatty():
            with _bar(description, unit) as report:
                yield noted
        else:
            report = _lines(description, unit)
            yield noted
    except Terminated as stop:
        stop.places.append(place)
        raise


@contextmanager
def _bar(description: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None, rate="")

        def report(done: int, total: int, tokens: int) -> None:
            rate = tokens / max(time.monotonic() - started, 1e-9)
            bar.update(
                task, completed=done, total=total, rate=f"{rate:6.0f} tokens/s" if tokens else ""
            )

        yield report


def _lines(description: str, unit: str) -> Progress:
    started = last = time.monotonic()

    def report(done: int, total: int, tokens: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _LINE_EVERY:
            return
        last = now
        elapsed = now - started
        left = f", {elapsed / done * (total - done):.0f} s left" if 0 < done < total else ""
        rate = f", {tokens / max(elapsed, 1e-9):.0f} tokens/s" if tokens else ""
        print(f"{description}: {done}/{total} {unit}{rate}{left}", file=sys.stderr, flush=True)

    return report
