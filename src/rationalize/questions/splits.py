"""Duplicate questions, cutting a set into splits, and the check that splits do not overlap."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from rationalize.errors import UserError
from rationalize.records import Question
from rationalize.text import clip

_SHOWN = 10
_MIN_CONTAINED = 25
"""Shortest question, in characters, that is searched for inside other texts; a shorter one may be
contained by chance."""
_SHARE = {"dev": (0.0, 0.1), "test": (0.1, 0.2)}
"""The interval of hash values in [0, 1) that a missing split takes from train."""
_LEAST = 10
"""Questions up to which a missing split is filled to a tenth, whatever the hashes are."""
_FEW = 50
"""Test questions below which a cut says how little they tell."""


def same_question_key(question: Question) -> tuple[str, ...]:
    """Equal for duplicate questions: same context, question, and choices in any order.

    Case, spacing and Unicode compatibility forms are ignored. The choices are part of the key,
    since some sets ask one question with different choices.
    """
    choices = sorted(_plain(choice) for choice in question.choices or ())
    return (_plain(question.context or ""), _plain(question.question), *choices)


def group_duplicates(questions: Iterable[Question]) -> list[list[int]]:
    """Positions of the questions, grouped by `same_question_key`, in the order of first ones.

    Splits, folds and held-out shares deal out whole groups, so that no duplicate crosses them.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault(same_question_key(question), []).append(i)
    return list(groups.values())


def hold_out(
    questions: Sequence[Question], share: float, seed: int | str, least: int = 0
) -> tuple[list[int], list[int]]:
    """Positions of the questions to learn from, and of those held out, both shuffled.

    A share of the groups of duplicates is held out, `least` of them at least; one group always
    remains to learn from.
    """
    groups = group_duplicates(questions)
    order = random.Random(seed).sample(groups, len(groups))
    held = max(0, min(max(least, round(share * len(groups))), len(groups) - 1))
    return [i for g in order[held:] for i in g], [i for g in order[:held] for i in g]


def cut(questions: Iterable[Question], missing: Iterable[str]) -> dict[str, list[Question]]:
    """The questions as `train` and the `missing` splits (dev, test: a tenth each).

    A hash of context and question decides, without the choices: the cut depends neither on the
    order nor on which other questions there are. Where chance leaves a split of a small set with
    less than a tenth, it gets the questions of train with the lowest hashes, up to `_LEAST`.
    """
    questions = list(questions)
    wanted = {split: _SHARE[split] for split in missing}
    place = {id(q): _place(q) for q in questions}
    splits: dict[str, list[Question]] = {"train": [], **{split: [] for split in wanted}}
    for question in questions:
        at = place[id(question)]
        split = next((s for s, (low, high) in wanted.items() if low <= at < high), "train")
        splits[split].append(question)
    least = min(_LEAST, round(len(questions) / 10) or 1)
    for split in wanted:
        train = sorted({place[id(q)] for q in splits["train"]})
        while len(splits[split]) < least and len(train) > 1:
            lowest = train.pop(0)
            splits[split] += [q for q in splits["train"] if place[id(q)] == lowest]
            splits["train"] = [q for q in splits["train"] if place[id(q)] != lowest]
    return splits


def _place(question: Question) -> float:
    """A hash of context and question in [0, 1)."""
    stem = "\n".join(same_question_key(question)[:2])
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8]) / 2**64


def how_wide(test: int) -> str:
    """What a small test split leaves open, as a further sentence."""
    if not 0 < test < _FEW:
        return ""
    half = 98 / test**0.5  # 95 %, at an accuracy of one half
    count = f"{test} test question{'s' if test > 1 else ''}"
    return f". An accuracy of {count} is open by {half:.0f} points either way; of 100 by 10"


def with_unique_ids(splits: dict[str, list[Question]]) -> dict[str, list[Question]]:
    """The splits; where two share an id, with their names before all ids."""
    ids = [q.id for questions in splits.values() for q in questions]
    if len(set(ids)) == len(ids):
        return splits
    return {
        name: [dataclasses.replace(q, id=f"{name}-{q.id}") for q in questions]
        for name, questions in splits.items()
    }


def overlaps(splits: Mapping[str, Sequence[Question]]) -> list[tuple[str, Question, str, Question]]:
    """Duplicates across splits: (split, question, later split, its duplicate there)."""
    names = list(splits)
    clashes = []
    for i, name in enumerate(names):
        later = {
            same_question_key(q): (other, q)
            for other in reversed(names[i + 1 :])
            for q in splits[other]
        }
        clashes += [
            (name, q, *later[key]) for q in splits[name] if (key := same_question_key(q)) in later
        ]
    return clashes


def without_repeats(questions: Sequence[Question], held_out: Iterable[Question]) -> list[Question]:
    """The questions that neither equal a held-out one nor contain it (say, after an instruction).

    Context and question are compared, whatever the choices. A held-out text under 25 characters
    counts only where it is equal.
    """
    held_texts = {" ".join(same_question_key(q)[:2]).strip() for q in held_out}
    # long ones by their first characters: a text is searched for all of them at once
    begun: dict[str, list[str]] = {}
    for held in held_texts:
        if len(held) >= _MIN_CONTAINED:
            begun.setdefault(held[:_MIN_CONTAINED], []).append(held)

    def repeats(question: Question) -> bool:
        text = " ".join(same_question_key(question)[:2]).strip()
        return text in held_texts or any(
            text.startswith(held, i)
            for i in range(len(text) - _MIN_CONTAINED + 1)
            for held in begun.get(text[i : i + _MIN_CONTAINED], ())
        )

    return [question for question in questions if not repeats(question)]


def check_overlap(splits: Mapping[str, Sequence[Question]], *, removable: bool = False) -> None:
    """Raise `UserError` if two splits share a question. `removable`: --skip-bad-rows removes it."""
    clashes = overlaps(splits)
    if not clashes:
        return
    lines = [
        f"  {a.id!r} of {one} is {b.id!r} of {other}: {clip(a.question, 80)}"
        for one, a, other, b in clashes[:_SHOWN]
    ]
    shown = f" (the first {_SHOWN} follow)" if len(clashes) > _SHOWN else ""
    raise UserError(
        f"{len(clashes)} questions are in two splits{shown}:\n" + "\n".join(lines) + "\n"
        "expected each in one. Remove them from one of the splits"
        + ", or let --skip-bad-rows FILE remove them from the earlier one"
        * removable
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
