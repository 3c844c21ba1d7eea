"""Losses over rows: the forward passes that each needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear

from rationalize.models.forward import (
    Row,
    collate,
    head,
    hidden_at_response,
    micro_batches,
    token_logprobs,
)
from rationalize.models.heads import head_values, reply_scores
from rationalize.training.loop import FitConfig, Loss, LossOutput, precision
from rationalize.training.losses import (
    KLDirection,
    bradley_terry,
    dpo_loss,
    listwise,
    pointwise,
    ppo_policy_loss,
    ppo_value_loss,
    quark_loss,
    token_nll,
)

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


def nll(policy: Policy, rows: Sequence[Row]) -> LossOutput:
    """Negative log-likelihood of the responses."""
    batch = collate(rows, policy)
    logits = head(policy, hidden_at_response(policy, batch))
    nll_N = token_nll(logits, batch.targets)
    return LossOutput(nll_N.sum(), len(nll_N), {})


def quark(
    reference: Callable[[], AbstractContextManager[Policy]] | None,
    *,
    beta: float,
    alpha: float,
    direction: KLDirection,
) -> Loss:
    """Quark's loss; `reference()` yields the reference policy, which never sees control tokens.

    It may be None where `beta` is 0.
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        batch = collate(rows, policy)
        reference_logits = None
        if beta and reference:
            with torch.no_grad(), reference() as frozen:
                reference_logits = head(
                    frozen, hidden_at_response(frozen, batch, with_controls=False)
                )
        logits = head(policy, hidden_at_response(policy, batch))
        total, nll_N, kl_N, entropy_N = quark_loss(
            logits, reference_logits, batch.targets, beta=beta, alpha=alpha, direction=direction
        )
        metrics = {"nll": nll_N.sum().item()}
        if beta:
            metrics["kl"] = kl_N.sum().item()
        if alpha:
            metrics["entropy"] = entropy_N.sum().item()
        return LossOutput(total, len(nll_N), metrics)

    return loss


class PairTag(NamedTuple):
    """Which half of which pair a row is."""

    pair: int
    chosen: bool
    reference: float
    """Log-probability of the response under the reference, summed over its tokens."""
    kind: str = "pair"
    """Metrics are logged for each kind."""


def dpo(*, beta: float, nll_weight: float = 0.0) -> Loss:
    """DPO over rows tagged with `PairTag`, both rows of a pair in one pass (`group_of` its pair).

    `nll_weight` adds that times the NLL per token of the chosen response, which keeps its
    probability from falling (iterative reasoning preference optimisation, arXiv 2404.19733).
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        batch = collate(rows, policy)
        nll_N = token_nll(head(policy, hidden_at_response(policy, batch)), batch.targets)
        logprob_R = -torch.zeros(len(rows), device=nll_N.device).index_add(0, batch.row_of, nll_N)
        pairs = sorted({row.tag.pair for row in rows})
        place = {(row.tag.pair, row.tag.chosen): i for i, row in enumerate(rows)}
        if len(place) != 2 * len(pairs) or len(rows) != len(place):
            raise ValueError("every pair needs one chosen and one rejected row in the same pass")
        chosen = [place[p, True] for p in pairs]
        rejected = [place[p, False] for p in pairs]
        reference_R = torch.tensor([row.tag.reference for row in rows], device=nll_N.device)
        loss_P, margin_P = dpo_loss(
            logprob_R[chosen], logprob_R[rejected], reference_R[chosen], reference_R[rejected], beta
        )
        total = loss_P.sum()
        if nll_weight:
            lengths = torch.tensor([len(rows[i].response_ids) for i in chosen], device=nll_N.device)
            total = total - nll_weight * (logprob_R[chosen] / lengths).sum()
        metrics = {
            "dpo": loss_P.sum().item(),
            "margin": margin_P.sum().item(),
            "logp_chosen": logprob_R[chosen].sum().item(),
            "logp_rejected": logprob_R[rejected].sum().item(),
        }
        for i, margin in zip(chosen, margin_P.tolist(), strict=True):
            kind = rows[i].tag.kind
            metrics[f"pairs/{kind}"] = metrics.get(f"pairs/{kind}", 0.0) + 1.0
            metrics[f"right/{kind}"] = metrics.get(f"right/{kind}", 0.0) + float(margin > 0)
        return LossOutput(total, len(pairs), metrics)

    return loss


RankLoss = Literal["pairwise", "listwise", "pointwise"]


class RankTag(NamedTuple):
    """An attempt's place among the attempts at its question."""

    question: int
    place: int
    """Among the question's rows, from 0."""
    worse: tuple[int, ...]
    """Places of the attempts that it is paired with as the better one."""
    correct: bool
    weight: float = 1.0
    """Of the question, the same in all its rows."""


def rank(scalar_head: Linear, *, kind: RankLoss = "pairwise", centre: float = 0.0) -> Loss:
    """A reward model's loss over rows tagged with `RankTag`, averaged per question; a question's
    rows are in one pass, each encoded once, whatever the number of its pairs.
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        scores_N = reply_scores(policy, scalar_head, rows)
        members: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            members.setdefault(row.tag.question, []).append(i)
        losses, right, margin = [], 0.0, 0.0
        for own in members.values():
            own = sorted(own, key=lambda i: rows[i].tag.place)
            tags, own_N = [rows[i].tag for i in own], scores_N[own]
            pairs = [(tag.place, worse) for tag in tags for worse in tag.worse]
            if kind == "pairwise":
                one = bradley_terry(own_N, pairs, centre=centre)
            elif kind == "listwise":
                one = listwise(own_N, pairs)
            else:
                one = pointwise(own_N, [tag.correct for tag in tags])
            losses.append(tags[0].weight * one)
            gaps = [(own_N[i] - own_N[j]).item() for i, j in pairs]
            right += sum(gap > 0 for gap in gaps) / len(gaps)
            margin += sum(gaps) / len(gaps)
        metrics = {"pair_accuracy": right, "margin": margin}
        return LossOutput(torch.stack(losses).sum(), len(losses), metrics)

    return loss


class RolloutTag(NamedTuple):
    """What PPO knows of each token of a rollout, all of shape (T,)."""

    old_logprob: Tensor
    old_value: Tensor
    advantage: Tensor
    returns: Tensor


def ppo(
    value_head: Linear, *, clip: float, value_clip: float, value_weight: float, detach_value: bool
) -> Loss:
    """PPO's loss over rows tagged with `RolloutTag`, averaged over tokens.

    `detach_value` keeps the value's gradient out of the policy's weights.
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        batch = collate(rows, policy)
        hidden_Nd = hidden_at_response(policy, batch)
        log_p_NV = torch.log_softmax(head(policy, hidden_Nd).float(), -1)
        logprob_N = log_p_NV.gather(1, batch.targets[:, None])[:, 0]
        values_N = head_values(value_head, hidden_Nd.detach() if detach_value else hidden_Nd)
        old_N, old_value_N, advantage_N, return_N = (
            torch.cat(column).to(policy.device)
            for column in zip(*(row.tag for row in rows), strict=True)
        )
        policy_N, ratio_N = ppo_policy_loss(logprob_N, old_N, advantage_N, clip)
        value_N = ppo_value_loss(values_N, old_value_N, return_N, value_clip)
        total = policy_N.sum() + value_weight * value_N.sum()
        with torch.no_grad():
            entropy_N = -(log_p_NV.exp() * log_p_NV).sum(-1)
            gap_N = logprob_N - old_N
            metrics = {
                "policy_loss": policy_N.sum().item(),
                "value_loss": value_N.sum().item(),
                "approx_kl": (ratio_N - 1 - gap_N).sum().item(),
                "clipfrac": ((ratio_N - 1).abs() > clip).sum().item(),
                "entropy": entropy_N.sum().item(),
                "ratio": ratio_N.sum().item(),
            }
        return LossOutput(total, len(logprob_N), metrics)

    return loss


@torch.no_grad()
def response_logprobs(policy: Policy, rows: Sequence[Row], config: FitConfig) -> list[float]:
    """Log-probability of every row's response, summed over its tokens, in the rows' order.

    Computed as `fit` does with the same `config`, so that a policy's own log-probabilities are its
    reference's at step 0, up to the rounding that other neighbours in a pass bring.
    """
    found: dict[int, float] = {}
    numbered = [replace(row, tag=i) for i, row in enumerate(rows)]
    for passed in micro_batches(numbered, config.micro_tokens):
        with precision(config, policy.device):
            logprobs = token_logprobs(policy, passed)
        found |= {row.tag: own.sum().item() for row, own in zip(passed, logprobs, strict=True)}
    return [found[i] for i in range(len(rows))]
