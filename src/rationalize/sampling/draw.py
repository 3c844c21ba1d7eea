"""From logits to tokens: temperature, then top-k, then top-p, then an inverse-CDF draw from given uniform numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rationalize.sampling.config import SamplingConfig

_CANDIDATES = 64  # sorting the whole vocabulary costs more than a small model: look here first


def uniforms(seeds: Sequence[tuple[int, int]], length: int) -> Tensor:
    """(rows, length) uniform numbers; each row depends on its own (seed, sample) alone, whatever the batch."""
    rows = [np.random.Generator(np.random.Philox(key=[s & (2**64 - 1), j])).random(length) for s, j in seeds]
    return torch.from_numpy(np.array(rows))


def draw(logits_RV: Tensor, config: SamplingConfig, uniform_R: Tensor) -> Tensor:
    """Next token per row, (R,). The distribution is that of transformers' temperature, top-k and top-p in this order."""
    if config.greedy:
        return logits_RV.argmax(-1)
    logits = logits_RV.float() / config.temperature
    if not config.top_k and config.top_p == 1.0:
        return _inverse_cdf(torch.softmax(logits, -1), uniform_R)
    if config.top_k:
        top = logits.topk(min(config.top_k, logits.shape[-1]), dim=-1)
        return _nucleus(torch.softmax(top.values, -1), top.indices, config.top_p, uniform_R)
    top = logits.topk(min(_CANDIDATES, logits.shape[-1]), dim=-1)
    p = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
    tokens = _nucleus(p, top.indices, config.top_p, uniform_R)
    wide = p.sum(-1) < config.top_p  # the nucleus reaches beyond the candidates
    if wide.any():
        full, indices = torch.softmax(logits[wide], -1).sort(dim=-1, descending=True)
        tokens[wide] = _nucleus(full, indices, config.top_p, uniform_R[wide])
    return tokens


def _nucleus(p_RK: Tensor, ids_RK: Tensor, top_p: float, uniform_R: Tensor) -> Tensor:
    """Draw from the tokens, sorted by probability, before which less than `top_p` lies."""
    before = p_RK.cumsum(-1) - p_RK
    kept = torch.where(before < top_p, p_RK, 0.0)
    return ids_RK.gather(1, _inverse_cdf(kept, uniform_R)[:, None])[:, 0]


def _inverse_cdf(weights_RK: Tensor, uniform_R: Tensor) -> Tensor:
    cumulative = weights_RK.double().cumsum(-1)
    at = torch.searchsorted(cumulative, (uniform_R.to(cumulative) * cumulative[:, -1])[:, None], right=True)[:, 0]
    last = weights_RK.shape[-1] - 1 - (weights_RK.flip(-1) > 0).int().argmax(-1)  # never a token of weight 0
    return torch.minimum(at, last)
