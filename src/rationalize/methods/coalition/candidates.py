"""COALITION's steps 2 and 3: every variant writes, rationales are refined, each gets its utility
(docs/methods/coalition.md).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from rationalize.methods.base import Experiment
from rationalize.methods.coalition.config import (
    FOR_REFINING,
    FOR_UTILITIES,
    FOR_WRITING,
    CoalitionConfig,
    Leak,
    refines,
)
from rationalize.models.scorers import AnswerScorer
from rationalize.models.variants import Variants
from rationalize.progress import progress_bar
from rationalize.records import Attempt, Question
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.mentions import bare_answer, masked
from rationalize.rewards.reader import readings
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, question_seed, write_attempts
from rationalize.signals.filters import first_of_each

_AT_ONCE = 16
"""Questions whose candidates are judged together: they share prompts, and progress is shown
between two such groups.
"""


class UtilityJudge(Protocol):
    """What is asked of whoever judges rationales."""

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[float]:
        """What each rationale is worth; None asks for the reference, no rationale."""


@dataclass(frozen=True)
class Candidates:
    """What the variants wrote for some questions, with utilities (`rewards["utility"]`)."""

    reference: Mapping[str, float]
    """U0 per question: the utility without a rationale."""
    written: Mapping[str, Sequence[Attempt]]
    """R[a] per question, of all variants."""
    refined: Mapping[str, Sequence[Attempt]]
    """S[a,b] per attempt that was refined."""

    @property
    def all_written(self) -> list[Attempt]:
        return [a for attempts in self.written.values() for a in attempts]

    @property
    def all_refined(self) -> list[Attempt]:
        return [a for attempts in self.refined.values() for a in attempts]


# Step 2: candidates


@dataclass(frozen=True)
class Asked:
    """Who is asked what: question ids by variant."""

    writes: Mapping[str, Collection[str]]
    """The questions that a variant writes for."""
    refined: Mapping[str, Collection[str]]
    """The questions whose rationales by a variant are refined."""
    draws: int = 1
    """Texts of a writer, and of a refiner, at least. Above 1 the first of a writer is refined."""


def asked_of_all(names: Sequence[str], questions: Sequence[Question], draws: int = 1) -> Asked:
    """Every variant writes for every question, and everything is refined."""
    everything = {name: {q.id for q in questions} for name in names}
    return Asked(everything, everything, draws)


def asked_for_pairs(parts: Mapping[str, tuple[Sequence[Question], Sequence[Question]]]) -> Asked:
    """What the variants' pairs need: all write for everybody's generation pairs, but for refinement
    pairs only the variant whose rationales are refined.
    """
    compared = {q.id for for_generation, _ in parts.values() for q in for_generation}
    refined = {name: {q.id for q in to_refine} for name, (_, to_refine) in parts.items()}
    return Asked({name: compared | refined[name] for name in parts}, refined)


def write_candidates(
    exp: Experiment, variants: Variants, config: CoalitionConfig, questions: Sequence[Question],
    name: str, round: int, asked: Asked,
) -> list[Attempt]:  # fmt: skip
    """Every variant writes, then refines what `refiners` gives it; all attempts, without scores.

    They are stored under `name`.
    """
    names = config.names
    by_id = {q.id: q for q in questions}

    # generation: R[a] = V_a(I)
    sampling = config.candidates.sampling
    several = replace(sampling, n=texts_of(sampling, len(names), max(sampling.n, asked.draws)))

    def write(writer: str) -> list[Attempt]:
        with variants.active(writer) as policy:
            return write_attempts(
                exp.sampler(policy),
                [q for q in questions if q.id in asked.writes[writer]], several,
                Provenance("train", question_seed(exp.seed, writer), writer=writer, round=round),
                PromptOptions(mode="rationale"), label=f"{writer} writes, round {round}",
            )  # fmt: skip

    stage = exp.stage(name, needs=FOR_WRITING)
    written = [a for n in names for a in stage.attempts(f"{n}-writes", partial(write, n))]

    # refinement: S[a,b] = V_b.refine(I, R[a])
    panel = len(refiners_of(config, "", names[0], exp.seed))
    once = replace(sampling, n=texts_of(sampling, max(panel, 1), asked.draws))

    def refine(refiner: str, sources: Sequence[Attempt]) -> list[Attempt]:
        with variants.active(refiner) as policy:
            seed = question_seed(exp.seed, refiner, "refine")
            return write_attempts(
                exp.sampler(policy), [by_id[a.question_id] for a in sources], once,
                Provenance("train", seed, writer=refiner, round=round),
                PromptOptions(mode="refine"), given=sources,
                label=f"{refiner} refines, round {round}",
            )  # fmt: skip

    to_refine = [a for a in written if a.rationale and a.question_id in asked.refined[a.writer]]
    if asked.draws > 1:
        first = first_of_each([(a.question_id, a.writer) for a in to_refine])
        to_refine = [a for a, is_first in zip(to_refine, first, strict=True) if is_first]
    who = {a.id: refiners_of(config, a.id, a.writer, exp.seed) for a in to_refine}
    stage = exp.stage(name, needs=FOR_REFINING)
    refined = []
    for n in names:
        sources = [a for a in to_refine if n in who[a.id]]
        if sources:
            refined += stage.attempts(f"{n}-refines", partial(refine, n, sources))
    return written + refined


def refiners_of(config: CoalitionConfig, source: str, writer: str, seed: int) -> list[str]:
    """Who refines the rationale with the id `source`: all who may, or a random panel of them."""
    panel = config.candidates.panel
    may = [name for name in config.names if refines(name, writer, config.candidates.refiners)]
    if not panel or len(may) <= panel:
        return may
    return random.Random(f"{seed}/panel/{source}").sample(may, panel)


def texts_of(sampling: SamplingConfig, writers: int, least: int) -> int:
    """Texts per writer, so that there are two to compare; of a greedy one there is one."""
    greedy = sampling.greedy and sampling.beams == 1
    return max(least, 1 if greedy else -(-2 // writers))


# Step 3: utility


def with_utilities(
    exp: Experiment, config: CoalitionConfig, questions: Sequence[Question],
    attempts: Sequence[Attempt], name: str, judge: UtilityJudge,
) -> Candidates:  # fmt: skip
    """The candidates with their utilities, stored under `name`."""
    stage, leak = exp.stage(name, needs=FOR_UTILITIES), config.candidates.control

    def without_rationale() -> Mapping[str, float]:
        alone = judge.utilities(questions, [None] * len(questions))
        return dict(zip([q.id for q in questions], alone, strict=True))

    reference = stage.facts(f"{name}-utilities", without_rationale)
    scored = stage.attempts(
        "utilities", lambda: utilities_of(attempts, questions, judge, leak, reference)
    )
    return by_source(reference, scored)


def utilities_of(
    attempts: Sequence[Attempt], questions: Sequence[Question], judge: UtilityJudge, leak: Leak,
    reference: Mapping[str, float],
) -> list[Attempt]:  # fmt: skip
    """The attempts with their utility among their rewards.

    What is worth no more than no rationale gets the `reference` of its question, to the last digit:
    the filter is strict, and must not be passed by rounding.
    """
    of: dict[str, list[Attempt]] = {q.id: [] for q in questions}
    for attempt in attempts:
        of[attempt.question_id].append(attempt)
    utilities: dict[str, float] = {}
    with progress_bar("utilities", "candidates") as progress:
        for first in range(0, len(questions), _AT_ONCE):
            readable: list[tuple[str, Question, str]] = []
            group = questions[first : first + _AT_ONCE]
            for question, attempt in ((q, a) for q in group for a in of[q.id]):
                text = utility_text(attempt.rationale, question, leak)
                if text is None:
                    utilities[attempt.id] = reference[question.id]
                else:
                    readable.append((attempt.id, question, text))
            ids, asked, texts = zip(*readable, strict=True) if readable else ((), (), ())
            utilities |= zip(ids, judge.utilities(asked, texts), strict=True)
            progress(len(utilities), len(attempts), 0)
    return [a.scored({"utility": utilities[a.id]}) for a in attempts]


def utility_reward(judge: UtilityJudge, leak: Leak) -> Reward:
    """The utility that a coalition is trained on, as a reward; no rationale at all is worth U0."""

    def score(*, gold, rationale, **columns) -> Scores:
        judged = readings(gold, rationale=rationale, **columns)
        texts = [r.text and utility_text(r.text, r.question, leak) for r in judged]
        scores: Scores = [None] * len(rationale)
        for r, u in zip(judged, judge.utilities([r.question for r in judged], texts), strict=True):
            scores[r.row] = u
        return scores

    bounded = isinstance(judge, AnswerScorer)  # a likelihood, or a reward model's score
    limits = (0.0, 1.0) if bounded else (-math.inf, math.inf)
    return Reward("utility", score, range=limits, needs_gold=True, cacheable=False)


def utility_text(rationale: str, question: Question, leak: Leak) -> str | None:
    """The rationale as the judge reads it; None where it is worth no more than none."""
    if leak == "mask":
        rationale = masked(rationale, question.choices or (question.answer,))
    elif leak == "penalty" and bare_answer(rationale, question.choices or (question.answer,)):
        return None
    return rationale.strip() or None


def touched(attempt: Attempt, question: Question, leak: Leak) -> bool:
    """Whether the judge reads a candidate otherwise than it was written, or not at all."""
    read, as_it_is = (utility_text(attempt.rationale, question, how) for how in (leak, "none"))
    return read != as_it_is


def as_written(
    candidates: Candidates, questions: Sequence[Question], judge: UtilityJudge, leak: Leak
) -> Candidates:
    """The same candidates with the utilities that they have without any leak control."""
    by_id = {q.id: q for q in questions}
    attempts = [*candidates.all_written, *candidates.all_refined]
    changed = {a.id for a in attempts if touched(a, by_id[a.question_id], leak)}
    again = utilities_of(
        [a for a in attempts if a.id in changed], questions, judge, "none", candidates.reference
    )
    new = {a.id: a for a in again}
    return by_source(candidates.reference, [new.get(a.id, a) for a in attempts])


def utility(attempt: Attempt) -> float:
    """The utility that `utilities_of` filled in."""
    value = attempt.rewards["utility"]
    if value is None:
        raise ValueError(f"the attempt {attempt.id!r} has no utility")
    return value


def by_source(reference: Mapping[str, float], attempts: Sequence[Attempt]) -> Candidates:
    """Scored attempts under the question, or the rationale, that they answer."""
    written: dict[str, list[Attempt]] = {}
    refined: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.refines:
            refined.setdefault(attempt.refines, []).append(attempt)
        else:
            written.setdefault(attempt.question_id, []).append(attempt)
    return Candidates(reference, written, refined)
