"""What learns: a policy with a loss and an optimiser, how it is stored, and its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rationalize.config.checks import at_least, between
from rationalize.models.forward import GroupOf, Row, micro_batches
from rationalize.models.heads import HEAD_NAME
from rationalize.processes import world
from rationalize.training.checkpoints import (
    Position,
    restore_checkpoint,
    save_checkpoint,
    save_parts,
)
from rationalize.training.sharded import Parallel, Sharded, shares_out

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


BETAS, EPSILON = (0.9, 0.99), 1e-8
"""AdamW's decays, as MaRio's code has them (its second is .99, not PyTorch's .999), and epsilon."""

CPU_PASS = 512
"""Most padded tokens of a pass on a CPU: a pass keeps about 41 kB a token and layer of SmolLM2-135M
until its backward pass, and its products are no faster with more rows (8 rows of 80 tokens at 256,
512, 768 and 1,024: 3.77, 3.32, 3.09 and 3.38 s of one thread; benchmarks/learning.py).
"""


@dataclass(frozen=True)
class FitConfig:
    """How a stage learns, by AdamW."""

    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    batch_size: int = 8
    """Rows per optimiser step."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after the warm-up."""
    warmup: float = 0.05
    """Warm-up, as a share of the steps; above 1, in steps."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    micro_tokens: int = 2048
    """Most padded tokens in one forward pass, on a CPU 512; a batch is accumulated over as many
    passes as that takes.
    """

    def pass_tokens(self, device: torch.device) -> int:
        """`micro_tokens`, as far as they serve the device."""
        return min(self.micro_tokens, CPU_PASS) if device.type == "cpu" else self.micro_tokens

    def passes(
        self, rows: Sequence[Row], device: torch.device, group_of: GroupOf | None = None
    ) -> list[list[Row]]:
        """The rows of a step in forward passes, so small that each of several processes has one."""
        size, count = self.pass_tokens(device), world().size
        if count > 1:
            size = min(size, math.ceil(sum(row.length for row in rows) / count))
        return micro_batches(rows, size, group_of)

    def __post_init__(self) -> None:
        at_least(self, 0, "learning_rate")
        at_least(self, 1, "batch_size", "micro_tokens")
        at_least(self, 0, "warmup")
        between(self, 0, math.inf, "max_grad_norm")


@dataclass(frozen=True)
class ControlFitConfig(FitConfig):
    """How a policy with control tokens learns."""

    control_factor: float = 1.0
    """How much faster than other weights the control tokens' embedding rows learn, where their root
    mean square is 0.1 (SmolLM2's); elsewhere in proportion to it. 1: as all weights.
    """

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        at_least(self, 0, "control_factor")


@dataclass(frozen=True)
class HeadFitConfig(FitConfig):
    """How a policy with a scalar head learns."""

    head_rate: float = 0.0
    """Peak learning rate of the scalar head, which starts untrained; 0: as all weights."""

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        at_least(self, 0, "head_rate")


@dataclass
class LossOutput:
    """What a loss gives back for some rows."""

    total: Tensor
    """Sum over the rows' tokens (or statements), with gradient."""
    weight: int
    """How many tokens (or groups) that sums; a batch's loss is all totals over all weights."""
    metrics: dict[str, float]
    """Further sums, reported per unit of weight."""


Loss = Callable[["Policy", Sequence[Row]], LossOutput]


@dataclass(frozen=True)
class Grouped:
    """A loss that needs certain rows in one forward pass: those of a pair, or of a question."""

    loss: Loss
    group_of: GroupOf

    def __call__(self, policy: Policy, rows: Sequence[Row]) -> LossOutput:
        return self.loss(policy, rows)


def rate_groups(parameters: dict[str, Tensor], config: FitConfig) -> list[dict[str, Any]]:
    """AdamW's groups with their peak rates: all weights, and a scalar head where it has its own."""
    rate = config.head_rate if isinstance(config, HeadFitConfig) else 0.0
    heads = {n: p for n, p in parameters.items() if rate and n.startswith(HEAD_NAME)}
    others = [p for n, p in parameters.items() if n not in heads]
    groups = [{"params": others, "lr": config.learning_rate}]
    if heads:
        groups.append({"params": list(heads.values()), "lr": rate})
    return groups


@dataclass(frozen=True)
class Learner:
    """What one optimiser step needs besides its rows."""

    policy: Policy
    loss: Loss
    config: FitConfig
    parameters: dict[str, Tensor]
    """What this process's optimiser updates."""
    optimizer: torch.optim.Optimizer
    peaks: list[float]
    """Learning rate of each of the optimiser's groups, before the schedule."""
    sharded: Sharded | None = None
    """The policy with its weights shared out over the processes."""

    @property
    def group_of(self) -> GroupOf | None:
        return self.loss.group_of if isinstance(self.loss, Grouped) else None

    @property
    def shares(self) -> bool:
        """Whether each process holds a part of what learns."""
        return self.sharded is not None and self.sharded.shares

    @property
    def stores(self) -> bool:
        """Whether this process stores checkpoints: the first does, or all where each has a part."""
        return self.shares or world().first

    def readable(self) -> AbstractContextManager[None]:
        """Around what writes with the policy, or stores it."""
        return self.sharded.put_together() if self.sharded else nullcontext()

    def restore(self, folder: Path) -> Position:
        """Where to go on, with the weights and moments of the checkpoint there."""
        parts = self.sharded if self.shares else None
        return restore_checkpoint(folder, self.parameters, self.optimizer, parts)

    def save(self, folder: Path, at: Position) -> None:
        """Write a checkpoint."""
        if self.sharded and self.sharded.shares:
            save_parts(folder, at, self.sharded, self.parameters, self.optimizer)
        else:
            save_checkpoint(folder, at, self.parameters, self.optimizer)

    def run(self, rows: Sequence[Row]) -> LossOutput:
        """A forward pass."""
        with self.policy.autocast(), self.policy.checkpointing():
            if self.sharded:
                return self.sharded.run(self.loss, rows)
            return self.loss(self.policy, rows)

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.sharded:
            self.sharded.forget_gradients()


@contextmanager
def learner_of(
    policy: Policy, loss: Loss, config: FitConfig, parallel: Parallel
) -> Iterator[Learner]:  # fmt: skip
    """A learner of a policy, whose weights are shared out meanwhile where that is asked for."""
    sharded = Sharded(policy) if shares_out(policy, parallel) else None
    whole = False
    try:
        named = policy.model.named_parameters()
        own = {n: p for n, p in named if p.requires_grad}
        parameters = sharded.parameters if sharded else own
        groups = rate_groups(parameters, config)
        optimizer = torch.optim.AdamW(
            groups, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True
        )
        peaks = [group["lr"] for group in optimizer.param_groups]
        yield Learner(policy, loss, config, parameters, optimizer, peaks, sharded)
        whole = True
    finally:
        if sharded:
            sharded.close(whole=whole)
