"""Train the upper layers only, which saves the backward pass through the lower ones."""

from __future__ import annotations

import torch

from rationalize.models.forward import plain_model, text_decoder
from rationalize.models.policy import Policy
from rationalize.models.precision import has_fast_bfloat16


def freeze_lower(policy: Policy, share: float, *, halve: bool = True) -> None:
    """Freeze the embeddings, the lm-head and the lowest `share` of the layers; 0 freezes nothing.

    In an encoder-decoder, only encoder layers count. `halve` casts frozen linear layers to bfloat16
    if the device computes fast in it; else autocast copies them in every pass.
    """
    if not share:
        return
    model = plain_model(policy)
    model.get_input_embeddings().requires_grad_(False)
    model.get_output_embeddings().requires_grad_(False)
    stack = model.get_encoder() if policy.is_encoder_decoder else text_decoder(policy)
    layers = next(m for m in stack.modules() if isinstance(m, torch.nn.ModuleList))
    for layer in layers[: round(share * len(layers))]:
        layer.requires_grad_(False)
        if halve and has_fast_bfloat16(policy.device):
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
