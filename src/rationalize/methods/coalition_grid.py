"""The ablations of COALITION (coalition.md 6.5) in one command, from shared candidates.

Every arm is a whole run with one setting changed, in `arms/NAME`. What an arm has in common with
the full method is taken over, not made again: M_IFT, the tuned variants, the candidates of round 0.
One table compares all arms, each paired with the full method.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rationalize.errors import UsageError
from rationalize.evaluation.compare import Methods
from rationalize.evaluation.floor import FLOOR
from rationalize.methods.coalition import coalition
from rationalize.methods.coalition_config import CoalitionConfig
from rationalize.methods.coalition_results import COMPARED, evaluate_chains
from rationalize.methods.setup import Setup, majority_row, open_method, said_done, write_results
from rationalize.progress import say
from rationalize.runs import Run

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


def run_grid(config: CoalitionGridConfig, out: Path) -> None:
    """Write `results.json` and `report.html` in `out`, and print the table."""
    unknown = sorted(set(config.arms) - set(ARMS))
    if unknown:
        raise UsageError(f"unknown arms {unknown}; expected some of {', '.join(ARMS)}")
    rewards = ("consistency",) if config.judge == "cross-fit" else ()
    with open_method(config, "coalition-grid", out, rewards=rewards) as setup:
        if said_done(setup.run, "grid"):
            return
        full = _full_config(config)
        try:
            arms = {name: ARMS[name][1](full) for name in config.arms}
        except ValueError as error:
            raise UsageError(f"an arm cannot be made from these settings: {error}") from error
        methods: Methods = {FLOOR: majority_row(setup)}
        source = _arm(setup, methods, "full", FULL, full, None, tuple(COMPARED))
        for name in config.arms:
            _arm(setup, methods, name, ARMS[name][0], arms[name], source, (FULL,))
        rows = [ARMS[name][0] for name in config.arms]
        others = [*list(COMPARED)[1:], *rows]
        write_results(setup, methods, [(FULL, other) for other in others])
        setup.run.finish("grid", arms=list(config.arms))


def _full_config(config: CoalitionGridConfig) -> CoalitionConfig:
    names = {f.name for f in dataclasses.fields(CoalitionConfig)}
    return CoalitionConfig(**{n: getattr(config, n) for n in names})


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
    scorer = config.answer_scorer or str(setup.run.path / "scorers" / "answer")
    own.config = replace(config, answer_scorer=scorer)
    made = coalition(own, own.config)
    for split in setup.final_splits:
        for who in evaluated:
            attempts = evaluate_chains(own, made, who, split)
            label = row if who == FULL else who
            methods.setdefault(label, {})[split] = {config.seed: attempts}
    return run, config


def shared(full: CoalitionConfig, arm: CoalitionConfig) -> dict[str, list[str]]:
    """What the arm has in common with the full method: policies, variants and shards by name."""
    common: dict[str, list[str]] = {
        "policies": ["ift-warm", "ift"], "variants": [], "shards": ["ift-imperfect"]
    }  # fmt: skip
    if (arm.variants, arm.parts) != (full.variants, full.parts):
        return common
    common["variants"] = [f"{name}-tuned" for name in arm.names]
    if arm.rounds:
        common["shards"] += [f"round0-{name}-writes" for name in arm.names]
        if arm.candidates.refiners == full.candidates.refiners:
            common["shards"] += [f"round0-{name}-refines" for name in arm.names]
            common["shards"].append("round0-utilities")
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
    reference = "round0-utilities.json"
    if "round0-utilities" in common["shards"] and (source.path / reference).exists():
        target.write_json(reference, source.read_json(reference))


def _link(source: str, target: str) -> None:
    """A hard link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
