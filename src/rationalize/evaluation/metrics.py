"""Metrics of an attempt, and their mean per question: the unit that intervals resample.

NRG (normalised relative gain, the summary number of MaRio, arXiv 2311.02805), from 0 to 100:

    NRG = 100 * mean over metrics m of (m - low_m) / (high_m - low_m)

over accuracy and the rewards, each with its declared range. NRG is linear, so it is computed per
attempt and averaged like any other metric. An undefined score (None or NaN, for example the
consistency of a reply that is too long to read) counts as the worst of a reward's range. A
diagnostic has no worst value; its undefined scores are left out of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from rationalize.answers import stated_answer
from rationalize.records import Attempt, Question

Role = Literal["task", "reward", "diagnostic"]
Score = Callable[[Attempt, Question], float | None]


class RewardSpec(Protocol):
    """The fields of a reward that a metric needs."""

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
    """The value of an undefined score, in a reward's mean and where attempts are ordered."""
    in_nrg: bool = False
    percent: bool = False
    """Shown in per cent; the value itself stays a share."""

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

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
        """The fields that results.json keeps; an infinite bound is None."""
        numbers = {"low": self.low, "high": self.high, "worst": self.worst}
        bounds = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {**bounds, "role": self.role, "in_nrg": self.in_nrg, "percent": self.percent}


GIVEN = "correct (given)"
"""Score of an attempt whose source states whether it is right; accuracy follows it."""


def accuracy(attempt: Attempt, question: Question) -> float:
    """1 where the prediction equals the answer; with `GIVEN`, the verdict of the source instead."""
    verdict = attempt.rewards.get(GIVEN)
    if verdict is not None:
        return float(verdict)
    return float(question.is_right(attempt.prediction))


def stated(attempt: Attempt, question: Question) -> str | None:
    """The answer that an attempt states in any form (docs/metrics.md, How an answer is read)."""
    if attempt.prediction is not None:
        return attempt.prediction
    return stated_answer(attempt.completion, question.choices)


def stated_accuracy(attempt: Attempt, question: Question) -> float:
    """`accuracy` under the stated reading: 1 where any clear answer of the reply is right."""
    verdict = attempt.rewards.get(GIVEN)
    if verdict is not None:
        return float(verdict)
    return float(question.is_right(stated(attempt, question)))


def length(attempt: Attempt, question: Question) -> float:
    """Number of words of the rationale."""
    return float(len(attempt.rationale.split()))


def parsed(attempt: Attempt, question: Question) -> float:
    """1 where an answer could be read."""
    return float(attempt.parsed)


def truncated(attempt: Attempt, question: Question) -> float:
    """1 where the reply was cut at the length limit."""
    return float(attempt.finish == "length")


ACCURACY = Metric("accuracy", 0.0, 1.0, "task", accuracy, 0.0, in_nrg=True, percent=True)
STATED_ACCURACY = Metric(
    "stated_accuracy", 0.0, 1.0, "diagnostic", stated_accuracy, 0.0, percent=True
)
"""Accuracy of any clear answer. `ACCURACY` reads our form alone, which an untrained model lacks."""
PARSE_RATE = Metric("parse_rate", 0.0, 1.0, "diagnostic", parsed, 0.0, percent=True)
LENGTH = Metric("length", 0.0, math.inf, "diagnostic", length, 0.0)
TRUNCATED = Metric("truncated", 0.0, 1.0, "diagnostic", truncated, 1.0, percent=True)
BUILT_IN = {m.name: m for m in (ACCURACY, STATED_ACCURACY, PARSE_RATE, LENGTH, TRUNCATED)}
"""Metrics that need no reward."""


def reward_metric(reward: RewardSpec, role: Role = "reward", in_nrg: bool = False) -> Metric:
    """The metric of a reward; its worst value is the low end of its range."""
    low, high = (float(bound) for bound in reward.range)
    return Metric(reward.name, low, high, role, _named(reward.name), low, in_nrg)


def metrics_of(
    rewards: Iterable[RewardSpec] = (),
    diagnostics: Iterable[RewardSpec] = (),
    *,
    nrg: Sequence[str] | None = None,
) -> list[Metric]:
    """Accuracy in both readings, NRG, every reward, then the diagnostics.

    `nrg` names the rewards that enter NRG beside accuracy; by default, all with a finite range. A
    reward `correctness` is left out because it equals accuracy, and a diagnostic `length` because
    it is built in. Raises `ValueError` where `nrg` names a reward without a finite range.
    """
    named = [reward_metric(r) for r in rewards if r.name != "correctness"]
    # NRG maps each reward to [0, 1] by its range, which must be finite
    bounded = [m.name for m in named if math.isfinite(m.low) and math.isfinite(m.high)]
    chosen = bounded if nrg is None else list(nrg)
    if not set(chosen) <= set(bounded):
        raise ValueError(
            f"NRG needs rewards of a finite range: found {chosen}, possible are {bounded}"
        )
    named = [replace(m, in_nrg=m.name in chosen) for m in named]
    extra = [reward_metric(r, "diagnostic") for r in diagnostics if r.name not in BUILT_IN]
    task = [ACCURACY, STATED_ACCURACY, nrg_metric([ACCURACY, *named])]
    return [*task, *named, PARSE_RATE, LENGTH, TRUNCATED, *extra]


def metrics_from_facts(facts: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """The metrics of a results.json, so that its attempts can be summarised again.

    Results of earlier versions lack the stated reading; their attempts can be read so too.
    """
    if ACCURACY.name in facts and STATED_ACCURACY.name not in facts:
        both = {ACCURACY.name: facts[ACCURACY.name], STATED_ACCURACY.name: STATED_ACCURACY.facts()}
        facts = {**both, **{name: fact for name, fact in facts.items() if name not in both}}
    metrics = {n: BUILT_IN.get(n) or _from_fact(n, fact) for n, fact in facts.items() if n != "nrg"}
    return [nrg_metric(metrics.values()) if name == "nrg" else metrics[name] for name in facts]


def _from_fact(name: str, fact: Mapping[str, Any]) -> Metric:
    low = -math.inf if fact["low"] is None else fact["low"]
    high = math.inf if fact["high"] is None else fact["high"]
    worst = low if math.isinf(low) else fact["worst"]
    return Metric(name, low, high, fact["role"], _named(name), worst, fact["in_nrg"])


def _named(name: str) -> Score:
    return lambda attempt, question: attempt.rewards[name]


def nrg_metric(metrics: Iterable[Metric]) -> Metric:
    """NRG over the metrics with `in_nrg`, as a metric per attempt."""
    parts = [m for m in metrics if m.in_nrg]

    def score(attempt: Attempt, question: Question) -> float:
        return 100.0 * sum(m.unit(m.value(attempt, question)) for m in parts) / len(parts)

    return Metric("nrg", 0.0, 100.0, "task", score, 0.0)


def nrg(means: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> float:
    """NRG from means: `nrg({"accuracy": .5764, ...}, {"accuracy": (0, 1), ...})`."""
    gains = [(means[m] - low) / (high - low) for m, (low, high) in ranges.items()]
    return 100.0 * sum(gains) / len(gains)


def per_question(
    attempts: Iterable[Attempt], questions: Mapping[str, Question], metric: Metric
) -> dict[str, float]:
    """The metric's mean over each question's attempts, in the order in which questions first
    appear. A diagnostic's mean is over the attempts where it is defined.
    """
    values: dict[str, list[float]] = {}
    for attempt in attempts:
        question = questions[attempt.question_id]
        if metric.role == "diagnostic" and not metric.defined(attempt, question):
            continue
        values.setdefault(attempt.question_id, []).append(metric.value(attempt, question))
    return {q: sum(v) / len(v) for q, v in values.items()}


def applicable(metrics: Iterable[Metric], attempts: Sequence[Attempt]) -> list[Metric]:
    """The metrics that these attempts have; NRG where they have all its parts.

    Attempts without a rationale by design (mode `answer`) have only accuracies and a parse rate,
    because an empty text has diversity 1 by its formula. Attempts that were not scored by a reward
    lack its metric. Raises `ValueError` where only some of them were scored.
    """
    metrics = list(metrics)
    scored = [m for m in metrics if m.name != "nrg" and _applies(m, attempts)]
    complete = all(m in scored for m in metrics if m.in_nrg)
    with_nrg = complete and any(m.role == "reward" for m in scored)
    return [m for m in metrics if m in scored or (m.name == "nrg" and with_nrg)]


def _applies(metric: Metric, attempts: Sequence[Attempt]) -> bool:
    if metric in (ACCURACY, STATED_ACCURACY, PARSE_RATE):
        return True
    if not attempts or all(a.mode == "answer" for a in attempts):
        return False
    if metric.name in BUILT_IN:
        return True
    scored = sum(metric.name in a.rewards for a in attempts)
    if scored not in (0, len(attempts)):
        raise ValueError(f"{metric.name}: only {scored} of {len(attempts)} attempts are scored")
    return scored > 0


def settle_worst(
    metrics: Iterable[Metric], attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> list[Metric]:
    """The metrics, with the lowest score of these attempts as `worst` where a range has no low end
    (0 where no score is defined).
    """
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
    """Share of distinct word n-grams over all texts together; low where all questions get the same
    rationale. None without n-grams.
    """
    tokenized = [text.split() for text in texts]
    grams = [tuple(words[i : i + n]) for words in tokenized for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def score_column(
    metric: Metric, attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> np.ndarray:
    """The raw score of each attempt (N,), NaN where undefined."""
    scores = [metric.score(a, questions[a.question_id]) for a in attempts]
    array = np.array([math.nan if s is None else s for s in scores], dtype=np.float64)
    return np.where(np.isfinite(array), array, math.nan)
