"""The baselines of every table: their rows' names, and the majority answer, given without reading
the question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rationalize.answers import reply_text
from rationalize.records import Attempt, Question

MAJORITY, BASE, FEW_SHOT = "majority answer", "base, zero-shot", "base, few-shot"

BETTER_READING = (
    "In every difference, the accuracy of a model that was not trained here is the better of its "
    "two readings, strict and stated."
)

SEEDLESS = frozenset({MAJORITY, BASE, FEW_SHOT})
"""Rows that do not depend on a seed: nothing is trained and nothing is sampled."""


def is_base(method: str) -> bool:
    """Whether a row is the base model's, which nobody trained on our form of an answer."""
    return method.startswith((BASE, FEW_SHOT))  # `compare` may add the run's name in brackets


def depends_on_no_seed(method: str, seedless: Collection[str] = ()) -> bool:
    """Whether a row is one of `SEEDLESS`, under any label of `compare`, or named in `seedless`."""
    return method in SEEDLESS or is_base(method) or method in seedless


def reads_base_better(comparisons: Iterable[Mapping[str, Any]], split: str | None = None) -> bool:
    """Whether a difference takes the stated reading of a base row (`readings` in its row)."""
    return any("readings" in row and split in (None, row["split"]) for row in comparisons)


def majority_attempts(
    reference: Iterable[Question], questions: Sequence[Question], *, split: str
) -> list[Attempt]:
    """One attempt per question, by the rule that is most often right on the `reference` questions.

    The rule is an answer's text ("yes") or a choice's position ("(B)"), whichever is right more
    often: some sets repeat the answers' texts, others only the positions. Attempts have the mode
    `answer`, so that no rationale is measured. Raises `ValueError` without reference questions.
    """
    reference = list(reference)
    if not reference:
        raise ValueError("the majority answer needs reference questions")
    # ties go to the text, the later text and the earlier position, in any order of questions
    texts = Counter(q.answer for q in reference)
    positions = Counter(q.choices.index(q.answer) for q in reference if q.choices)
    text = max(texts, key=lambda t: (texts[t], t))
    position = max(positions, key=lambda p: (positions[p], -p), default=0)
    by_text = texts[text] >= positions[position]
    attempts = []
    for q in questions:
        if by_text:
            prediction = text if not q.choices or text in q.choices else None
        else:
            prediction = q.choices[position] if q.choices and position < len(q.choices) else None
        completion = "" if prediction is None else reply_text("", prediction, q.choices)
        attempts.append(
            Attempt(
                id=f"{split}/{MAJORITY}/{q.id}", question_id=q.id, mode="answer", prompt="",
                completion=completion, rationale="", prediction=prediction, gold=q.answer,
                parsed=True, finish="stop", writer=MAJORITY, model="none", round=0, step=0,
                split=split, seed=0, n_tokens=0,
            )
        )  # fmt: skip
    return attempts
