"""From settings to a run: questions, scorers, rewards and base model; then a method, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rationalize.config import to_dict
from rationalize.config.compose import compose, split
from rationalize.methods import DEMOS, Demo, Method, load, method_named
from rationalize.methods.base import (
    Asked,
    EvaluationConfig,
    Experiment,
    Learned,
    RunConfig,
    ScorerFolders,
)
from rationalize.methods.outcome import said_done
from rationalize.methods.scoring import Scoring, make_suite
from rationalize.methods.sft import SftStart, start_from_sft
from rationalize.models.policy import Policy
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig


def settings_of(method: Method | Demo) -> type:
    """The flat configuration of a method's or demo's command: its own, and the run's."""
    config = load(method.config)
    parts = [config]
    if isinstance(method, Method) and method.start == "sft":
        parts.append(SftStart)
    if method.scorers:
        parts.append(ScorerFolders)
    parts += [EvaluationConfig, RunConfig]
    return compose(config.__name__, parts, getattr(config, "RUN", None))


def train(
    method: str, out: Path | str, settings: Any = None, *, overwrite: bool = False, **values: Any
) -> None:
    """Run a method of the table, or `module:function`, in the folder `out`; a second call resumes,
    or with `overwrite` deletes what an earlier one left there.

    `settings` is what `settings_of(method)` makes; or its values are named one by one:

        train("mario", "runs/mine", rewards=("correctness", "my_rewards:brevity"), bins=3, seed=1)
    """
    found = method_named(method)
    settings = replace(settings, **values) if settings else settings_of(found)(**values)
    with _opened(settings, out, method, overwrite) as (_, prepare):
        config, exp = prepare()
        policy = exp.load_policy()
        if found.start == "sft":
            exp, policy = start_from_sft(exp, policy, settings.sft)
        learned = learn(exp, policy, config, exp.stage(method_stage(method)), found)
        load(found.conclude)(exp, learned, learned.label or found.label)


def demo(
    name: str, out: Path | str, settings: Any = None, *, overwrite: bool = False, **values: Any
) -> None:
    """Run a demo in the folder `out`; a second call resumes, or prints the table of a done one."""
    started, found = time.monotonic(), DEMOS[name]
    settings = replace(settings, **values) if settings else settings_of(found)(**values)
    with _opened(settings, out, found.method, overwrite) as (run, prepare):
        if said_done(run, "demo"):
            return
        config, exp = prepare()
        load(found.run)(exp, config, started)
        run.finish("demo", seconds=time.monotonic() - started)  # of this start


@contextmanager
def _opened(
    settings: Any, out: Path | str, method: str, overwrite: bool
) -> Iterator[tuple[Run, Callable[[], tuple[Any, Experiment]]]]:
    """The run of a command's settings, and what makes its experiment once it is known to be due."""
    config, *others = split(settings)
    parts = {type(part): part for part in others}
    run_config = parts[RunConfig]
    tokens = parts[EvaluationConfig].evaluation_tokens or tokens_of(config)
    splits = run_config.load_splits()  # what cannot be read is told before the folder is made
    scoring = scoring_of(config, parts.get(ScorerFolders, ScorerFolders()), splits["train"])
    stored = {"method": method, **to_dict(settings)}
    with open_run(run_config, out, stored, overwrite=overwrite) as (run, base):
        yield (
            run,
            lambda: (
                config,
                make_experiment(run, base, run_config, scoring, tokens=tokens, splits=splits),
            ),
        )


def scoring_of(config: Any, folders: ScorerFolders, train: Sequence[Question]) -> Scoring:
    """What a method's rewards need.

    A configuration may say it by a method `scoring(folders, train)`; else its `rewards` and
    `filters` are loaded beside correctness and diversity.
    """
    if hasattr(config, "scoring"):
        return config.scoring(folders, train)
    names = (*getattr(config, "rewards", ()), *getattr(config, "filters", ()))
    return Scoring(("correctness", "diversity", *names), folders)


def learn(exp: Experiment, policy: Policy, config: Any, stage: Any, method: Method) -> Learned:
    """Call the method, and complete what it leaves by what the table says of it."""
    made = load(method.learn)(exp, policy, config, stage)
    learned = made if isinstance(made, Learned) else Learned(made, stage.folder)
    if learned.weights == stage.folder and stage.done is None:  # the method did not store it
        stage.policy(learned.policy, dict)
    if learned.trained is None:
        names = [exp.suite[name].name for name in method.learned_from(config)]
        learned = replace(learned, trained={stage.name: tuple(names)} if names else {})
    if method.asked and learned.asked == Asked():
        learned = replace(learned, asked=load(method.asked)(exp, config))
    return learned


def method_stage(method: str) -> str:
    """The stage of a method in its own run; of `my_file:my_method` the function's name."""
    return method.rpartition(":")[2]


def tokens_of(config: Any) -> int:
    """The longest reply that a method writes, as its `max_new_tokens` or `sampling` says."""
    if hasattr(config, "max_new_tokens"):
        return config.max_new_tokens
    return config.sampling.max_new_tokens if hasattr(config, "sampling") else 64


@contextmanager
def open_run(
    config: RunConfig, out: Path | str, stored: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[tuple[Run, Policy]]:
    """The run in a folder, and the base model; `stored` is the whole configuration."""
    base = config.load_policy(tuning="full")
    with Run.open(Path(out), stored, base_hash=base.weights_hash, overwrite=overwrite) as run:
        yield run, base


def make_experiment(
    run: Run, base: Policy, config: RunConfig, scoring: Scoring, *, tokens: int = 64,
    splits: Mapping[str, list[Question]] | None = None,
) -> Experiment:  # fmt: skip
    """Everything that a method needs. `tokens` is the longest reply to a development or test
    question; `splits` the questions, where they are read already.
    """
    splits = splits or config.load_splits()
    suite = make_suite(scoring, config, run, base, splits["train"])
    evaluation = SamplingConfig(temperature=0.0, max_new_tokens=tokens)
    return Experiment(run, config, splits, suite, base, evaluation)
