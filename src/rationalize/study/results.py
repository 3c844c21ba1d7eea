"""What a study says: preferences, agreement, ranking, rewards and judges beside people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rationalize.bootstrap import percentiles
from rationalize.evaluation.bradley_terry import bradley_terry, with_halves
from rationalize.evaluation.intervals import bootstrap_mean
from rationalize.evaluation.krippendorff import MISSING, alpha, alpha_interval
from rationalize.evaluation.two_way import two_way_mean, two_way_sums
from rationalize.study.answers import (
    Answers,
    agreement_with,
    answers_of,
    combined,
    counted,
    failed_checks,
    others_agree,
    verdicts_of,
)
from rationalize.study.asks import Ask
from rationalize.study.design import Study, order_for
from rationalize.study.store import Annotator, Verdict, Vote

Results = dict[str, Any]
_RANKING_SAMPLES = 1000


def study_results(
    study: Study, annotators: Sequence[Annotator], votes: Sequence[Vote],
    verdicts: Sequence[Verdict],
) -> Results:  # fmt: skip
    """What `results.json` of a study holds; docs/study.md explains every number.

    Intervals of people's numbers are over questions and annotators (`evaluation/two_way.py`), of a
    judge's own over questions. A number without votes is None.
    """
    kept = counted(study, votes)
    judges = list(dict.fromkeys(v.judge for v in verdicts))
    by_judge = {name: [v for v in verdicts if v.judge == name] for name in judges}
    people = sorted({v.annotator for v in kept})
    notes = list(study.notes)
    if len(people) == 1:
        notes.append("One annotator: intervals say nothing about other people.")
    return {
        "study": study.asks.title,
        "methods": list(study.methods),
        "items": len(study.compared),
        "questions": len({study.items[i].question_id for i in study.compared}),
        "votes": len(kept),
        "annotators": _annotators(study, annotators, votes),
        "asks": [_ask(study, ask, kept) for ask in study.asks.questions],
        "judges": [
            {"judge": name, "asks": [_judge(study, ask, kept, by_judge[name])
                                     for ask in study.asks.questions]}
            for name in judges
        ],
        "notes": notes,
    }  # fmt: skip


def _annotators(
    study: Study, annotators: Sequence[Annotator], votes: Sequence[Vote]
) -> list[dict[str, Any]]:
    checks = failed_checks(study, votes)
    rows = []
    for who in annotators:
        own = [v for v in votes if v.annotator == who.id]
        failed = checks.get(who.id, []).count(False)
        rows.append({
            "annotator": who.name, "consented": who.consented, "votes": len(own),
            "of": len(order_for(study, who.id)), "checks": len(checks.get(who.id, [])),
            "failed": failed, "counted": bool(own) and failed <= study.max_failed_checks,
            "seconds": float(np.median([v.seconds for v in own])) if own else None,
        })  # fmt: skip
    return rows


def _ask(study: Study, ask: Ask, votes: Sequence[Vote]) -> dict[str, Any]:
    answers = answers_of(ask, votes)
    told = np.isfinite(answers.first_V)
    return {
        "name": ask.name, "ask": ask.ask, "kind": ask.kind,
        "preferences": preferences(study, answers, _two_way),
        "accepted": _accepted(study, ask, votes) if ask.kind == "each" else [],
        "ranking": ranking(study, answers) if len(study.methods) > 2 else [],
        "alpha": _alphas(study, ask, answers, votes),
        "people": _mean(study, answers, *others_agree(answers), _two_way),
        "first": _mean(study, answers, answers.first_V, told, _two_way),
        "rewards": _rewards(study, answers),
    }  # fmt: skip


MeanOf = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
"""Values, questions and annotators of votes to an interval."""


def _two_way(value_V: np.ndarray, question_V: np.ndarray, annotator_V: np.ndarray) -> Any:
    return two_way_mean(value_V, question_V, annotator_V)


def _over_questions(value_V: np.ndarray, question_V: np.ndarray, annotator_V: np.ndarray) -> Any:
    """Of one model's answers, which no other annotators vary: the mean over questions."""
    means = [value_V[question_V == q].mean() for q in np.unique(question_V)]
    return bootstrap_mean(means, bounds=(0.0, 1.0))


def _mean(
    study: Study, answers: Answers, value_V: np.ndarray, told_V: np.ndarray, mean: MeanOf
) -> dict[str, Any] | None:
    """Mean and interval of those votes that say anything, and their number; None without any."""
    if not told_V.any():
        return None
    question_V = _question_numbers(study)[answers.item_V]
    interval = mean(value_V[told_V], question_V[told_V], answers.annotator_V[told_V])
    return {**dataclasses.asdict(interval), "votes": int(told_V.sum())}


def preferences(study: Study, answers: Answers, mean: MeanOf) -> list[dict[str, Any]]:
    """Per pair of methods: how often each was preferred, and the share for the first, ties half."""
    sides = np.array([(item.a.method, item.b.method) for item in study.items])
    rows = []
    for a, b in combinations(study.methods, 2):
        of_pair = (sides[answers.item_V] == (a, b)).all(axis=1)
        row = _mean(study, answers, answers.for_a_V, of_pair, mean)
        if row is not None:
            values = answers.for_a_V[of_pair]
            rows.append({
                "a": a, "b": b, **row,
                "for_a": int((values == 1).sum()), "same": int((values == 0.5).sum()),
                "for_b": int((values == 0).sum()),
            })  # fmt: skip
    return rows


def ranking(study: Study, answers: Answers) -> list[dict[str, Any]]:
    """Bradley-Terry strengths, the strongest first, with intervals over questions and annotators;
    empty without votes. Methods that no vote has met are left out.
    """
    if not len(answers):
        return []
    place = {method: k for k, method in enumerate(study.methods)}
    pairs = np.array([(place[i.a.method], place[i.b.method]) if not i.check else (0, 0)
                      for i in study.items])  # fmt: skip
    count = len(study.methods)
    a_V, b_V = pairs[answers.item_V].T
    wins_VC = np.zeros((len(answers), count * count))
    rows = np.arange(len(answers))
    wins_VC[rows, a_V * count + b_V] = answers.for_a_V
    wins_VC[rows, b_V * count + a_V] = 1 - answers.for_a_V
    met = np.unique(np.concatenate([a_V, b_V]))
    _, question_V = np.unique(_question_numbers(study)[answers.item_V], return_inverse=True)
    _, annotator_V = np.unique(answers.annotator_V, return_inverse=True)
    sums = two_way_sums(wins_VC, question_V, annotator_V, samples=_RANKING_SAMPLES)
    tables = np.concatenate([wins_VC.sum(axis=0)[None], sums]).reshape(-1, count, count)
    tables = tables[:, met][:, :, met]
    # a draw without all methods has no strengths
    whole = (tables + tables.swapaxes(1, 2)).sum(axis=2).min(axis=1) > 0
    strengths = bradley_terry(with_halves(tables[whole]))
    found = []
    for k, method in enumerate(met):
        low, high = percentiles(strengths[1:, k]) if len(strengths) > 1 else (math.nan, math.nan)
        mean = float(strengths[0, k])
        found.append({"method": study.methods[method], "mean": mean, "low": low, "high": high})
    return sorted(found, key=lambda row: -row["mean"])


def _accepted(study: Study, ask: Ask, votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Share of yes per method."""
    rows = []
    questions = _question_numbers(study)
    for method in study.methods:
        found = [
            (v.answers[f"{ask.name}/{side}"] == "yes", questions[v.item], v.annotator)
            for v in votes
            for side, text in (("a", study.items[v.item].a), ("b", study.items[v.item].b))
            if text.method == method
        ]
        if found:
            interval = two_way_mean(*(np.array(column) for column in zip(*found, strict=True)))
            rows.append({"method": method, **dataclasses.asdict(interval), "votes": len(found)})
    return rows


def _alphas(
    study: Study, ask: Ask, answers: Answers, votes: Sequence[Vote]
) -> dict[str, dict[str, Any] | None]:
    """Krippendorff's alpha over items (nominal, and with "same" between both sides ordinal); of a
    question about each text over texts.
    """
    people = {who: i for i, who in enumerate(sorted({v.annotator for v in votes}))}
    if ask.kind == "each":
        table = np.full((len(people), 2 * len(study.items)), MISSING)
        for v in votes:
            for k, side in enumerate("ab"):
                yes = v.answers[f"{ask.name}/{side}"] == "yes"
                table[people[v.annotator], 2 * v.item + k] = int(yes)
        unit_questions = np.repeat(_question_numbers(study), 2)
        return {"nominal": _alpha(table, unit_questions, 2, "nominal"), "ordinal": None}
    table = np.full((len(people), len(study.items)), MISSING)
    who = [people[int(a)] for a in answers.annotator_V]
    table[who, answers.item_V] = (2 * answers.for_a_V).astype(int)
    questions = _question_numbers(study)
    levels = ("nominal", "ordinal") if ask.tie else ("nominal",)
    found = {level: _alpha(table, questions, 3, level) for level in levels}
    return {"ordinal": None, **found}


def _alpha(
    table_AU: np.ndarray, question_U: np.ndarray, categories: int, level: Any
) -> dict[str, Any] | None:
    units = (table_AU != MISSING).sum(axis=0) > 1
    value = alpha(table_AU, categories, level) if units.any() else math.nan
    if not math.isfinite(value):
        return None
    _, question_U = np.unique(question_U[units], return_inverse=True)
    low, high = alpha_interval(table_AU[:, units], question_U, categories, level)
    return {"mean": value, "low": low, "high": high, "units": int(units.sum())}


def _rewards(study: Study, answers: Answers) -> list[dict[str, Any]]:
    """Per reward: how often it scores the preferred text higher, an equal score half. One that
    scores both texts of every item alike is left out.
    """
    names = dict.fromkeys(n for i in study.items for n in (*i.a.rewards, *i.b.rewards))
    rows = []
    for name in names:
        said: dict[int, float] = {}
        for number in study.compared:
            item = study.items[number]
            a, b = item.a.rewards.get(name), item.b.rewards.get(name)
            if a is not None and b is not None:
                said[number] = 0.5 + (float(a > b) - float(a < b)) / 2
        row = _mean(study, answers, *agreement_with(answers, said), _two_way)
        if row is not None and set(said.values()) != {0.5}:
            rows.append({"reward": name, **row})
    return rows


def _judge(
    study: Study, ask: Ask, votes: Sequence[Vote], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """A model's preferences, how far its position decides, and how far it agrees with people."""
    own = [v for v in verdicts if v.ask == ask.name]
    alone, both = verdicts_of(ask, own), combined(ask, own)
    orders: dict[int, list[float]] = {}
    for item, value in zip(alone.item_V.tolist(), alone.for_a_V.tolist(), strict=True):
        orders.setdefault(item, []).append(value)
    twice = [values[0] == values[1] for values in orders.values() if len(values) == 2]
    people = answers_of(ask, votes)
    said = dict(zip(both.item_V.tolist(), both.for_a_V.tolist(), strict=True))
    return {
        "name": ask.name,
        "verdicts": len(own), "unreadable": sum(v.answer is None for v in own),
        "preferences": preferences(study, both, _over_questions),
        "ranking": _strengths(study, both),
        "first": _mean(study, alone, alone.first_V, np.isfinite(alone.first_V), _over_questions),
        "consistent": float(np.mean(twice)) if twice else None,
        "people": _mean(study, people, *agreement_with(people, said), _two_way),
    }  # fmt: skip


def _strengths(study: Study, both: Answers) -> list[dict[str, Any]]:
    return ranking(study, both) if len(study.methods) > 2 else []


def _question_numbers(study: Study) -> np.ndarray:
    """The number of each item's question: items of one question are drawn together."""
    ids = [item.question_id for item in study.items]
    return np.unique(np.array(ids, dtype=object), return_inverse=True)[1]


def verdict(row: Mapping[str, Any]) -> str:
    """What a preference says, in a word: `a`, `b`, or `neither` where its interval holds a half."""
    return "a" if row["low"] > 0.5 else "b" if row["high"] < 0.5 else "neither"
