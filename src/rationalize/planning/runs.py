"""From a command's settings to its plan."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from rationalize.errors import UsageError
from rationalize.evaluation.baselines import BASE
from rationalize.methods import METHODS, Demo, Method, load
from rationalize.methods.launch import Checked, checked, longest_reply
from rationalize.methods.scoring import trained_scorers
from rationalize.methods.settings import RunConfig
from rationalize.methods.sft import SftStart
from rationalize.methods.work.demos import exported
from rationalize.methods.work.learners import scorers_work, start_work
from rationalize.methods.work.parts import Learns, Stores, Work
from rationalize.methods.work.scene import RIGHT, Lengths, Scene
from rationalize.models.default import default_model, is_converted
from rationalize.models.sources import name_of, source_of
from rationalize.models.tuning import decide_tuning, device_memory
from rationalize.planning import cache
from rationalize.planning.calibrate import calibrate
from rationalize.planning.machines import Machine, machine_named, roofline
from rationalize.planning.memory import FULL, HALF, QUARTER, Holders
from rationalize.planning.plan import Plan, plan_of
from rationalize.planning.sizes import sizes_from
from rationalize.planning.speeds import Measured, Sizes
from rationalize.rewards import RewardSuite
from rationalize.sampling.config import SamplingConfig
from rationalize.training.sharded import SHARE, WHOLE_BYTES


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is for."""

    on: str = ""
    """A machine by its figures, not this one."""
    right: float = RIGHT
    """Share of replies that are taken to be right."""
    fresh: bool = False
    """Measure again what an earlier plan has measured."""


def plan_run(what: Method | Demo, stage: str, settings: Any, options: PlanOptions) -> Plan:
    """The plan of a method (in its stage) or of a demo. Measures on this machine what no earlier
    plan has, unless it is `on` another.

    Raises what a start would raise before a folder is made, and `UsageError` for a method that
    states no work.
    """
    machine = machine_named(options.on) if options.on else None
    quantised = bool(machine) and settings.tuning == "qlora"  # this machine need not be able to
    known = checked(replace(settings, tuning="lora") if quantised else settings)
    run_config: RunConfig = known.parts[RunConfig]
    source = source_of(run_config.model)
    sizes = sizes_from(source, name_of(run_config.model), trusted=run_config.trust_remote_code)
    tuning, why = _tuning(run_config, sizes, machine)
    file = cache.file_of(source, run_config, tuning)
    measured = None if options.fresh else cache.read(file)
    lengths = measured.lengths if measured else Lengths()
    at = scene_of(known, tuning, lengths, options.right)
    work = list(work_of(what, stage, known, at))
    if machine is not None:
        given = replace(measured or Measured(), sizes=sizes)
        priced = roofline(machine, given, work, tuning == "full")
        where = _described(machine)
    else:
        priced = calibrate(replace(run_config, tuning=_as_tuned(run_config, tuning)), at.train,
                           work, measured)  # fmt: skip
        if priced is not measured:
            priced = replace(priced, when=time.strftime("%Y-%m-%d %H:%M"))
            cache.write(file, priced)
        if priced.lengths != lengths:  # known only now
            at = replace(at, lengths=priced.lengths)
            work = list(work_of(what, stage, known, at))
        where = _here(priced)
    on_cpu = machine is None and not torch.cuda.is_available()
    holders = replace(holders_of(known), on_cpu=on_cpu)
    if machine is not None and tuning == "full" and _in_parts(run_config, sizes, machine):
        holders = replace(holders, parts=machine.count)
    if quantised:
        holders = replace(holders, dtype=QUARTER)
    notes = [_assumed(at, work)]
    if on_cpu:
        notes.append(
            "memory: what is held; on a CPU freed memory stays in pieces, and a run of many stages "
            "has taken up to 1.6 times as much (docs/benchmarks.md)"
        )
    if measured is None and machine is not None:
        notes.append("tokens: estimated from characters; a plan on this machine counts them")
    return plan_of(at, work, priced, holders, f"{where}; {why}" if why else where, notes)


def dry_plan(what: Method | Demo, stage: str, known: Checked) -> Plan | None:
    """The plan as far as it is known without loading a model or measuring; None where the method
    states no work.
    """
    if not _stated(what):
        return None
    run_config: RunConfig = known.parts[RunConfig]
    measured, tuning = None, "full" if run_config.tuning in ("auto", "full") else "lora"
    source = run_config.model
    if is_converted() if source == "default" else Path(source).is_dir():
        source = str(default_model()) if source == "default" else source_of(source)
        for tuned in ("full", "lora") if run_config.tuning == "auto" else (tuning,):
            if measured := cache.read(cache.file_of(source, run_config, tuned)):
                tuning = tuned
                break
    at = scene_of(known, tuning, measured.lengths if measured else Lengths(), RIGHT)
    work = list(work_of(what, stage, known, at))
    if measured and measured.speeds.lacks(work):
        measured = None
    where = (
        _here(measured)
        if measured
        else (
            "time, memory, disk: `rationalize plan` with these arguments measures them in seconds"
        )
    )
    return plan_of(at, work, measured, holders_of(known), where)


def scene_of(
    known: Checked, tuning: Literal["full", "lora"] | str, lengths: Lengths, right: float
) -> Scene:
    """What the work of checked settings depends on."""
    tokens = longest_reply(known, lambda text: lengths.tokens([text]))
    return Scene(
        known.splits, known.parts[RunConfig], RewardSuite(known.rewards),
        SamplingConfig(temperature=0.0, max_new_tokens=tokens),
        "full" if tuning == "full" else "lora", lengths, right,
    )  # fmt: skip


def work_of(what: Method | Demo, stage: str, known: Checked, at: Scene) -> Iterator[Work]:
    """All of a run's work: its scorers, what it starts from, the method, the evaluation."""
    if not _stated(what):
        raise UsageError(f"{stage}: this method states no work to plan (docs/extending.md)")
    yield Stores(stage, loads=2)  # the base, and the policy
    yield from scorers_work(at, known.scoring)
    if isinstance(what, Demo):
        yield from load(what.work)(at, known.config)
        return
    if SftStart in known.parts:
        yield from start_work(at, known.parts[SftStart].sft)
    yield from load(what.work)(at, known.config, stage)
    if what.conclude_work:
        yield from load(what.conclude_work)(at, known.config)
        return
    mode = "answer" if what is METHODS["direct"] else "rationale_answer"
    yield from at.finals(BASE, mode=mode, taught=False)
    yield from at.finals(what.label, mode=mode)
    yield from exported(at)


def holders_of(known: Checked) -> Holders:
    """The models that lie in memory beside the one that learns."""
    dtype = HALF if known.parts[RunConfig].dtype == "bfloat16" else FULL
    return Holders(scorers=2 * len(trained_scorers(known.scoring)), dtype=dtype)


def _stated(what: Method | Demo) -> bool:
    return what.work is not None


def _tuning(
    config: RunConfig, sizes: Sizes, machine: Machine | None
) -> tuple[Literal["full", "lora"], str]:
    if config.tuning != "auto":
        return ("full" if config.tuning == "full" else "lora"), ""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = int(machine.memory) if machine else device_memory(device)
    decided = decide_tuning(sizes.parameters, getattr(torch, config.dtype), memory)
    return decided.tuning, f"tuning {decided.tuning}: {decided.why}"


def _as_tuned(config: RunConfig, tuning: Literal["full", "lora"]) -> Any:
    return config.tuning if config.tuning == "qlora" else tuning


def _in_parts(config: RunConfig, sizes: Sizes, machine: Machine) -> bool:
    """Whether the processes share out what learns in full, as `shares_out` decides."""
    if config.parallel != "auto" or machine.count == 1:
        return config.parallel == "fsdp" and machine.count > 1
    return WHOLE_BYTES * sizes.parameters > SHARE * machine.memory


def _here(known: Measured) -> str:
    return (
        f"time: measured on this machine {known.when}, with the load that it had then (`--fresh` "
        "measures again)"
    )


def _described(machine: Machine) -> str:
    used = f"; {machine.count} of them share the work out (docs/scale.md), memory is that of one"
    return (
        f"time: a roofline of one {machine.name} ({machine.peak / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{machine.bandwidth / 1e12:.2f} TB/s, {machine.memory / 1e9:.0f} GB; {machine.source})"
        + (used if machine.count > 1 else "")
    )


def _assumed(at: Scene, work: Sequence[Work]) -> str:
    assumed = [
        f"{at.right:.0%} of the replies are right (`--right`)",
        f"a taught reply has {at.taught_reply:.0f} tokens as the teacher's",
        "an untaught one half as many as it may",
    ]
    if any(isinstance(one, Learns) and one.loss == "rank" for one in work):
        assumed.append("a reward model's head is learned (`auto` may choose the likelihood)")
    return f"assumed: {', '.join(assumed)}"
