"""The design of a study: which two rationales stand side by side, and who sees them how.

`study.json` holds it. It is written once and never changed: votes refer to its items by number.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rationalize.config import from_dict
from rationalize.errors import UserError
from rationalize.files import plain, write_text
from rationalize.records import Attempt, Question
from rationalize.study.asks import Questionnaire
from rationalize.text import escaped_json

FILE = "study.json"
VERSION = 1
CHECK = (
    "This text is no explanation: it checks that texts are read. Choose this side in every "
    "question; where you are asked about each text, say yes for this one and no for the other."
)
"""Stands in the place of a rationale where attention is checked."""

Side = Literal["a", "b"]


@dataclass(frozen=True)
class Text:
    """A rationale under its method's name, which no annotator sees."""

    method: str
    rationale: str
    rewards: dict[str, float | None]
    """Its scores, which results compare with votes."""


@dataclass(frozen=True)
class Item:
    """Two rationales for one question. Its number is its place in `Study.items`."""

    question_id: str
    question: str
    choices: tuple[str, ...] | None
    answer: str
    context: str | None
    a: Text
    b: Text
    check: Literal["", "a", "b"] = ""
    """The side that an attentive annotator chooses; empty: an item that is counted."""


@dataclass(frozen=True)
class Study:
    """What is compared, what is asked, and how items are handed out."""

    asks: Questionnaire
    methods: tuple[str, ...]
    items: tuple[Item, ...]
    seed: int
    per_annotator: int | None
    """Items that one annotator gets, beside the checks; None: all."""
    max_failed_checks: int
    """Annotators who fail more attention checks are left out of results."""
    show_answer: bool
    """Whether annotators see the correct answer."""
    notes: tuple[str, ...]
    """What was left out, for results."""
    version: int = VERSION

    @property
    def compared(self) -> list[int]:
        """Numbers of the items that are counted."""
        return [i for i, item in enumerate(self.items) if not item.check]

    @property
    def checks(self) -> list[int]:
        """Numbers of the attention checks."""
        return [i for i, item in enumerate(self.items) if item.check]


def make_items(
    methods: Mapping[str, Mapping[str, Attempt]], questions: Mapping[str, Question], count: int, *,
    checks: int, seed: int,
) -> tuple[list[Item], list[str]]:  # fmt: skip
    """Up to `count` comparisons, spread evenly over pairs of methods and over questions, then the
    attention checks; and notes on what cannot be compared.

    `methods` holds an attempt per method and question id. A question is used a second time, with
    another pair of methods, only when all have been used. Raises `UserError` where nothing is left.
    """
    pairs = list(combinations(methods, 2))
    rng = np.random.default_rng([seed, 0])
    order = [list(questions)[i] for i in rng.permutation(len(questions))]
    items: list[Item] = []
    same = missing = 0
    for turn in range(len(pairs)):
        for at, id in enumerate(order):
            first, second = pairs[(at + turn) % len(pairs)]
            a, b = methods[first].get(id), methods[second].get(id)
            if a is None or b is None:
                missing += 1
            elif a.rationale.strip() == b.rationale.strip():
                same += 1
            elif len(items) < count:
                items.append(_item(questions[id], _text(first, a), _text(second, b)))
    if not items:
        raise UserError(
            f"found no two different rationales for one of {len(questions)} questions "
            f"({same} pairs are equal, {missing} lack one); expected methods that answered the "
            "same questions with rationales of their own"
        )
    notes = [f"pairs of equal rationales, left out since nothing can be preferred: {same}."] * (
        same > 0
    )
    if missing:
        notes.append(f"pairs left out since a method has no rationale for the question: {missing}.")
    return items + _checks(items, checks, rng), notes


def _checks(items: Sequence[Item], count: int, rng: np.random.Generator) -> list[Item]:
    """Copies of items with `CHECK` on one side, half of them on each."""
    chosen = [items[i] for i in rng.permutation(len(items))[:count]]
    made = []
    for i, item in enumerate(chosen):
        side: Side = "a" if i % 2 else "b"
        text = Text("", CHECK, {})
        made.append(dataclasses.replace(item, **{side: text}, check=side))
    return made


def _text(method: str, attempt: Attempt) -> Text:
    return Text(method, attempt.rationale.strip(), dict(attempt.rewards))


def _item(question: Question, a: Text, b: Text) -> Item:
    return Item(
        question.id, question.question, question.choices, question.answer, question.context, a, b
    )


def order_for(study: Study, annotator: int) -> tuple[tuple[int, Side], ...]:
    """The items of an annotator (a number from 1) in their order, each with the side that stands
    first. A function of the seed and the number alone, so that a study resumes.

    Every pair of methods has each of its two first about equally often. With `per_annotator`, the
    annotators' shares follow each other through the items, so that all get about as many votes.
    """
    rng = np.random.default_rng([study.seed, 1, annotator])
    mine = study.compared
    if study.per_annotator is not None and study.per_annotator < len(mine):
        shuffled = np.random.default_rng([study.seed, 2]).permutation(mine)
        start = (annotator - 1) * study.per_annotator
        mine = [int(shuffled[(start + i) % len(mine)]) for i in range(study.per_annotator)]
    mine = mine + study.checks
    mine = [mine[i] for i in rng.permutation(len(mine))]
    # half of each pair's items, in a random order, have `a` first
    by_pair: dict[tuple[str, str], list[int]] = {}
    for i in mine:
        by_pair.setdefault((study.items[i].a.method, study.items[i].b.method), []).append(i)
    first: dict[int, Side] = {}
    for numbers in by_pair.values():
        offset = int(rng.integers(2))
        for place, at in enumerate(rng.permutation(len(numbers))):
            first[numbers[at]] = "a" if (place + offset) % 2 else "b"
    return tuple((i, first[i]) for i in mine)


def save_study(study: Study, folder: Path) -> None:
    """Write `study.json` atomically."""
    text = json.dumps(plain(study), indent=1, ensure_ascii=False)
    write_text(folder / FILE, escaped_json(text) + "\n")


def load_study(folder: Path) -> Study:
    """The study in a folder. Raises `UserError` where there is none, or of another version."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no {FILE} there; expected the folder of a study. Make one with "
            "`rationalize study new`"
        )
    try:
        found: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: {error}; expected JSON. Restore the file") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise UserError(
            f"{path}: found another version of a study, expected version {VERSION}; use the "
            "version of rationalize that made it"
        )
    return from_dict(Study, found, str(path))
