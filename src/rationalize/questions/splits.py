"""What makes two questions the same, the cut of a set that has no splits, and the overlap check."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from rationalize.errors import UserError
from rationalize.records import Question
from rationalize.text import clip

_SHOWN = 10
_TELLING = 25
"""Characters from which on a question inside another text is no chance."""
_SHARE = {"dev": (0.0, 0.1), "test": (0.1, 0.2)}
"""Which tenth of the questions a split is cut from, where its source has none."""


def same_question_key(question: Question) -> tuple[str, ...]:
    """Equal for questions that ask the same: context, question, and the choices in any order.

    The choices belong to it: some sets put one stem before different choices.
    """
    choices = sorted(_plain(choice) for choice in question.choices or ())
    return (_plain(question.context or ""), _plain(question.question), *choices)


def group_duplicates(questions: Iterable[Question]) -> list[list[int]]:
    """Positions of the questions, those that ask the same together, by the first of each."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault(same_question_key(question), []).append(i)
    return list(groups.values())


def hold_out(
    questions: Sequence[Question], share: float, seed: int | str, least: int = 0
) -> tuple[list[int], list[int]]:
    """Positions of the questions to learn from and of those held out, both shuffled.

    Questions that ask the same stay together; of one, none is held out.
    """
    groups = group_duplicates(questions)
    order = random.Random(seed).sample(groups, len(groups))
    held = max(0, min(max(least, round(share * len(groups))), len(groups) - 1))
    return [i for g in order[held:] for i in g], [i for g in order[:held] for i in g]


def cut(questions: Iterable[Question], missing: Iterable[str]) -> dict[str, list[Question]]:
    """`dev` or `test` (a tenth each) and the remaining `train`, by a hash of the question."""
    wanted = {split: _SHARE[split] for split in missing}
    parts: dict[str, list[Question]] = {"train": [], **{split: [] for split in wanted}}
    for question in questions:
        stem = "\n".join(same_question_key(question)[:2])
        at = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8]) / 2**64
        part = next((s for s, (low, high) in wanted.items() if low <= at < high), "train")
        parts[part].append(question)
    return parts


def overlaps(splits: Mapping[str, Sequence[Question]]) -> list[tuple[str, Question, str, Question]]:
    """Questions that a later split has too: (split, question, later split, its question)."""
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
    """The questions that do not repeat a held-out one: neither its context and question, whatever
    the choices, nor any text around it (an instruction, say).

    Texts under 25 characters repeat only what they equal.
    """
    told = {" ".join(same_question_key(q)[:2]).strip() for q in held_out}
    long = [text for text in told if len(text) >= _TELLING]

    def repeats(question: Question) -> bool:
        text = " ".join(same_question_key(question)[:2]).strip()
        return text in told or any(own in text for own in long)

    return [question for question in questions if not repeats(question)]


def check_overlap(splits: Mapping[str, Sequence[Question]]) -> None:
    """Raise `UserError` where two splits have the same question."""
    clashes = overlaps(splits)
    if not clashes:
        return
    first = [
        f"  {a.id!r} of {one} is {b.id!r} of {other}: {clip(a.question, 80)}"
        for one, a, other, b in clashes[:_SHOWN]
    ]
    shown = f" (the first {_SHOWN} follow)" if len(clashes) > _SHOWN else ""
    raise UserError(
        f"{len(clashes)} questions are in two splits{shown}:\n" + "\n".join(first) + "\n"
        "expected each in one. Remove them from one of the splits, or let --skip-bad-rows FILE "
        "remove them from the earlier one"
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
