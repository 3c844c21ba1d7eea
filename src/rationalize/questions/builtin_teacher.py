"""The teacher of the built-in questions: of mixed quality, and sometimes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Puzzle:
    """A question with the parts of every rationale that the teacher can write."""

    key: str
    """What the question is about, without wording, polarity and order; unique to a split."""
    question: str
    choices: tuple[str, ...]
    """In the order shown."""
    answer: str
    reasons: Mapping[str, tuple[str, ...]]
    """Per choice, full reasonings that conclude it: valid for the answer, invalid for others."""
    claims: Mapping[str, str]
    """Per choice, the conclusion alone, as a clause."""
    asides: tuple[str, ...]
    """True remarks that do not help to answer."""


QUALITIES = {
    "good": 0.56,
    "rambling": 0.08,
    "repetitive": 0.12,
    "beside_the_point": 0.04,
    "contradicting": 0.05,
    "wrong": 0.15,
}
"""Share of each quality among the rationales.

`wrong` argues for a wrong choice and answers it; `contradicting` argues for a wrong choice and
answers the right one.
"""

_OPENERS = ("Well, let me think.", "Hmm, a nice question.", "This can be seen in many ways.")
_LINKS = ("Anyway, I suppose", "I would say that", "So perhaps")
_DRAFTS = 10
"""Tries to write a new rationale before another quality is drawn."""


def teach(puzzle: Puzzle, rng: Random, count: int) -> tuple[list[str], list[str], list[str]]:
    """`count` distinct rationales, the quality of each, and the teacher's answer after each."""
    rationales: list[str] = []
    qualities: list[str] = []
    answers: list[str] = []
    while len(rationales) < count:
        quality = rng.choices(list(QUALITIES), list(QUALITIES.values()))[0]
        wrong = rng.choice([c for c in puzzle.choices if c != puzzle.answer])
        drafts = (_write(quality, puzzle, wrong, rng) for _ in range(_DRAFTS))
        text = next((draft for draft in drafts if draft not in rationales), None)
        if text is None:  # no new text in this quality: draw another
            continue
        rationales.append(text)
        qualities.append(quality)
        answers.append(wrong if quality == "wrong" else puzzle.answer)
    return rationales, qualities, answers


def sentence(text: str) -> str:
    """The text with a capital letter first and one full stop at the end."""
    return text[0].upper() + text[1:].rstrip(".") + "."


def _write(quality: str, puzzle: Puzzle, wrong: str, rng: Random) -> str:
    if quality == "beside_the_point":
        return " ".join(rng.sample(puzzle.asides, 2))
    target = wrong if quality in ("wrong", "contradicting") else puzzle.answer
    claim = puzzle.claims[target]
    if quality == "repetitive":
        return sentence(rng.choice((", ", " and ", ", so ")).join([claim] * 3))
    if quality == "rambling":
        remark = rng.choice((rng.choice(_OPENERS), rng.choice(puzzle.asides)))
        return f"{remark} {rng.choice(_LINKS)} {claim}."
    return rng.choice(puzzle.reasons[target])
