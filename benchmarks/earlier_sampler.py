"""The sampler before the steps of `models/decode.py`, kept for `benchmarks/sampler.py`.

transformers' forward pass with its growing cache, a separate pass over the vocabulary for each of
temperature, normalisation and the search for the nucleus. Top-p alone; no control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rationalize.models.forward import head
from rationalize.models.policy import Policy
from rationalize.models.streams import Query, open_stream
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.draw import uniforms


@torch.inference_mode()
def earlier_replies(
    policy: Policy, prompts: Sequence[str], config: SamplingConfig, batch: int = 8
) -> list[list[int]]:
    """Token ids, `config.n` replies per prompt, in the policy's own precision."""
    replies: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        uniform_RT = uniforms(
            [(start + i, j) for i in range(len(some)) for j in range(config.n)],
            config.max_new_tokens,
        )
        queries = [Query(tuple(policy.encode_prompt(p)), ()) for p in some]
        replies += _write(policy, queries, config, uniform_RT)
    return replies


def _write(
    policy: Policy, queries: Sequence[Query], config: SamplingConfig, uniform_RT: Tensor
) -> list[list[int]]:
    stream = open_stream(policy, queries, config.max_new_tokens)
    stream.repeat(config.n)
    written: list[list[int]] = [[] for _ in range(len(queries) * config.n)]
    sample_R = torch.arange(len(written))
    active_R = torch.ones(len(written), dtype=torch.bool)
    for step in range(config.max_new_tokens):
        tokens_R = _draw(head(policy, stream.hidden), config, uniform_RT[sample_R, step])
        for sample, token, active in zip(
            sample_R.tolist(), tokens_R.tolist(), active_R.tolist(), strict=True
        ):
            if active:
                written[sample].append(token)
        active_R &= ~torch.isin(tokens_R, torch.tensor(policy.ends))
        if not active_R.any() or step + 1 == config.max_new_tokens:
            break
        if int(active_R.sum()) < 0.9 * len(active_R):
            kept = active_R.nonzero()[:, 0]
            stream.select(kept)
            sample_R, tokens_R, active_R = sample_R[kept], tokens_R[kept], active_R[kept]
        stream.step(tokens_R)
    return written


def _draw(logits_RV: Tensor, config: SamplingConfig, uniform_R: Tensor) -> Tensor:
    logits = logits_RV.float() / config.temperature
    total = logits.logsumexp(-1, keepdim=True)
    tokens = torch.empty(len(logits), dtype=torch.long)
    left = torch.arange(len(logits))
    for count in (64, 1024, logits.shape[-1]):
        values, ids = logits[left].topk(count, dim=-1)
        p = (values - total[left]).exp()
        complete = (p.sum(-1) >= config.top_p) | (count == logits.shape[-1])
        rows = left[complete]
        p, ids = p[complete], ids[complete]
        kept = torch.where(p.cumsum(-1) - p < config.top_p, p, 0.0).double().cumsum(-1)
        at = torch.searchsorted(kept, uniform_R[rows][:, None] * kept[:, -1:], right=True)
        tokens[rows] = ids.gather(1, at.clamp(max=count - 1))[:, 0]
        left = left[~complete]
        if not len(left):
            break
    return tokens
