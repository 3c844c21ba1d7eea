"""Training objectives: each takes rows, runs the forward passes it needs, and calls its loss.

Axes: `N` response tokens of a pass, `R` rows, `P` preference pairs, `V` words of the vocabulary,
`G` attempts at one question, `d` the hidden size. Totals and metrics are sums, so that the passes
of a batch add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear

from rationalize.models.forward import Row, collate, hidden_at_response
from rationalize.models.heads import Pooling, head_values, reply_scores
from rationalize.models.likelihood import token_nll
from rationalize.models.logits import head, token_logprobs
from rationalize.processes import gather, world
from rationalize.training.loop import FitConfig, Grouped, Loss, LossOutput
from rationalize.training.losses import (
    KLDirection,
    bradley_terry,
    contrast_loss,
    dpo_loss,
    k3_kl,
    listwise,
    pointwise,
    ppo_policy_loss,
    ppo_value_loss,
    quark_loss,
)

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


def nll(policy: Policy, rows: Sequence[Row]) -> LossOutput:
    """Negative log-likelihood of the responses, summed over their tokens."""
    batch = collate(rows, policy)
    logits_NV = head(policy, hidden_at_response(policy, batch))
    nll_N, _ = token_nll(logits_NV, batch.targets)
    return LossOutput(nll_N.sum(), len(nll_N), {})


def quark(
    reference: Callable[[], AbstractContextManager[Policy]] | None, *, beta: float, alpha: float,
    direction: KLDirection, contrast: float = 0.0,
) -> Loss:  # fmt: skip
    """Quark's loss (`quark_loss`), summed over response tokens.

    `reference()` yields the reference policy; None is allowed if `beta` is 0. `contrast` adds that
    times GeDi's discriminative loss (`contrast_loss`) of every row that is tagged with `OtherTag`.
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        batch = collate(rows, policy)
        # the reference never sees control tokens: its states are gathered at its own positions
        reference_NV = None
        if beta and reference:
            with torch.no_grad(), reference() as frozen:
                reference_NV = head(frozen, hidden_at_response(frozen, batch, with_controls=False))
        # the same responses behind other tokens share their prompts' pass
        others = [replace(r, control_ids=r.tag.control_ids) for r in rows if r.tag and contrast]
        both = collate([*rows, *others], policy)
        logits_MV = head(policy, hidden_at_response(policy, both))
        n = len(batch.targets)
        logits_NV = logits_MV[:n] if others else logits_MV  # a slice copies in the backward pass
        total, nll_N, kl_N, entropy_N = quark_loss(
            logits_NV, reference_NV, batch.targets, beta=beta, alpha=alpha, direction=direction,
            overwrite=True,
        )  # fmt: skip
        metrics = {"nll": nll_N.sum().item()}
        if beta:
            metrics["kl"] = kl_N.sum().item()
        if alpha:
            metrics["entropy"] = entropy_N.sum().item()
        if others:
            nll_M, _ = token_nll(logits_MV, both.targets)
            logprob = -nll_M.new_zeros(len(both.rows)).index_add(0, both.row_of, nll_M)
            tagged = [i for i, row in enumerate(rows) if row.tag]
            contrast_R, margin_R = contrast_loss(logprob[tagged], logprob[len(rows) :])
            total = total + contrast * contrast_R.sum()
            # a row counts by its tokens, since sums are reported per token
            lengths_R = torch.tensor([len(rows[i].response_ids) for i in tagged])
            metrics["contrast"] = contrast_R.sum().item()
            metrics["told"] = lengths_R[(margin_R > 0).cpu()].sum().item()
        return LossOutput(total, n, metrics)

    return loss


class PairTag(NamedTuple):
    """A row as one half of a preference pair."""

    pair: int
    """Index of the pair in its batch."""
    chosen: bool
    reference: float
    """Log-probability of the response under the reference, summed over its tokens."""
    kind: str = "pair"
    """Some metrics are logged per kind."""


def dpo(*, beta: float, nll_weight: float = 0.0, length_normalized: bool = False) -> Loss:
    """DPO (`dpo_loss`) over rows tagged with `PairTag`, summed over pairs.

    `length_normalized` divides each response's log-ratio by its tokens before the margin (Tulu 3,
    arXiv 2411.15124; TRL's `sigmoid_norm`), so that no pair is won by length.

    Both rows of a pair must be in one pass; else ValueError. `nll_weight`
    adds that times the NLL per token of the chosen response, which keeps its probability from
    falling (iterative reasoning preference optimisation, arXiv 2404.19733).
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        # log-probability of each row's whole response: its tokens' sum
        batch = collate(rows, policy)
        nll_N, _ = token_nll(head(policy, hidden_at_response(policy, batch)), batch.targets)
        logprob_R = -torch.zeros(len(rows), device=nll_N.device).index_add(0, batch.row_of, nll_N)
        # match chosen with rejected: row indices, one each per pair
        pairs = sorted({row.tag.pair for row in rows})
        row_at = {(row.tag.pair, row.tag.chosen): i for i, row in enumerate(rows)}
        if len(row_at) != 2 * len(pairs) or len(rows) != len(row_at):
            raise ValueError("every pair needs one chosen and one rejected row in the same pass")
        chosen = [row_at[p, True] for p in pairs]
        rejected = [row_at[p, False] for p in pairs]
        # DPO, then the NLL term on chosen responses
        lengths_R = torch.tensor([len(row.response_ids) for row in rows], device=nll_N.device)
        reference_R = torch.tensor([row.tag.reference for row in rows], device=nll_N.device)
        ratio_R = logprob_R - reference_R
        if length_normalized:
            ratio_R = ratio_R / lengths_R
        loss_P, margin_P = dpo_loss(ratio_R[chosen], ratio_R[rejected], beta)
        total = loss_P.sum()
        if nll_weight:
            total = total - nll_weight * (logprob_R / lengths_R)[chosen].sum()
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

    return Grouped(loss, lambda row: row.tag.pair)


RankLoss = Literal["pairwise", "listwise", "pointwise"]


class RankTag(NamedTuple):
    """An attempt among the attempts at its question."""

    question: int
    """Index of the question in its batch."""
    place: int
    """Index among the question's rows, from 0."""
    worse: tuple[int, ...]
    """Places of the attempts that it is better than, one per pair."""
    correct: bool
    weight: float = 1.0
    """Weight of the question, the same in all its rows."""


def rank(
    scalar_head: Linear, *, kind: RankLoss = "pairwise", centre: float = 0.0,
    pooling: Pooling = "end",
) -> Loss:  # fmt: skip
    """A reward model's rank loss over rows tagged with `RankTag`, summed over questions.

    All rows of a question must be in one pass. Each is encoded once, however many pairs it is in.
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        scores_R = reply_scores(policy, scalar_head, rows, pooling)
        members: dict[int, list[int]] = {}  # row indices per question
        for i, row in enumerate(rows):
            members.setdefault(row.tag.question, []).append(i)
        losses, accuracy, margin = [], 0.0, 0.0
        for attempts in members.values():
            # pairs name attempts by their place: put the question's scores in that order
            attempts = sorted(attempts, key=lambda i: rows[i].tag.place)
            tags, scores_G = [rows[i].tag for i in attempts], scores_R[attempts]
            pairs = [(tag.place, worse) for tag in tags for worse in tag.worse]
            if kind == "pairwise":
                question_loss = bradley_terry(scores_G, pairs, centre=centre)
            elif kind == "listwise":
                question_loss = listwise(scores_G, pairs)
            else:
                question_loss = pointwise(scores_G, [tag.correct for tag in tags])
            losses.append(tags[0].weight * question_loss)
            gaps = [(scores_G[i] - scores_G[j]).item() for i, j in pairs]
            accuracy += sum(gap > 0 for gap in gaps) / len(gaps)
            margin += sum(gaps) / len(gaps)
        metrics = {"pair_accuracy": accuracy, "margin": margin}
        return LossOutput(torch.stack(losses).sum(), len(losses), metrics)

    return Grouped(loss, lambda row: row.tag.question)


class RolloutTag(NamedTuple):
    """What PPO's loss needs per token of a rollout; all of shape (T,)."""

    old_logprob: Tensor
    old_value: Tensor
    advantage: Tensor
    returns: Tensor


def ppo(
    value_head: Linear, *, clip: float, value_clip: float, value_weight: float, detach_value: bool
) -> Loss:
    """PPO's clipped policy and value losses over rows tagged with `RolloutTag`, summed over tokens
    (arXiv 1707.06347, equation 9, without its entropy bonus).

    `detach_value` keeps the value loss's gradient out of the policy's weights.
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        # new log-probabilities and values, from one forward pass
        batch = collate(rows, policy)
        hidden_Nd = hidden_at_response(policy, batch)
        nll_N, entropy_N = token_nll(head(policy, hidden_Nd), batch.targets, entropy=True)
        logprob_N = -nll_N
        values_N = head_values(value_head, hidden_Nd.detach() if detach_value else hidden_Nd)
        # the rollouts' stored columns, each (N,)
        old_N, old_value_N, advantage_N, return_N = (
            torch.cat(column).to(policy.device)
            for column in zip(*(row.tag for row in rows), strict=True)
        )
        # losses
        policy_N, ratio_N = ppo_policy_loss(logprob_N, old_N, advantage_N, clip)
        value_N = ppo_value_loss(values_N, old_value_N, return_N, value_clip)
        total = policy_N.sum() + value_weight * value_N.sum()
        # diagnostics (docs/metrics.md); approx_kl is the estimator (q - 1) - log q
        with torch.no_grad():
            log_ratio_N = logprob_N - old_N
            sums = {
                "policy_loss": policy_N, "value_loss": value_N,
                "approx_kl": ratio_N - 1 - log_ratio_N, "clipfrac": (ratio_N - 1).abs() > clip,
                "entropy": entropy_N, "ratio": ratio_N,
            }  # fmt: skip
            metrics = {name: column_N.sum().item() for name, column_N in sums.items()}
        return LossOutput(total, len(logprob_N), metrics)

    return loss


class GroupTag(NamedTuple):
    """What GRPO's loss needs of an attempt."""

    old_logprob: Tensor
    """(T,) when it was written."""
    reference: Tensor
    """(T,) log-probabilities under the reference; empty where no KL is asked for."""
    advantage: float


Average = Literal["attempts", "tokens"]


def grpo(*, clip: float, beta: float, average: Average = "attempts") -> Loss:
    """GRPO's clipped loss plus beta times the KL to the reference (k3), over rows tagged with
    `GroupTag` (arXiv 2402.03300, equation 3).

    `attempts` sums over attempts the mean over their tokens; `tokens` sums over tokens, so that a
    long attempt counts for more (DAPO, arXiv 2503.14476, equation 8).
    """

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        batch = collate(rows, policy)
        hidden_Nd = hidden_at_response(policy, batch)
        nll_N, entropy_N = token_nll(head(policy, hidden_Nd), batch.targets, entropy=True)
        logprob_N = -nll_N
        # the attempts' stored columns, each (N,)
        old_N, reference_N = (
            torch.cat([row.tag[i] for row in rows]).to(policy.device) for i in range(2)
        )
        advantage_R = torch.tensor([row.tag.advantage for row in rows], device=policy.device)
        token_N, ratio_N = ppo_policy_loss(logprob_N, old_N, advantage_R[batch.row_of], clip)
        # what a token weighs: an attempt's together 1, or each 1
        lengths_R = torch.tensor([len(row.response_ids) for row in rows], device=policy.device)
        by_attempt = average == "attempts"
        weight_N = 1 / lengths_R[batch.row_of] if by_attempt else torch.ones_like(logprob_N)
        sums = {"policy_loss": token_N}
        if beta:
            sums["kl"] = k3_kl(logprob_N, reference_N)
            token_N = token_N + beta * sums["kl"]
        total = (weight_N * token_N).sum()
        with torch.no_grad():
            sums |= {
                "clipfrac": (ratio_N - 1).abs() > clip, "ratio": ratio_N,
                "entropy": entropy_N,
            }  # fmt: skip
            metrics = {name: (weight_N * column_N).sum().item() for name, column_N in sums.items()}
        return LossOutput(total, len(rows) if by_attempt else len(logprob_N), metrics)

    return loss


@torch.no_grad()
def response_logprobs(policy: Policy, rows: Sequence[Row], config: FitConfig) -> list[float]:
    """Log-probability of each row's response, summed over its tokens, in the order of `rows`; equal
    rows are read once.

    Computed as in `fit` with the same `config`: at step 0 a policy's log-probabilities equal its
    reference's, up to the rounding that a different padding brings.
    """
    logprob_of: dict[Row, float] = {}
    asked, place = [replace(row, tag=None) for row in rows], world()
    passes = config.passes(list(dict.fromkeys(asked)), policy.device)
    for passed in passes[place.rank :: place.size]:
        with policy.autocast():
            logprobs = token_logprobs(policy, passed)
        logprob_of |= {
            row: logprob_T.sum().item() for row, logprob_T in zip(passed, logprobs, strict=True)
        }
    logprob_of = {row: p for of_process in gather(logprob_of) for row, p in of_process.items()}
    return [logprob_of[row] for row in asked]
