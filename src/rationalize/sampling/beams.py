"""Beam search, by transformers. COALITION (arXiv 2503.02463) decodes with three beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from rationalize.models.encoding import own_generation_config
from rationalize.models.streams import Query
from rationalize.sampling.config import SamplingConfig

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


@torch.no_grad()
def beam_search(
    policy: Policy, queries: Sequence[Query], config: SamplingConfig
) -> list[list[list[int]]]:
    """Per query the `config.n` best of `config.beams` beams as token ids, best first, EOS included
    where it was written. A search ends when all its beams have ended. Nothing is drawn.
    """
    prompts = [q.prompt_ids for q in queries]
    controls = [q.control_ids for q in queries]
    generation = own_generation_config(policy)
    generation.update(
        num_beams=config.beams, num_return_sequences=config.n, early_stopping=True,
        max_new_tokens=config.max_new_tokens,
    )  # fmt: skip
    # control tokens open the decoder, or follow the prompt where there is no encoder
    inputs: dict[str, torch.Tensor] = {}
    if policy.is_encoder_decoder:
        prefixes = [(policy.start_id, *c) for c in controls]  # one length per batch
        inputs["decoder_input_ids"] = torch.tensor(prefixes, device=policy.device)
        n_prefix = len(prefixes[0])
    else:
        prompts = [(*p, *c) for p, c in zip(prompts, controls, strict=True)]
        n_prefix = max(map(len, prompts))
    width = max(map(len, prompts))
    ids = [[policy.pad_id] * (width - len(p)) + list(p) for p in prompts]  # padded on the left
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    sequences = policy.model.generate(  # (queries * n, n_prefix + new tokens)
        input_ids=torch.tensor(ids, device=policy.device),
        attention_mask=torch.tensor(mask, device=policy.device),
        generation_config=generation, **inputs,
    )  # fmt: skip
    written = [_until_end(ids[n_prefix:], policy.ends) for ids in sequences.tolist()]
    return [written[i * config.n : (i + 1) * config.n] for i in range(len(queries))]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Without the padding after an end; pad and EOS are one token in some models."""
    first = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return ids[: first + 1]
