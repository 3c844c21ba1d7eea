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
    prompts can be at fault. Failures of the server can begin at any time. A reply from the disk
    says that the settings were taken once, and nothing of the server today.
    """

    def __init__(self) -> None:
        self.skipped: list[Refused] = []
        self._answered = self._was_answered = False
        self._in_a_row = 0
        self._lock = threading.Lock()  # guards all of these

    def answered(self) -> None:
        """The server has answered another prompt."""
        with self._lock:
            self._answered, self._in_a_row = True, 0

    def was_answered(self) -> None:
        """A prompt has its replies from the disk."""
        with self._lock:
            self._was_answered = True

    def skips(self, refusal: Refused) -> bool:
        """Whether the prompt is skipped; else the refusal ends the verb."""
        with self._lock:
            self._in_a_row += 1
            self.skipped.append(refusal)
            limit, of_prompt = _LIMITS[refusal.fault], refusal.fault in ("unclear", "prompt")
            if self._was_answered and of_prompt:
                limit = _PROMPT
            return (self._answered and of_prompt) or self._in_a_row < limit
