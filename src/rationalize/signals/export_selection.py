"""Which attempts somebody else's trainer should learn from, and what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rationalize.answers import is_correct
from rationalize.records import Attempt, Pair
from rationalize.signals.ranks import pairs_across, rank_levels

LeftOut = Counter[str]
"""Why -> attempts."""


def learnable(attempts: Iterable[Attempt]) -> tuple[list[Attempt], LeftOut]:
    """Attempts whose prompt is the question's and whose reply is whole, equal ones once.

    A hinted prompt gives the answer away; a reply that was cut would be learned with an end.
    """
    kept: dict[tuple[str, str], Attempt] = {}
    left_out: LeftOut = Counter()
    for attempt in attempts:
        if attempt.mode != "rationale_answer" or not attempt.prompt:
            left_out["of another mode than rationale and answer"] += 1
        elif attempt.hinted:
            left_out["written with the answer in the prompt"] += 1
        elif attempt.finish == "length":
            left_out["cut at the length limit"] += 1
        elif kept.setdefault((attempt.prompt, attempt.completion), attempt) is not attempt:
            left_out["there already"] += 1
    return list(kept.values()), left_out


def right_ones(attempts: Iterable[Attempt]) -> tuple[list[Attempt], LeftOut]:
    """The attempts that led to the right answer."""
    attempts = list(attempts)
    right = [a for a in attempts if is_right(a)]
    return right, Counter({"wrong": len(attempts) - len(right)})


def right_over_wrong(
    attempts: Iterable[Attempt], cap: int = 0, seed: int = 0
) -> tuple[list[Pair], LeftOut]:
    """Right over wrong replies to one prompt, at most `cap` pairs of each (drawn; 0: all).

    Replies without an answer are in no pair.
    """
    by_prompt: dict[tuple[str, str], list[Attempt]] = {}
    left_out: LeftOut = Counter()
    for attempt in attempts:
        if attempt.parsed:
            by_prompt.setdefault((attempt.question_id, attempt.prompt), []).append(attempt)
        else:
            left_out["without an answer"] += 1
    pairs = []
    for number, own in enumerate(by_prompt.values()):
        levels = rank_levels([is_right(a) for a in own], [True] * len(own))
        found = pairs_across(levels, cap, [seed, number])
        pairs += [
            Pair(own[0].prompt, own[i].completion, own[j].completion, own[0].question_id)
            for i, j in found
        ]
        if not found:
            left_out["all right or all wrong at their prompt"] += len(own)
    return pairs, left_out


def is_right(attempt: Attempt) -> bool:
    """By its stored `correctness`; else by comparing its prediction with the gold answer."""
    score = attempt.rewards.get("correctness")
    return is_correct(attempt.prediction, attempt.gold) if score is None else score > 0
