"""The built-in questions: everyday reasoning from a seeded generator, with a teacher's rationales.

    >>> questions = builtin_questions(train=200, dev=50, test=120, unseen=80)
    >>> questions["train"][0].id
    'builtin-train-00000'

No puzzle is in two splits: a hash of what a question is about (kind, topic, entities; not wording,
polarity or order) picks its split. The hash ignores the seed, so that the test questions of one
seed are never trained on under another. Each split has its own random streams, so that its size
changes no other split, and a larger split begins with the smaller.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from itertools import cycle
from random import Random

from rationalize.answers import normalise
from rationalize.errors import UserError
from rationalize.questions.builtin_kinds import KINDS, UNSEEN_KINDS
from rationalize.questions.builtin_teacher import QUALITIES, Puzzle, teach
from rationalize.records import Question

__all__ = ["KINDS", "QUALITIES", "SPLITS", "UNSEEN_KINDS", "builtin_questions"]

SPLITS = ("train", "dev", "test", "unseen")

_BUCKETS = {"train": range(14), "dev": range(14, 16), "test": range(16, 20), "unseen": range(20)}
"""Which twentieths of the puzzles a split takes; `unseen` takes all, since it shares no kind."""

_MAX_DRAWS = 20_000
"""Draws without a new puzzle after which a kind counts as exhausted."""


def builtin_questions(
    train: int = 200,
    dev: int = 50,
    test: int = 120,
    unseen: int = 80,
    rationales: int = 2,
    seed: int = 0,
) -> dict[str, list[Question]]:
    """Questions per split, cycling through its kinds; no other split has the kinds of `unseen`.

    Each question has `rationales` teacher rationales. Two entries of `extra` are aligned with them
    and are for analysis only: `rationale_quality` (see `QUALITIES`) and `teacher_answers`, the
    choice that the teacher gave after each. Raises `UserError` if a split runs out of questions.
    """
    sizes = {"train": train, "dev": dev, "test": test, "unseen": unseen}
    return {split: _split(split, size, rationales, seed) for split, size in sizes.items()}


def _split(split: str, size: int, rationales: int, seed: int) -> list[Question]:
    kinds = UNSEEN_KINDS if split == "unseen" else KINDS
    streams = {kind: Random(f"{seed}/{split}/{kind}") for kind in kinds}
    seen: set[str] = set()
    questions: list[Question] = []
    kind_cycle = cycle(kinds)
    while len(questions) < size:
        kind = next(kind_cycle)
        puzzle = _new_puzzle(kind, kinds, split, streams[kind], seen)
        questions.append(_question(puzzle, kind, split, len(questions), rationales, seed))
    return questions


def _new_puzzle(kind: str, kinds: Mapping, split: str, stream: Random, seen: set[str]) -> Puzzle:
    for _ in range(_MAX_DRAWS):
        puzzle = kinds[kind](stream)
        text = normalise(puzzle.question)
        bucket = zlib.crc32(f"{kind}|{puzzle.key}".encode()) % 20
        if bucket in _BUCKETS[split] and text not in seen:
            seen.add(text)
            return puzzle
    raise UserError(
        f"the built-in {split} questions ran out after {len(seen)}: the kind {kind!r} has no "
        f"further one; ask for fewer with {split}={len(seen)}, or load questions from a file"
    )


def _question(
    puzzle: Puzzle, kind: str, split: str, number: int, rationales: int, seed: int
) -> Question:
    # the teacher has a stream of its own: asking for more rationales changes no question
    rng = Random(f"{seed}/{split}/{number}/teacher")
    texts, qualities, answers = teach(puzzle, rng, rationales)
    return Question(
        id=f"builtin-{split}-{number:05d}",
        question=puzzle.question,
        answer=puzzle.answer,
        choices=puzzle.choices,
        rationales=tuple(texts),
        kind=kind,
        extra={"rationale_quality": tuple(qualities), "teacher_answers": tuple(answers)},
    )
