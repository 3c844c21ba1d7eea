"""COALITION's step 4: of the candidates for a question, or for a rationale that was refined, the
best against the worst (docs/methods/coalition.md).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rationalize.errors import UserError
from rationalize.methods.coalition.candidates import Candidates, utility
from rationalize.methods.coalition.config import CandidateConfig
from rationalize.methods.own_attempts import CUT, TOO_SHORT, fault
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.signals.pairs import prefer

Kind = Literal["generation", "refinement"]


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
    pairs = []
    for q in questions:
        usable = _usable(candidates.written.get(q.id, ()), q, "generation", config, dropped)
        reference = candidates.reference[q.id]
        pairs.append(_pair(usable, reference, "generation", config, seed, dropped))
    return [pair for pair in pairs if pair]


def refinement_pairs(
    variant: str, candidates: Candidates, questions: Sequence[Question], config: CandidateConfig,
    seed: int, dropped: Counter[str],
) -> list[CandidatePair]:  # fmt: skip
    """{S[g,b]} of each rationale that the variant g wrote; the reference is that rationale."""
    pairs = []
    for q in questions:
        for source in candidates.written.get(q.id, ()):
            if source.writer == variant and source.id in candidates.refined:
                refined = candidates.refined[source.id]
                usable = _usable(refined, q, "refinement", config, dropped)
                pairs.append(_pair(usable, utility(source), "refinement", config, seed, dropped))
    return [pair for pair in pairs if pair]


def _usable(
    attempts: Iterable[Attempt], question: Question, kind: Kind, config: CandidateConfig,
    dropped: Counter[str],
) -> list[Attempt]:  # fmt: skip
    """The attempts without a fault; the others are counted, and are in no pair: a cut text must not
    win one, and one that loses by its length would teach length.
    """
    usable = []
    for attempt in attempts:
        why = fault(attempt, question, config.reject) if attempt.rationale else "empty"
        if why:
            dropped[f"{kind} candidate: {why}"] += 1
        else:
            usable.append(attempt)
    return usable


def _pair(
    attempts: Sequence[Attempt], reference: float, kind: Kind, config: CandidateConfig, seed: int,
    dropped: Counter[str],
) -> CandidatePair | None:  # fmt: skip
    """The best attempt against the worst, or a count of why there is no pair."""
    if len(attempts) < 2:
        dropped[f"{kind}: fewer than two candidates"] += 1
        return None
    preference = prefer(
        [utility(a) for a in attempts], reference, [a.rationale for a in attempts],
        filtered=config.filtered, margin=config.margin,
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
        cut, short = (sum(n for w, n in total.items() if why in w) for why in (CUT, TOO_SHORT))
        advice = "write more candidates (--candidates.sampling.n), give more questions, or switch "
        advice += "the filter off (--candidates.no-filtered)"
        if 2 * cut > total.total():
            advice = "let texts be longer (--candidates.sampling.max-new-tokens)"
        elif 2 * short > total.total():
            advice = "take shorter texts too (--candidates.reject.min-words)"
        raise UserError(f"no pair left to learn from ({_counts(total)}). In a new folder: {advice}")


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{n} x {why}" for why, n in dropped.most_common()) or "no candidates"


def pair_facts(pairs: Sequence[CandidatePair], variant: str) -> dict[str, Any]:
    """Of a variant's pairs: how many of each kind, how many chosen texts others wrote, and the mean
    words of chosen and of rejected texts.
    """

    def length(attempts: Iterable[Attempt]) -> float | None:
        counts = [len(a.rationale.split()) for a in attempts]
        return float(np.mean(counts)) if counts else None

    return {
        "pairs": dict(Counter(p.kind for p in pairs)),
        "chosen_from_others": sum(p.chosen.writer != variant for p in pairs),
        "chosen_words": length(p.chosen for p in pairs),
        "rejected_words": length(p.rejected for p in pairs),
    }
