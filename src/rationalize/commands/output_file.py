"""The file that a command ends in: it replaces what the same call wrote there, and nothing else.

What a call wrote is known by the file's hash, which is kept in the cache folder under the file's
path. A file that has been edited or replaced since is the user's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rationalize.errors import UserError
from rationalize.files import cache_folder, make_folder, plain, write_text
from rationalize.runs import differences


@dataclass(frozen=True)
class OutputFile:
    """A file, and what it is written for."""

    path: Path
    command: str
    settings: Mapping[str, Any]
    """What a second call must repeat to replace the file."""
    overwrite: bool = False
    """Replace whatever is there."""

    def check(self) -> None:
        """Raises `UserError` where something else lies there. Writes nothing."""
        if not os.path.lexists(self.path):
            return
        if not self.path.is_file():
            kind = "a folder" if self.path.is_dir() else "no regular file"
            raise UserError(f"--out {self.path}: is {kind}; name a file")
        if self.overwrite:
            return
        written = self._written()
        if written is None:
            stat = self.path.stat()
            changed = datetime.fromtimestamp(stat.st_mtime).strftime("%Y-%m-%d %H:%M")
            there = f"{stat.st_size:,} bytes of {changed}, which no `rationalize` command has "
            there += "written, or which were changed since"
        elif written["command"] != self.command:
            there = f"what `rationalize {written['command']}` wrote"
        else:
            known = {k: v for k, v in written["settings"].items() if k in self.settings}
            differing = differences(known, plain(self.settings), "there", "asked for")
            if not differing:
                return
            there = "what another call wrote: " + "; ".join(differing)
        raise UserError(
            f"--out {self.path} exists: {there}. Name another --out, or replace it with --overwrite"
        )

    def claim(self) -> None:
        """Make its folder. Raises `UserError` as `check` does, or where it cannot be written."""
        self.check()
        folder = self.path.parent
        make_folder(folder)
        if not os.access(folder, os.W_OK):
            raise UserError(f"--out {self.path}: {folder} is not writable; name another place")

    def sign(self) -> None:
        """Remember that this call wrote the file."""
        record = {"command": self.command, "settings": self.settings, "digest": self._digest()}
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._record, json.dumps(plain(record)))
        except OSError:  # no cache: the same call will ask for --overwrite
            pass

    @property
    def _record(self) -> Path:
        name = hashlib.blake2b(os.fsencode(self.path.resolve()), digest_size=16).hexdigest()
        return cache_folder() / "written" / f"{name}.json"

    def _digest(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]

    def _written(self) -> dict[str, Any] | None:
        """What wrote the file as it is now, if that is known."""
        try:
            record = json.loads(self._record.read_bytes())
            return record if record["digest"] == self._digest() else None
        except (OSError, ValueError, KeyError):
            return None
