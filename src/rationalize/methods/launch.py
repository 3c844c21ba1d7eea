"""From settings to a run: questions, scorers, rewards and base model; then a method, to its end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rationalize.attempt_files import attempts_in
from rationalize.config import from_dict, nearest, nested, to_dict
from rationalize.config.compose import compose, split
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.metrics import metrics_of
from rationalize.methods import DEMOS, Demo, Method, load, method_named
from rationalize.methods.base import Asked, Experiment, Learned
from rationalize.methods.inputs import inputs_of
from rationalize.methods.outcome import said_done
from rationalize.methods.rollouts import check_rollouts
from rationalize.methods.scoring import (
    ANSWER_SCORER,
    Scoring,
    check_scoring,
    make_suite,
    trained_scorers,
)
from rationalize.methods.settings import EvaluationConfig, RunConfig, ScorerFolders
from rationalize.methods.sft import SftStart, start_from_sft, taught
from rationalize.methods.tuning import settle
from rationalize.models.encoding import words_of
from rationalize.models.folders import check_model
from rationalize.models.policy import Policy
from rationalize.models.quantised import check_quantising
from rationalize.models.read_only import read_only
from rationalize.progress import say
from rationalize.questions.hub import on_hub
from rationalize.records import Question
from rationalize.rewards import DIAGNOSTICS, Reward, RewardSuite
from rationalize.runs import Run, check_resumable
from rationalize.sampling.local import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.selection import last_of

logger = logging.getLogger(__name__)

_NEARLY_ALL, _SHORTEST = 0.99, 64
"""A reply may be as long as this share of the teacher's, and at least so many tokens."""

BESIDE_STAGES = "beside stages"
"""In `times.jsonl`: what no stage took, such as reading models, the report and the export."""


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
    settings = _given(settings, settings_of(found), values)
    with _opened(settings, out, method, overwrite) as (_, prepare):
        settings, config, exp = prepare()
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
    settings = _given(settings, settings_of(found), values)
    with _opened(settings, out, found.method, overwrite) as (run, prepare):
        if said_done(run, "demo"):
            return
        _, config, exp = prepare()
        load(found.run)(exp, config, started)
        run.finish("demo", seconds=time.monotonic() - started)  # of this start


def _given(settings: Any, cls: type, values: Mapping[str, Any]) -> Any:
    """The settings with these values, checked as those of a file are. Raises `UsageError`."""
    plain = {
        name: to_dict(v) if is_dataclass(v) else os.fspath(v) if isinstance(v, os.PathLike) else v
        for name, v in values.items()
    }
    return from_dict(cls, {**(to_dict(settings) if settings else {}), **plain}, "settings")


@contextmanager
def _opened(
    settings: Any, out: Path | str, method: str, overwrite: bool
) -> Iterator[tuple[Run, Callable[[], tuple[Any, Any, Experiment]]]]:
    """The run of a command's settings, and what settles them and makes the experiment once it is
    known to be due: all settings, the method's own, and the experiment.
    """
    stored = {"method": method, **to_dict(settings)}
    check_resumable(out, stored, overwrite=overwrite)
    known = checked(settings)
    run_config = known.parts[RunConfig]
    for line in known.servers:
        say(f"rollouts: {line}")
    with open_run(
        run_config, out, stored, splits=known.splits, rewards=known.rewards, overwrite=overwrite
    ) as (run, base):

        def prepare() -> tuple[Any, Any, Experiment]:
            (settled,) = settle(run, base, settings)
            config, *_, run_config = split(settled)
            check_rollouts(config, run_config)  # the tuning is decided now
            tokens = longest_reply(known, lambda text: len(words_of(base.tokenizer, text)))
            exp = make_experiment(
                run, base, known.parts[RunConfig], known.scoring, tokens=tokens,
                splits=known.splits,
            )  # fmt: skip
            return settled, config, replace(exp, config=run_config)

        with run.timed(BESIDE_STAGES):
            yield run, prepare


@dataclass(frozen=True)
class Checked:
    """A command's settings, and what was read to check them."""

    config: Any
    """The method's own."""
    parts: Mapping[type, Any]
    """The others, by their class."""
    splits: dict[str, list[Question]]
    scoring: Scoring
    rewards: list[Reward]
    """Not loaded yet."""
    servers: list[str]
    """What the rollout servers are, a line each."""


def checked(settings: Any) -> Checked:
    """Raise what can be known to be wrong before a folder is made; no model is loaded."""
    config, *others = split(settings)
    parts = {type(part): part for part in others}
    check_model(parts[RunConfig].model)
    if parts[RunConfig].tuning == "qlora":
        check_quantising(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    splits = parts[RunConfig].load_splits()
    if not splits.get("dev"):
        raise UserError(
            f"{parts[RunConfig].questions}: no development questions, by which a checkpoint is "
            "chosen; give some (a dev file, builtin:dev=50)"
        )
    scoring = scoring_of(config, parts.get(ScorerFolders, ScorerFolders()), splits["train"])
    rewards = check_scoring(scoring)
    RewardSuite(rewards).check_questions(splits["train"])
    chosen_by = [r for r in rewards if r.trainable]  # of a diagnostic more is not better
    metrics = {m.name for m in metrics_of(chosen_by) if m.role != "diagnostic"}
    check_selection(config, sorted(metrics | {r.source for r in chosen_by} - {""}))
    check_attempts(config)
    starts_from_sft = SftStart in parts and parts[SftStart].sft.epochs > 0
    if starts_from_sft or ANSWER_SCORER in trained_scorers(scoring):
        taught(splits["train"])
    servers = check_rollouts(config, parts[RunConfig])
    return Checked(config, parts, splits, scoring, rewards, servers)


def check_selection(config: Any, metrics: Sequence[str]) -> None:
    """Raise `UsageError` where a `select_by`, here or in a nested configuration, is no metric."""
    for path, part in nested(config):
        if hasattr(part, "select_by") and part.select_by not in metrics:
            name, chosen = f"{path}.select_by".lstrip("."), part.select_by
            raise UsageError(f"{name}: unknown metric {chosen!r}{nearest(chosen, metrics)}")


def check_attempts(config: Any) -> None:
    """Raise `UserError` where a configuration names attempts that cannot be read."""
    for _, part in nested(config):
        if getattr(part, "attempts", None):
            attempts_in(Path(part.attempts))


def plan(
    settings: Any, out: Path, method: str, about: str, *, overwrite: bool
) -> tuple[list[str], Checked | None]:
    """What a start would do, in lines, and what was read to check that; raises what a start would
    raise before it makes a folder.
    """
    *_, run_config = split(settings)
    if on_hub(run_config.questions):
        check_model(run_config.model)
        line = f"questions: {run_config.questions}, from the hub (not read in a dry run)"
        return [line], None
    known = checked(settings)
    stored = {"method": method, **to_dict(settings)}
    inputs = inputs_of(stored, known.splits, rewards=known.rewards)
    check_resumable(out, stored, inputs=inputs, overwrite=overwrite)
    scorers = trained_scorers(known.scoring)
    if SftStart in known.parts and known.parts[SftStart].sft.epochs > 0:
        scorers.append("SFT, to start from")
    lines = [
        *plan_of_run(run_config, known.splits),
        f"rewards: {', '.join(dict.fromkeys(known.scoring.rewards))}; beside them "
        f"{', '.join(DIAGNOSTICS)}",
        f"trained: {'; '.join([*scorers, about])}",
        *[f"rollouts: {line}" for line in known.servers],
    ]
    return lines, known


def plan_of_run(
    run_config: RunConfig, splits: Mapping[str, Sequence[Question]] | None = None
) -> list[str]:
    """Lines about the model and the questions; raises what is wrong with them."""
    check_model(run_config.model)
    if splits is None and on_hub(run_config.questions):
        return [f"questions: {run_config.questions}, from the hub (not read in a dry run)"]
    splits = splits or run_config.load_splits()
    with_rationale = [q for q in splits["train"] if q.rationales]
    written = sum(len(q.rationales) for q in with_rationale)
    return [
        f"model: {run_config.model} (tuning {run_config.tuning}, precision {run_config.precision})",
        f"questions: {', '.join(f'{len(q)} {split}' for split, q in splits.items())}; "
        f"{written} rationales at {len(with_rationale)} train questions",
    ]


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
    learned = replace(learned, last=learned.last or last_of(stage))
    if learned.trained is None:
        names = [exp.suite[name].name for name in method.learned_from(config)]
        learned = replace(learned, trained={stage.name: tuple(names)} if names else {})
    if method.asked and learned.asked == Asked():
        learned = replace(learned, asked=load(method.asked)(exp, config, stage))
    return learned


def method_stage(method: str) -> str:
    """The stage of a method in its own run; of `my_file:my_method` the function's name."""
    return method.rpartition(":")[2]


def longest_reply(known: Checked, count: Callable[[str], float]) -> int:
    """The longest reply to a development or test question, by the tokens that `count` gives a text:
    as it is set, as the method's own, or as nearly all of the teacher's where it writes none.

    Warns where replies like the teacher's would be cut, there or in what the method writes.
    """
    given = known.parts[EvaluationConfig].evaluation_tokens or tokens_of(known.config)
    taught = teacher_attempts(known.splits["train"], "correct")
    lengths = [count(a.completion) + 1 for a in taught]  # its end too
    needed = math.ceil(np.quantile(lengths, _NEARLY_ALL)) if lengths else 0
    limits = {
        f"{path}.max_new_tokens": part.max_new_tokens
        for path, part in nested(known.config) if isinstance(part, SamplingConfig)
    }  # fmt: skip
    if given:
        limits["evaluation_tokens"] = given
    short = {name: limit for name, limit in limits.items() if limit < needed}
    if short:
        least = min(short.values())
        longer = sum(length > least for length in lengths) / len(lengths)
        logger.warning(
            "%.0f %% of the teacher's replies are longer than the %d tokens that a reply may have: "
            "a model that writes like them is cut before its answer. Let replies have %d: %s",
            100 * longer, least, needed,
            ", ".join(f"`{name}` is {limit}" for name, limit in short.items()),
        )  # fmt: skip
    return given or max(_SHORTEST, needed)


def tokens_of(config: Any) -> int:
    """The longest reply that a method writes, as its `max_new_tokens` or `sampling` says; 0 where
    it writes none.
    """
    if hasattr(config, "max_new_tokens"):
        return config.max_new_tokens
    return config.sampling.max_new_tokens if hasattr(config, "sampling") else 0


@contextmanager
def open_run(
    config: RunConfig, out: Path | str, stored: Mapping[str, Any], *,
    splits: Mapping[str, Sequence[Question]], rewards: Iterable[Reward] = (),
    overwrite: bool = False,
) -> Iterator[tuple[Run, Policy]]:  # fmt: skip
    """The run in a folder, pinned to its inputs, and the base model; `stored` is the whole
    configuration.
    """
    check_resumable(out, stored, overwrite=overwrite)  # before anything is loaded
    say(f"loading the model {config.model}")
    base = read_only(config.load_policy(tuning="full"))
    inputs = inputs_of(stored, splits, base.tokenizer, rewards)
    with Run.open(
        Path(out), stored, base_hash=base.weights_hash, inputs=inputs, overwrite=overwrite
    ) as run:
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
