"""COALITION's candidates: every variant writes, rationales are refined, each gets its utility, and
the best and the worst become pairs (coalition.md 2, 3).
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import numpy as np

from rationalize.errors import UserError
from rationalize.methods.common import rollouts
from rationalize.methods.controller import Example
from rationalize.models.scorers import AnswerScorer
from rationalize.models.variants import Variants
from rationalize.progress import progress_bar
from rationalize.records import Attempt, Question
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.mentions import bare_answer, masked
from rationalize.rewards.reading import readings
from rationalize.runs import Run
from rationalize.sampling.coalition import Refiners, refines
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    question_seed,
    write_attempts,
)
from rationalize.signals.pairs import prefer

Kind = Literal["generation", "refinement"]
Leak = Literal["none", "mask", "penalty"]

_AT_ONCE = 16
"""Questions whose candidates are judged together: what shares a prompt, between two reports."""


class UtilityJudge(Protocol):
    """What is asked of whoever judges rationales."""

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[float]:
        """What each rationale is worth; None asks for the reference, no rationale."""


@dataclass(frozen=True)
class CandidateConfig:
    """How candidates are written, judged and paired."""

    refiners: Refiners = "both"
    """Who refines a rationale: its writer, the others, both, or nobody (ablations A3, A4)."""
    leak: Leak = "penalty"
    """What is done about rationales that only state the answer."""
    labels: Literal["utility", "random"] = "utility"
    """Which of two candidates is chosen: the more useful, or either (A5)."""
    filtered: bool = True
    """Drop pairs whose better half does not beat the reference (A6: off)."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64)
    """How rationales and refinements are written; at least two of each are."""


@dataclass(frozen=True)
class Candidates:
    """What the variants wrote for some questions, with utilities (`rewards["utility"]`)."""

    reference: Mapping[str, float]
    """U0 per question: the utility without a rationale."""
    written: Mapping[str, Sequence[Attempt]]
    """R[a] per question, of all variants."""
    refined: Mapping[str, Sequence[Attempt]]
    """S[a,b] per attempt that was refined."""


def write_candidates(
    variants: Variants, names: Sequence[str], questions: Sequence[Question],
    config: CandidateConfig, run: Run, shard: str, *, seed: int, round: int,
    refined_of: Mapping[str, Collection[str]] | None = None,
) -> list[Attempt]:  # fmt: skip
    """Every variant writes, then refines what `refiners` gives it; all attempts, without scores.

    `refined_of` names the questions whose rationales by a variant are refined; None: all.
    """
    by_id = {q.id: q for q in questions}
    own = replace(config.sampling, n=max(config.sampling.n, _at_least_two(len(names))))
    panel = sum(refines(name, names[0], config.refiners) for name in names)
    once = replace(config.sampling, n=_at_least_two(max(panel, 1)))

    def written_by(name: str) -> list[Attempt]:
        with variants.active(name) as policy:
            return write_attempts(
                Sampler(policy), questions, own,
                Provenance("train", question_seed(seed, name), writer=name, round=round),
                PromptOptions("rationale"), label=f"{name} writes, round {round}",
            )  # fmt: skip

    def refined_by(name: str, given: Sequence[Attempt]) -> list[Attempt]:
        with variants.active(name) as policy:
            return write_attempts(
                Sampler(policy), [by_id[a.question_id] for a in given], once,
                Provenance("train", question_seed(seed, name, "refine"), writer=name, round=round),
                PromptOptions("refine"), given=given, label=f"{name} refines, round {round}",
            )  # fmt: skip

    written = [
        a for n in names for a in rollouts(run, f"{shard}-{n}-writes", partial(written_by, n))
    ]
    if refined_of is None:
        refined_of = dict.fromkeys(names, by_id)
    sources = [a for a in written if a.rationale and a.question_id in refined_of[a.writer]]
    refined = []
    for name in names:
        given = [a for a in sources if refines(name, a.writer, config.refiners)]
        if given:
            refined += rollouts(run, f"{shard}-{name}-refines", partial(refined_by, name, given))
    return written + refined


def _at_least_two(writers: int) -> int:
    """Texts per writer, so that there are two to compare."""
    return -(-2 // writers)


def utilities_of(
    attempts: Sequence[Attempt], questions: Sequence[Question], judge: UtilityJudge, leak: Leak,
    reference: Mapping[str, float],
) -> list[Attempt]:  # fmt: skip
    """The attempts with their utility (coalition.md 3.1) among their rewards.

    What is worth no more than no rationale gets the `reference` of its question, to the last digit:
    the filter is strict, and must not be passed by rounding.
    """
    by_id = {q.id: q for q in questions}
    of: dict[str, list[Attempt]] = {q.id: [] for q in questions}
    for attempt in attempts:
        of[attempt.question_id].append(attempt)
    found: dict[str, float] = {}
    groups = list(of.values())
    with progress_bar("utilities", "candidates") as progress:
        for first in range(0, len(groups), _AT_ONCE):
            part = [a for group in groups[first : first + _AT_ONCE] for a in group]
            read: list[tuple[str, Question, str]] = []
            for attempt in part:
                question = by_id[attempt.question_id]
                text = utility_text(attempt.rationale, question, leak)
                if text is None:
                    found[attempt.id] = reference[question.id]
                else:
                    read.append((attempt.id, question, text))
            ids, own, texts = zip(*read, strict=True) if read else ((), (), ())
            found |= zip(ids, judge.utilities(own, texts), strict=True)
            progress(len(found), len(attempts), 0)
    return [a.scored({"utility": found[a.id]}) for a in attempts]


def utility_reward(judge: UtilityJudge, leak: Leak) -> Reward:
    """The utility that a coalition is trained on, as a reward; no rationale at all is worth U0."""

    def score(*, gold, rationale, **columns) -> Scores:
        found = readings(gold, rationale=rationale, **columns)
        texts = [r.text and utility_text(r.text, r.question, leak) for r in found]
        scores: Scores = [None] * len(rationale)
        for r, u in zip(found, judge.utilities([r.question for r in found], texts), strict=True):
            scores[r.row] = u
        return scores

    bounded = isinstance(judge, AnswerScorer)  # a likelihood, or a reward model's score
    limits = (0.0, 1.0) if bounded else (-math.inf, math.inf)
    return Reward("utility", score, range=limits, needs_gold=True, cacheable=False)


def scored_once(
    run: Run, shard: str, attempts: Sequence[Attempt], questions: Sequence[Question],
    judge: UtilityJudge, leak: Leak,
) -> Candidates:  # fmt: skip
    """Utilities, stored with the attempts; read back on a second start."""
    if run.read_json(f"{shard}.json") is None:
        alone = judge.utilities(questions, [None] * len(questions))
        run.write_json(f"{shard}.json", dict(zip([q.id for q in questions], alone, strict=True)))
    reference = run.read_json(f"{shard}.json")
    stored = rollouts(run, shard, lambda: utilities_of(attempts, questions, judge, leak, reference))
    return by_source(reference, stored)


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


def controller_examples(
    candidates: Candidates, questions: Sequence[Question], names: Sequence[str]
) -> list[Example]:
    """Who should write, and who should refine this or nobody, with each option's mean utility: NaN
    for one that nobody took. An example without two options to choose among is left out.
    """
    examples = []
    for q in questions:
        written = candidates.written.get(q.id, ())
        if len(names) > 1:
            examples.append(Example(q, None, _means(written, names)))
        for source in written:
            if source.id in candidates.refined:
                means = _means(candidates.refined[source.id], names)
                examples.append(Example(q, source.rationale, (*means, utility(source))))
    return [e for e in examples if sum(e.allowed) > 1]


def utility(attempt: Attempt) -> float:
    """The utility that `utilities_of` filled in."""
    value = attempt.rewards["utility"]
    if value is None:
        raise ValueError(f"the attempt {attempt.id!r} has no utility")
    return value


def _means(attempts: Sequence[Attempt], names: Sequence[str]) -> tuple[float, ...]:
    """Mean utility by writer; NaN for one who wrote nothing."""
    own = {n: [utility(a) for a in attempts if a.writer == n] for n in names}
    return tuple(float(np.mean(u)) if u else float("nan") for u in own.values())


def utility_text(rationale: str, question: Question, leak: str) -> str | None:
    """The rationale as the judge reads it; None where it is worth no more than none."""
    if leak == "mask":
        rationale = masked(rationale, question.choices or (question.answer,))
    elif leak == "penalty" and bare_answer(rationale, question.choices or (question.answer,)):
        return None
    return rationale.strip() or None


@dataclass(frozen=True)
class CandidatePair:
    """A preference between two texts, and how it came about."""

    prompt: str
    chosen: Attempt
    rejected: Attempt
    kind: Kind


def generation_pairs(
    candidates: Candidates, questions: Sequence[Question], config: CandidateConfig, seed: int,
    dropped: Counter[str],
) -> list[CandidatePair]:  # fmt: skip
    """{R[a]} against each other; the reference is the question without a rationale."""
    pairs = []
    for q in questions:
        own = candidates.written.get(q.id, ())
        pair = _pair(own, candidates.reference[q.id], "generation", config, seed, dropped)
        if pair:
            pairs.append(pair)
    return pairs


def refinement_pairs(
    variant: str, candidates: Candidates, questions: Sequence[Question], config: CandidateConfig,
    seed: int, dropped: Counter[str],
) -> list[CandidatePair]:  # fmt: skip
    """{S[g,b]} of each rationale that the variant g wrote; the reference is that rationale."""
    pairs = []
    for q in questions:
        for source in candidates.written.get(q.id, ()):
            if source.writer == variant and source.id in candidates.refined:
                own = candidates.refined[source.id]
                pair = _pair(own, utility(source), "refinement", config, seed, dropped)
                if pair:
                    pairs.append(pair)
    return pairs


def _pair(
    own: Sequence[Attempt], reference: float, kind: Kind, config: CandidateConfig, seed: int,
    dropped: Counter[str],
) -> CandidatePair | None:  # fmt: skip
    own = [a for a in own if a.rationale]
    if len(own) < 2:
        dropped[f"{kind}: fewer than two candidates"] += 1
        return None
    found = prefer(
        [utility(a) for a in own], reference, [a.rationale for a in own],
        filtered=config.filtered,
    )  # fmt: skip
    if isinstance(found, str):
        dropped[f"{kind}: {found}"] += 1
        return None
    chosen, rejected = own[found.chosen], own[found.rejected]
    if config.labels == "random":
        coin = random.Random(f"{seed}/{chosen.id}/{rejected.id}")
        if coin.random() < 0.5:
            chosen, rejected = rejected, chosen
    return CandidatePair(chosen.prompt, chosen, rejected, kind)


def pairs_of(
    name: str, candidates: Candidates, for_generation: Sequence[Question],
    for_refinement: Sequence[Question], config: CandidateConfig, seed: int,
) -> tuple[list[CandidatePair], Counter[str]]:  # fmt: skip
    """A variant's pairs of both kinds, and how many were dropped and why."""
    dropped: Counter[str] = Counter()
    pairs = generation_pairs(candidates, for_generation, config, seed, dropped)
    pairs += refinement_pairs(name, candidates, for_refinement, config, seed, dropped)
    return pairs, dropped


def check_pairs(
    found: Mapping[str, tuple[Sequence[CandidatePair], Counter[str]]], round: int
) -> None:
    """Say which variants stay as they are for want of pairs; in round 0 one must have some."""
    for name, (pairs, dropped) in found.items():
        if not pairs:
            print(f"{name}, round {round}: no pair left ({_counts(dropped)}); it stays as it is",
                  file=sys.stderr)  # fmt: skip
    if round == 0 and not any(pairs for pairs, _ in found.values()):
        total: Counter[str] = Counter()
        for _, dropped in found.values():
            total += dropped
        raise UserError(
            f"no pair left to learn from ({_counts(total)}). In a new folder: write more "
            "candidates (--candidates.sampling.n), give more questions, or switch the filter off "
            "(--candidates.no-filtered)"
        )


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{n} x {why}" for why, n in dropped.most_common()) or "no candidates"
