"""The lines of a run's `metrics.jsonl`, of which each is read once while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rationalize.files import whole_lines

Line = dict[str, Any]


class LoggedLines:
    """The complete lines of a file that grows, by stage. What was appended since is read at the
    next question; a file that was written anew is read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        """Read all of the file at the next question."""
        self._by_stage: dict[str, list[Line]] = {}
        self._last: dict[str, float] = {}
        self._read_to, self._end = 0, b""  # bytes that were read, and the last line of them

    def of(self, stage: str) -> list[Line]:
        """A stage's lines, as written."""
        self._read_on()
        return list(self._by_stage.get(stage, ()))

    def all(self) -> list[Line]:
        """All lines, by the stages' names."""
        self._read_on()
        return [line for stage in sorted(self._by_stage) for line in self._by_stage[stage]]

    def reaches(self, stage: str, step: int) -> bool:
        """Whether the stage has a line of `step` or later."""
        self._read_on()
        return self._last.get(stage, -1) >= step

    def _read_on(self) -> None:
        if not self.path.exists():
            self.forget()
            return
        with open(self.path, "rb") as file:
            file.seek(max(0, self._read_to - len(self._end)))
            if file.read(len(self._end)) != self._end:  # written anew
                self.forget()
                file.seek(0)
            new = file.read()
        end = new.rfind(b"\n") + 1  # a line that is being written is read next time
        lines = new[:end].splitlines(keepends=True)
        try:
            parsed = [json.loads(line) for line in lines]
        except ValueError:
            parsed = whole_lines(self.path)  # raises, and names the file
        for line in parsed:
            stage = line["stage"]
            self._by_stage.setdefault(stage, []).append(line)
            self._last[stage] = max(self._last.get(stage, -1), line["step"])
        if lines:
            self._read_to, self._end = self._read_to + end, lines[-1]
