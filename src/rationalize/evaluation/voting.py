"""Accuracy of several attempts at a question: any of them, the majority answer, or the best-scored.

Estimates for k of N attempts, drawn without replacement:

    pass@k       1 - C(N - c, k) / C(N, k), with c of N right (arXiv 2107.03374)
    best-of-k    sum_i c_i C(N - i - 1, k - 1) / C(N, k), with attempts i = 0, 1, .. by score, best
                 first, and c_i = 1 where attempt i is right (V-STaR, arXiv 2402.06457)
    maj@k        mean over drawn subsets of size k
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np

from rationalize.answers import answer_alone, normalise
from rationalize.choice_names import same_choice
from rationalize.evaluation.intervals import bootstrap_mean
from rationalize.evaluation.metrics import stated
from rationalize.numerals import exact_number, whole_number
from rationalize.records import Attempt, Question


def pass_at_k(correct_N: Sequence[bool], k: int) -> float:
    """Chance that at least one of `k` attempts is right."""
    n, c = len(correct_N), sum(correct_N)
    _check(n, k)
    return 1 - comb(n - c, k) / comb(n, k)


def best_of_k(ranked_correct_N: Sequence[float], k: int) -> float:
    """Chance that the best-scored of `k` attempts is right; `ranked_correct_N` is sorted by score,
    best first.

    >>> [round(best_of_k([0, 1, 1, 0, 0, 1, 0, 0], k), 6) for k in (1, 2, 4, 8)]
    [0.375, 0.464286, 0.428571, 0.0]
    """
    n = len(ranked_correct_N)
    _check(n, k)
    total, chance = 0.0, k / n  # that attempt i is the best of those drawn: first, i = 0
    for i, correct in enumerate(ranked_correct_N[: n - k + 1]):
        total += correct * chance
        chance *= (n - i - k) / max(1, n - i - 1)
    return total


def best_by_score(correct_N: Sequence[bool], scores_N: Sequence[float], k: int) -> float:
    """`best_of_k` by these scores; every order of equal scores is equally likely."""
    scores, correct = np.asarray(scores_N, dtype=float), np.asarray(correct_N, dtype=float)
    # attempts of equal score share their mean correctness, which averages over their orders
    _, tied_N = np.unique(-scores, return_inverse=True)
    means = np.bincount(tied_N, correct) / np.bincount(tied_N)
    return best_of_k(means[np.sort(tied_N)].tolist(), k)


def leaders(
    answers_N: Sequence[Hashable | None], weights_N: Sequence[float] | None = None
) -> list[Any]:
    """The answers with the most weight (1 per attempt by default), in order of appearance. Attempts
    without an answer do not vote.
    """
    weights = weights_N if weights_N is not None else [1.0] * len(answers_N)
    totals: dict[Hashable, float] = defaultdict(float)
    for answer, weight in zip(answers_N, weights, strict=True):
        if answer is not None:
            totals[answer] += weight
    most = max(totals.values(), default=0.0)
    return [answer for answer, total in totals.items() if total == most]


def majority_at_k(
    answers_N: Sequence[Hashable | None], right: Callable[[Any], bool], k: int, *,
    draws: int = 200, seed: int = 0,
) -> float:  # fmt: skip
    """Chance that the majority answer of `k` attempts is right, over `draws` random subsets (all
    attempts where k = N). Tied answers are equally likely.
    """
    n = len(answers_N)
    _check(n, k)
    rng = np.random.default_rng([seed, n, k])
    chances = []
    for _ in range(1 if k == n else draws):  # k = N has a single subset
        tied = leaders([answers_N[i] for i in rng.choice(n, k, replace=False)])
        chances.append(sum(map(right, tied)) / len(tied) if tied else 0.0)
    return float(np.mean(chances))


def softmax_weights(scores_N: Sequence[float]) -> list[float]:
    """Weights of a vote by a reward model: the softmax of its scores, (N,); of scores that are all
    -inf, undefined, equal ones.
    """
    best = max(scores_N)
    if best == -np.inf:
        return [1 / len(scores_N)] * len(scores_N)
    shifted = np.exp(np.asarray(scores_N, dtype=float) - best)
    return (shifted / shifted.sum()).tolist()


def scaling_curve(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], *, score: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows `{rule, k, mean, low, high, n}` for k = 1, 2, 4, .. N; best-of-k goes by the reward
    `score`. Where replies state answers that are not in our form, the rows of the stated reading
    follow (`RULE, stated`). Intervals resample questions. Raises `ValueError` where questions
    differ in N.
    """
    as_stated = [replace(a, prediction=stated(a, questions[a.question_id])) for a in attempts]
    rows = _curve(attempts, questions, score, seed)
    if [a.prediction for a in as_stated] != [a.prediction for a in attempts]:
        rows += [
            {**row, "rule": f"{row['rule']}, stated"}
            for row in _curve(as_stated, questions, score, seed)
        ]
    return rows


def _curve(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], score: str | None, seed: int
) -> list[dict[str, Any]]:
    """The rows of one reading."""
    groups: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[attempt.question_id].append(attempt)
    counts = Counter(len(group) for group in groups.values())
    if len(counts) != 1:
        raise ValueError(f"questions have different numbers of attempts: {dict(counts)}")
    n = next(iter(counts))

    # per question: every attempt's answer, whether it is right, and its score
    judged = []
    for group in groups.values():
        q = questions[group[0].question_id]
        right = [q.is_right(a.prediction) for a in group]
        judged.append((_answers(group, q), right, _scores(group, score) if score else []))

    def majority(answers: list[str | None], right: list[bool], scores: object, k: int) -> float:
        correct = {answer for answer, ok in zip(answers, right, strict=True) if ok}
        return majority_at_k(answers, correct.__contains__, k, seed=seed)

    rules: dict[str, Callable[..., float]] = {
        "any (pass@k)": lambda answers, right, scores, k: pass_at_k(right, k),
        "majority (maj@k)": majority,
    }
    if score is not None:
        rules["best by reward model"] = lambda _, right, scores, k: best_by_score(right, scores, k)
    # k: powers of two below N, then N
    rows = []
    for rule, accuracy in rules.items():
        for k in (*(2**i for i in range(n.bit_length()) if 2**i < n), n):
            values = [accuracy(*question, k) for question in judged]
            right_share = bootstrap_mean(values, bounds=(0.0, 1.0), seed=seed)
            rows.append({"rule": rule, "k": k, **asdict(right_share)})
    return rows


def chosen_attempt(
    group: Sequence[Attempt], question: Question, *, score: str | None = None,
    weighted: bool = False,
) -> Attempt:  # fmt: skip
    """The attempt chosen from several at a question. Without `score`, the first with the majority
    answer; with `score`, the best by that reward; `weighted`, the best of those with the answer
    that has the most weight under `score`.
    """
    if score and not weighted:
        return max(group, key=lambda a: _score(a, score))
    weights = softmax_weights(_scores(group, score)) if score else None
    answers = leaders(_answers(group, question), weights)
    voting = [a for a in group if answers and _answer(a, question) == answers[0]] or list(group)
    return max(voting, key=lambda a: _score(a, score)) if score else voting[0]


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1 to the number of attempts, {n}")


def _answer(attempt: Attempt, question: Question) -> str | None:
    """The answer that an attempt votes for: a choice itself, where the prediction is one; a number,
    where a right answer is one; else the text, normalised.
    """
    said = attempt.prediction
    if said is None:
        return None
    if question.choices:
        return same_choice(said, question.choices) or f"none of them: {normalise(said)}"
    alone = answer_alone(said, question.answer)
    right = (question.answer, *question.accepted)
    value = exact_number(alone) if any(whole_number(a) is not None for a in right) else None
    return normalise(alone) if value is None else _same_number(value)


def _same_number(value: Fraction) -> str:
    """Equal for numbers that count as the same: to six decimals, and three digits below .001."""
    if value and abs(value) < Fraction(1, 1000):
        return f"{float(value):.2e}"
    return str(round(value * 10**6))


def _answers(group: Sequence[Attempt], question: Question) -> list[str | None]:
    return [_answer(a, question) for a in group]


def _score(attempt: Attempt, name: str) -> float:
    if name not in attempt.rewards:
        raise ValueError(f"the attempt {attempt.id!r} was not scored by {name!r}")
    value = attempt.rewards[name]
    return float("-inf") if value is None else float(value)


def _scores(group: Sequence[Attempt], name: str) -> list[float]:
    return [_score(a, name) for a in group]
