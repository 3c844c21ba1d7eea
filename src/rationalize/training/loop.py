"""The one training loop: devices, precision, accumulation, clipping, and exact resume.

A run that is killed at any moment continues from its last checkpoint to the same weights, bit for
bit on CPU: `batch_at` is a pure function of the step, nothing in the loop draws random numbers
(dropout is off, as in the released MaRio code), and a checkpoint holds weights, optimiser moments
and the step (`checkpoints.py`). A step whose loss or gradient is not finite is not
taken, and a SIGTERM stores a checkpoint before it ends the program.

Several processes share the forward passes of a step out and add up their gradients. Each then
divides by the weight of the whole batch and takes the same optimiser step, so that all hold the
same weights and nothing else is exchanged; or the same step on its part of them (`sharded.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rationalize.errors import NotFinite, UserError
from rationalize.memory import freed_memory_kept
from rationalize.models.context import row_over_context
from rationalize.models.forward import Row
from rationalize.models.reach import lora_reach
from rationalize.models.shadows import forget_shadows
from rationalize.processes import World, add_up, by_first, gather, noticing_lost, world
from rationalize.progress import progress_bar, say
from rationalize.runs import Stage
from rationalize.termination import Terminated, postponed
from rationalize.text import clip
from rationalize.training.checkpoints import Position, Schedule
from rationalize.training.learner import (
    BETAS,
    CPU_PASS,
    EPSILON,
    ControlFitConfig,
    FitConfig,
    Grouped,
    HeadFitConfig,
    Learner,
    Loss,
    LossOutput,
    learner_of,
    rate_groups,
)

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

__all__ = [
    "BETAS", "CPU_PASS", "EPSILON", "BatchAt", "ControlFitConfig", "FitConfig", "Grouped",
    "HeadFitConfig", "Loss", "LossOutput", "fit", "rate_at", "rate_groups",
]  # fmt: skip
"""With what methods need to call `fit` (`learner.py`)."""

ROW_SIZE = 0.1
"""Root mean square of embedding rows that `control_factor` refers to."""
_SHOWN = 3
"""How many rows an error names."""


BatchAt = Callable[[int], Sequence[Row]]


def fit(
    policy: Policy, loss: Loss, batch_at: BatchAt, config: FitConfig, stage: Stage, *, steps: int,
    after_step: Callable[[int], None] | None = None,
    before_step: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Train `policy` in place for `steps` optimiser steps; resumes `stage`.

    `before_step(s)` runs before step s (MaRio explores there); `after_step(s)` after it. Both must
    be repeatable: after a kill, they are called again for the steps since the last checkpoint. At a
    step without rows nothing is learned.
    """
    policy.model.eval()  # dropout off; gradients flow all the same
    if policy.tuning == "lora":
        say(f"{stage.name}: {lora_reach(policy)}")

    def learn() -> None:
        with learner_of(policy, loss, config, stage.run.parallel) as learner:
            _fit(learner, batch_at, stage, steps, before_step, after_step)

    # the learner is gone when the memory is given back
    with noticing_lost(), freed_memory_kept() if policy.device.type == "cpu" else nullcontext():
        learn()


def _fit(
    learner: Learner, batch_at: BatchAt, stage: Stage, steps: int,
    before_step: Callable[[int], None] | None, after_step: Callable[[int], None] | None,
) -> None:  # fmt: skip
    run, name, config = stage.run, stage.name, learner.config
    folder = run.path / "checkpoints" / name
    at = learner.restore(folder)
    run.rewind(name, at.step)
    if at.step:
        say(f"{name}: resuming at step {at.step} of {steps}")
    checkpoints = Schedule(run.checkpoint_every, learner.parameters)
    tokens = 0
    try:
        with progress_bar(name, "steps") as progress:
            progress(at.step, steps, 0)
            # an unsettled step was taken already: what follows it is called again
            for step in range(at.step if at.settled else at.step - 1, steps):
                if before_step:
                    with learner.readable():
                        before_step(step)
                if step == at.step:
                    rows = list(batch_at(step))
                    with postponed():  # a SIGTERM leaves no step half taken
                        _take_step(learner, rows, stage, step, rate_at(step, steps, config))
                        at = Position(step + 1, settled=False)
                        tokens += sum(r.length for r in rows)
                        progress(step + 1, steps, tokens)
                if after_step:
                    with learner.readable():
                        after_step(step)
                at = Position(step + 1)
                # processes meet here: where one has got a SIGTERM, all end after the same step
                due = by_first(lambda: checkpoints.due)
                if step + 1 < steps and due and learner.stores:
                    with postponed():
                        checkpoints.write(partial(learner.save, folder, at))
    except Terminated as stop:
        if at.step and learner.stores and (stop.agreed or not learner.shares):
            learner.save(folder, at)
            stop.places.append(f"a checkpoint of {name} after step {at.step} is stored")
        raise


def rate_at(step: int, steps: int, config: FitConfig) -> float:
    """Share of the peak learning rate at a step (counted from 0)."""
    warm = round(config.warmup if config.warmup > 1 else config.warmup * steps)
    warm = max(1, warm) if config.warmup else 0
    if step < warm:
        return (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return max(0.0, left)
    return 0.5 * (1 + torch.cos(torch.tensor((1 - left) * torch.pi)).item())


def _take_step(
    learner: Learner, rows: Sequence[Row], stage: Stage, step: int, share: float
) -> None:
    """An optimiser step at a share of the peak rates, logged; without rows nothing is learned.

    Raises `UserError` for a row beyond the model's context, and `NotFinite`.
    """
    for row in rows:
        if wrong := row_over_context(learner.policy, row):
            raise UserError(
                f"{stage.name}, step {step}: {wrong}; leave out or shorten the row whose prompt "
                f"ends in {clip(learner.policy.decode(row.prompt_ids)[-50:])}"
            )
    for group, peak in zip(learner.optimizer.param_groups, learner.peaks, strict=True):
        group["lr"] = peak * share
    metrics = _optimise(learner, rows, f"{stage.name}, step {step}") if rows else {"weight": 0.0}
    metrics["learning_rate"] = learner.config.learning_rate * share
    stage.run.log(stage.name, step, **metrics)


def _optimise(learner: Learner, rows: Sequence[Row], place: str) -> dict[str, float]:
    """One optimiser step; returns the metrics to log."""
    policy, config, here = learner.policy, learner.config, world()
    passes = config.passes(rows, policy.device, learner.group_of)
    sums = _accumulate(learner, passes, here)
    total, weight, metrics = sums if here.alone else _over_all(learner, sums)
    gradients = [p.grad for p in learner.parameters.values() if p.grad is not None]
    torch._foreach_div_(gradients, max(weight, 1.0))
    if here.alone:
        norm = torch.nn.utils.clip_grad_norm_(learner.parameters.values(), config.max_grad_norm)
    else:
        norm = _clip(learner)
    if not (math.isfinite(total) and norm.isfinite()):
        what = f"loss became {total}" if not math.isfinite(total) else f"gradient became {norm}"
        raise NotFinite(
            f"{place}: the {what}; lower the learning rate or use "
            f"precision=float32, or leave out the rows that cause it:\n{_at_fault(learner, rows)}\n"
            "The step was not taken: weights and checkpoints are those before it"
        )
    factor = config.control_factor if isinstance(config, ControlFitConfig) else 1.0
    holder = learner.sharded or policy
    before = holder.control_rows() if factor != 1.0 and policy.controls else None
    if before is not None:
        factor *= before.float().square().mean().sqrt().item() / ROW_SIZE
    forget_shadows()  # copies of weights that change now
    learner.optimizer.step()
    learner.forget_gradients()
    if before is not None:
        holder.extrapolate_control_rows(before, factor)
    per_unit = {name: value / max(weight, 1.0) for name, value in metrics.items()}
    loss_per_unit = total / max(weight, 1.0)
    return {"loss": loss_per_unit, "grad_norm": norm.item(), "weight": weight, **per_unit}


_Sums = tuple[float, float, dict[str, float]]
"""Total loss of some rows, their weight, and sums of metrics."""


def _clip(learner: Learner) -> Tensor:
    """Clip the gradients to the norm asked for; returns the norm that they had.

    Squares are added in float64, so that it does not depend on which process holds what.
    """
    most, named = learner.config.max_grad_norm, learner.parameters.items()
    gradients = {n: p.grad for n, p in named if p.grad is not None}
    squares = torch.zeros(2, dtype=torch.float64, device=learner.policy.device)  # all's, parts'
    for name, gradient in gradients.items():
        is_part = learner.sharded is not None and learner.sharded.is_part(name)
        squares[int(is_part)] += torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
    if learner.shares:
        add_up([squares[1:]])
    norm = squares.sum().sqrt().float()
    torch._foreach_mul_(list(gradients.values()), (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _accumulate(
    learner: Learner, passes: Sequence[Sequence[Row]], here: World | None = None
) -> _Sums:  # fmt: skip
    """Leave the gradient of the passes in the parameters; where one of several processes is `here`,
    of its share of them.

    Where weights are shared out, all processes must run equally many: who has fewer repeats one
    without weight.
    """
    sums = torch.zeros(2, device=learner.policy.device)
    metrics: dict[str, float] = {}
    here = here or World()
    mine = passes[here.rank :: here.size]
    if learner.sharded and len(mine) < len(passes[:: here.size]):
        (learner.run(passes[0]).total * 0.0).backward()
    for passed in mine:
        out = learner.run(passed)
        out.total.backward()
        sums += torch.tensor([out.total.item(), out.weight], device=sums.device)
        for name, value in out.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    total, weight = sums.tolist()
    return total, weight, metrics


def _over_all(learner: Learner, sums: _Sums) -> _Sums:
    """Leave the gradient of all processes' passes in the parameters, and add up their sums.

    A parameter keeps no gradient where it has none in any process.
    """
    if learner.sharded:
        learner.sharded.collect()
    parameters = [
        p for n, p in learner.parameters.items()
        if not (learner.sharded and learner.sharded.is_part(n))  # summed by the passes themselves
    ]  # fmt: skip
    from_all = gather((*sums, [p.grad is not None for p in parameters]))
    reached = [any(flags) for flags in zip(*(flags for *_, flags in from_all), strict=True)]
    gradients = []
    for parameter, reaches in zip(parameters, reached, strict=True):
        if reaches and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients += [] if parameter.grad is None else [parameter.grad]
    add_up(gradients)
    total, weight, metrics = 0.0, 0.0, dict[str, float]()
    for one_total, one_weight, one_metrics, _ in from_all:
        total, weight = total + one_total, weight + one_weight
        for name, value in one_metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    return total, weight, metrics


def _at_fault(learner: Learner, rows: Sequence[Row]) -> str:
    """The rows (with those of their groups) whose loss or gradient is not finite by themselves."""
    device = learner.policy.device
    groups: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(learner.group_of(row) if learner.group_of else i, []).append(i)
    found: list[int] = []
    for members in groups.values():
        learner.forget_gradients()
        passes = learner.config.passes([rows[i] for i in members], device, learner.group_of)
        total, _, _ = _accumulate(learner, passes)
        if learner.sharded:
            learner.sharded.collect()
        gradients = [p.grad for p in learner.parameters.values() if p.grad is not None]
        finite = math.isfinite(total) and all(g.isfinite().all() for g in gradients)
        if not all(gather(finite)):
            found += members
    learner.forget_gradients()
    if not found:
        return f"  no row by itself; the sum of all {len(rows)}"
    decode = learner.policy.decode
    shown = [
        f"  row {i + 1} of {len(rows)}: prompt ends in {clip(decode(rows[i].prompt_ids)[-50:])}, "
        f"response begins {clip(decode(rows[i].response_ids))}"
        for i in found[:_SHOWN]
    ]
    return "\n".join([*shown, *([f"  and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN))])
