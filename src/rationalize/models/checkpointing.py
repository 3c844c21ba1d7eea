"""Gradient checkpointing: a layer keeps its input alone, and its pass is repeated for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from rationalize.errors import UserError


def check_checkpointing(model: Any, name: str) -> None:
    """Switch it on in a model's layers. Raises `UserError` where the model has none that can."""
    if not model.supports_gradient_checkpointing or not checkpointed_layers(model):
        raise UserError(
            f"{name}: {model.config.model_type!r} has no layers with gradient checkpointing; "
            "leave it out and lower micro_tokens, which bounds what is kept too"
        )
    model.activation_checkpointing_enable(
        {"use_reentrant": False, "context_fn": _SameAttention(model.config)}
    )


@dataclass
class _SameAttention:
    """Contexts of a layer's first pass and of its repetition: `forward.py` chooses the attention by
    length, and a repetition must take what the first pass took.
    """

    config: Any

    def __call__(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), self._as_now(self.config._attn_implementation)

    @contextmanager
    def _as_now(self, chosen: str) -> Iterator[None]:
        before = self.config._attn_implementation
        self.config._attn_implementation = chosen
        try:
            yield
        finally:
            self.config._attn_implementation = before


def checkpointed_layers(model: Any) -> list[Any]:
    """The layers whose activations need not be kept. They repeat their pass in training mode."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
