"""Whether a server has the weights that it was given: its log-probabilities of fixed prompts beside
those of our own forward pass.

A server computes in a precision of its own, so that equal weights give log-probabilities that are
close, not equal. Weights that learn move by less than that in a step. What tells fresh weights from
stale ones is the movement: our log-probabilities m = after - before, and the server's m'. Of a
server that has taken over the new weights m' . m / m . m is near 1; of one that has kept the old
ones it is near 0, and of one that has loaded a part of them it is between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 0.1
"""Nats per token that a server's log-probabilities may differ from ours, in the mean of absolute
differences. bfloat16 beside float32 is below .05.
"""
FOLLOWED = 0.5
"""Share of our movement that a server's must have."""
STILL = 0.005
"""Nats per token by which a server's answers to the same prompts may differ, in the mean."""
_DOUBT = 0.12
"""Standard error of the share, above which it says nothing yet."""

PROBES = (
    "A stone and a leaf fall from the same tower. Which of them reaches the ground first, and why?",
    "Tom has four apples. He eats one and gives two to his sister. How many apples are left?",
    "Ice is smoother than grass. Where does a sled slide farther: on the pond, or on the meadow?",
)
"""Prompts that servers are checked by."""
PROBE_TOKENS = 256
"""Most tokens of each."""


@dataclass(frozen=True)
class Reading:
    """Log-probabilities (N,) of the fixed prompts' tokens under the same weights."""

    ours: Tensor
    theirs: Tensor

    @property
    def gap(self) -> float:
        """Mean absolute difference, in nats per token."""
        return float((self.theirs - self.ours).abs().mean())


def fault(now: Reading, before: Reading | None) -> str:
    """What is wrong with a server's weights, in words; empty where nothing is.

    `before` was read with earlier weights of the same model, and was in order.
    """
    if not bool(now.theirs.isfinite().all()):
        return "its log-probabilities are not finite"
    if now.gap > TOLERANCE:
        return (
            f"its log-probabilities of {len(now.ours)} tokens differ from ours by {now.gap:.3f} "
            f"nats a token in the mean, more than {TOLERANCE}: it has other weights, a part of "
            "them, or another tokenizer"
        )
    if before is None or not says_something(now, before):
        return ""
    moved = now.ours - before.ours
    share = float((now.theirs - before.theirs) @ moved / (moved @ moved))
    if share < FOLLOWED:
        return (
            f"its log-probabilities have moved by {share:.0%} of what ours have since the weights "
            "before these: it still has the old ones, or has loaded a part of the new ones"
        )
    return ""


def says_something(now: Reading, before: Reading) -> bool:
    """Whether the weights have moved far enough to be told from rounding."""
    moved = float((now.ours - before.ours).norm())
    noise = float((before.theirs - before.ours).square().mean().sqrt())
    return moved > 0 and 2**0.5 * noise / moved < _DOUBT


def is_still(before: Tensor, now: Tensor) -> bool:
    """Whether a server's log-probabilities are what they were, up to its own rounding."""
    return bool(torch.isfinite(now).all()) and float((now - before).abs().mean()) <= STILL
