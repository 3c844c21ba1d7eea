"""The adapter of LoRA: on every linear layer that a model of text uses as a layer."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rationalize.models.forward import plain_model, text_decoder
from rationalize.models.precision import cast_parameters
from rationalize.models.quantised import has_learned
from rationalize.processes import by_first

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


def with_adapter(policy: Policy) -> Any:
    """The policy's model in a peft wrapper with a zero-initialised adapter of `lora_rank`.

    Of its two factors one is zero and the other drawn by `adapter_seed`: the same each time. Of the
    embeddings only control rows are trained.
    """
    from peft import LoraConfig, get_peft_model

    rows = {"trainable_token_indices": policy.controls.ids()} if policy.controls else {}
    config = LoraConfig(
        r=policy.lora_rank,
        lora_alpha=2 * policy.lora_rank,
        target_modules=adapted_layers(policy),
        **rows,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(policy.adapter_seed)
        return get_peft_model(policy.model, config).eval()


def without_adapter(policy: Policy) -> Any:
    """The policy's model with its adapter, where it has one, merged into the weights."""
    if policy.tuning != "lora":
        return policy.model
    if policy.quantised:
        if has_learned(policy.model):
            # one folder for all processes: transformers writes in the first of them alone
            folder = Path(by_first(tempfile.mkdtemp))
            policy.save(folder)
            by_first(partial(shutil.rmtree, folder, ignore_errors=True))
        return policy.model.unload()
    # bfloat16 weights would round small adapter updates away: merge in float32
    dtype = policy.dtype
    cast_parameters(policy.model, torch.float32)
    merged = policy.model.merge_and_unload()
    cast_parameters(merged, dtype)
    return merged


def adapted_layers(policy: Policy) -> str | list[str]:
    """The linear layers that an adapter can teach: `all-linear`, or names where that is too many.

    Left out are layers of a vision model beside the text model, a Mamba block's output projection,
    whose weights its kernels read directly, and routers that return more than a product.
    """
    model = plain_model(policy)
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    parts = [model] if policy.is_encoder_decoder else [text_decoder(policy)]
    inside = {id(module) for part in parts for module in part.modules()}
    mixers = [m for m in model.modules() if hasattr(m, "conv1d") and hasattr(m, "out_proj")]
    direct = {id(mixer.out_proj) for mixer in mixers}
    taught = [
        name
        for name, layer in linear.items()
        if id(layer) in inside and id(layer) not in direct and _returns_a_product(layer)
    ]
    return "all-linear" if len(taught) == len(linear) else taught


@torch.no_grad()
def _returns_a_product(layer: torch.nn.Linear) -> bool:
    """Whether a linear layer gives one tensor; those of a router may give weights and choices."""
    if "router" not in type(layer).__name__.lower():
        return True
    return isinstance(layer(layer.weight.new_zeros(1, layer.in_features)), torch.Tensor)
