"""Which attempts to export for another library's trainer; what is left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rationalize.answers import is_correct
from rationalize.records import Attempt, Pair, Question
from rationalize.signals.ranks import pairs_across, rank_levels
from rationalize.templates import listed_choices, untold

LeftOut = Counter[str]
"""Reason -> number of attempts."""


def learnable(attempts: Iterable[Attempt]) -> tuple[list[Attempt], LeftOut]:
    """Attempts at the question's own prompt that are complete, without duplicates. What a prompt
    told of the answer's form is taken out: the learner shall need no telling.

    A hinted prompt gives the answer away. A reply that was cut at the length limit would teach the
    learner to stop there.
    """
    kept: dict[tuple[str, str], Attempt] = {}
    left_out: LeftOut = Counter()
    for attempt in attempts:
        attempt = replace(attempt, prompt=untold(attempt.prompt))
        if attempt.mode != "rationale_answer" or not attempt.prompt:
            left_out["of another mode than rationale and answer"] += 1
        elif attempt.hinted:
            left_out["written with the answer in the prompt"] += 1
        elif attempt.finish == "length":
            left_out["cut at the length limit"] += 1
        elif kept.setdefault((attempt.prompt, attempt.completion), attempt) is not attempt:
            left_out["duplicate"] += 1
    return list(kept.values()), left_out


def right_ones(
    attempts: Iterable[Attempt], questions: Mapping[str, Question]
) -> tuple[list[Attempt], LeftOut]:
    """The attempts with the right answer; `questions` as in `is_right`."""
    attempts = list(attempts)
    right = [a for a in attempts if is_right(a, questions)]
    return right, Counter({"wrong": len(attempts) - len(right)})


def right_over_wrong(
    attempts: Iterable[Attempt], questions: Mapping[str, Question], cap: int = 0, seed: int = 0
) -> tuple[list[Pair], LeftOut]:
    """Right over wrong replies to one prompt, at most `cap` pairs per prompt (drawn; 0: all).

    Replies without an answer are in no pair. `questions` as in `is_right`.
    """
    by_prompt: dict[tuple[str, str], list[Attempt]] = {}
    left_out: LeftOut = Counter()
    for attempt in attempts:
        if attempt.parsed:
            by_prompt.setdefault((attempt.question_id, attempt.prompt), []).append(attempt)
        else:
            left_out["without an answer"] += 1
    pairs = []
    for number, group in enumerate(by_prompt.values()):
        levels = rank_levels([is_right(a, questions) for a in group], [True] * len(group))
        drawn = pairs_across(levels, cap, [seed, number])
        pairs += [
            Pair(group[0].prompt, group[i].completion, group[j].completion, group[0].question_id)
            for i, j in drawn
        ]
        if not drawn:
            left_out["all right or all wrong at their prompt"] += len(group)
    return pairs, left_out


def is_right(attempt: Attempt, questions: Mapping[str, Question]) -> bool:
    """By its stored `correctness`; else by comparing its prediction with the gold answer.

    Choices match exactly, free-form answers also as numbers. The choices are those of the attempt's
    question; where `questions` (by id) lacks it, those that the prompt lists.
    """
    score = attempt.rewards.get("correctness")
    if score is not None:
        return score > 0
    if attempt.question_id in questions:
        return questions[attempt.question_id].is_right(attempt.prediction)
    return is_correct(attempt.prediction, attempt.gold, _choices(attempt))


def _choices(attempt: Attempt) -> Sequence[str] | None:
    listed = listed_choices(attempt.prompt)
    # a list without the gold answer is part of a free-form question's text
    return listed if listed and attempt.gold in listed else None
