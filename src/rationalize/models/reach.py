"""Which share of a model LoRA reaches: peft's "all-linear" misses what is no linear layer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from rationalize.models.forward import plain_model
from rationalize.text import listed

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


def lora_reach(policy: Policy) -> str:
    """What learns under LoRA, in words: how many weights, and which matrices it does not reach.

    Embeddings and the output layer do not count as matrices: LoRA leaves them out on purpose.
    """
    model = plain_model(policy)
    learning = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    own = {n: p for n, p in model.named_parameters() if "lora_" not in n}
    ends = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    left_out = {id(p) for end in (*ends, model.get_output_embeddings()) for p in end.parameters()}
    sizes = {n: p.numel() for n, p in own.items() if p.dim() > 1 and id(p) not in left_out}
    missed = {name: size for name, size in sizes.items() if ".base_layer." not in name}
    total = sum(p.numel() for p in own.values())
    text = f"LoRA: {learning:,} weights learn, {learning / total:.1%} of the model's {total:,}"
    if not missed:
        return f"{text}, in all of its matrices"
    share = min(0.999, 1 - sum(missed.values()) / sum(sizes.values()))
    kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in missed)
    return (
        f"{text}, in layers that hold {share:.1%} of its matrices; not reached: {listed(kinds)} "
        "(tuning=full teaches all)"
    )
