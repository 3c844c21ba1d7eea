"""Prompts that a server refuses: which are skipped, and when it is not the prompts. No torch."""

from __future__ import annotations

import threading

from rationalize.sampling.http import Fault, Refused

_SETTING, _UNCLEAR, _PROMPT, _FAILURE = 1, 2, 16, 8
_LIMITS: dict[Fault, int] = {
    "setting": _SETTING, "unclear": _UNCLEAR, "prompt": _PROMPT, "failure": _FAILURE,
}  # fmt: skip
"""Refusals in a row that end the verb, by what the server says is at fault."""


class Refusals:
    """The refusals of one call, which many threads report.

    A setting that all prompts share is refused for each, so that after the first reply only the
    prompts can be at fault. Failures of the server can begin at any time.
    """

    def __init__(self) -> None:
        self.skipped: list[Refused] = []
        self._answered = False
        self._in_a_row = 0
        self._lock = threading.Lock()  # guards all of these

    def answered(self) -> None:
        """Another prompt has its replies."""
        with self._lock:
            self._answered, self._in_a_row = True, 0

    def skips(self, refusal: Refused) -> bool:
        """Whether the prompt is skipped; else the refusal ends the verb."""
        with self._lock:
            self._in_a_row += 1
            self.skipped.append(refusal)
            of_prompt = self._answered and refusal.fault in ("unclear", "prompt")
            return of_prompt or self._in_a_row < _LIMITS[refusal.fault]
