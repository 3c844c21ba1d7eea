"""Negative log-likelihood of tokens, with one (N, V) of memory.

Axes: `N` tokens, `V` words of the vocabulary, `C` tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 8  # positions at a time on a CPU: an (8, V) block stays in its cache
_ACCELERATOR_CHUNK = 256  # on an accelerator: fewer, larger kernels


def token_nll(
    logits_NV: Tensor, targets_N: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """`-log p(target)` per token, and with `entropy` the entropy of p (without gradient; else 0),
    both (N,), in float32.

    The gradient of logits that a model computed is written into their own memory: nothing else of
    the size (N, V) is made, and a second backward pass through them is an error.
    """
    return _TokenNll.apply(logits_NV, targets_N, entropy)


class _TokenNll(torch.autograd.Function):
    """NLL in chunks of rows; its gradient, `p - onehot(target)`, replaces the logits."""

    @staticmethod
    def forward(ctx, logits_NV, targets_N, entropy):
        n = logits_NV.shape[0]
        log_total_N, target_N, entropy_N = (
            torch.zeros(n, device=logits_NV.device) for _ in range(3)
        )
        for at in row_chunks(logits_NV):
            z = logits_NV[at].float()  # (C, V)
            log_total_N[at] = torch.logsumexp(z, dim=-1)
            target_N[at] = z.gather(1, targets_N[at, None])[:, 0]
            if entropy:  # H = log sum e^z - sum p z
                p = (z - log_total_N[at, None]).exp_()
                entropy_N[at] = log_total_N[at] - p.mul_(z).sum(-1)
        ctx.save_for_backward(logits_NV, targets_N, log_total_N)
        # a view belongs to another tensor, a leaf to the caller
        ctx.in_place = logits_NV._base is None and logits_NV.grad_fn is not None
        ctx.mark_non_differentiable(entropy_N)
        return log_total_N - target_N, entropy_N

    @staticmethod
    def backward(ctx, grad_N, _):
        logits_NV, targets_N, log_total_N = ctx.saved_tensors
        gradient_NV = logits_NV if ctx.in_place else torch.empty_like(logits_NV)
        for at in row_chunks(logits_NV):
            gradient = (logits_NV[at].float() - log_total_N[at, None]).exp_()  # p, (C, V)
            target = targets_N[at, None]
            gradient.scatter_add_(1, target, -torch.ones_like(target, dtype=gradient.dtype))
            gradient_NV[at] = gradient.mul_(grad_N[at, None])
        return gradient_NV, None, None


def row_chunks(logits_NV: Tensor) -> Iterator[slice]:
    """Rows a few at a time, over which passes over the vocabulary are made."""
    size = _CHUNK if logits_NV.device.type == "cpu" else _ACCELERATOR_CHUNK
    for start in range(0, len(logits_NV), size):
        yield slice(start, start + size)
