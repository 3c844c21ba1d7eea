"""COALITION's steps 2 to 4: every variant writes, rationales are refined, each gets its utility,
and the best and the worst become pairs (docs/methods/coalition.md).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

from rationalize.errors import UserError
from rationalize.methods.base import Experiment
from rationalize.methods.coalition.config import (
    FOR_REFINING,
    FOR_UTILITIES,
    FOR_WRITING,
    CandidateConfig,
    CoalitionConfig,
    Leak,
    refines,
)
from rationalize.models.scorers import AnswerScorer
from rationalize.models.variants import Variants
from rationalize.progress import progress_bar, say
from rationalize.records import Attempt, Question
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.mentions import bare_answer, masked
from rationalize.rewards.reader import readings
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import PromptOptions, Provenance, question_seed, write_attempts
from rationalize.signals.pairs import prefer

Kind = Literal["generation", "refinement"]

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


def write_candidates(
    exp: Experiment, variants: Variants, config: CoalitionConfig, questions: Sequence[Question],
    name: str, round: int, refined_of: Mapping[str, Collection[str]] | None = None,
) -> list[Attempt]:  # fmt: skip
    """Every variant writes, then refines what `refiners` gives it; all attempts, without scores.

    They are stored under `name`. `refined_of` names the questions whose rationales by a variant are
    refined; None: all.
    """
    names, refiners = config.names, config.candidates.refiners
    by_id = {q.id: q for q in questions}

    # generation: R[a] = V_a(I)
    sampling = config.candidates.sampling
    several = replace(sampling, n=max(sampling.n, at_least_two(len(names))))

    def write(writer: str) -> list[Attempt]:
        with variants.active(writer) as policy:
            return write_attempts(
                Sampler(policy), questions, several,
                Provenance("train", question_seed(exp.seed, writer), writer=writer, round=round),
                PromptOptions(mode="rationale"), label=f"{writer} writes, round {round}",
            )  # fmt: skip

    stage = exp.stage(name, needs=FOR_WRITING)
    written = [a for n in names for a in stage.attempts(f"{n}-writes", partial(write, n))]

    # refinement: S[a,b] = V_b.refine(I, R[a])
    panel = sum(refines(refiner, names[0], refiners) for refiner in names)
    once = replace(sampling, n=at_least_two(max(panel, 1)))

    def refine(refiner: str, sources: Sequence[Attempt]) -> list[Attempt]:
        with variants.active(refiner) as policy:
            seed = question_seed(exp.seed, refiner, "refine")
            return write_attempts(
                Sampler(policy), [by_id[a.question_id] for a in sources], once,
                Provenance("train", seed, writer=refiner, round=round),
                PromptOptions(mode="refine"), given=sources,
                label=f"{refiner} refines, round {round}",
            )  # fmt: skip

    refined_of = dict.fromkeys(names, by_id) if refined_of is None else refined_of
    to_refine = [a for a in written if a.rationale and a.question_id in refined_of[a.writer]]
    stage = exp.stage(name, needs=FOR_REFINING)
    refined = []
    for n in names:
        sources = [a for a in to_refine if refines(n, a.writer, refiners)]
        if sources:
            refined += stage.attempts(f"{n}-refines", partial(refine, n, sources))
    return written + refined


def at_least_two(writers: int) -> int:
    """Texts per writer, so that there are two to compare."""
    return -(-2 // writers)


# Step 3: utility


def with_utilities(
    exp: Experiment, config: CoalitionConfig, questions: Sequence[Question],
    attempts: Sequence[Attempt], name: str, judge: UtilityJudge,
) -> Candidates:  # fmt: skip
    """The candidates with their utilities, stored under `name`."""
    stage, leak = exp.stage(name, needs=FOR_UTILITIES), config.candidates.leak

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


# Step 4: select


@dataclass(frozen=True)
class CandidatePair:
    """A preference between two texts, and how it came about."""

    prompt: str
    chosen: Attempt
    rejected: Attempt
    kind: Kind


Pairs = tuple[list[CandidatePair], Counter[str]]
"""A variant's pairs, and why how many others were dropped."""


def pairs_of(
    name: str, candidates: Candidates, for_generation: Sequence[Question],
    for_refinement: Sequence[Question], config: CandidateConfig, seed: int,
) -> Pairs:  # fmt: skip
    """A variant's pairs of both kinds, and how many were dropped and why."""
    dropped: Counter[str] = Counter()
    pairs = generation_pairs(candidates, for_generation, config, seed, dropped)
    pairs += refinement_pairs(name, candidates, for_refinement, config, seed, dropped)
    return pairs, dropped


def generation_pairs(
    candidates: Candidates, questions: Sequence[Question], config: CandidateConfig, seed: int,
    dropped: Counter[str],
) -> list[CandidatePair]:  # fmt: skip
    """{R[a]} against each other; the reference is the question without a rationale."""
    pairs = [
        _pair(
            candidates.written.get(q.id, ()), candidates.reference[q.id], "generation", config,
            seed, dropped,
        )
        for q in questions
    ]  # fmt: skip
    return [pair for pair in pairs if pair]


def refinement_pairs(
    variant: str, candidates: Candidates, questions: Sequence[Question], config: CandidateConfig,
    seed: int, dropped: Counter[str],
) -> list[CandidatePair]:  # fmt: skip
    """{S[g,b]} of each rationale that the variant g wrote; the reference is that rationale."""
    pairs = [
        _pair(candidates.refined[source.id], utility(source), "refinement", config, seed, dropped)
        for q in questions
        for source in candidates.written.get(q.id, ())
        if source.writer == variant and source.id in candidates.refined
    ]
    return [pair for pair in pairs if pair]


def _pair(
    attempts: Sequence[Attempt], reference: float, kind: Kind, config: CandidateConfig, seed: int,
    dropped: Counter[str],
) -> CandidatePair | None:  # fmt: skip
    """The best attempt against the worst, or a count of why there is no pair."""
    attempts = [a for a in attempts if a.rationale]
    if len(attempts) < 2:
        dropped[f"{kind}: fewer than two candidates"] += 1
        return None
    preference = prefer(
        [utility(a) for a in attempts], reference, [a.rationale for a in attempts],
        filtered=config.filtered,
    )  # fmt: skip
    if isinstance(preference, str):
        dropped[f"{kind}: {preference}"] += 1
        return None
    chosen, rejected = attempts[preference.chosen], attempts[preference.rejected]
    coin = random.Random(f"{seed}/{chosen.id}/{rejected.id}").random()
    if config.labels == "random" and coin < 0.5:
        chosen, rejected = rejected, chosen
    return CandidatePair(chosen.prompt, chosen, rejected, kind)


def check_pairs(pairs_by_variant: Mapping[str, Pairs], round: int) -> None:
    """Say which variants stay as they are for want of pairs; in round 0 one must have some."""
    for name, (pairs, dropped) in pairs_by_variant.items():
        if not pairs:
            say(f"{name}, round {round}: no pair left ({_counts(dropped)}); it stays as it is")
    if round == 0 and not any(pairs for pairs, _ in pairs_by_variant.values()):
        total = sum((dropped for _, dropped in pairs_by_variant.values()), Counter())
        raise UserError(
            f"no pair left to learn from ({_counts(total)}). In a new folder: write more "
            "candidates (--candidates.sampling.n), give more questions, or switch the filter off "
            "(--candidates.no-filtered)"
        )


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{n} x {why}" for why, n in dropped.most_common()) or "no candidates"
