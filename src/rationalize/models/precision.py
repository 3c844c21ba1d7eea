"""Numbers and precision: devices that compute bfloat16 in hardware, autocast, frozen copies."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Numbers:
    """How weights are kept, and passes over them computed."""

    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """What passes compute in; auto: bfloat16 where the hardware does."""
    dtype: torch.dtype = torch.float32
    """What the weights are kept in."""
    quantise: bool = False
    """Keep them in 4 bits, on an accelerator, for adapters to learn on."""
    gradient_checkpointing: bool = False
    """Compute a layer's activations again when its gradient is due, and keep none."""


AS_IT_IS = Numbers()
"""float32 weights, and bfloat16 passes where the hardware has them."""


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware, without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast if the device computes fast in it, else no autocast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))


def cast_parameters(model: Any, dtype: torch.dtype) -> None:
    """Cast parameters in place but no buffers: rotary frequencies are too imprecise in bfloat16."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def frozen_copy(model: Any, dtype: torch.dtype, *, linear_only: bool = False) -> Any:
    """A frozen copy with its parameters, or its linear layers only, in another precision.

    Buffers keep theirs: rotary frequencies are too imprecise in bfloat16.
    """
    if not all(p.is_floating_point() for p in model.parameters()):  # in 4 bits: as it is
        return copy.deepcopy(model).requires_grad_(False).eval()
    others = [m for m in model.modules() if not isinstance(m, torch.nn.Linear)]
    kept = {id(p) for m in others for p in m.parameters(recurse=False)} if linear_only else set()
    copies = {}
    for parameter in model.parameters():
        copy_dtype = parameter.dtype if id(parameter) in kept else dtype
        values = parameter.detach().to(copy_dtype, copy=True)
        copies[id(parameter)] = torch.nn.Parameter(values, requires_grad=False)
    return copy.deepcopy(model, copies).eval()
