"""The nouns that every room shares. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Question:
    """One question, with whatever its source knows about it."""

    id: str
    """Unique within its source."""
    question: str
    """The question text, without the choices."""
    answer: str
    """Gold answer: the text of the right choice, or the free-form string."""
    choices: tuple[str, ...] | None = None
    """Choice texts in the order they are shown, or None for a free-form answer."""
    context: str | None = None
    """Premise or passage shown before the question."""
    rationales: tuple[str, ...] = ()
    """Teacher rationales, without the answer sentence."""
    kind: str | None = None
    """Kind of reasoning, for reports."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the source, kept for analysis and never shown to a trainer."""


@dataclass(frozen=True)
class Attempt:
    """One written rationale with its prediction and every score it was given."""

    id: str
    question_id: str
    mode: str
    prompt: str
    completion: str
    rationale: str
    prediction: str | None
    """Text of the predicted choice (or free-form string); None when no answer could be read."""
    gold: str
    parsed: bool
    finish: str
    """`stop` (the model ended) or `length` (cut at the limit)."""
    writer: str
    """`teacher`, `policy`, or a variant's name."""
    model: str
    round: int
    step: int
    split: str
    seed: int
    n_tokens: int
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    control: Mapping[str, int] | None = None
    """Bin per reward that the attempt was written under (0 is best); never the bin it has."""
    refines: str | None = None
    hinted: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def scored(self, rewards: Mapping[str, float | None]) -> Attempt:
        """The same attempt with further scores."""
        return dataclasses.replace(self, rewards={**self.rewards, **rewards})


@dataclass(frozen=True)
class Completion:
    """What a sampler returns for one sample of one prompt."""

    text: str
    finish: str
    """`stop` or `length`."""
    n_tokens: int
    """Tokens written, EOS included when it was written."""
    ids: tuple[int, ...] = ()
    """These tokens, where the sampler knows them."""


@dataclass(frozen=True)
class Pair:
    """A preference between two completions of one prompt, in TRL's columns."""

    prompt: str
    chosen: str
    rejected: str
    question_id: str


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """A plain dictionary for files; the inverse of `attempt_from_row`."""
    return dataclasses.asdict(attempt)


def attempt_from_row(row: Mapping[str, Any]) -> Attempt:
    names = {f.name for f in dataclasses.fields(Attempt)}
    return Attempt(**{k: v for k, v in row.items() if k in names})
