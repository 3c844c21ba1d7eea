"""The one training loop: devices, precision, accumulation, clipping, and exact resume.

A run that is killed at any moment continues from its last checkpoint to the same weights, bit for
bit on CPU: `batch_at` is a pure function of the step, nothing in the loop draws random numbers
(dropout is off, as in the released MaRio code), and a checkpoint holds weights, optimiser moments
and the step.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from rationalize.config.checks import at_least, between
from rationalize.errors import UserError
from rationalize.memory import give_back_freed_memory, keep_freed_memory
from rationalize.models.forward import GroupOf, Row, micro_batches
from rationalize.models.heads import HEAD_NAME
from rationalize.progress import progress_bar, say
from rationalize.runs import Stage

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


ROW_SIZE = 0.1
"""Root mean square of embedding rows that `control_factor` refers to."""
BETAS, EPSILON = (0.9, 0.99), 1e-8
"""AdamW's decays, as MaRio's code has them (its second is .99, not PyTorch's .999), and epsilon."""


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
    """Warm-up, as a share of the steps."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    micro_tokens: int = 2048
    """Padded tokens in one forward pass; a batch is accumulated over as many as that takes."""

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
BatchAt = Callable[[int], Sequence[Row]]


def fit(
    policy: Policy, loss: Loss, batch_at: BatchAt, config: FitConfig, stage: Stage, *, steps: int,
    after_step: Callable[[int], None] | None = None,
    before_step: Callable[[int], None] | None = None, group_of: GroupOf | None = None,
) -> None:  # fmt: skip
    """Train `policy` in place for `steps` optimiser steps; resumes `stage`.

    `before_step(s)` runs before step s (MaRio explores there); `after_step(s)` after it. Both must
    be repeatable: after a kill, they are called again for the steps since the last checkpoint. At a
    step without rows nothing is learned. A loss that needs certain rows together names them by
    `group_of`; else each row is its own group.
    """
    # autocast is ours: accelerate's precision is fixed for the life of a process
    accelerator = Accelerator(mixed_precision="no", cpu=policy.device.type == "cpu")
    if accelerator.num_processes > 1:
        raise UserError(
            f"{accelerator.num_processes} processes were launched; training runs in one process so "
            "far. Start it without `accelerate launch`"
        )
    if policy.device.type == "cpu":
        keep_freed_memory()
    policy.model.eval()  # dropout off; gradients flow all the same
    parameters = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    groups = rate_groups(parameters, config)
    optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    run, name = stage.run, stage.name
    folder = run.path / "checkpoints" / name
    start = _restore(folder, parameters, optimizer)
    run.rewind(name, start)
    if start:
        say(f"{name}: resuming at step {start} of {steps}")
    saved_at = time.monotonic()
    tokens = 0
    with progress_bar(name, "steps") as progress:
        progress(start, steps, 0)
        for step in range(start, steps):
            if before_step:
                before_step(step)
            rows = list(batch_at(step))
            share = rate_at(step, steps, config)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            metrics: dict[str, float] = {"weight": 0.0}
            if rows:
                learner = accelerator, parameters, optimizer
                metrics = _optimise(policy, loss, rows, config, *learner, group_of)
            metrics["learning_rate"] = config.learning_rate * share
            tokens += sum(r.length for r in rows)
            run.log(name, step, **metrics)
            if after_step:
                after_step(step)
            if time.monotonic() - saved_at > run.checkpoint_every and step + 1 < steps:
                _save(folder, step + 1, parameters, optimizer)
                saved_at = time.monotonic()
            progress(step + 1, steps, tokens)
    del optimizer
    if policy.device.type == "cpu":
        give_back_freed_memory()


def rate_groups(parameters: dict[str, Tensor], config: FitConfig) -> list[dict[str, Any]]:
    """AdamW's groups with their peak rates: all weights, and a scalar head where it has its own."""
    rate = config.head_rate if isinstance(config, HeadFitConfig) else 0.0
    heads = {n: p for n, p in parameters.items() if rate and n.startswith(HEAD_NAME)}
    others = [p for n, p in parameters.items() if n not in heads]
    groups = [{"params": others, "lr": config.learning_rate}]
    if heads:
        groups.append({"params": list(heads.values()), "lr": rate})
    return groups


def rate_at(step: int, steps: int, config: FitConfig) -> float:
    """Share of the peak learning rate at a step (counted from 0)."""
    warm = round(config.warmup if config.warmup >= 1 else config.warmup * steps)
    warm = max(1, warm) if config.warmup else 0
    if step < warm:
        return (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return max(0.0, left)
    return 0.5 * (1 + torch.cos(torch.tensor((1 - left) * torch.pi)).item())


def _optimise(
    policy, loss, rows, config, accelerator, parameters, optimizer, group_of
) -> dict[str, float]:
    """One optimiser step; returns the metrics to log."""
    sums = torch.zeros(2, device=accelerator.device)
    metrics: dict[str, float] = {}
    for passed in micro_batches(rows, config.micro_tokens, group_of):
        with policy.autocast(), policy.checkpointing():
            out = loss(policy, passed)
        accelerator.backward(out.total)
        sums += torch.tensor([out.total.item(), out.weight], device=sums.device)
        for name, value in out.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    total, weight = sums.tolist()
    if not torch.isfinite(sums).all():
        raise FloatingPointError(
            f"the loss became {total}; lower the learning rate or use precision=float32"
        )
    torch._foreach_div_(gradients, max(weight, 1.0))
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.max_grad_norm)
    factor = config.control_factor if isinstance(config, ControlFitConfig) else 1.0
    before = policy.control_rows() if factor != 1.0 and policy.controls else None
    if before is not None:
        factor *= before.float().square().mean().sqrt().item() / ROW_SIZE
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if before is not None:
        policy.extrapolate_control_rows(before, factor)
    per_unit = {name: value / max(weight, 1.0) for name, value in metrics.items()}
    loss_per_unit = total / max(weight, 1.0)
    return {"loss": loss_per_unit, "grad_norm": norm.item(), "weight": weight, **per_unit}


def _save(
    folder: Path, step: int, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Write beside, then rename: a kill leaves either the old checkpoint or the new one."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"weight/{n}": p.detach().contiguous() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach().clone().contiguous()
    save_file(tensors, fresh / "state.safetensors")
    (fresh / "step.json").write_text(json.dumps({"step": step}))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _restore(folder: Path, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint, if there is one; returns the step to go on with."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames of `_save`
        os.replace(old, folder)
    if not folder.exists():
        return 0
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
    state: dict[Any, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind != "weight":
            state.setdefault(parameters[name], {})[kind] = value
    optimizer.state.update(state)
    return json.loads((folder / "step.json").read_text())["step"]
