"""From logits to tokens: temperature, then top-k, then top-p, then an inverse-CDF draw from given
uniform numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rationalize.sampling.config import SamplingConfig

_CANDIDATES = (64, 1024)
"""How many of the likeliest tokens are searched for the nucleus before the whole vocabulary is
sorted, which costs more than a small model's forward pass.
"""


def uniforms(seeds: Sequence[tuple[int, int]], length: int) -> Tensor:
    """Uniform numbers (R, length). Row r depends on `seeds[r]`, a (seed, sample) pair, alone,
    whatever the batch.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[s & (2**64 - 1), j])).random(length)
        for s, j in seeds
    ]
    return torch.from_numpy(np.array(rows))


def draw(logits_RV: Tensor, config: SamplingConfig, uniform_R: Tensor) -> Tensor:
    """Next token per row, (R,). The distribution is that of transformers' temperature, top-k and
    top-p, in this order.
    """
    if config.greedy:
        return logits_RV.argmax(-1)
    logits = logits_RV.float() / config.temperature
    vocabulary = logits.shape[-1]
    # top-k: the nucleus lies within the k likeliest, whose probabilities are renormalised
    if config.top_k:
        top = logits.topk(min(config.top_k, vocabulary), dim=-1)
        return _from_nucleus(torch.softmax(top.values, -1), top.indices, config.top_p, uniform_R)
    if config.top_p == 1.0:
        return _inverse_cdf(torch.softmax(logits, -1), uniform_R)
    # top-p: search the nucleus among the likeliest 64 tokens, then 1024, then all
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    total = logits.logsumexp(-1, keepdim=True)  # (R, 1): probabilities without a full softmax
    left = torch.arange(len(logits), device=logits.device)  # rows without a token so far
    for count in (*(c for c in _CANDIDATES if c < vocabulary), vocabulary):
        if count < vocabulary:
            values, ids = logits[left].topk(count, dim=-1)
        else:
            values, ids = logits[left].sort(dim=-1, descending=True)
        p = (values - total[left]).exp()  # (rows left, count), sorted
        complete = p.sum(-1) >= config.top_p  # else the nucleus has more than `count` tokens
        if count == vocabulary:
            complete[:] = True  # rounding may leave the sum below top_p
        rows = left[complete]
        tokens[rows] = _from_nucleus(
            p[complete], ids[complete], config.top_p, uniform_R.to(logits.device)[rows]
        )
        left = left[~complete]
        if not len(left):
            break
    return tokens


def _from_nucleus(p_RK: Tensor, ids_RK: Tensor, top_p: float, uniform_R: Tensor) -> Tensor:
    """Draw from the smallest set of tokens, sorted by probability, that holds `top_p`."""
    before = p_RK.cumsum(-1) - p_RK  # (R, K): mass of the likelier tokens
    kept = torch.where(before < top_p, p_RK, 0.0)
    return ids_RK.gather(1, _inverse_cdf(kept, uniform_R)[:, None])[:, 0]


def _inverse_cdf(weights_RK: Tensor, uniform_R: Tensor) -> Tensor:
    """Index drawn per row, (R,), with probability proportional to its weight."""
    # in float64: float32 sums over a vocabulary would lose the tail
    cumulative = weights_RK.double().cumsum(-1)
    at = torch.searchsorted(
        cumulative, uniform_R.to(cumulative)[:, None] * cumulative[:, -1:], right=True
    )[:, 0]
    # rounding may point beyond the last token of positive weight
    last = weights_RK.shape[-1] - 1 - (weights_RK.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(at, last)
