"""Losses over rows: the forward passes that each needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from rationalize.models.forward import Row, collate, head, hidden_at_response
from rationalize.training.loop import Loss, LossOutput
from rationalize.training.losses import KLDirection, quark_loss, token_nll

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
