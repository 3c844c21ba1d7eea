"""Models that are only read: half the memory, and one copy of what several of them hold alike.

The folds of cross-fitted scorers learn their upper layers alone: embeddings and lower layers are
those of the base model in all of them, and are in memory once.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.nn import Parameter

from rationalize.memory import give_back_freed_memory
from rationalize.models.forward import plain_model
from rationalize.models.policy import Policy
from rationalize.models.precision import has_fast_bfloat16

_known: dict[tuple[Any, ...], list[weakref.ref[Parameter]]] = {}
"""The parameters of models that are only read, by name, shape, type and device."""
_FIRST = 64  # numbers that most often tell two parameters apart


def read_only(policy: Policy) -> Policy:
    """Freeze a policy that never learns, in place: its linear layers in bfloat16, if the device
    computes fast in it, and in the place of parameters that another such policy holds in the same
    bits that policy's.

    Embeddings, norms and lm-head keep their precision. The numbers are those of autocast, without
    the copies that it makes in every pass.
    """
    policy.model.requires_grad_(False)
    if policy.quantised:
        return policy
    model = plain_model(policy)
    if has_fast_bfloat16(policy.device):
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
                module.to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        _share(name, parameter)
    if policy.device.type == "cpu":
        give_back_freed_memory()
    return policy


def under_adapters(policy: Policy) -> Policy:
    """A frozen base of adapters: `read_only`, but as it is where it shall compute in float32."""
    return policy if policy.precision == "float32" else read_only(policy)


def leave_file(model: torch.nn.Module) -> None:
    """Hold parameters in memory of their own: those just loaded are parts of a mapped file, which
    stays in memory whole as long as one of them is in use.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _share(name: str, parameter: Parameter) -> None:
    """Let a parameter be its twin in another model, or hold memory of its own."""
    key = (name, parameter.shape, parameter.dtype, parameter.device)
    alive = [p for ref in _known.get(key, ()) if (p := ref()) is not None and p is not parameter]
    twin = next((p for p in alive if _equal(p, parameter)), None)
    parameter.data = parameter.data.clone() if twin is None else twin.data
    _known[key] = [weakref.ref(p) for p in (*alive, parameter)]


def _equal(one: Parameter, other: Parameter) -> bool:
    first = [p.detach().flatten()[:_FIRST] for p in (one, other)]
    return torch.equal(*first) and torch.equal(one, other)
