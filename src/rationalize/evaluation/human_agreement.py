"""Do rewards agree with people, and with right and wrong answers? Targets, baselines, tables.

**Judged rationales**: a few people accepted or rejected each. They were written for the gold
answer, which is therefore the prediction of their attempts. Targets: every single vote; the
majority of a rationale's votes; single votes over pairs of the same question. The last one matters
for training: a reward that only knows which questions are easy ranks nothing within a question.
Ceilings of single votes: what the other people's votes reach (`others_votes`), and a rationale's
own votes as its score, which no score of a text can exceed.

**Reference rationales**: texts of other models, each with its verdict `correct`. Targets: right
over wrong predictions of one model; the same over pairs of the same question; one model over
another, on all questions that both answered and on those that both answered right.

The baselines are length (longer texts, shorter texts) and fluency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rationalize.evaluation.agreement import (
    MEAN_OF_SETS,
    ScoredSet,
    Target,
    others_votes,
    same_question_pairs,
)
from rationalize.evaluation.metrics import GIVEN
from rationalize.evaluation.tables import NONE, aligned, show_interval
from rationalize.questions.judged import JudgedQuestion
from rationalize.records import Attempt, Question
from rationalize.templates import given_attempt
from rationalize.text import one_line

ACCEPTED, VOTES = "votes that accept (given)", "votes (given)"
"""Scores of a judged attempt: how many votes accept it, of how many."""

BASELINE_REWARDS = ("length", "fluency")
"""Rewards that the baselines are computed from."""
BASELINE_SCORES = ("longer", "shorter", "fluency")
"""The length and fluency baselines, which a reward must beat."""

WITHIN = "votes, same question"
RIGHT_WITHIN = "right, same question"
OTHERS, OWN = "other people's votes", "their own votes"

_FACT = {"low": 0.0, "high": 1.0}


def judged_attempts(judged: Iterable[JudgedQuestion], split: str) -> list[Attempt]:
    """The judged rationales as attempts that predict the gold answer, with their votes."""
    return [
        given_attempt(
            f"{split}/{one.question.id}/{i}", one.question, r.rationale, one.question.answer,
            writer="judged", split=split,
        ).scored({ACCEPTED: float(r.accepted), VOTES: float(r.votes)})
        for one in judged
        for i, r in enumerate(one.rationales)
    ]  # fmt: skip


def judged_set(attempts: Sequence[Attempt], names: Sequence[str]) -> ScoredSet:
    """Judged attempts with their scores by `names`; length and fluency become the baselines."""
    accepted, votes = column(attempts, ACCEPTED), column(attempts, VOTES)  # (N,) each
    single = Target(
        accepted, votes - accepted,
        ceilings={OTHERS: others_votes(accepted, votes), OWN: accepted / votes},
    )  # fmt: skip
    # a draw has no majority and weighs nothing
    majority = Target(1.0 * (2 * accepted > votes), 1.0 * (2 * accepted < votes))
    within = replace(single, within=True)
    targets = {"single votes": single, "majority vote": majority, WITHIN: within}
    return _scored_set(attempts, names, targets)


def reference_set(
    attempts: Sequence[Attempt], names: Sequence[str], prefer: tuple[str, str]
) -> ScoredSet:
    """Reference attempts with scores by `names`; `prefer`: the better model, then the other."""
    right = column(attempts, GIVEN)
    writers = np.array([a.writer for a in attempts])
    targets = {
        f"right, {model}": Target(right * (writers == model), (1 - right) * (writers == model))
        for model in dict.fromkeys(writers.tolist())
    }
    targets[RIGHT_WITHIN] = Target(right, 1 - right, within=True)
    # one model over the other on the same question: all pairs, then those where both are right
    a, b = (1.0 * (writers == model) for model in prefer)
    if a.any() and b.any():
        name = " over ".join(prefer)
        targets[name] = Target(a, b, within=True)
        targets[f"{name}, both right"] = Target(a * right, b * right, within=True)
    return _scored_set(attempts, names, targets)


def _scored_set(
    attempts: Sequence[Attempt], names: Sequence[str], targets: Mapping[str, Target]
) -> ScoredSet:
    scores = {name: column(attempts, name) for name in names if name not in BASELINE_REWARDS}
    length = column(attempts, "length")
    scores |= {"longer": length, "shorter": -length, "fluency": column(attempts, "fluency")}
    index: dict[str, int] = {}
    question_N = np.array([index.setdefault(a.question_id, len(index)) for a in attempts])
    return ScoredSet(question_N, scores, BASELINE_SCORES, targets)


def column(attempts: Sequence[Attempt], name: str) -> np.ndarray:
    """A score of every attempt, (N,), NaN where it is undefined."""
    scores = (a.rewards[name] for a in attempts)
    return np.array([np.nan if s is None else s for s in scores], dtype=np.float64)


def disagreements(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], of: ScoredSet, target: str,
    count: int = 5,
) -> list[dict[str, Any]]:  # fmt: skip
    """Up to `count` pairs per reward that it ranks the wrong way round, the clearest first: by the
    difference in the share of better votes, then in the rank of the score. At most one pair per
    question.
    """
    weights = of.targets[target]
    share = weights.better_N / np.maximum(weights.better_N + weights.worse_N, 1)  # (N,)
    i, j = same_question_pairs(of.question_N)
    pairs = []
    for name, score in of.scores.items():
        if name in of.baselines:
            continue
        # ranks, because rewards differ in scale
        rank = np.argsort(np.argsort(score, kind="stable"), kind="stable")
        wrong = (share[i] > share[j]) & (score[i] < score[j])
        better, worse = i[wrong], j[wrong]
        order = np.lexsort([rank[better] - rank[worse], share[worse] - share[better]])
        question = of.question_N[better].tolist()
        clearest = {question[at]: at for at in order[::-1]}  # the first of each question wins
        for at in [at for at in order if clearest[question[at]] == at][:count]:
            pair = [attempts[better[at]], attempts[worse[at]]]
            sides = [_side(attempt, name) for attempt in pair]
            pairs.append(
                {"reward": name, "question": questions[pair[0].question_id], "sides": sides}
            )
    return pairs


def _side(attempt: Attempt, name: str) -> dict[str, Any]:
    if VOTES in attempt.rewards:
        accepted, votes = attempt.rewards[ACCEPTED], attempt.rewards[VOTES]
        verdict = f"{accepted:.0f} of {votes:.0f} people accept it"
    else:
        verdict = f"{attempt.writer}, {'right' if attempt.rewards[GIVEN] else 'wrong'}"
    return {"rationale": attempt.rationale, "verdict": verdict, "score": attempt.rewards[name]}


def agreement_tables(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[list[str]]]]:
    """Two tables per set, as captions and rows: AUROCs, and differences from the best baseline."""
    tables = []
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        targets = list(dict.fromkeys(row["target"] for row in of_set))
        cells = {(row["score"], row["target"]): row for row in of_set}
        scores = list(dict.fromkeys(row["score"] for row in of_set))
        head = ["", *targets, "undefined"]
        undefined = {s: max(r["undefined"] for r in of_set if r["score"] == s) for s in scores}
        body = [
            [one_line(s), *(_cell(cells.get((s, t))) for t in targets), str(undefined[s])]
            for s in scores
        ]
        n = max(row["n"] for row in of_set)
        what = name if name == MEAN_OF_SETS else f"{name}, {n} rationales"
        tables.append((f"{one_line(what)}: AUROC", [list(map(one_line, head)), *body]))
        baselines = {row["target"]: row["floor"] for row in of_set if row["floor"]}
        rewards = [s for s in scores if any(r["difference"] for r in of_set if r["score"] == s)]
        if rewards:
            heads = [f"{t} (− {baselines.get(t, NONE)})" for t in targets]
            gaps = {place: row["difference"] for place, row in cells.items()}
            body = [
                [one_line(s), *(_cell(gaps.get((s, t)), sign=True) for t in targets)]
                for s in rewards
            ]
            caption = f"{one_line(name)}: AUROC minus the best baseline's"
            tables.append((caption, [["", *map(one_line, heads)], *body]))
    return tables


def format_agreement(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """The tables as plain text."""
    return "\n\n".join(
        f"{caption}, 95 % interval over questions\n{aligned(table, 1, width)}"
        for caption, table in agreement_tables(rows)
    )


def _cell(row: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    known = row is not None and row["mean"] is not None
    return show_interval(row, _FACT, sign=sign) if row and known else NONE
