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
"""Sorting a whole vocabulary costs more than a small model: a nucleus is looked for among so many
first.
"""


def uniforms(seeds: Sequence[tuple[int, int]], length: int) -> Tensor:
    """(rows, length) uniform numbers; each row depends on its own (seed, sample) alone, whatever
    the batch.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[s & (2**64 - 1), j])).random(length)
        for s, j in seeds
    ]
    return torch.from_numpy(np.array(rows))


def draw(logits_RV: Tensor, config: SamplingConfig, uniform_R: Tensor) -> Tensor:
    """Next token per row, (R,). The distribution is that of transformers' temperature, top-k and
    top-p in this order.
    """
    if config.greedy:
        return logits_RV.argmax(-1)
    logits = logits_RV.float() / config.temperature
    vocabulary = logits.shape[-1]
    if config.top_k:
        top = logits.topk(min(config.top_k, vocabulary), dim=-1)
        return _from_nucleus(torch.softmax(top.values, -1), top.indices, config.top_p, uniform_R)
    if config.top_p == 1.0:
        return _inverse_cdf(torch.softmax(logits, -1), uniform_R)
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    total = logits.logsumexp(-1, keepdim=True)
    left = torch.arange(len(logits), device=logits.device)
    for count in (*(c for c in _CANDIDATES if c < vocabulary), vocabulary):
        if count < vocabulary:
            values, ids = logits[left].topk(count, dim=-1)
        else:
            values, ids = logits[left].sort(dim=-1, descending=True)
        p = (values - total[left]).exp()
        found = p.sum(-1) >= config.top_p  # else the nucleus reaches beyond the candidates
        if count == vocabulary:
            found[:] = True
        tokens[left[found]] = _from_nucleus(
            p[found], ids[found], config.top_p, uniform_R.to(logits.device)[left[found]]
        )
        left = left[~found]
        if not len(left):
            break
    return tokens


def _from_nucleus(p_RK: Tensor, ids_RK: Tensor, top_p: float, uniform_R: Tensor) -> Tensor:
    """Draw from the tokens, sorted by probability, before which less than `top_p` lies."""
    before = p_RK.cumsum(-1) - p_RK
    kept = torch.where(before < top_p, p_RK, 0.0)
    return ids_RK.gather(1, _inverse_cdf(kept, uniform_R)[:, None])[:, 0]


def _inverse_cdf(weights_RK: Tensor, uniform_R: Tensor) -> Tensor:
    cumulative = weights_RK.double().cumsum(-1)
    at = torch.searchsorted(
        cumulative, uniform_R.to(cumulative)[:, None] * cumulative[:, -1:], right=True
    )[:, 0]
    last = (
        weights_RK.shape[-1] - 1 - (weights_RK.flip(-1) > 0).int().argmax(-1)
    )  # never a token of weight 0
    return torch.minimum(at, last)
