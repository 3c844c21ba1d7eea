"""Rows of token ids from attempts and texts, and the rows of each training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from rationalize.models.forward import Row
from rationalize.records import Attempt
from rationalize.signals.draws import shuffled_passes

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


class OtherTag(NamedTuple):
    """The control tokens that a row shall be told apart from: one reward's is of another bin."""

    control_ids: tuple[int, ...]


class RowMaker:
    """Turns texts and attempts into rows; each distinct text is tokenised once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._responses: dict[tuple[str, bool], tuple[int, ...]] = {}

    def text(
        self, prompt: str, response: str, *, eos: bool = True, control_ids=(), tag=None
    ) -> Row:
        """A prompt and a response; `eos=False` leaves the end out, for a response that was cut."""
        key = (response, eos)
        if key not in self._responses:
            self._responses[key] = tuple(self.policy.encode_response(response, eos=eos))
        return Row(self._prompt(prompt), self._responses[key], tuple(control_ids), tag)

    def drawn(self, prompt: str, ids: Sequence[int]) -> Row:
        """A response by its drawn token ids: tokenising its text again might give other ids."""
        return Row(self._prompt(prompt), tuple(ids))

    def _prompt(self, text: str) -> tuple[int, ...]:
        if text not in self._prompts:
            self._prompts[text] = tuple(self.policy.encode_prompt(text))
        return self._prompts[text]

    def attempt(
        self, attempt: Attempt, control: Mapping[str, int] | None = None, *,
        other: Mapping[str, int] | None = None,
    ) -> Row:  # fmt: skip
        """An attempt, under the control tokens of the bins in `control`; tagged with those of
        `other`, which it shall be told apart from.

        An attempt cut at the length limit gets no EOS, which would teach stopping there.
        """
        ids, others = (
            tuple(self.policy.controls.prefix(bins)) if bins and self.policy.controls else ()
            for bins in (control, other)
        )
        return self.text(
            attempt.prompt, attempt.completion, eos=attempt.finish == "stop", control_ids=ids,
            tag=OtherTag(others) if others else None,
        )  # fmt: skip


def mixed_batch(
    rows: Mapping[str, Sequence[Row]], counts: Mapping[str, int], step: int, seed: int
) -> list[Row]:
    """Batch `step`: `counts[mode]` rows of each mode, in shuffled passes over that mode's rows."""
    return [
        rows[mode][i]
        for k, (mode, count) in enumerate(counts.items())
        if rows[mode] and count
        for i in shuffled_passes(len(rows[mode]), count, step, [seed, k])
    ]


def grouped_batch(
    groups: Sequence[Sequence[Row]], size: int, step: int, seed: int | Sequence[int]
) -> list[Row]:
    """Batch `step`: the rows of `size` groups, in shuffled passes over the groups.

    The first field of each row's tag (a named tuple) becomes its group's index in the batch, since
    a batch that spans two passes may hold the same group twice.
    """
    return [
        replace(row, tag=row.tag._make((index, *row.tag[1:])))
        for index, i in enumerate(shuffled_passes(len(groups), size, step, seed))
        for row in groups[i]
    ]
