"""Work that ends in one file and is saved on the way, so that a second start resumes it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rationalize.errors import UserError
from rationalize.files import make_folder, plain, write_text
from rationalize.processes import by_first, meet, world
from rationalize.runs import lock, unlock
from rationalize.text import listed

_SETTINGS = "settings.json"
SHARDS = "shards"
"""Folder with the finished shards of what is written (`runs/shards.py`)."""
_OURS = re.compile(r"lock|input|rows\.jsonl|settings\.json|shards|\d{6}\.parquet|\..*")
"""What may lie there; the parquet files are those of an earlier version."""


def partial_folder(out: Path) -> Path:
    """Where unfinished work on `out` is kept."""
    return out.with_name(out.name + ".partial")


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """`partial_folder(out)`, locked for this process, or for all of its launch. It is removed at
    the end, when all have done their part, unless it holds unfinished work.
    """
    folder = by_first(partial(_locked, out))
    try:
        yield folder
        meet()
    finally:
        if world().first:
            unlock(folder)
            if not (folder / _SETTINGS).exists():
                shutil.rmtree(folder)


def _locked(out: Path) -> Path:
    folder = _made(out)
    lock(folder)
    _forget_idle(folder)
    return folder


def begin(folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Store what the work depends on.

    Raises `UserError` where it was begun with other settings; with `overwrite` what it has done is
    deleted. Of the processes of a launch the first one does it.
    """
    by_first(partial(_begin, folder, settings, overwrite))


def _begin(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    wanted = plain(settings)
    file = folder / _SETTINGS
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else wanted
    stored.pop("out", None)  # stored by an earlier version
    if stored != wanted:
        if not overwrite:
            different = [k for k in {**wanted, **stored} if stored.get(k) != wanted.get(k)]
            raise UserError(
                f"{folder} holds an unfinished call with other settings ({', '.join(different)}); "
                "start that one again to finish it, name another --out, or delete what it has done "
                "with --overwrite"
            )
        for place in _done(folder):
            place.unlink()
    write_text(file, json.dumps(wanted, indent=1))


def shards_of(folder: Path) -> list[Path]:
    """The files of finished shards."""
    return list((folder / SHARDS).glob("*.json"))


def _done(folder: Path) -> list[Path]:
    """The files that hold finished work."""
    return [p for p in (*folder.glob("rows.jsonl"), *shards_of(folder)) if p.stat().st_size]


def _forget_idle(folder: Path) -> None:
    """Work that has stored nothing yet may be begun anew with other settings."""
    if not _done(folder):
        (folder / _SETTINGS).unlink(missing_ok=True)


def end(folder: Path) -> None:
    """Mark the work as finished: its folder may be removed."""
    if world().first:
        (folder / _SETTINGS).unlink()


def _made(out: Path) -> Path:
    """`partial_folder(out)`, made. Raises `UserError` where it is somebody else's."""
    folder = partial_folder(out)
    make_folder(folder)
    others = sorted(p.name for p in folder.iterdir() if not _OURS.fullmatch(p.name))
    if others:
        raise UserError(
            f"{folder} holds {listed(others)}, and is where unfinished work on {out.name} would "
            "be kept; name another --out"
        )
    return folder
