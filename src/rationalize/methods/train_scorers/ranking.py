"""The rank of a question's attempts that correctness induces: pairs, rows of them, their order.

The reward model, V-STaR's verifier and iterative DPO learn from the same rank (stage D of
docs/methods/self-motivated.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rationalize.methods.own_attempts import RejectConfig, is_right, learned_text, rankable
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.models.reward_model import Reads, RewardModel, reply, reward_row
from rationalize.progress import progress_bar
from rationalize.questions import hold_out
from rationalize.records import Attempt, Question
from rationalize.signals.ranks import chance_weight, pairs_across, rank_levels, rates_in_order
from rationalize.training.objectives import RankTag
from rationalize.training.preference import PairTexts

if TYPE_CHECKING:
    from rationalize.methods.train_scorers.reward_model import RewardModelConfig


class Ranked(NamedTuple):
    """A question's attempts on more than one level."""

    question: Question
    attempts: list[Attempt]
    pairs: list[tuple[int, int]]
    """`(better, worse)`, places among the attempts."""
    weight: float


def rank_attempts(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], select: RejectConfig,
    config: RewardModelConfig, seed: int, *, best_only: bool = False,
) -> list[Ranked]:  # fmt: skip
    """Per question its attempts and pairs; questions whose attempts are on one level are left out.

    With `best_only`, right attempts alone are better than others (iterative DPO). Attempts with a
    hint or a fault are never ranked, and equal ones once (stage B).
    """
    groups: dict[str, list[Attempt]] = {}
    in_order = sorted(attempts, key=lambda a: a.id)  # whatever the order they come in
    for attempt in rankable(in_order, questions, select):
        groups.setdefault(attempt.question_id, []).append(attempt)
    right: dict[str, list[bool]] = {}  # of all attempts, equal ones too
    for attempt in attempts if config.chance_correction else ():
        if not attempt.hinted:
            of = right.setdefault(attempt.question_id, [])
            of.append(is_right(attempt, questions[attempt.question_id]))
    ranked = []
    for number, (id, group) in enumerate(sorted(groups.items())):
        question = questions[id]
        correct = [is_right(a, question) for a in group]
        levels = rank_levels(correct, [a.parsed for a in group], config.levels)
        if best_only:
            ranks = zip(levels, correct, strict=True)
            levels = [None if level is None else int(ok) for level, ok in ranks]
        pairs = pairs_across(levels, config.pairs, [seed, number])
        if not pairs:
            continue
        weight = 1.0
        if config.chance_correction:
            choices = len(question.choices) if question.choices else None
            weight = chance_weight(float(np.mean(right[id])), choices)
        if weight > 0:
            ranked.append(Ranked(question, group, pairs, weight))
    return ranked


def split_questions(
    ranked: Sequence[Ranked], share: float, seed: int
) -> tuple[list[Ranked], list[Ranked]]:
    """Questions to learn from and held out: whole questions, never single pairs."""
    parts = hold_out([one.question for one in ranked], share, f"{seed}/reward-model", least=1)
    learned, held_out = ([ranked[i] for i in part] for part in parts)
    return learned, held_out


def ranked_rows(policy: Policy, one: Ranked, reads: Reads) -> list[Row]:
    """A row per attempt that is in a pair, tagged with the attempts it is better than."""
    used = sorted({i for pair in one.pairs for i in pair})
    place = {i: k for k, i in enumerate(used)}
    rows = []
    for i in used:
        attempt = one.attempts[i]
        worse = tuple(place[j] for better, j in one.pairs if better == i)
        tag = RankTag(0, place[i], worse, is_right(attempt, one.question), one.weight)
        text = reply(one.question, attempt.rationale, attempt.prediction, reads)
        rows.append(reward_row(policy, one.question, text, tag))
    return rows


def raw_scores(
    model: RewardModel, attempts: Sequence[Attempt], questions: Mapping[str, Question], reads: Reads
) -> list[float]:
    """What the model says of each attempt, before scaling."""
    asked = [questions[a.question_id] for a in attempts]
    texts = [
        reply(q, a.rationale, a.prediction, reads) for q, a in zip(asked, attempts, strict=True)
    ]
    with progress_bar("reward model scores", "replies") as progress:
        return model.raw(asked, texts, progress)


def pair_accuracy(model: RewardModel, ranked: Sequence[Ranked], reads: Reads) -> float:
    """Share of pairs whose better one scores higher, averaged over questions."""
    rates = pair_rates(model, ranked, reads)
    return float(np.mean(rates)) if rates else 0.5


def pair_rates(model: RewardModel, ranked: Sequence[Ranked], reads: Reads) -> list[float]:
    """Per question the share of pairs whose better one scores higher; a tie counts half.

    Without the answer sentence, pairs of equal rationales are left out.
    """
    flat = [a for one in ranked for a in one.attempts]
    by_id = {one.question.id: one.question for one in ranked}
    scores = iter(raw_scores(model, flat, by_id, reads))
    gaps: list[float] = []
    of: list[str] = []
    for one in ranked:
        scores_N = [next(scores) for _ in one.attempts]
        for i, j in one.pairs:
            if reads == "reply" or one.attempts[i].rationale != one.attempts[j].rationale:
                gaps.append(scores_N[i] - scores_N[j])
                of.append(one.question.id)
    return rates_in_order(of, gaps)


def pair_texts(one: Ranked) -> list[PairTexts]:
    """A question's pairs as texts, both in the same words around the answer."""
    texts = []
    for better, worse in one.pairs:
        chosen, rejected = one.attempts[better], one.attempts[worse]
        prompt, text = learned_text(chosen, one.question)
        if rejected.parsed:
            texts.append(PairTexts(prompt, text, learned_text(rejected, one.question)[1]))
        else:
            ends = rejected.finish == "stop"
            texts.append(PairTexts(prompt, text, rejected.completion, rejected_ends=ends))
    return texts
