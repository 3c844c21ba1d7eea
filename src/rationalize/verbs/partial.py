"""Work that ends in one file, saved on the way, so that a second start resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.errors import UserError
from rationalize.files import plain, write_text
from rationalize.records import Attempt


class Partial:
    """Finished blocks of attempts, beside the file that they will become."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self._folder = out.with_name(out.name + ".partial")
        wanted = json.dumps(plain(settings), indent=1)
        self._folder.mkdir(parents=True, exist_ok=True)
        stored = self._folder / "settings.json"
        if not stored.exists():
            write_text(stored, wanted)
        elif stored.read_text(encoding="utf-8") != wanted:
            raise UserError(
                f"{self._folder} holds attempts of an unfinished call with other settings; start "
                "that one again to finish it, delete the folder, or name another --out"
            )
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
