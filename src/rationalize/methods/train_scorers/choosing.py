"""Which score of M_sft's orders right before wrong at questions that nothing was fitted to.

A head has to find the difference between right and wrong in the state that it reads. Linear heads
on frozen states, cross-fitted over questions, say for little which state holds one; M_sft's mean
log-likelihood of a reply needs no head at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from rationalize.methods.pair_accuracy import with_interval
from rationalize.methods.train_scorers.ranking import Ranked, ranked_rows
from rationalize.models.forward import Row, micro_batches
from rationalize.models.heads import Pooling, reply_states
from rationalize.models.logits import token_logprobs
from rationalize.models.policy import Policy
from rationalize.models.reward_model import Reads, Score
from rationalize.questions import group_duplicates
from rationalize.signals.probes import cross_fitted_margins
from rationalize.signals.ranks import rates_in_order
from rationalize.training.selection import best_of

MOST_QUESTIONS = 150
"""So many questions are enough to tell scores apart by .05, at the price of one pass each."""
PASS_TOKENS = 1024
"""Of a pass: a large vocabulary's logits take 0.6 MB a token, three times over."""

Tried = Mapping[str, Mapping[str, float]]
"""Score -> `pair_accuracy` with its interval (`_low`, `_high`)."""


def try_scores(
    policy: Policy, learned: Sequence[Ranked], reads: Reads, seed: int = 0
) -> dict[str, Any]:
    """What each score orders, as a mean over questions; the policy stays as it is.

    Nothing, where fewer than two questions have pairs.
    """
    learned = learned[:MOST_QUESTIONS]
    alike = group_duplicates([one.question for one in learned])
    if len(alike) < 2:
        return {}
    rows_Q = [ranked_rows(policy, one, reads) for one in learned]
    states, likelihood_N = _read(policy, [row for rows in rows_Q for row in rows])
    of = [q for q, rows in enumerate(rows_Q) for row in rows for _ in row.tag.worse]

    def figures(margins_Q: Sequence[np.ndarray]) -> dict[str, float]:
        return with_interval(
            "pair_accuracy", rates_in_order(of, np.concatenate(margins_Q).tolist())
        )

    tried: dict[str, Any] = {}
    for pooling, x_Nd in states.items():
        # one scale for all features, so that the ridge means the same everywhere
        x_Nd = x_Nd / (x_Nd.std(0) + 1e-6) / np.sqrt(x_Nd.shape[1])
        margins_Q = cross_fitted_margins(_differences(rows_Q, x_Nd), alike, seed=seed)
        tried[pooling] = figures(margins_Q)
    tried["likelihood"] = figures([d[:, 0] for d in _differences(rows_Q, likelihood_N[:, None])])
    return tried


def chosen_score(tried: Tried) -> Score:
    """The state whose head orders most pairs; without any figures the mean of all states.

    The likelihood is shown beside them and never chosen: M_sft has imitated right attempts at these
    very questions, so that here it says nothing of others, and a policy that is paid for its own
    likelihood only grows surer of what it does.
    """
    heads = {s: tried[s]["pair_accuracy"] for s in get_args(Pooling) if s in tried}
    score: Any = best_of(heads or {"mean": 0.0})
    return score


def describe_tried(tried: Tried) -> str:
    """`mean .712 [.650, .771], likelihood ..`, best first."""
    by_accuracy = sorted(tried.items(), key=lambda item: -item[1]["pair_accuracy"])
    return ", ".join(
        f"{score} {facts['pair_accuracy']:.3f} [{facts['pair_accuracy_low']:.3f}, "
        f"{facts['pair_accuracy_high']:.3f}]"
        for score, facts in by_accuracy
    )


@torch.no_grad()
def _read(policy: Policy, rows: Sequence[Row]) -> tuple[dict[Pooling, np.ndarray], np.ndarray]:
    """Of each row the states (N, d) by pooling, and the mean log-probability of a token (N,)."""
    poolings: tuple[Pooling, ...] = get_args(Pooling)
    states: dict[Pooling, list[Any]] = {pooling: [None] * len(rows) for pooling in poolings}
    likelihood_N = np.zeros(len(rows))
    numbered = [replace(row, tag=i) for i, row in enumerate(rows)]
    for passed in micro_batches(numbered, PASS_TOKENS):
        with policy.autocast():
            pooled = reply_states(policy, passed, poolings)
            logprobs = token_logprobs(policy, passed)
        for k, row in enumerate(passed):
            likelihood_N[row.tag] = logprobs[k].mean().item()
            for pooling, states_Bd in zip(poolings, pooled, strict=True):
                states[pooling][row.tag] = states_Bd[k].cpu().numpy()
    return {pooling: np.array(of_rows) for pooling, of_rows in states.items()}, likelihood_N


def _differences(groups: Sequence[Sequence[Row]], x_Nd: np.ndarray) -> list[np.ndarray]:
    """Per question the features of the better attempt less those of the worse one, (P, d)."""
    differences, first = [], 0
    for rows in groups:
        pairs = [(row.tag.place, worse) for row in rows for worse in row.tag.worse]
        better, worse = (np.array(side) + first for side in zip(*pairs, strict=True))
        differences.append(x_Nd[better] - x_Nd[worse])
        first += len(rows)
    return differences
