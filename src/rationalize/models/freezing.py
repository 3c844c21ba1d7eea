"""Train the upper layers only: cheaper by the share of the backward pass that falls away."""

from __future__ import annotations

import torch

from rationalize.models.forward import plain_model
from rationalize.models.policy import Policy
from rationalize.models.precision import has_fast_bfloat16


def freeze_lower(policy: Policy, share: float, *, halve: bool = True) -> None:
    """Freeze the embeddings, the lm-head and the lowest `share` of the layers; 0 freezes nothing.

    Of an encoder-decoder only the encoder's layers count. `halve` keeps what is frozen in bfloat16
    where that is fast, since autocast would otherwise copy it at every pass.
    """
    if not share:
        return
    model = plain_model(policy)
    model.get_input_embeddings().requires_grad_(False)
    model.get_output_embeddings().requires_grad_(False)
    stack = model.get_encoder() if policy.is_encoder_decoder else model.get_decoder()
    layers = next(m for m in stack.modules() if isinstance(m, torch.nn.ModuleList))
    for layer in layers[: round(share * len(layers))]:
        layer.requires_grad_(False)
        if halve and has_fast_bfloat16(policy.device):
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
