"""Bytes that a run holds at its peak, and that it leaves on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rationalize.methods.work.parts import Learns, Stores, Work, Writes
from rationalize.methods.work.scene import Scene
from rationalize.planning.speeds import Sizes

FULL, HALF = 4, 2
"""Bytes of a number in float32, and in bfloat16."""
LEARNING = 3 * FULL
"""Of a parameter that learns, beside itself: its gradient and AdamW's two moments."""


@dataclass(frozen=True)
class Holders:
    """Models that a run holds at once, beside the one that learns."""

    base: int = 1
    """As they were loaded."""
    scorers: int = 0
    """Scorers' folds, their linear layers in bfloat16."""
    dtype: int = FULL
    """Bytes of a weight as it is kept."""


def peak_bytes(sizes: Sizes, holders: Holders, work: Sequence[Work], at: Scene) -> float:
    """At the stage that holds most: the run's models, what learns, a reference where the loss needs
    one, the activations of a pass, and the sampler's copy with its keys and values.
    """
    weights = sizes.parameters
    held = sizes.process + weights * (holders.base * holders.dtype + holders.scorers * HALF)
    stages = [0.0]
    for one in work:
        if isinstance(one, Learns):
            trained = at.tuning == "full" and one.learner == "policy"
            own = float(weights * (holders.dtype + (LEARNING if trained else 0)))
            if one.learner == "scorer":  # before the run's own scorers are loaded; half learns
                own = weights * (FULL + LEARNING / 2) - weights * holders.scorers * HALF
            reference = weights * HALF if one.loss in ("quark", "grpo", "ppo") and trained else 0
            tokens = min(one.micro_tokens, one.rows * (one.prompt + one.reply))
            stages.append(own + reference + tokens * sizes.activations)
        elif isinstance(one, Writes):
            rows = min(one.replies * (one.prompt + one.limit), 16_384)
            stages.append(weights * (holders.dtype + HALF) + rows * sizes.cache)
    return held + max(stages)


def disk_bytes(sizes: Sizes, work: Sequence[Work], at: Scene) -> float:
    """That stay, with the largest of what is written and deleted."""
    stored = [one for one in work if isinstance(one, Stores)]
    kept = sum(one.kept * (HALF if one.half else FULL) for one in stored)
    passing = max((min(1.0, one.passing) for one in stored), default=0.0)
    moments = 2 * 3 if at.tuning == "full" else 0  # two checkpoints of weights and moments
    return sizes.parameters * (kept + FULL * (passing + moments * bool(passing)))
