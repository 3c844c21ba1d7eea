"""From logits to tokens: temperature, then top-k, then top-p, then an inverse-CDF draw from given
uniform numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rationalize.sampling.config import SamplingConfig

_CANDIDATES = (64, 1024)
"""How many of the likeliest tokens are searched for the nucleus before the whole vocabulary is
sorted, which costs more than a small model's forward pass.
"""

_BLOCK = 64
"""Neighbouring logits that are searched together for the largest; fewer where many are wanted."""

_ROWS = 8
"""Rows that are drawn together: their logits in float32 stay in a processor's cache."""


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
    uniform_R = uniform_R.to(logits_RV.device)
    rows = _ROWS if logits_RV.device.type == "cpu" else max(1, len(logits_RV))
    parts = zip(logits_RV.split(rows), uniform_R.split(rows), strict=True)
    return torch.cat([_draw(logits.float(), config, uniform) for logits, uniform in parts])


def _draw(logits: Tensor, config: SamplingConfig, uniform_R: Tensor) -> Tensor:
    """`draw` for few rows in float32."""
    vocabulary = logits.shape[-1]
    # top-k: the nucleus lies within the k likeliest, whose probabilities are renormalised
    if config.top_k:
        values, ids = likeliest(logits, min(config.top_k, vocabulary))
        p = torch.softmax(values / config.temperature, -1)
        return _from_nucleus(p, ids, config.top_p, uniform_R)
    if config.top_p == 1.0:
        return _inverse_cdf(torch.softmax(logits / config.temperature, -1), uniform_R)
    # top-p: search the nucleus among the likeliest 64 tokens, then 1024, then all
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    largest = total = None  # (R, 1) each: the first logit, and the sum over the vocabulary
    left = torch.arange(len(logits), device=logits.device)  # rows without a token so far
    for count in (*(c for c in _CANDIDATES if c < vocabulary), vocabulary):
        rows = logits if len(left) == len(logits) else logits[left]
        values, ids = likeliest(rows, count)
        if largest is None or total is None:
            largest = values[:, :1]
            scaled = logits - largest
            if config.temperature != 1.0:
                scaled.mul_(1 / config.temperature)
            total = scaled.exp_().sum(-1, keepdim=True)
        # probabilities, (rows left, count), sorted
        p = ((values - largest[left]) / config.temperature).exp() / total[left]
        complete = p.sum(-1) >= config.top_p  # else the nucleus has more than `count` tokens
        if count == vocabulary:
            complete[:] = True  # rounding may leave the sum below top_p
        tokens[left[complete]] = _from_nucleus(
            p[complete], ids[complete], config.top_p, uniform_R[left[complete]]
        )
        left = left[~complete]
        if not len(left):
            break
    return tokens


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest `count` logits of each row and their ids, (R, count), sorted.

    They lie in the `count` blocks whose maxima are the largest: one pass finds those, and only
    they are searched.
    """
    rows, vocabulary = logits.shape
    if count == vocabulary:
        return logits.sort(dim=-1, descending=True)
    size = _BLOCK
    while size > 1 and count > vocabulary // size // 4:
        size //= 2
    if size == 1:
        return logits.topk(count, dim=-1)
    blocks = vocabulary // size
    whole, rest = (
        logits[:, : blocks * size].view(rows, blocks, size),
        logits[:, blocks * size :],
    )
    best = whole.amax(-1).topk(count, dim=-1, sorted=False).indices.sort(-1).values  # (R, count)
    values = whole.gather(1, best[..., None].expand(-1, -1, size)).flatten(1)
    values, at = torch.cat([values, rest], -1).topk(count, dim=-1)
    block = best.gather(1, (at // size).clamp(max=count - 1))
    ids = block * size + at % size
    return values, torch.where(at < count * size, ids, at + (blocks - count) * size)


def _from_nucleus(p_RK: Tensor, ids_RK: Tensor, top_p: float, uniform_R: Tensor) -> Tensor:
    """Draw from the smallest set of tokens, sorted by probability, that holds `top_p`."""
    before = p_RK.cumsum(-1) - p_RK  # (R, K): mass of the likelier tokens
    kept = torch.where(before < top_p, p_RK, 0.0)
    return ids_RK.gather(1, _inverse_cdf(kept, uniform_R)[:, None])[:, 0]


def _inverse_cdf(weights_RK: Tensor, uniform_R: Tensor) -> Tensor:
    """Index drawn per row, (R,), with probability proportional to its weight."""
    rows, width = weights_RK.shape
    # in float64: float32 sums over a vocabulary would lose the tail
    uniform_R = uniform_R.to(weights_RK.device, torch.double)
    if width <= 4 * _BLOCK:
        weights = weights_RK.double()
        return _where_sum_reaches(weights, uniform_R * weights.sum(-1))[0]
    # first the block of neighbours, then the index in it
    count = -(-width // _BLOCK)
    blocks = functional.pad(weights_RK, (0, count * _BLOCK - width)).view(rows, count, _BLOCK)
    sums = blocks.sum(-1, dtype=torch.double)
    block, rest = _where_sum_reaches(sums, uniform_R * sums.sum(-1))
    inside = blocks[torch.arange(rows, device=block.device), block].double()
    return block * _BLOCK + _where_sum_reaches(inside, rest)[0]


def _where_sum_reaches(weights_RK: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose cumulative weight is above the target, and what of the target is left
    when it begins, (R,) each.
    """
    cumulative = weights_RK.cumsum(-1)
    at = torch.searchsorted(cumulative, target_R[:, None], right=True)[:, 0]
    # rounding may point beyond the last index of positive weight
    last = weights_RK.shape[-1] - 1 - (weights_RK.flip(-1) > 0).int().argmax(-1)
    at = torch.minimum(at, last)
    begin = (cumulative - weights_RK).gather(1, at[:, None])[:, 0]
    return at, target_R - begin
