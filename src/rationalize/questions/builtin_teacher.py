"""The teacher of the built-in questions: honest, of mixed quality, and sometimes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rationalize.answers import label


@dataclass(frozen=True)
class Puzzle:
    """A question with everything a teacher could say about it."""

    key: str
    """What the question is about, whatever its wording, polarity and order: splits never share one."""
    question: str
    answer: str
    others: tuple[str, ...]
    """The wrong choices."""
    reasons: Mapping[str, tuple[str, ...]]
    """Per choice, complete reasonings that arrive there; sound for the answer, mistaken for the others."""
    claims: Mapping[str, str]
    """Per choice, the bare conclusion as a clause."""
    asides: tuple[str, ...]
    """True remarks that settle nothing."""


QUALITIES = {
    "good": 0.50,
    "rambling": 0.08,
    "repetitive": 0.12,
    "beside_the_point": 0.05,
    "contradicting": 0.05,
    "wrong": 0.20,
}
"""Share of each quality among the rationales.

`wrong` argues for a wrong choice and answers it; `contradicting` argues for a wrong choice and
answers the right one.
"""

_OPENERS = ("Well, let me think.", "Hmm, a nice question.", "This can be seen in many ways.")
_LINKS = ("Anyway, I suppose", "I would say that", "So perhaps")
_DRAFTS = 10
"""Tries to say something new before another quality is drawn."""


def teach(
    puzzle: Puzzle, choices: Sequence[str], rng: Random, count: int
) -> tuple[list[str], list[str], list[str]]:
    """Rationales, the quality of each, and the answer that the teacher gave after each.

    No rationale comes twice.
    """
    rationales: list[str] = []
    qualities: list[str] = []
    answers: list[str] = []
    while len(rationales) < count:
        quality = rng.choices(list(QUALITIES), list(QUALITIES.values()))[0]
        wrong = rng.choice(puzzle.others)
        drafts = (_write(quality, puzzle, choices, wrong, rng) for _ in range(_DRAFTS))
        text = next((draft for draft in drafts if draft not in rationales), None)
        if text is None:  # nothing further to say in this quality
            continue
        rationales.append(text)
        qualities.append(quality)
        answers.append(wrong if quality == "wrong" else puzzle.answer)
    return rationales, qualities, answers


def sentence(text: str) -> str:
    """First letter raised, one full stop at the end."""
    return text[0].upper() + text[1:].rstrip(".") + "."


def _write(quality: str, puzzle: Puzzle, choices: Sequence[str], wrong: str, rng: Random) -> str:
    if quality == "beside_the_point":
        return " ".join(rng.sample(puzzle.asides, 2))
    target = wrong if quality in ("wrong", "contradicting") else puzzle.answer
    claim = puzzle.claims[target]
    if quality == "repetitive":
        thought = sentence(rng.choice((", ", " and ", ", so ")).join([claim] * 3))
    elif quality == "rambling":
        remark = rng.choice((rng.choice(_OPENERS), rng.choice(puzzle.asides)))
        thought = f"{remark} {rng.choice(_LINKS)} {claim}."
    else:
        thought = rng.choice(puzzle.reasons[target])
    return f"{thought} {_walk(choices, target)}"


def _walk(choices: Sequence[str], target: str) -> str:
    """The choices in turn, up to the one that fits.

    A small model copies a choice after its letter with ease, and can hardly do the reverse: find the
    letter before a choice. Ending on the letter is what lets a few hundred rows teach the answer.
    """
    stop = list(choices).index(target)
    passed = [f"{label(i)} {choice}: no." for i, choice in enumerate(choices[:stop])]
    return " ".join([*passed, f"{label(stop)} {target}: yes."])
