"""Attempts and targets as rows of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rationalize.models.forward import Row
from rationalize.records import Attempt

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


class RowMaker:
    """Turns attempts into rows; each text is tokenised once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._responses: dict[tuple[str, bool], tuple[int, ...]] = {}

    def text(
        self, prompt: str, response: str, *, eos: bool = True, control_ids=(), tag=None
    ) -> Row:
        if prompt not in self._prompts:
            self._prompts[prompt] = tuple(self.policy.encode_prompt(prompt))
        key = (response, eos)
        if key not in self._responses:
            self._responses[key] = tuple(self.policy.encode_response(response, eos=eos))
        return Row(self._prompts[prompt], self._responses[key], tuple(control_ids), tag)

    def attempt(self, attempt: Attempt, control: Mapping[str, int] | None = None) -> Row:
        """An attempt cut at the length limit gets no EOS: it would teach stopping there."""
        ids = self.policy.controls.prefix(control) if control and self.policy.controls else ()
        return self.text(
            attempt.prompt, attempt.completion, eos=attempt.finish == "stop", control_ids=ids
        )
