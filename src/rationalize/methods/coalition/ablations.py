"""The ablations of COALITION in one command, from shared candidates.

Every arm is a whole run with one setting changed, in `stages/arm-NAME`. What does not depend on
that setting is taken over from the full method: M_IFT, the tuned variants, the candidates of round
0. The full method itself may be a run that is finished (`full`). One table compares all arms, each
paired with the full method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rationalize.config import from_dict, to_dict
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.baselines import MAJORITY
from rationalize.evaluation.compare import Methods
from rationalize.methods.base import Experiment, final_stage
from rationalize.methods.coalition.algorithm import coalition
from rationalize.methods.coalition.config import CoalitionConfig
from rationalize.methods.coalition.evaluate import COALITION
from rationalize.methods.coalition.inference import FIXED
from rationalize.methods.coalition.table import OTHERS, RANDOM, rows_of_table
from rationalize.methods.launch import make_experiment, open_run, plan_of_run, tokens_of
from rationalize.methods.outcome import majority_row, said_done, write_results
from rationalize.methods.scoring import check_scoring
from rationalize.methods.settings import EvaluationConfig, RunConfig, ScorerFolders
from rationalize.methods.tuning import settle
from rationalize.models.folders import check_model
from rationalize.progress import say
from rationalize.runs import Run, check_resumable, differences, size_may_change
from rationalize.training.loop import FitConfig

Change = Callable[[CoalitionConfig], CoalitionConfig]


def _candidates(**changes: Any) -> Change:
    return lambda c: replace(c, candidates=replace(c.candidates, **changes))


def from_base(config: CoalitionConfig) -> CoalitionConfig:
    """Full copies of the base model, at a fifth of the rates of adapters, and for as many passes as
    M_IFT and an adapter on it.
    """

    def slower(fit: FitConfig) -> FitConfig:
        return replace(fit, learning_rate=fit.learning_rate / 5)

    return replace(
        config, copies=True, variants_from="base",
        variant_epochs=config.instruction.epochs + config.variant_epochs,
        variant_fit=slower(config.variant_fit), fit=slower(config.fit),
    )  # fmt: skip


ARMS: Mapping[str, tuple[str, Change]] = {
    "one-variant": ("A1: one variant", lambda c: replace(c, variants=1)),
    "same-data": ("A2: same data for all", lambda c: replace(c, parts="same")),
    "from-base": ("variants from the base model", from_base),
    "no-refinement": ("A3: no refinement", _candidates(refiners="none")),
    "self-only": ("A4: self-refinement only", _candidates(refiners="self")),
    "cross-only": ("A4: cross-refinement only", _candidates(refiners="cross")),
    "random-labels": ("A5: random pair labels", _candidates(labels="random")),
    "no-filter": ("A6: no filter", _candidates(filtered=False)),
    "no-sro": ("A8: no preference learning", lambda c: replace(c, rounds=0)),
    "one-round": ("A9: one round", lambda c: replace(c, rounds=1)),
    "two-rounds": ("A9: two rounds", lambda c: replace(c, rounds=2)),
    "three-rounds": ("A9: three rounds", lambda c: replace(c, rounds=3)),
}
"""Name -> its row in the table, and what it changes."""

USUAL = tuple(n for n in ARMS if not n.endswith(("-base", "-round", "-rounds")))

COMPARED = (COALITION, RANDOM)
"""Rows of an arm: what preference learning is worth shows without a controller too."""


@dataclass(frozen=True)
class GridConfig:
    """COALITION and its ablations."""

    arms: tuple[str, ...] = USUAL
    """Ablations to run: one-variant, same-data, no-refinement, self-only, cross-only,
    random-labels, no-filter, no-sro; and from-base, one-round, two-rounds, three-rounds.
    """
    full: str = ""
    """A finished run of `train coalition`, or of its demo, that is the full method: settings,
    M_IFT, variants and candidates are taken from it. None: the full method is run here.
    """


def ablations(
    run_config: RunConfig, grid: GridConfig, config: CoalitionConfig, evaluation: EvaluationConfig,
    out: Path, *, overwrite: bool = False,
) -> None:  # fmt: skip
    """Write `results.json` and `report.html` in `out`, and print the table."""
    run_config, evaluation, config = of_full(grid, run_config, evaluation, config)
    arms_from(config, grid)  # before anything is paid for
    stored = _joined(run_config, evaluation, config, grid)
    check_model(run_config.model)
    splits = run_config.load_splits()
    scoring = config.scoring(ScorerFolders(), splits["train"])
    rewards = check_scoring(scoring)
    stored = {"method": "coalition-grid", **stored}
    with open_run(run_config, out, stored, splits=splits, rewards=rewards, overwrite=overwrite) as (
        run,
        base,
    ):
        if said_done(run, "grid"):
            return
        tokens = evaluation.evaluation_tokens or tokens_of(config)
        exp = make_experiment(run, base, run_config, scoring, tokens=tokens, splits=splits)
        run_config, config = settle(run, base, run_config, config)
        exp = replace(exp, config=run_config)
        config = replace(
            config, judge=config.judged_by(exp.train),
            answer_scorer=config.answer_scorer or str(run.path / "scorers" / "answer"),
        )  # fmt: skip
        arms = arms_from(config, grid)
        methods: Methods = {MAJORITY: majority_row(exp)}
        if grid.full:
            source = _finished(exp, methods, Path(grid.full))
        else:
            exp = _run_arm(exp, methods, "full", config, COALITION)
            source = run.nested("arm-full")
        for name, arm in arms.items():
            exp = replace(exp, source=source, shared=equal_settings(config, arm))
            exp = _run_arm(exp, methods, name, arm, ARMS[name][0])
        labels = [ARMS[name][0] for name in grid.arms]
        pairs = [(COALITION, row) for row in (*OTHERS, *labels) if row in methods]
        pairs += [(RANDOM, row) for label in labels if (row := by_chance(label)) in methods]
        write_results(exp, methods, pairs)
        run.finish("grid", arms=list(grid.arms))


def plan_ablations(
    run_config: RunConfig, grid: GridConfig, config: CoalitionConfig, evaluation: EvaluationConfig
) -> list[str]:
    """What `ablations` would do, in lines; raises what it would raise before it makes a folder."""
    run_config, _, config = of_full(grid, run_config, evaluation, config)
    arms = arms_from(config, grid)
    full = f"{grid.full}, with its settings" if grid.full else "run here"
    return [
        *plan_of_run(run_config), f"full method: {full}",
        f"arms: {'; '.join(ARMS[name][0] for name in arms)}",
    ]  # fmt: skip


def arms_from(config: CoalitionConfig, grid: GridConfig) -> dict[str, CoalitionConfig]:
    """The settings of every arm. Raises `UsageError` for one that is unknown or cannot be had."""
    if unknown := sorted(set(grid.arms) - set(ARMS)):
        raise UsageError(f"unknown arms {unknown}; expected some of {', '.join(ARMS)}")
    try:
        return {name: ARMS[name][1](config) for name in grid.arms}
    except UsageError as error:
        raise UsageError(f"an arm cannot be made from these settings: {error}") from error


def of_full(
    grid: GridConfig, run_config: RunConfig, evaluation: EvaluationConfig, config: CoalitionConfig
) -> tuple[RunConfig, EvaluationConfig, CoalitionConfig]:
    """The settings, those of the run `grid.full` where there is one, with the scorer that judged
    there.
    """
    if not grid.full:
        return run_config, evaluation, config
    run_config, evaluation, config = settings_of(grid.full, run_config, evaluation, config)
    scorer = Path(grid.full) / "scorers" / "answer"
    if config.judge == "cross-fit" and not config.answer_scorer and scorer.exists():
        config = replace(config, answer_scorer=str(scorer))
    return run_config, evaluation, config


def settings_of(
    full: str, run_config: RunConfig, evaluation: EvaluationConfig, config: CoalitionConfig
) -> tuple[RunConfig, EvaluationConfig, CoalitionConfig]:
    """The settings of a run that is the full method.

    Raises `UsageError` where settings are given that are not the run's.
    """
    stored = Run.read(full).config
    given = (run_config, evaluation, config)

    def of_the_run(cls: Any) -> Any:
        known = {f.name: stored[f.name] for f in fields(cls) if f.name in stored}
        return from_dict(cls, known, where=full)

    taken = of_the_run(RunConfig), of_the_run(EvaluationConfig), of_the_run(CoalitionConfig)
    if given not in (taken, (RunConfig(), EvaluationConfig(), CoalitionConfig())):
        differing = differences(_joined(*taken), _joined(*given), "in the run", "asked for")
        raise UsageError(
            "\n  ".join([f"{full} was run with other settings than are asked for:", *differing])
            + "\nleave them out (with `full` they are the run's), or leave `full` out"
        )
    return taken


def _joined(*parts: Any) -> dict[str, Any]:
    return {key: value for part in parts for key, value in to_dict(part).items()}


def equal_settings(one: CoalitionConfig, other: CoalitionConfig) -> frozenset[str]:
    """Dotted names of the settings, and of the sections, that are equal in both.

    >>> no_filter = ARMS["no-filter"][1](CoalitionConfig())
    >>> equal = equal_settings(CoalitionConfig(), no_filter)
    >>> [name in equal for name in ("candidates", "candidates.filtered", "candidates.leak", "fit")]
    [False, False, True, True]
    """

    def equal(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> Iterator[str]:
        for key in a.keys() & b.keys():
            if a[key] == b[key]:
                yield f"{path}{key}"
            if isinstance(a[key], Mapping):
                yield from equal(a[key], b[key], f"{path}{key}.")

    return frozenset(equal(to_dict(one), to_dict(other)))


def _finished(exp: Experiment, methods: Methods, folder: Path) -> Run:
    """A finished run as the full method. `UserError` if it is unfinished or has another base."""
    run = Run.read(folder)
    with size_may_change():  # it is only read: how many processes have made it does not matter
        check_resumable(folder, run.config, base_hash=exp.base.weights_hash)
    for split in exp.final_splits:
        for row in (COALITION, *OTHERS):
            stage = final_stage(run, row)
            attempts = stage.stored(f"{split}-{exp.seed}")
            if attempts is not None:
                methods.setdefault(row, {})[split] = {exp.seed: attempts}
            elif row in COMPARED:
                shard = f"{stage.name}-{split}-{exp.seed}"
                raise UserError(f"{folder} is not finished: {shard} is missing; start it again")
    return run


def by_chance(label: str) -> str:
    """The row of an arm without its controller."""
    return f"{label}, {RANDOM}"


def _run_arm(
    exp: Experiment, methods: Methods, name: str, config: CoalitionConfig, label: str
) -> Experiment:
    """Run one arm, and put its rows into the table: all of the full method, else those `COMPARED`.

    Returns the experiment, with the utility that all arms share among its rewards: with the
    variants as the judge each arm has its own.
    """
    say(f"grid: {label}")
    full = label == COALITION
    arm = replace(exp, run=exp.run.nested(f"arm-{name}"))
    learned = coalition(arm, arm.load_policy(), config, arm.stage("coalition"))
    arm = arm.with_reward(learned.utility)
    fixed = arm.run.read_json(f"{FIXED}.json")
    for split in exp.final_splits:
        rows = rows_of_table(arm, learned.policy, config, split, COALITION, fixed, base=full)
        named = rows if full else {
            label: rows[COALITION], by_chance(label): rows[RANDOM]
        }  # fmt: skip
        for row, attempts in named.items():
            methods.setdefault(row, {})[split] = {exp.seed: attempts}
    return exp if config.judge == "variants" else exp.with_reward(learned.utility)
