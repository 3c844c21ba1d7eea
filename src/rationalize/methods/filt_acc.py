"""FILT-ACC: write, keep what is right, learn from it.

The filter baseline of MaRio (arXiv 2311.02805, section 5): the pool of MaRio's Quark with the
filter `correctness >= 1` and no tokens, so multi-step SFT on the policy's own correct rationales.

    1. explore   every `sample_interval` steps the policy writes; attempts whose every filtered
                 reward reaches its threshold join the pool, at the start with the teacher's
    2. learn     every step: NLL on rows drawn from the pool

Deviations: exact repeats of one completion to one question are kept once; development questions
select the checkpoint, the start among the candidates only where `mario` has it; no KL unless `beta`
is set (the code's form keeps Quark's KL: `preset=released`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from rationalize.config.checks import at_least, finite
from rationalize.methods.base import (
    Experiment,
    NothingToLearn,
    evaluate_on_dev,
    questions_for,
    selected,
)
from rationalize.methods.mario_config import RELEASED
from rationalize.methods.sft import LORA_FIT
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.records import Attempt
from rationalize.runs import Stage
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import Provenance, Teacher, teacher_attempts, write_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.signals.filters import first_of_each, keep_above
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import quark
from rationalize.training.selection import BestCheckpoint


@dataclass(frozen=True)
class FiltAccConfig:
    """FILT-ACC."""

    filters: dict[str, float] = field(default_factory=lambda: {"correctness": 1.0})
    """An attempt is kept when each of these rewards reaches its threshold."""
    steps: int = 600
    """Optimiser steps."""
    sample_interval: int = 200
    """Steps between two explorations; one happens at step 0."""
    prompts: int = 0
    """Questions that are written to per exploration; 0: every training question."""
    teacher: Teacher = "correct"
    """Teacher samples in the pool at step 0."""
    beta: float = 0.0
    """Weight of the KL to the starting policy."""
    select_by: str = "accuracy"
    """Development metric that selects the checkpoint: accuracy, nrg or a reward's name."""
    fit: FitConfig = FitConfig(learning_rate=5e-5, batch_size=8)
    """How the policy learns."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64)
    """How attempts are written."""

    LORA: ClassVar[dict[str, Any]] = LORA_FIT
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "released": RELEASED,  # MaRio's, without its tokens
        "lora": {"tuning": "lora", **LORA, "sft": LORA_FIT},
    }

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "sample_interval")
        at_least(self, 0, "prompts", "beta")
        finite(self, "filters")


def filt_acc(exp: Experiment, policy: Policy, config: FiltAccConfig, stage: Stage) -> Policy:
    """Teach in place, and leave the weights selected on development questions in `policy`."""
    filters = {exp.suite[name].name: least for name, least in config.filters.items()}
    stage.policy(policy, lambda: _learn(exp, policy, replace(config, filters=filters), stage))
    return policy


def _learn(
    exp: Experiment, policy: Policy, config: FiltAccConfig, stage: Stage
) -> Mapping[str, Any]:
    questions = {q.id: q for q in exp.train}
    maker, best = (
        RowMaker(policy),
        BestCheckpoint(stage, last=config.steps, start=exp.start_weights),
    )
    reference = policy.become_reference() if config.beta else None
    pool: list[Attempt] = []
    rounds = 0

    # 1. explore: the policy writes, what passes the filters joins the pool
    def explore(step: int) -> None:
        nonlocal rounds
        if step == 0:  # the start: what a round must be above to be kept
            means = evaluate_on_dev(exp, stage, policy, round=0, step=0)
            best.offer(0, selected(means, config.select_by), policy)
        while rounds <= step // config.sample_interval:
            round = rounds
            attempts = stage.attempts(f"round{round}", partial(write_round, round))
            kept = keep(attempts, config.filters)
            pool[:] = without_repeats([*pool, *kept])
            counts = {"written": len(attempts), "kept": len(kept), "attempts": len(pool)}
            exp.run.rewind(f"{stage.name}-pool", round)
            exp.run.log(f"{stage.name}-pool", round, **counts)
            rounds += 1
        if not pool:
            raise NothingToLearn(
                f"nothing to learn from: no attempt passed {dict(config.filters)}; write more per "
                "round (`prompts`), start from a better SFT model, or lower a threshold"
            )

    def write_round(round: int) -> list[Attempt]:
        attempts = write_attempts(
            exp.sampler(policy), questions_for(exp.train, config.prompts, round, exp.seed),
            config.sampling,
            Provenance("train", exp.seed, round=round, step=round * config.sample_interval),
            label=f"{stage.name} explores, round {round}",
        )  # fmt: skip
        teacher = teacher_attempts(exp.train, config.teacher) if round == 0 else []
        return exp.suite.score(teacher + attempts, questions)

    # 2. learn: NLL on rows drawn from the pool
    def batch_at(step: int) -> list[Row]:
        size, seed = config.fit.batch_size, [exp.seed, rounds]
        picked = shuffled_passes(len(pool), size, step % config.sample_interval, seed)
        return [maker.attempt(pool[i]) for i in picked]

    def after_step(step: int) -> None:
        done = step + 1
        if done % config.sample_interval == 0 or done == config.steps:
            round = -(-done // config.sample_interval)
            means = evaluate_on_dev(exp, stage, policy, round=round, step=done)
            best.offer(done, selected(means, config.select_by), policy)

    fit(
        policy, quark(reference, beta=config.beta, alpha=0.0, direction="reverse"), batch_at,
        config.fit, stage, steps=config.steps, before_step=explore, after_step=after_step,
    )  # fmt: skip
    return best.load_into(policy)


def keep(attempts: Sequence[Attempt], filters: Mapping[str, float]) -> list[Attempt]:
    """Parsed attempts whose every filtered score reaches its threshold; undefined ones never do."""
    parsed = [a for a in attempts if a.parsed]
    scores = {name: [a.rewards[name] for a in parsed] for name in filters}
    return [a for a, ok in zip(parsed, keep_above(scores, filters, len(parsed)), strict=True) if ok]


def without_repeats(attempts: Sequence[Attempt]) -> list[Attempt]:
    """One attempt of each completion to a question."""
    first = first_of_each([(a.question_id, a.completion) for a in attempts])
    return [a for a, ok in zip(attempts, first, strict=True) if ok]
