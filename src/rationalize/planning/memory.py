"""Bytes that a run holds at its peak, and that it leaves on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rationalize.methods.work.parts import Learns, Stores, Work, Writes
from rationalize.methods.work.scene import Scene
from rationalize.planning.speeds import Sizes
from rationalize.sampling.batches import MAX_ROWS
from rationalize.training.loop import CPU_PASS

FULL, HALF = 4, 2
"""Bytes of a number in float32, and in bfloat16."""
QUARTER = 0.56
"""Of one in 4 bits, with its scales."""
LEARNING = 3 * FULL
"""Of a parameter that learns, beside itself: its gradient and AdamW's two moments."""


@dataclass(frozen=True)
class Holders:
    """Models that a run holds at once, beside the one that learns."""

    scorers: int = 0
    """Folds of scorers. What they have not learned, half of their layers, is the base's."""
    dtype: float = FULL
    """Bytes of a weight as it is kept."""
    parts: int = 1
    """Processes that share out what learns in full; 1: each holds it whole."""
    on_cpu: bool = True
    """Where passes are bounded by what serves a processor."""


def peak_bytes(sizes: Sizes, holders: Holders, work: Sequence[Work], at: Scene) -> float:
    """At the stage that holds most: the run's models, what learns, a reference where the loss needs
    one, the activations of a pass, and the sampler's copy with its keys and values.
    """
    weights = sizes.parameters
    read = HALF * weights + (FULL - HALF) * sizes.head  # linear layers in bfloat16
    scorer = HALF * (weights - sizes.head) / 2
    held = sizes.process + min(read, holders.dtype * weights) + holders.scorers * scorer
    stages = [0.0]
    for one in work:
        if isinstance(one, Learns):
            trained = at.tuning == "full" and one.learner == "policy"
            own = weights * (holders.dtype + (LEARNING if trained else 0))
            own /= holders.parts if trained else 1
            if one.learner == "scorer":  # half learns; the run's own are not loaded yet
                own = FULL * weights + LEARNING * (weights - sizes.head) / 2
                own -= holders.scorers * scorer
            reference = weights * HALF if one.loss in ("quark", "grpo", "ppo") and trained else 0
            limit = min(one.micro_tokens, CPU_PASS) if holders.on_cpu else one.micro_tokens
            tokens = min(limit, one.rows * (one.prompt + one.reply))
            stages.append(own + reference + tokens * sizes.activations)
        elif isinstance(one, Writes):
            kept = min(one.replies, MAX_ROWS) * (one.prompt + one.limit)
            put_together = weights * (holders.dtype + HALF) + kept * sizes.cache
            parts = FULL * weights + LEARNING * weights if holders.parts > 1 else 0
            stages.append(put_together + parts / holders.parts)
    return held + max(stages)


def disk_bytes(sizes: Sizes, work: Sequence[Work], dtype: float = FULL) -> float:
    """Of the weights that a run leaves, each in so many bytes."""
    stored = [one for one in work if isinstance(one, Stores)]
    each = max(dtype, HALF)  # what learns in 4 bits is written in bfloat16
    return sizes.parameters * sum(one.kept * (HALF if one.half else each) for one in stored)


def passing_bytes(
    sizes: Sizes, work: Sequence[Work], checkpoints: bool, dtype: float = FULL
) -> float:
    """That are written and deleted, at most at one time: the best of a stage so far, and where a
    stage takes long enough, two checkpoints of weights and moments.
    """
    stored = [one for one in work if isinstance(one, Stores)]
    best = max((min(1.0, one.passing) for one in stored), default=0.0)
    return sizes.parameters * max(dtype, HALF) * (best + 2 * 3 * checkpoints)
