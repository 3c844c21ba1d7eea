"""What every method does before and after its own algorithm: questions, run, rewards, the starting
policy, the one test run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rationalize.errors import UsageError
from rationalize.evaluation.metrics import Metric, metrics_of
from rationalize.evaluation.results import round_rows
from rationalize.models.policy import Policy
from rationalize.questions import check_overlap, load_splits
from rationalize.records import Attempt, Question
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.training.loop import FitConfig, forget_checkpoint
from rationalize.training.selection import BestCheckpoint

Own = TypeVar("Own", bound="MethodConfig")


@dataclass(frozen=True)
class MethodConfig:
    """What every method needs to know."""

    model: str = "default"
    """Base model: `default` (SmolLM2-135M-Instruct), a folder, or a hub id."""
    questions: str = "builtin"
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for questions of another shape: our field -> theirs."""
    train_limit: int = 0
    """Use the first so many training questions; 0: all."""
    dev_limit: int = 0
    """Use the first so many development questions; 0: all."""
    test_limit: int = 0
    """Use the first so many test questions; 0: all."""
    teacher_limit: int = 0
    """Use the first so many teacher rationales of a question, right and wrong each; 0: all."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""
    tuning: Literal["auto", "full", "lora"] = "auto"
    """Which weights learn; `auto`: all up to 500M parameters, LoRA above."""
    init: Literal["sft", "model"] = "sft"
    """Start from SFT on the teacher's rationales (done first, in this run), or from `model`."""
    sft_epochs: float = 2.0
    """Passes over the teacher's rationales in that SFT."""
    sft_fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=8)
    """How that SFT learns."""
    answer_scorer: str | None = None
    """Folder of a trained answer scorer; none: one is trained in this run where needed."""
    verifier: str | None = None
    """Folder of a trained verifier, or `vera`; none: one is trained in this run where needed."""
    reward_model: str | None = None
    """Folder of a trained reward model, for the reward of that name."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=64)
    """How development and test rationales are written."""
    seed: int = 0
    """Seed of every random draw."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""


def refuse_unused(config: MethodConfig, *names: str) -> None:
    """Raise `UsageError` where a field that has no effect in this method was set."""
    fields = {f.name: f for f in dataclasses.fields(config)}
    for name in names:
        f = fields[name]
        made = f.default_factory
        if getattr(config, name) != (f.default if made is dataclasses.MISSING else made()):
            method = type(config).__name__.removesuffix("Config")
            raise UsageError(f"{name} has no effect in {method}; leave it out")


def refuse_nested(config: MethodConfig, *names: str) -> None:
    """Raise `UsageError` where the nested configuration of a name sets to something else what
    `share` takes from `config`, and where a dotted name (`rm.attempts`), which has no effect at
    all, was set.
    """
    method = type(config).__name__.removesuffix("Config")
    given = {f.name: f.default for f in dataclasses.fields(config)}
    common = [f.name for f in dataclasses.fields(MethodConfig)]
    for name, _, single in (name.partition(".") for name in names):
        nested = getattr(config, name)
        own = {f.name: getattr(nested, f.name) for f in dataclasses.fields(nested)}
        rest = {} if single else {key: own[key] for key in own if key not in common}
        untouched = (type(nested)(**rest), given[name], MethodConfig(), config)
        for key in [single] if single else [key for key in common if key in own]:
            if own[key] not in [getattr(one, key) for one in untouched if hasattr(one, key)]:
                where = "leave it out" if single else f"set {key}, which holds for every stage"
                raise UsageError(f"{name}.{key} has no effect in {method}; {where}")


def evaluate_as_written(config: MethodConfig, write: SamplingConfig) -> None:
    """Give development and test replies the length of written ones, unless another was chosen: a
    right reply that is cut counts as wrong. For `__post_init__`.
    """
    default = next(f.default for f in dataclasses.fields(config) if f.name == "evaluation_sampling")
    if config.evaluation_sampling == default:
        as_long = dataclasses.replace(
            config.evaluation_sampling, max_new_tokens=write.max_new_tokens
        )
        object.__setattr__(config, "evaluation_sampling", as_long)


def load_method_splits(config: MethodConfig) -> dict[str, list[Question]]:
    """Questions by split, limited, checked for overlap."""
    splits = load_splits(
        config.questions, columns=config.columns or None, skip_bad_rows=config.skip_bad_rows
    )
    limits = {"train": config.train_limit, "dev": config.dev_limit, "test": config.test_limit}
    splits = {s: q[: limits.get(s) or None] for s, q in splits.items()}
    if config.teacher_limit:
        splits["train"] = [with_first(q, config.teacher_limit) for q in splits["train"]]
    check_overlap(splits)
    return splits


def with_first(question: Question, count: int) -> Question:
    """The question with its first `count` teacher rationales, and as many that went wrong."""
    extra = dict(question.extra)
    for key in ("teacher_answers", "rationales_wrong"):
        if extra.get(key):
            extra[key] = extra[key][:count]
    return dataclasses.replace(question, rationales=question.rationales[:count], extra=extra)


def rollouts(run: Run, shard: str, write: Callable[[], list[Attempt]]) -> list[Attempt]:
    """The attempts of a shard: read back when the run has them, written (and stored) otherwise."""
    if not run.has_shard(shard):
        run.append(write(), shard)
    return run.read_shard(shard)


def questions_for(
    train: Sequence[Question], rollouts: int, round: int, seed: int
) -> list[Question]:
    """`rollouts` questions in shuffled passes over all, so that each has its turn."""
    if not rollouts:
        return list(train)
    return [train[i] for i in shuffled_passes(len(train), rollouts, round, [seed, 7])]


def evaluate_on_dev(
    run: Run, stage: str, sampler: Sampler, suite: RewardSuite, dev: Sequence[Question], config, *,
    round: int, step: int, control: Mapping[str, int] | None = None,
) -> float:  # fmt: skip
    """Write and score development rationales, log every metric, return the one that selects."""
    by_id = {q.id: q for q in dev}

    def write() -> list[Attempt]:
        attempts = write_attempts(
            sampler, dev, config.evaluation_sampling,
            Provenance("dev", config.seed, writer=stage, round=round, step=step),
            PromptOptions(control=control), label=f"{stage} on dev, step {step}",
        )  # fmt: skip
        return suite.score(attempts, by_id)

    attempts = rollouts(run, f"{stage}-dev{step}", write)
    metrics = metrics_of(suite.trainable, suite.diagnostics)
    means = log_round(run, stage, attempts, by_id, metrics, round=round, step=step)
    if config.select_by not in means:
        raise UsageError(
            f"select_by={config.select_by!r} is no metric; expected one of {', '.join(means)}"
        )
    return means[config.select_by]


def log_round(
    run: Run, stage: str, attempts: Sequence[Attempt], questions: Mapping[str, Question],
    metrics: Iterable[Metric], *, round: int, step: int,
) -> dict[str, float]:  # fmt: skip
    """Log what scored development attempts reach, for the report's curves and its verdict on
    hacking; returns each metric's mean.
    """
    rows = round_rows(attempts, questions, metrics, round=round, split="dev")
    run.rewind(f"{stage}/rounds", step)
    for row in rows:
        run.log(f"{stage}/rounds", step, **row)
    return {row["reward"]: row["mean"] for row in rows}


def finish_stage(run: Run, stage: str, best: BestCheckpoint, policy: Policy) -> None:
    """Leave the selected weights in the policy and clear the stage's checkpoint."""
    best.load_into(policy)
    policy.save(run.folder("policies", stage))
    run.finish(stage, step=best.step, scores={str(k): v for k, v in best.scores.items()})
    forget_checkpoint(run, stage)
    best.forget()


def restore_or(run: Run, stage: str, policy: Policy, learn: Callable[[], None]) -> None:
    """Load a finished stage's weights into `policy`, or learn them now."""
    if run.done(stage) is not None:
        policy.load_weights(run.folder("policies", stage))
    else:
        learn()


def share(own: Own, common: MethodConfig, **further: Any) -> Own:
    """A method's or scorer's configuration with the model, questions and seed of its run."""
    shared = {f.name: getattr(common, f.name) for f in dataclasses.fields(MethodConfig)}
    made = dataclasses.replace(own, **{**shared, **further})
    # a value that happens to be `own`'s default is the run's choice all the same
    object.__setattr__(made, "evaluation_sampling", common.evaluation_sampling)
    return made
