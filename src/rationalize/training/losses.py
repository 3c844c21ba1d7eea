"""Losses as pure functions of tensors.

`V` is the vocabulary without control tokens, `N` the response tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

KLDirection = Literal["reverse", "forward"]

_CHUNK = 8  # positions at a time on a processor: an (8, V) block stays in its cache
_ACCELERATOR_CHUNK = 256  # fewer, larger kernels


def token_nll(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """`-log p(target)` per token, shape (N,), in float32."""
    return torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")


class _QuarkTokens(torch.autograd.Function):
    """Per-token NLL, KL, entropy and the gradient of their weighted sum, in one pass.

    With `p` the policy, `q` the reference and `z` the policy's logits, the gradients by `z` are
    `p - onehot` (NLL), `p (log p - log q - KL)` (KL(p||q)), `p - q` (KL(q||p)) and `-p (log p + H)`
    (entropy H).
    """

    @staticmethod
    def forward(ctx, logits, reference, targets, beta, alpha, direction):
        n = logits.shape[0]
        nll, kl, entropy = (torch.zeros(n, device=logits.device) for _ in range(3))
        gradient = torch.empty_like(logits)
        chunk = _CHUNK if logits.device.type == "cpu" else _ACCELERATOR_CHUNK
        for start in range(0, n, chunk):
            at = slice(start, min(start + chunk, n))
            log_p = torch.log_softmax(logits[at].float(), dim=-1)  # (C, V)
            p = log_p.exp()
            own = targets[at, None]
            nll[at] = -log_p.gather(1, own)[:, 0]
            weight = torch.ones_like(p) if (alpha or (beta and direction == "reverse")) else None
            step = p
            if beta:
                log_q = torch.log_softmax(reference[at].float(), dim=-1)
                if direction == "reverse":
                    gap = log_p - log_q
                    kl[at] = (p * gap).sum(-1)
                    weight += beta * (gap - kl[at, None])
                else:
                    q = log_q.exp()
                    kl[at] = (q * (log_q - log_p)).sum(-1)
            if alpha:
                entropy[at] = -(p * log_p).sum(-1)
                weight += alpha * (log_p + entropy[at, None])
            if weight is not None:
                step = p * weight
            if beta and direction == "forward":
                step = step + beta * (p - q)
            step = step.scatter_add(1, own, -torch.ones_like(own, dtype=step.dtype))
            gradient[at] = step.to(gradient.dtype)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nll, kl, entropy)
        total = nll.sum() + beta * kl.sum() - alpha * entropy.sum()
        return total, nll, kl, entropy

    @staticmethod
    def backward(ctx, grad_total, *_):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total, None, None, None, None, None


def quark_loss(
    logits_NV: Tensor,
    reference_NV: Tensor | None,
    targets_N: Tensor,
    *,
    beta: float,
    alpha: float = 0.0,
    direction: KLDirection = "reverse",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`sum_t NLL_t + beta KL_t - alpha H_t` over response tokens: Quark's loss (mario.md 2.3).

    `reverse` is KL(policy || reference), as the released code computes it; `forward` is
    KL(reference || policy), as the Quark paper writes it. Returns `(total, nll_N, kl_N,
    entropy_N)`; only `total` carries a gradient, and a term whose coefficient is 0 is not computed
    and reads 0. Raises ValueError when `beta` needs a reference and none is given.
    """
    if beta and reference_NV is None:
        raise ValueError("beta > 0 needs the reference's logits")
    if reference_NV is not None and reference_NV.shape != logits_NV.shape:
        raise ValueError(
            f"policy logits {tuple(logits_NV.shape)} and reference logits "
            f"{tuple(reference_NV.shape)} differ in shape"
        )
    return _QuarkTokens.apply(logits_NV, reference_NV, targets_N, beta, alpha, direction)


def dpo_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """`-log sigmoid(margin)` per pair and the margin, `beta ((log pi - log pi_ref)(chosen) -
    (log pi - log pi_ref)(rejected))`; both of shape (P,) (arXiv 2305.18290; coalition.md 4.2).

    Inputs are log-probabilities of whole responses, summed over their tokens.
    """
    margin_P = beta * ((chosen_P - reference_chosen_P) - (rejected_P - reference_rejected_P))
    return -torch.nn.functional.logsigmoid(margin_P), margin_P


def bradley_terry(
    scores_N: Tensor, pairs: Sequence[tuple[int, int]], *, centre: float = 0.0
) -> Tensor:
    """One question's `mean over pairs of -log sigmoid(R_i - R_j)`, `i` the better of each pair
    (self_motivated.md 2.D); `centre` adds that times the mean of `(R_i + R_j)^2`.
    """
    better, worse = _sides(pairs, scores_N)
    loss_P = -torch.nn.functional.logsigmoid(scores_N[better] - scores_N[worse])
    if centre:
        loss_P = loss_P + centre * (scores_N[better] + scores_N[worse]) ** 2
    return loss_P.mean()


def listwise(scores_N: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """One question's `mean over the better ones of -log(e^R_i / (e^R_i + sum_j e^R_j))`, `j` the
    worse ones that `i` is paired with (self_motivated.md 2.D).
    """
    losses = []
    for i in sorted({i for i, _ in pairs}):
        rivals = [j for better, j in pairs if better == i]
        losses.append(torch.logsumexp(scores_N[[i, *rivals]], 0) - scores_N[i])
    return torch.stack(losses).mean()


def pointwise(scores_N: Tensor, correct_N: Sequence[bool]) -> Tensor:
    """One question's mean binary cross-entropy of `sigmoid(R)` on correctness: an outcome verifier
    (self_motivated.md 2.D).
    """
    gold = torch.tensor(correct_N, dtype=scores_N.dtype, device=scores_N.device)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores_N, gold)


def ppo_policy_loss(
    logprob_N: Tensor, old_N: Tensor, advantage_N: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """`max(-q A, -clip(q, 1 - eps, 1 + eps) A)` per token with `q = pi / pi_old`, and `q`; both of
    shape (N,) (arXiv 1707.06347, equation 7).
    """
    ratio_N = (logprob_N - old_N).exp()
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip)
    return torch.maximum(-ratio_N * advantage_N, -clipped_N * advantage_N), ratio_N


def ppo_value_loss(value_N: Tensor, old_N: Tensor, return_N: Tensor, clip: float) -> Tensor:
    """`0.5 max((V - G)^2, (V_clip - G)^2)` per token, `V_clip` within `clip` of the old value."""
    clipped_N = old_N + (value_N - old_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_N - return_N) ** 2, (clipped_N - return_N) ** 2)


def _sides(pairs: Sequence[tuple[int, int]], scores_N: Tensor) -> tuple[Tensor, Tensor]:
    if not pairs:
        raise ValueError("a question without pairs has no loss; leave it out")
    both = torch.tensor(list(pairs), device=scores_N.device)
    return both[:, 0], both[:, 1]
