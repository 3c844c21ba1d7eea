"""What is measured on an attempt, and its mean per question: the unit that intervals resample.

Average NRG (normalised relative gain, MaRio's summary number), on a 0-100 scale:

    NRG = 100 * mean over metrics m of (m - low_m) / (high_m - low_m)

over accuracy and the rewards, each by its declared range. It is linear, so it is taken per attempt
and averaged like any other metric. An undefined score (None or NaN, say the consistency of a reply
too long to read) counts as the worst of a reward's range. A diagnostic has no worst end: what is
undefined of it is left out of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from rationalize.answers import is_correct
from rationalize.records import Attempt, Question

Role = Literal["task", "reward", "diagnostic"]
Score = Callable[[Attempt, Question], float | None]


class RewardSpec(Protocol):
    """What is read of a reward here."""

    @property
    def name(self) -> str: ...

    @property
    def range(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Metric:
    """A number per attempt."""

    name: str
    low: float
    """Least value (may be -inf)."""
    high: float
    role: Role
    """`task`: accuracy and NRG; `reward`: may be trained on, higher is better; `diagnostic`: never
    trained on.
    """
    score: Score
    """None where undefined."""
    worst: float
    """What an undefined score counts as: in a reward's mean, and where attempts are ordered."""
    in_nrg: bool = False
    percent: bool = False
    """Whether people read it in per cent; the value itself stays a share."""

    def defined(self, attempt: Attempt, question: Question) -> bool:
        score = self.score(attempt, question)
        return score is not None and math.isfinite(score)

    def value(self, attempt: Attempt, question: Question) -> float:
        """The score, or the worst value where it is undefined."""
        score = self.score(attempt, question)
        return self.worst if score is None or not math.isfinite(score) else float(score)

    def unit(self, value: float) -> float:
        """The value mapped to 0-1 by the range."""
        return (value - self.low) / (self.high - self.low)

    def facts(self) -> dict[str, Any]:
        """The plain part, for results.json; an infinite bound is null."""
        numbers = {"low": self.low, "high": self.high, "worst": self.worst}
        bounds = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {**bounds, "role": self.role, "in_nrg": self.in_nrg, "percent": self.percent}


GIVEN = "correct (given)"
"""Score of an attempt whose source says itself whether it is right: accuracy follows it."""


def accuracy(attempt: Attempt, question: Question) -> float:
    """1 where the prediction is the answer, or where the attempt's source says so (`GIVEN`)."""
    given = attempt.rewards.get(GIVEN)
    if given is not None:
        return float(given)
    return float(is_correct(attempt.prediction, question.answer, question.choices))


def length(attempt: Attempt, question: Question) -> float:
    """Words of the rationale."""
    return float(len(attempt.rationale.split()))


def parsed(attempt: Attempt, question: Question) -> float:
    """1 where an answer could be read."""
    return float(attempt.parsed)


def truncated(attempt: Attempt, question: Question) -> float:
    """1 where the reply was cut at the length limit."""
    return float(attempt.finish == "length")


ACCURACY = Metric("accuracy", 0.0, 1.0, "task", accuracy, 0.0, in_nrg=True, percent=True)
PARSE_RATE = Metric("parse_rate", 0.0, 1.0, "diagnostic", parsed, 0.0, percent=True)
LENGTH = Metric("length", 0.0, math.inf, "diagnostic", length, 0.0)
TRUNCATED = Metric("truncated", 0.0, 1.0, "diagnostic", truncated, 1.0, percent=True)
OWN = {m.name: m for m in (ACCURACY, PARSE_RATE, LENGTH, TRUNCATED)}
"""Metrics that need no reward."""


def reward_metric(reward: RewardSpec, role: Role = "reward", in_nrg: bool = False) -> Metric:
    """The metric of a named score; its worst value is the low end of its range."""
    low, high = (float(bound) for bound in reward.range)
    return Metric(reward.name, low, high, role, _named(reward.name), low, in_nrg)


def metrics_of(
    rewards: Iterable[RewardSpec] = (),
    diagnostics: Iterable[RewardSpec] = (),
    *,
    nrg: Sequence[str] | None = None,
) -> list[Metric]:
    """Accuracy, NRG, every reward, then what is never trained on.

    `nrg` names the rewards that enter NRG beside accuracy; by default, all whose range is finite.
    The reward `correctness` is accuracy again and gets no column of its own; so is the diagnostic
    `length`.
    """
    named = [reward_metric(r) for r in rewards if r.name != "correctness"]
    bounded = [m.name for m in named if math.isfinite(m.low) and math.isfinite(m.high)]
    chosen = bounded if nrg is None else list(nrg)
    if not set(chosen) <= set(bounded):
        raise ValueError(
            f"NRG needs rewards of a finite range: found {chosen}, possible are {bounded}"
        )
    named = [replace(m, in_nrg=m.name in chosen) for m in named]
    extra = [reward_metric(r, "diagnostic") for r in diagnostics if r.name not in OWN]
    return [ACCURACY, nrg_metric([ACCURACY, *named]), *named, PARSE_RATE, LENGTH, TRUNCATED, *extra]


def metrics_from_facts(facts: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """The metrics of a results.json, so that its attempts can be summarised again."""
    found = {n: OWN.get(n) or _from_fact(n, fact) for n, fact in facts.items() if n != "nrg"}
    return [nrg_metric(found.values()) if name == "nrg" else found[name] for name in facts]


def _from_fact(name: str, fact: Mapping[str, Any]) -> Metric:
    low = -math.inf if fact["low"] is None else fact["low"]
    high = math.inf if fact["high"] is None else fact["high"]
    worst = low if math.isinf(low) else fact["worst"]
    return Metric(name, low, high, fact["role"], _named(name), worst, fact["in_nrg"])


def _named(name: str) -> Score:
    return lambda attempt, question: attempt.rewards[name]


def nrg_metric(metrics: Iterable[Metric]) -> Metric:
    """NRG over the metrics that are marked `in_nrg`, as a metric of its own."""
    parts = [m for m in metrics if m.in_nrg]

    def score(attempt: Attempt, question: Question) -> float:
        return 100.0 * sum(m.unit(m.value(attempt, question)) for m in parts) / len(parts)

    return Metric("nrg", 0.0, 100.0, "task", score, 0.0)


def nrg(means: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> float:
    """NRG of means already taken: `nrg({"accuracy": .5764, ...}, {"accuracy": (0, 1), ...})`."""
    gains = [(means[m] - low) / (high - low) for m, (low, high) in ranges.items()]
    return 100.0 * sum(gains) / len(gains)


def per_question(
    attempts: Iterable[Attempt], questions: Mapping[str, Question], metric: Metric
) -> dict[str, float]:
    """The metric's mean over each question's attempts, in the order in which questions first
    appear; of a diagnostic, those for which it is defined.
    """
    values: dict[str, list[float]] = {}
    for attempt in attempts:
        question = questions[attempt.question_id]
        if metric.role == "diagnostic" and not metric.defined(attempt, question):
            continue
        values.setdefault(attempt.question_id, []).append(metric.value(attempt, question))
    return {q: sum(v) / len(v) for q, v in values.items()}


def reward_values(
    attempts: Iterable[Attempt], questions: Mapping[str, Question], reward: RewardSpec
) -> list[float]:
    """One value of a reward per question, in the order in which questions first appear."""
    return list(per_question(attempts, questions, reward_metric(reward)).values())


def applicable(metrics: Iterable[Metric], attempts: Sequence[Attempt]) -> list[Metric]:
    """The metrics that these attempts have; NRG where they have all its parts.

    Answers without a rationale by design (mode `answer`) have accuracy and a parse rate only: the
    diversity of nothing is 1 by its formula. Attempts that no one scored by a reward lack its
    metric.
    """
    metrics = list(metrics)
    found = [m for m in metrics if m.name != "nrg" and _applies(m, attempts)]
    whole = all(m in found for m in metrics if m.in_nrg) and any(m.role == "reward" for m in found)
    return [m for m in metrics if m in found or (m.name == "nrg" and whole)]


def _applies(metric: Metric, attempts: Sequence[Attempt]) -> bool:
    if metric.name in ("accuracy", "parse_rate"):
        return True
    if not attempts or all(a.mode == "answer" for a in attempts):
        return False
    if metric.name in OWN:
        return True
    scored = sum(metric.name in a.rewards for a in attempts)
    if scored not in (0, len(attempts)):
        raise ValueError(f"{metric.name}: only {scored} of {len(attempts)} attempts are scored")
    return scored > 0


def settle_worst(
    metrics: Iterable[Metric], attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> list[Metric]:
    """Where a range has no low end, an undefined score counts as the lowest score found here."""
    settled = []
    for metric in metrics:
        if not math.isfinite(metric.worst):
            scored = [a for a in attempts if metric.name in a.rewards]
            column = score_column(metric, scored, questions)
            finite = column[np.isfinite(column)]
            metric = replace(metric, worst=float(finite.min()) if len(finite) else 0.0)
        settled.append(metric)
    return settled


def distinct_n(texts: Iterable[str], n: int = 2) -> float | None:
    """Share of distinct n-grams over all texts together: low where every question gets one
    rationale.
    """
    split = [text.split() for text in texts]
    grams = [tuple(words[i : i + n]) for words in split for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def score_column(
    metric: Metric, attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> np.ndarray:
    """The raw score of each attempt (N,), NaN where undefined."""
    scores = [metric.score(a, questions[a.question_id]) for a in attempts]
    array = np.array([math.nan if s is None else s for s in scores], dtype=np.float64)
    return np.where(np.isfinite(array), array, math.nan)
