"""What every method works with: an `Experiment`, made from the run's settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rationalize.errors import UsageError, UserError
from rationalize.evaluation.metrics import ACCURACY, PARSE_RATE, metrics_of
from rationalize.evaluation.results import round_rows
from rationalize.methods.live import show_progress
from rationalize.methods.settings import RunConfig
from rationalize.models.exported import kept_replies
from rationalize.models.folders import snapshot
from rationalize.models.policy import Policy
from rationalize.models.sources import source_of
from rationalize.models.tuning import decide_for
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.rewards.base import Reward
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run, Stage, slug
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.rollouts import rollout_sampler, servers_of
from rationalize.sampling.writing import PromptOptions, Provenance, Recorded, write_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.templates import target_text

ANSWER_SAMPLING = SamplingConfig(temperature=0.0, max_new_tokens=8)
"""How an answer without a rationale is written, where no training question has a longer one."""

KEPT_REPLIES = "attempts/replies.json"
"""Token ids of a few replies of every final evaluation, which an export is compared with."""


@dataclass(frozen=True)
class Asked(PromptOptions):
    """How a policy is asked for a reply."""

    guidance: float = 0.0
    """Weight of (log-probability under the best tokens minus under the worst)."""


@dataclass(frozen=True)
class Learned:
    """What a method leaves behind, for the table and for what starts from it."""

    policy: Any
    """The policy; a coalition where several models answer together."""
    weights: Path
    """Its weights in the run."""
    last: Path | None = None
    """Where training ended, if development questions have kept something else."""
    asked: Asked = Asked()
    """How it is asked."""
    trained: Mapping[str, Sequence[str]] | None = None
    """Stage -> the rewards that it learned from there; None: as the table of methods says."""
    label: str = ""
    """Its row in tables, where it is not the method's own."""
    attempts: Sequence[Attempt] = ()
    """This very policy's attempts at training questions, if it was asked for some."""
    store: Sequence[Attempt] = ()
    """All attempts that were written on the way to it."""
    reward_model: Path | None = None
    """Folder of the reward model that ranks its attempts."""
    closed: str = ""
    """Why nothing may learn from that reward model."""


class WithSplits:
    """What follows from a run's questions and settings; an experiment and its plan have both."""

    splits: Mapping[str, Sequence[Question]]
    config: RunConfig

    @property
    def train(self) -> Sequence[Question]:
        return self.splits["train"]

    @property
    def dev(self) -> Sequence[Question]:
        return self.splits.get("dev", [])

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def final_splits(self) -> list[str]:
        """What is evaluated once, at the end: development questions where there is nothing else."""
        kept = [s for s, asked in self.splits.items() if s not in ("train", "dev") and asked]
        return kept or ["dev"]


@dataclass(frozen=True)
class Experiment(WithSplits):
    """A run, its settings, questions, rewards and base model: the first argument of a method."""

    run: Run
    config: RunConfig
    splits: Mapping[str, Sequence[Question]]
    suite: RewardSuite
    base: Policy
    """Only read (`read_only`); what learns is loaded anew (`load_policy`)."""
    evaluation: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=64)
    """How development and test rationales are written."""
    start: Learned | None = None
    """What the method starts from, where that is not the base model itself."""
    source: Run | None = None
    """Another run, whose finished stages are taken over where they depend on the same settings."""
    shared: frozenset[str] = frozenset()
    """Settings that are the same there."""

    @property
    def tuning(self) -> Literal["full", "lora"]:
        """Which weights learn."""
        if self.config.tuning != "auto":
            return "full" if self.config.tuning == "full" else "lora"
        return decide_for(self.base.model).tuning

    @property
    def start_weights(self) -> Path | None:
        """Folder of the weights that the method starts from, where a run holds them."""
        return self.start.weights if self.start else None

    def with_seed(self, seed: int) -> Experiment:
        return replace(self, config=replace(self.config, seed=seed))

    def with_reward(self, reward: Reward) -> Experiment:
        return replace(self, suite=self.suite.with_reward(reward))

    def stage(
        self, name: str, *, kind: str = "policies", needs: Iterable[str] | None = None
    ) -> Stage:
        """The stage of a name. One that says which settings it `needs` is taken over from `source`
        where they are the same there.
        """
        stage = Stage(self.run, name, kind)
        if self.source is None or needs is None or not set(needs) <= self.shared:
            return stage
        return replace(stage, source=Stage(self.source, name, kind))

    def load_policy(self, weights: Path | None = None) -> Policy:
        """The base model with the weights that shall learn; `weights`: those of a stage in it."""
        policy = self.config.load_policy()
        if weights is not None:
            policy.load_weights(weights)
        return policy

    def sampler(self, policy: Policy) -> Sampler:
        """What writes the attempts that the policy learns from: in this process, or on the run's
        rollout servers. Evaluations are always written in this process.
        """
        config = self.config
        if not config.rollouts:
            return Sampler(policy)
        servers = servers_of(
            config.rollouts, config.rollout_folder, self.run.path, snapshot(source_of(config.model))
        )
        return rollout_sampler(policy, servers, self.run.path)

    def reset(self, policy: Policy) -> None:
        """Give a policy the base model's weights again, in its place in memory."""
        policy.load_weights(Path(self.config.model))

    def evaluate(
        self, policy: Policy, name: str, split: str, *, asked: Asked | None = None,
        seed: int | None = None,
    ) -> list[Attempt]:  # fmt: skip
        """Attempts of the row `name` at a split, scored by every reward, and stored."""
        asked = asked or Asked()
        seed = self.seed if seed is None else seed
        questions = self.splits[split]

        stage, part = final_stage(self.run, name), final_part(split, seed)

        def write() -> list[Attempt]:
            sampler = Sampler(policy, guidance=asked.guidance)
            recorded = Recorded(sampler)
            attempts = write_attempts(
                recorded, questions, self.sampling(asked.mode),
                Provenance(split, seed, writer=name), asked, label=f"{name} on {split}",
            )  # fmt: skip
            kept = kept_replies(policy, attempts, recorded.ids, sampler.dtype)
            others = self.run.read_json(KEPT_REPLIES) or {}
            self.run.write_json(KEPT_REPLIES, {**others, f"{stage.name}-{part}": kept})
            return self.suite.score(attempts, {q.id: q for q in questions})

        return stage.attempts(part, write)

    def evaluated(self, name: str, split: str) -> list[Attempt]:
        """What `evaluate` stored. Raises KeyError before that."""
        return final_stage(self.run, name).read(final_part(split, self.seed))

    def sampling(self, mode: str) -> SamplingConfig:
        """How development and test replies are written in a mode."""
        return self._answering if mode == "answer" else self.evaluation

    @cached_property
    def _answering(self) -> SamplingConfig:
        """For answers alone: with room for the longest gold one."""
        golds = {target_text("answer", question) for question in self.train}
        longest = max(len(self.base.encode_response(gold)) for gold in golds)
        return replace(ANSWER_SAMPLING, max_new_tokens=max(longest, ANSWER_SAMPLING.max_new_tokens))

    def judged(
        self, attempts: Sequence[Attempt], suite: RewardSuite, name: str, split: str, seed: int
    ) -> list[Attempt]:
        """A row's attempts with the scores of a suite that was not there when they were written."""
        questions = {q.id: q for q in self.splits[split]}
        stage = Stage(self.run, f"judged-{slug(name)}")
        return stage.attempts(final_part(split, seed), lambda: suite.score(attempts, questions))


def final_part(split: str, seed: int) -> str:
    """What a row's final stage calls its attempts at a split."""
    return f"{split}-{seed}"


def final_stage(run: Run, row: str) -> Stage:
    """Under which a row's attempts at the evaluation splits are stored, by split and seed."""
    return Stage(run, f"final-{slug(row)}")


def evaluate_on_dev(
    exp: Experiment, stage: Stage, policy: Policy, *, round: int, step: int,
    asked: Asked | None = None, scored: bool = True, draws: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Write development rationales, log what they reach, and return the mean of every metric.

    `scored`: by all rewards; else accuracy and the share of replies with an answer alone. `draws`:
    so many replies to a question at temperature 1, in the place of a greedy one.
    """
    asked = asked or Asked()
    sampling = exp.sampling(asked.mode)
    if draws:
        sampling = replace(sampling, temperature=1.0, n=draws)

    def write() -> list[Attempt]:
        attempts = write_attempts(
            Sampler(policy, guidance=asked.guidance), exp.dev, sampling,
            Provenance("dev", exp.seed, writer=stage.name, round=round, step=step), asked,
            label=f"{stage.name} on dev, step {step}",
        )  # fmt: skip
        return exp.suite.score(attempts, {q.id: q for q in exp.dev}) if scored else attempts

    attempts = stage.attempts(f"dev{step}", write)
    return log_dev(exp, stage, attempts, round=round, step=step, scored=scored)


def log_dev(
    exp: Experiment, stage: Stage, attempts: Sequence[Attempt], *, round: int, step: int,
    scored: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Log what development attempts reach, and rewrite the page; returns each metric's mean."""
    suite = exp.suite
    metrics = metrics_of(suite.trainable, suite.diagnostics) if scored else [ACCURACY, PARSE_RATE]
    rows = round_rows(attempts, {q.id: q for q in exp.dev}, metrics, round=round, split="dev")
    stage.log("rounds", step, rows)
    show_progress(exp, stage, attempts, step)
    return {row["reward"]: row["mean"] for row in rows}


def kept_on_dev(stage: Stage) -> list[Attempt]:
    """The development attempts of the step whose weights a finished stage kept."""
    return stage.stored(f"dev{(stage.done or {})['step']}") or []


def log_kept(exp: Experiment, stage: Stage, attempts: Sequence[Attempt], round: int) -> None:
    """Score by all rewards the development attempts that a round was kept with, and log them."""
    scored = exp.suite.score(attempts, {q.id: q for q in exp.dev})
    log_dev(exp, stage, scored, round=round, step=round)


def selected(means: Mapping[str, float], select_by: str) -> float:
    """The development metric that selects. Raises `UsageError` where it is none."""
    if select_by not in means:
        known = ", ".join(means)
        raise UsageError(f"select_by={select_by!r} is no metric; expected one of {known}")
    return means[select_by]


def questions_for(train: Sequence[Question], count: int, round: int, seed: int) -> list[Question]:
    """`count` questions in shuffled passes over all, so that each has its turn; 0: all."""
    if not count:
        return list(train)
    return [train[i] for i in shuffled_passes(len(train), count, round, [seed, 7])]


def unsettled(exp: Experiment, rewards: Sequence[str], name: str) -> list[Question]:
    """The training questions without those that `exp.start` settled: its attempts, two or more, are
    worth the same by each of these rewards, so that comparing others like them teaches little.
    All of them, where nothing is known or nothing would be left. `name` learns from them.
    """
    worth: dict[str, list[tuple[float | None, ...]]] = {}
    for attempt in exp.start.attempts if exp.start else ():
        if attempt.rewards.keys() >= set(rewards):
            scores = tuple(attempt.rewards[reward] for reward in rewards)
            worth.setdefault(attempt.question_id, []).append(scores)
    settled = {id for id, known in worth.items() if len(known) > 1 and len(set(known)) == 1}
    kept = [q for q in exp.train if q.id not in settled]
    if not kept or len(kept) == len(exp.train):
        return list(exp.train)
    say(
        f"{name} asks {len(kept)} of {len(exp.train)} questions: at the others the start's "
        f"attempts are alike in {', '.join(rewards)}"
    )
    return kept


class NothingToLearn(UserError):
    """A method found nothing to learn from: its row, and what starts from it, is left out."""
