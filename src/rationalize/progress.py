"""Progress of long work: done of total, tokens per second, time left.

A bar on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

from rationalize.processes import launched
from rationalize.termination import Terminated

Progress = Callable[[int, int, int], None]
"""`progress(done, total, tokens)`, all counted from the start of the work."""

_LINE_EVERY = 20.0  # seconds between lines of a log

PROGRESS = "progress.json"
"""File in a run's folder while a process works there: what `rationalize view` shows."""
_FILE_EVERY = 1.0  # seconds between two writes of it
_files: set[Path] = set()


def show_in(file: Path) -> None:
    """From now on, write the progress of this process to a file too, until `hide`."""
    _files.add(file)
    _write_files({"what": "starting", "unit": "", "done": 0, "total": 0})


def hide(file: Path) -> None:
    """Leave off, and delete the file."""
    _files.discard(file)
    file.unlink(missing_ok=True)


_hushed: ContextVar[bool] = ContextVar("hushed", default=False)


@contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Within it, where `quiet`, neither `say` nor a progress bar prints, here and in libraries."""
    before = _hushed.set(quiet or _hushed.get())
    others = {name: os.environ.get(name) for name in _OTHERS}
    if quiet:
        os.environ.update(dict.fromkeys(_OTHERS, "1"))
    try:
        yield
    finally:
        _hushed.reset(before)
        for name, value in others.items() if quiet else ():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_OTHERS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS")
"""What other libraries' bars obey."""


def say(text: str) -> None:
    """Print a line to stderr at once, unless `hushed`."""
    if not _hushed.get():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(description: str, unit: str = "", *, if_long: bool = False) -> Iterator[Progress]:
    """A `Progress` that draws a bar on a terminal, and elsewhere prints a line every 20 seconds.
    `if_long`: only once the work has taken 20 seconds.

    A SIGTERM that arrives during the work is told how far it was.
    """
    shown = _shown(description, unit, if_long)
    place, written = description, -_FILE_EVERY

    def noted(done: int, total: int, tokens: int) -> None:
        nonlocal place, written
        if _files and launched().first and time.monotonic() - written >= _FILE_EVERY:
            written = time.monotonic()
            _write_files({"what": description, "unit": unit, "done": done, "total": total})
        place = f"{description} at {done} of {total} {unit}".rstrip()
        report(done, total, tokens)

    try:
        with shown as report:
            yield noted
    except Terminated as stop:
        stop.places.append(place)
        raise


def _write_files(progress: dict[str, object]) -> None:
    text = json.dumps({"pid": os.getpid(), **progress})
    _files.difference_update([file for file in _files if not file.parent.is_dir()])  # deleted
    for file in _files:
        fresh = file.with_name(f".{file.name}.tmp")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, file)


def _shown(description: str, unit: str, if_long: bool) -> AbstractContextManager[Progress]:
    if _hushed.get():
        return nullcontext(lambda done, total, tokens: None)
    if not sys.stderr.isatty():
        return nullcontext(_lines(description, unit, if_long))
    return _late_bar(description, unit) if if_long else _bar(description, unit)


@contextmanager
def _late_bar(description: str, unit: str) -> Iterator[Progress]:
    """Draws nothing before a report that comes after 20 seconds."""
    started, bar = time.monotonic(), None
    with ExitStack() as stack:

        def report(done: int, total: int, tokens: int) -> None:
            nonlocal bar
            if bar is None and done < total and time.monotonic() - started >= _LINE_EVERY:
                bar = stack.enter_context(_bar(description, unit))
            if bar:
                bar(done, total, tokens)

        yield report


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


def _lines(description: str, unit: str, if_long: bool) -> Progress:
    started = last = time.monotonic()
    first: tuple[float, int] | None = None  # time and count of the first report

    def report(done: int, total: int, tokens: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = first or (now, done)
        if now - last < _LINE_EVERY and (done < total or (if_long and last == started)):
            return
        last = now
        elapsed = now - started
        # what an earlier start has done says nothing about the time that is left
        since, here = now - first[0], done - first[1]
        left = f", {since / here * (total - done):.0f} s left" if here and done < total else ""
        rate = f", {tokens / max(elapsed, 1e-9):.0f} tokens/s" if tokens else ""
        say(f"{description}: {done}/{total} {unit}{rate}{left}")

    return report
