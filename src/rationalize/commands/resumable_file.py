"""Work that ends in one file and is saved on the way, so that a second start resumes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.errors import UserError
from rationalize.files import plain, write_text
from rationalize.records import Attempt
from rationalize.runs import lock, unlock

_SETTINGS = "settings.json"


def partial_folder(out: Path) -> Path:
    """Where unfinished work on `out` is kept."""
    return out.with_name(out.name + ".partial")


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """`partial_folder(out)`, locked for this process. It is removed at the end unless it holds
    unfinished work.
    """
    folder = partial_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    try:
        yield folder
    finally:
        unlock(folder)
        if not (folder / _SETTINGS).exists():
            shutil.rmtree(folder)


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Store what the work depends on. Raises `UserError` where it was begun with other settings."""
    wanted = plain(settings)
    file = folder / _SETTINGS
    if not file.exists():
        write_text(file, json.dumps(wanted, indent=1))
        return
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored != wanted:
        different = [k for k in {**wanted, **stored} if stored.get(k) != wanted.get(k)]
        raise UserError(
            f"{folder} holds an unfinished call with other settings ({', '.join(different)}); "
            "start that one again to finish it, delete the folder, or name another --out"
        )


def end(folder: Path) -> None:
    """Mark the work as finished: its folder may be removed."""
    (folder / _SETTINGS).unlink()


class ResumableFile:
    """Finished blocks of attempts, in a folder beside the file that they will become."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self._folder = partial_folder(out)
        self._folder.mkdir(parents=True, exist_ok=True)
        begin(self._folder, settings)
        self.blocks: list[list[Attempt]] = []
        while self._file(len(self.blocks)).exists():
            self.blocks.append(load_attempts(self._file(len(self.blocks))))

    def add(self, attempts: list[Attempt]) -> None:
        save_attempts(attempts, self._file(len(self.blocks)))
        self.blocks.append(attempts)

    def forget(self) -> None:
        shutil.rmtree(self._folder)

    def _file(self, block: int) -> Path:
        return self._folder / f"{block:06d}.parquet"
