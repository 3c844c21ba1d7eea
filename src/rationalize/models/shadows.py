"""Copies of weights for writing alone, shared by all who write with the same weights.

A copy serves as long as the weights are what they were when it was made. The last one of each kind
is kept, and learning drops them all (`forget_shadows`): they are stale, and memory is short then.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from rationalize.models.decode_weights import DecodeWeights, Kept, read_weights
from rationalize.models.precision import frozen_copy, has_fast_bfloat16

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

T = TypeVar("T")

_shadows: dict[str, tuple[weakref.ref[Any], object, Any]] = {}
"""By kind: the model, the state of its weights, the copy."""


def decode_weights(policy: Policy, kept: Kept) -> DecodeWeights:
    """The policy's weights for `decode.py`; `as_is` copies adapted layers alone."""
    return _shared(policy, kept, lambda: read_weights(policy, kept))


def half_copy(policy: Policy) -> Any:
    """A frozen copy of the policy's model in bfloat16; the model itself where that is not fast, or
    its precision already.
    """
    if not has_fast_bfloat16(policy.device) or policy.dtype == torch.bfloat16:
        return policy.model
    return _shared(policy, "model", lambda: frozen_copy(policy.model, torch.bfloat16))


def forget_shadows() -> None:
    """Drop all copies."""
    _shadows.clear()


def _shared(policy: Policy, kind: str, make: Callable[[], T]) -> T:
    state = _state(policy)
    if kind in _shadows:
        model, known, copy = _shadows[kind]
        if model() is policy.model and known == state:
            return copy
        del model, copy, _shadows[kind]  # before the next one is made
    copy = make()
    gone = weakref.ref(policy.model, lambda _: _shadows.pop(kind, None))
    _shadows[kind] = gone, state, copy
    return copy


def _state(policy: Policy) -> object:
    """Changes with every write into the weights (but through `.data`), and with the adapter."""
    weights = tuple((p.data_ptr(), p._version, p.dtype) for p in policy.model.parameters())
    off = any(getattr(m, "disable_adapters", None) is True for m in policy.model.modules())
    adapter = None if off else getattr(policy.model, "active_adapter", None)
    return weights, off, adapter, policy.n_vocab
