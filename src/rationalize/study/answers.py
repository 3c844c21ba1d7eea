"""Votes and verdicts as numbers: who preferred which side of which item, question by question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rationalize.study.asks import Ask
from rationalize.study.design import Study
from rationalize.study.store import Verdict, Vote

FOR_A = {"a": 1.0, "same": 0.5, "b": 0.0}
"""Answer about a pair -> how far it is for side `a`."""


@dataclass(frozen=True)
class Answers:
    """V answers to one question about pairs."""

    item_V: np.ndarray
    """Number of the item."""
    annotator_V: np.ndarray
    """Who answered; 0 where it was a model."""
    for_a_V: np.ndarray
    """1: side `a` is preferred, 0: side `b`, 0.5: neither."""
    first_V: np.ndarray
    """Whether the preferred side stood first: 1 or 0, NaN where neither was preferred."""

    def __len__(self) -> int:
        return len(self.item_V)


def preference(ask: Ask, answers: Mapping[str, str]) -> float:
    """How far a vote is for side `a`: 1, 0.5 or 0. Of a question about each text, the one that got
    the only yes is preferred.
    """
    if ask.kind == "pair":
        return FOR_A[answers[ask.name]]
    a, b = (answers[f"{ask.name}/{side}"] == "yes" for side in "ab")
    return 0.5 + (a - b) / 2


def passed(study: Study, vote: Vote) -> bool:
    """Whether a vote on an attention check chooses the side that it must, in every question."""
    right = study.items[vote.item].check
    wanted = 1.0 if right == "a" else 0.0
    return all(preference(ask, vote.answers) == wanted for ask in study.asks.questions)


def failed_checks(study: Study, votes: Iterable[Vote]) -> dict[int, list[bool]]:
    """Annotator -> whether each of the checks that they answered was passed."""
    found: dict[int, list[bool]] = {}
    for vote in votes:
        checks = found.setdefault(vote.annotator, [])
        if study.items[vote.item].check:
            checks.append(passed(study, vote))
    return found


def counted(study: Study, votes: Sequence[Vote]) -> list[Vote]:
    """The votes that results count: no attention checks, and none of annotators who failed too many
    of them.
    """
    failed = {who: checks.count(False) for who, checks in failed_checks(study, votes).items()}
    kept = {who for who, count in failed.items() if count <= study.max_failed_checks}
    return [v for v in votes if v.annotator in kept and not study.items[v.item].check]


def answers_of(ask: Ask, votes: Sequence[Vote]) -> Answers:
    """People's answers to one question."""
    values = [preference(ask, vote.answers) for vote in votes]
    return _answers(
        [v.item for v in votes], [v.annotator for v in votes], values, [v.first for v in votes]
    )


def verdicts_of(ask: Ask, verdicts: Sequence[Verdict]) -> Answers:
    """A model's answers in each order, of those that could be read. (Of a question about each text,
    nothing stands first: `combined` has the answers.)
    """
    read = [v for v in verdicts if v.ask == ask.name and v.answer in FOR_A]
    values = [FOR_A[str(v.answer)] for v in read]
    return _answers([v.item for v in read], [0] * len(read), values, [v.first for v in read])


def combined(ask: Ask, verdicts: Sequence[Verdict]) -> Answers:
    """A model's answer on each item for which both of its verdicts could be read: the side that it
    preferred in both orders, else neither.
    """
    by_item: dict[int, dict[str, str]] = {}
    for v in verdicts:
        if v.ask == ask.name and v.answer is not None:
            by_item.setdefault(v.item, {})[v.first] = v.answer
    whole = {item: found for item, found in by_item.items() if len(found) == 2}
    if ask.kind == "each":
        values = [
            preference(ask, {f"{ask.name}/{side}": said for side, said in found.items()})
            for found in whole.values()
        ]
    else:
        both = [(found["a"], found["b"]) for found in whole.values()]
        values = [FOR_A[first] if first == second else 0.5 for first, second in both]
    return _answers(list(whole), [0] * len(whole), values, ["a"] * len(whole))


def others_agree(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """For each answer, how far other people's answers on the item agree with it, (V,); and whether
    it says anything: it prefers a side, and somebody else answered.

    An answer that agrees counts 1, one that prefers neither counts 1/2.
    """
    share = np.full(len(answers), np.nan)
    for item in np.unique(answers.item_V):
        of_item = np.flatnonzero(answers.item_V == item)
        values = answers.for_a_V[of_item]
        if len(of_item) > 1:
            others = (values.sum() - values) / (len(of_item) - 1)
            share[of_item] = np.where(values == 1, others, 1 - others)
    told = (answers.for_a_V != 0.5) & np.isfinite(share)
    return share, told


def agreement_with(answers: Answers, for_a: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """As `others_agree`, with what a judge or a reward says of each item (1, 0.5 or 0)."""
    said = np.array([for_a.get(int(item), np.nan) for item in answers.item_V], dtype=np.float64)
    share = np.where(answers.for_a_V == 1, said, 1 - said)
    return share, (answers.for_a_V != 0.5) & np.isfinite(said)


def _answers(
    items: Sequence[int], annotators: Sequence[int], values: Sequence[float], first: Sequence[str]
) -> Answers:
    for_a = np.array(values, dtype=np.float64)
    a_first = np.array([side == "a" for side in first], dtype=bool)
    return Answers(
        np.array(items, dtype=np.int64), np.array(annotators, dtype=np.int64), for_a,
        np.where(for_a == 0.5, np.nan, np.where(a_first, for_a, 1 - for_a)),
    )  # fmt: skip
