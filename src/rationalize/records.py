"""The records that all packages share. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rationalize.answers import is_correct


@dataclass(frozen=True)
class Question:
    """One question, with what its source provides."""

    id: str
    """Unique within its source."""
    question: str
    """The question text, without the choices."""
    answer: str
    """Gold answer: the text of the right choice, or the free-form string."""
    choices: tuple[str, ...] | None = None
    """Choice texts in the order shown, or None for a free-form answer."""
    context: str | None = None
    """Premise or passage shown before the question."""
    rationales: tuple[str, ...] = ()
    """Teacher rationales, without the answer sentence."""
    kind: str | None = None
    """Kind of reasoning, for reports."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the source, for analysis only: no trainer reads them."""
    accepted: tuple[str, ...] = ()
    """Further free-form answers that are right too (a number in words, another name)."""

    def is_right(self, prediction: str | None) -> bool:
        """Whether a prediction is the answer, or another accepted one."""
        return any(is_correct(prediction, a, self.choices) for a in (self.answer, *self.accepted))


@dataclass(frozen=True)
class Attempt:
    """One rationale with its prediction and scores."""

    id: str
    question_id: str
    mode: str
    prompt: str
    completion: str
    rationale: str
    prediction: str | None
    """Text of the predicted choice, or free-form string; None if no answer could be read."""
    gold: str
    parsed: bool
    finish: str
    """`stop` (the model ended) or `length` (cut at the token limit)."""
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
    """Bin per reward that the attempt was conditioned on (0 is best), not the bin it reached."""
    refines: str | None = None
    """Id of the attempt whose rationale this one refines."""
    hinted: bool = False
    """Whether the prompt told the gold answer."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    reasoning: str | None = None
    """What the model thought before its reply (`<think>`); no part of the rationale."""

    def scored(self, rewards: Mapping[str, float | None]) -> Attempt:
        """The same attempt with further scores."""
        return dataclasses.replace(self, rewards={**self.rewards, **rewards})


@dataclass(frozen=True)
class Completion:
    """One sample of one prompt, as a sampler returns it."""

    text: str
    finish: str
    """`stop` or `length`."""
    n_tokens: int
    """Tokens written, including a written EOS."""
    ids: tuple[int, ...] = ()
    """Ids of these tokens, if the sampler knows them."""
    reasoning: str | None = None
    """What the model thought before the text, where a server gives it in a field of its own."""


@dataclass(frozen=True)
class Pair:
    """A preference between two completions of one prompt, in TRL's columns."""

    prompt: str
    chosen: str
    rejected: str
    question_id: str


def question_row(question: Question) -> dict[str, Any]:
    """What a file needs to read the question and its answer back as they are."""
    row = {
        "question": question.question,
        "choices": question.choices,
        "answer": question.answer,
        "answer_form": "text",
        "context": question.context,
    }
    return {**row, "accepted": question.accepted} if question.accepted else row


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """A plain dictionary for files; the inverse of `attempt_from_row`."""
    return dataclasses.asdict(attempt)


def attempt_from_row(row: Mapping[str, Any]) -> Attempt:
    """The inverse of `attempt_row`; unknown keys are ignored."""
    names = {f.name for f in dataclasses.fields(Attempt)}
    return Attempt(**{k: v for k, v in row.items() if k in names})
