"""Losses as pure functions of tensors.

Axes: `N` response tokens of a batch, `V` words of the vocabulary (control tokens left out), `P`
preference pairs, `C` positions of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rationalize.models.likelihood import row_chunks

KLDirection = Literal["reverse", "forward"]


class _QuarkTokens(torch.autograd.Function):
    """Per-token NLL, KL, entropy, and the gradient of their weighted sum, in one pass.

    `p` is the policy, `q` the reference, `z` the policy's logits, `H` the entropy of p. Then

        d NLL      / dz = p - onehot(target)
        d KL(p||q) / dz = p (log p - log q - KL)     reverse
        d KL(q||p) / dz = p - q                      forward
        d H        / dz = -p (log p + H)
    """

    @staticmethod
    def forward(ctx, logits_NV, reference_NV, targets_N, beta, alpha, direction, overwrite):
        n = logits_NV.shape[0]
        nll_N, kl_N, entropy_N = (torch.zeros(n, device=logits_NV.device) for _ in range(3))
        fits = overwrite and reference_NV is not None and reference_NV.dtype == logits_NV.dtype
        gradient_NV = reference_NV if fits else torch.empty_like(logits_NV)
        for at in row_chunks(logits_NV):
            log_p = torch.log_softmax(logits_NV[at].float(), dim=-1)  # (C, V)
            p = log_p.exp()
            target = targets_N[at, None]  # (C, 1)
            # NLL: its gradient is `p - onehot`; the one-hot is subtracted at the end
            nll_N[at] = -log_p.gather(1, target)[:, 0]
            # terms whose gradient is a multiple of p: sum the factors, and multiply by p once
            factor = torch.ones_like(p) if (alpha or (beta and direction == "reverse")) else None
            gradient = p
            # KL to the reference
            if beta:
                log_q = torch.log_softmax(reference_NV[at].float(), dim=-1)  # (C, V)
                if direction == "reverse":
                    log_ratio = log_p - log_q
                    kl_N[at] = (p * log_ratio).sum(-1)
                    factor += beta * (log_ratio - kl_N[at, None])
                else:
                    q = log_q.exp()
                    kl_N[at] = (q * (log_q - log_p)).sum(-1)
            # entropy bonus
            if alpha:
                entropy_N[at] = -(p * log_p).sum(-1)
                factor += alpha * (log_p + entropy_N[at, None])
            # gradient of `NLL + beta KL - alpha H`
            if factor is not None:
                gradient = p * factor
            if beta and direction == "forward":
                gradient = gradient + beta * (p - q)
            gradient = gradient.scatter_add(
                1, target, -torch.ones_like(target, dtype=gradient.dtype)
            )
            gradient_NV[at] = gradient.to(gradient_NV.dtype)
        ctx.save_for_backward(gradient_NV)
        ctx.mark_non_differentiable(nll_N, kl_N, entropy_N)
        total = nll_N.sum() + beta * kl_N.sum() - alpha * entropy_N.sum()
        return total, nll_N, kl_N, entropy_N

    @staticmethod
    def backward(ctx, grad_total, *_):
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * grad_total, None, None, None, None, None, None


def quark_loss(
    logits_NV: Tensor, reference_NV: Tensor | None, targets_N: Tensor, *, beta: float,
    alpha: float = 0.0, direction: KLDirection = "reverse", overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Quark's loss, `sum_t NLL_t + beta KL_t - alpha H_t` over response tokens (arXiv 2205.13636,
    section 2; docs/methods/mario.md).

    `reverse` is KL(policy || reference), as the released code computes it; `forward` is
    KL(reference || policy), the paper's. Returns `(total, nll_N, kl_N, entropy_N)`.
    Only `total` has a gradient; with `overwrite` it takes the memory of the reference's logits,
    which are lost. A term whose coefficient is 0 is not computed and reads 0. Raises ValueError if
    `beta` is set without a reference, or if the shapes differ.
    """
    if beta and reference_NV is None:
        raise ValueError("beta > 0 needs the reference's logits")
    if reference_NV is not None and reference_NV.shape != logits_NV.shape:
        raise ValueError(
            f"policy logits {tuple(logits_NV.shape)} and reference logits "
            f"{tuple(reference_NV.shape)} differ in shape"
        )
    return _QuarkTokens.apply(logits_NV, reference_NV, targets_N, beta, alpha, direction, overwrite)


def contrast_loss(true_R: Tensor, other_R: Tensor) -> tuple[Tensor, Tensor]:
    """How badly a response tells its own control tokens from others, `-log sigmoid(margin)`, and
    the margin, both (R,).

        margin = log p(y | x, its own tokens) - log p(y | x, the others)

    By Bayes' rule the sigmoid is the probability that y was written under its own tokens, of two
    that are as likely beforehand: the discriminative loss of GeDi (Krause et al. 2020, arXiv
    2009.06367) for two controls, not divided by the length. Inputs are log-probabilities of whole
    responses.

    >>> loss, _ = contrast_loss(torch.tensor([-2.0]), torch.tensor([-2.0]))
    >>> round(loss.item(), 3)
    0.693
    """
    margin_R = true_R - other_R
    return -torch.nn.functional.logsigmoid(margin_R), margin_R


def dpo_loss(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """DPO's loss per pair, `-log sigmoid(margin)`, and the margin, both (P,) (arXiv 2305.18290,
    equation 7).

        margin = beta (chosen - rejected)

    Inputs are log-ratios `log pi - log pi_ref` of whole responses, summed over their tokens.
    """
    margin_P = beta * (chosen_P - rejected_P)
    return -torch.nn.functional.logsigmoid(margin_P), margin_P


def bradley_terry(
    scores_N: Tensor, pairs: Sequence[tuple[int, int]], *, centre: float = 0.0
) -> Tensor:
    """Pairwise rank loss of one question: mean over its pairs (i better than j) of
    `-log sigmoid(R_i - R_j)` (docs/methods/self-motivated.md, stage D).

    `centre` adds that times the mean of `(R_i + R_j)^2`. Scalar; here N counts the attempts.
    """
    if not pairs:
        raise ValueError("a question without pairs has no loss; leave it out")
    better, worse = torch.tensor(list(pairs), device=scores_N.device).unbind(1)  # (P,) each
    loss_P = -torch.nn.functional.logsigmoid(scores_N[better] - scores_N[worse])
    if centre:  # a pair fixes score differences only; this keeps their mean near 0
        loss_P = loss_P + centre * (scores_N[better] + scores_N[worse]) ** 2
    return loss_P.mean()


def listwise(scores_N: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Listwise rank loss of one question: mean over its better attempts i of
    `-log(e^R_i / (e^R_i + sum_j e^R_j))`, with j the worse attempts that i is paired with
    (docs/methods/self-motivated.md, stage D). Scalar.
    """
    losses = []
    for i in sorted({i for i, _ in pairs}):
        rivals = [worse for better, worse in pairs if better == i]
        losses.append(torch.logsumexp(scores_N[[i, *rivals]], 0) - scores_N[i])
    return torch.stack(losses).mean()


def pointwise(scores_N: Tensor, correct_N: Sequence[bool]) -> Tensor:
    """Pointwise loss of one question: mean binary cross-entropy of `sigmoid(R)` on correctness, as
    for an outcome verifier (docs/methods/self-motivated.md, stage D). Scalar.
    """
    labels_N = torch.tensor(correct_N, dtype=scores_N.dtype, device=scores_N.device)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores_N, labels_N)


def ppo_policy_loss(
    logprob_N: Tensor, old_N: Tensor, advantage_N: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss per token, `max(-q A, -clip(q, 1 - eps, 1 + eps) A)`, and the ratio
    `q = pi / pi_old`, both (N,) (arXiv 1707.06347, equation 7).
    """
    ratio_N = (logprob_N - old_N).exp()
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip)
    return torch.maximum(-ratio_N * advantage_N, -clipped_N * advantage_N), ratio_N


def ppo_value_loss(value_N: Tensor, old_N: Tensor, return_N: Tensor, clip: float) -> Tensor:
    """PPO's clipped value loss per token, `0.5 max((V - G)^2, (V_clip - G)^2)`, shape (N,).

    `V_clip` is V kept within `clip` of the old value (as in OpenAI's baselines; the paper has no
    such clipping).
    """
    clipped_N = old_N + (value_N - old_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_N - return_N) ** 2, (clipped_N - return_N) ** 2)


def k3_kl(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """KL(policy || reference) per token by Schulman's k3, `e^d - d - 1` with
    `d = log pi_ref - log pi`, shape (N,): unbiased for tokens that the policy drew, never negative
    (arXiv 2402.03300, equation 4).
    """
    difference_N = reference_N - logprob_N
    return difference_N.exp() - difference_N - 1
