"""The ablations of COALITION (coalition.md 6.5) in one command, from shared candidates.

Every arm is a whole run with one setting changed, in `stages/arm-NAME`. What an arm has in common
with the full method is taken over, not made again: M_IFT, the tuned variants, the candidates of
round 0; and the full method itself may be a run that is finished (`full`). One table compares all
arms, each paired with the full method.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rationalize.config import from_dict, to_dict
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.baselines import MAJORITY
from rationalize.evaluation.compare import Methods
from rationalize.methods.coalition import coalition, open_coalition
from rationalize.methods.coalition_config import CoalitionConfig
from rationalize.methods.coalition_results import COMPARED, evaluate_chains
from rationalize.methods.setup import (
    Setup,
    final_shard,
    majority_row,
    said_done,
    write_results,
)
from rationalize.progress import say
from rationalize.runs import Run, check_resumable, differences

Change = Callable[[CoalitionConfig], CoalitionConfig]


def _candidates(**changes) -> Change:
    return lambda c: replace(c, candidates=replace(c.candidates, **changes))


ARMS: Mapping[str, tuple[str, Change]] = {
    "one-variant": ("A1: one variant", lambda c: replace(c, variants=1)),
    "same-data": ("A2: same data for all", lambda c: replace(c, parts="same")),
    "no-refinement": ("A3: no refinement", _candidates(refiners="none")),
    "self-only": ("A4: self-refinement only", _candidates(refiners="self")),
    "cross-only": ("A4: cross-refinement only", _candidates(refiners="cross")),
    "random-labels": ("A5: random pair labels", _candidates(labels="random")),
    "no-filter": ("A6: no filter", _candidates(filtered=False)),
    "no-sro": ("A8: no preference learning", lambda c: replace(c, rounds=0)),
}
"""Name -> its row in the table, and what it changes."""

FULL = "COALITION"


@dataclass(frozen=True)
class CoalitionGridConfig(CoalitionConfig):
    """COALITION and its ablations."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Ablations to run: one-variant, same-data, no-refinement, self-only, cross-only,
    random-labels, no-filter, no-sro.
    """
    full: str = ""
    """A finished run of `train coalition`, or of its demo, that is the full method: settings,
    M_IFT, variants and candidates are taken from it. None: the full method is run here.
    """


def run_grid(config: CoalitionGridConfig, out: Path) -> None:
    """Write `results.json` and `report.html` in `out`, and print the table."""
    unknown = sorted(set(config.arms) - set(ARMS))
    if unknown:
        raise UsageError(f"unknown arms {unknown}; expected some of {', '.join(ARMS)}")
    full = settings_of(config)
    config = CoalitionGridConfig(**own_fields(full), arms=config.arms, full=config.full)
    scorer = Path(config.full) / "scorers" / "answer"  # the one that judged the full method
    if config.judge == "cross-fit" and config.full and not config.answer_scorer and scorer.exists():
        config = replace(config, answer_scorer=str(scorer))
    with open_coalition(config, "coalition-grid", out) as setup:
        if said_done(setup.run, "grid"):
            return
        full = replace(full, judge=setup.config.judge)
        try:
            arms = {name: ARMS[name][1](full) for name in config.arms}
        except ValueError as error:
            raise UsageError(f"an arm cannot be made from these settings: {error}") from error
        methods: Methods = {MAJORITY: majority_row(setup)}
        if config.full:
            source = _finished(setup, methods, full, Path(config.full))
        else:
            source = _arm(setup, methods, "full", FULL, full, None, tuple(COMPARED))
        for name in config.arms:
            _arm(setup, methods, name, ARMS[name][0], arms[name], source, (FULL,))
        rows = [ARMS[name][0] for name in config.arms]
        others = [*list(COMPARED)[1:], *rows]
        write_results(setup, methods, [(FULL, other) for other in others])
        setup.run.finish("grid", arms=list(config.arms))


def own_fields(config: CoalitionConfig) -> dict[str, Any]:
    """The full method's settings by name."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(CoalitionConfig)}


def settings_of(config: CoalitionGridConfig) -> CoalitionConfig:
    """The full method's settings: those given, or those of the run that is taken over.

    Raises `UsageError` where settings are given that are not the run's.
    """
    given = CoalitionConfig(**own_fields(config))
    if not config.full:
        return given
    stored = Run.read(config.full).config
    known = {name: stored[name] for name in own_fields(given) if name in stored}
    taken = from_dict(CoalitionConfig, known, where=config.full)
    if given not in (taken, CoalitionConfig()):
        differing = differences(to_dict(taken), to_dict(given), "in the run", "asked for")
        raise UsageError(
            "\n  ".join(
                [f"{config.full} was run with other settings than are asked for:", *differing]
            )
            + "\nleave them out (with `full` they are the run's), or leave `full` out"
        )
    return taken


def _finished(
    setup: Setup, methods: Methods, config: CoalitionConfig, folder: Path
) -> tuple[Run, CoalitionConfig]:
    """A finished run as the full method's arm. Raises `UserError` where it is not finished, or has
    another base model.
    """
    run = Run.read(folder)
    check_resumable(folder, run.config, base_hash=setup.base.weights_hash)
    for split in setup.final_splits:
        for who in COMPARED:
            shard = final_shard(who, split, config.seed)
            if not run.has_shard(shard):
                raise UserError(f"{folder} is not finished: {shard} is missing; start it again")
            methods.setdefault(who, {})[split] = {config.seed: run.read_shard(shard)}
    return run, config


def _arm(
    setup: Setup, methods: Methods, name: str, row: str, config: CoalitionConfig,
    source: tuple[Run, CoalitionConfig] | None, evaluated: Sequence[str],
) -> tuple[Run, CoalitionConfig]:  # fmt: skip
    """Run one arm, and put its chains among the methods."""
    say(f"grid: {row}")
    run = setup.run.stage(f"arm-{name}")
    if source:
        take_over(source[0], run, shared(source[1], config))
    own = replace(setup, config=config, run=run)
    scorer = setup.config.answer_scorer or str(setup.run.path / "scorers" / "answer")
    own.config = replace(config, answer_scorer=scorer)
    made = coalition(own, own.config)
    if config.judge != "variants":  # else every arm has a judge of its own
        setup.suite = own.suite
    for split in setup.final_splits:
        for who in evaluated:
            attempts = evaluate_chains(own, made, who, split)
            label = row if who == FULL else who
            methods.setdefault(label, {})[split] = {config.seed: attempts}
    return run, config


def shared(full: CoalitionConfig, arm: CoalitionConfig) -> dict[str, list[str]]:
    """What the arm has in common with the full method: policies, variants, shards and JSON files by
    name.
    """
    alike = (arm.variants, arm.parts) == (full.variants, full.parts)
    common: dict[str, list[str]] = {
        "policies": ["ift-warm", "ift"], "variants": [], "shards": ["ift-imperfect"],
        "files": ["reading.json"] if alike or full.judge != "variants" else [],
    }  # fmt: skip
    if not alike:
        return common
    common["variants"] = [f"{name}-tuned" for name in arm.names]
    common["files"].append("clones-tuned.json")
    if arm.candidates.refiners == full.candidates.refiners:
        common["shards"].append("dev-tuned")
    if arm.rounds:
        common["shards"] += [f"round0-{name}-writes" for name in arm.names]
        if arm.candidates.refiners == full.candidates.refiners:
            common["shards"] += [f"round0-{name}-refines" for name in arm.names]
            common["shards"].append("round0-utilities")
            common["files"] += ["round0-utilities.json"]
    return common


def take_over(source: Run, target: Run, common: Mapping[str, Sequence[str]]) -> None:
    """Link finished stages and copy shards into a run that does not have them yet."""
    for place in ("policies", "variants"):
        for stage in common[place]:
            facts = source.done(stage)
            if facts is None or target.done(stage) is not None:
                continue
            folder = target.folder(place) / stage
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source.folder(place, stage), folder, copy_function=_link)
            target.finish(stage, **facts)
    for shard in common["shards"]:
        if source.has_shard(shard) and not target.has_shard(shard):
            target.append(source.read_shard(shard), shard)
    for file in common["files"]:
        if (found := source.read_json(file)) is not None and target.read_json(file) is None:
            target.write_json(file, found)


def _link(source: str, target: str) -> None:
    """A hard link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
