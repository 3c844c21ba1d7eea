"""`rationalize demo --method self-motivated`: the floor, and every method that learns from one
store of attempts, to a report.

All methods restart from the same base model, or go on from the same M_sft; STaR alone writes its
own attempts. Where the base model cannot follow demonstrations, the writer is taught `kept.warm_up`
of the teacher's rationales first: the table's row for it says how many.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rationalize.errors import UsageError
from rationalize.evaluation.compare import Methods
from rationalize.evaluation.floor import FEW_SHOT
from rationalize.evaluation.voting import chosen_attempt, scaling_curve
from rationalize.methods.common import refuse_nested, refuse_unused, rollouts, share
from rationalize.methods.demo import floor_of
from rationalize.methods.expert_iteration import RftConfig, StarConfig, restarting, warmed_up
from rationalize.methods.iterative_dpo import IterativeDpoConfig, NoPairs, iterative_dpo
from rationalize.methods.own_attempts import NothingRight, SelectConfig, WriteConfig
from rationalize.methods.ppo import Mode, PpoConfig
from rationalize.methods.reward_model import RewardModelConfig
from rationalize.methods.self_motivated import (
    Learned,
    SelfMotivatedConfig,
    again,
    attempts_to_rewards,
    best_score,
    improve,
    learned_from,
    loaded_reward,
    open_modes,
    stage_of,
)
from rationalize.methods.setup import (
    Setup,
    final_shard,
    open_method,
    said_done,
    trained_rows,
    write_results,
)
from rationalize.methods.sft import SftConfig
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts
from rationalize.training.loop import FitConfig

RFT, STAR, DPO = "RFT (M_sft)", "STaR", "iterative DPO"
PPO_ROWS: Mapping[Mode, str] = {"z": "PPO, z", "rm": "PPO, rm", "rm+z": "PPO, rm+z"}
METHODS = ("star", "dpo", "ppo-z", "ppo-rm", "ppo-rm+z")

_SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=48, n=3)


@dataclass(frozen=True)
class SelfMotivatedDemoConfig(SelfMotivatedConfig):
    """The demo of Self-motivated Learning."""

    questions: str = "builtin:train=180,dev=24,test=72,unseen=0"
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    methods: tuple[str, ...] = ("ppo-z", "ppo-rm+z")
    """Beside RFT: star, dpo, ppo-z, ppo-rm, ppo-rm+z."""
    seeds: tuple[int, ...] = (0,)
    """One run of every method per seed."""
    votes: int = 4
    """Attempts per test question of M_sft, for the majority and the reward model's choice; 0: none.
    """
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=48)
    """How development and test rationales are written."""
    shots: int = 2
    """Demonstrations of the few-shot floor."""
    sft: SftConfig = SftConfig(fit=FitConfig(learning_rate=3e-4, batch_size=8))
    """The direct fine-tune."""
    direct_epochs: float = 1.0
    """Passes of the direct fine-tune over the questions."""
    kept: RftConfig = RftConfig(
        warm_up=160, warm_up_epochs=3.0, epochs=2.0, evaluations=1,
        write=WriteConfig(sampling=_SAMPLING), select=SelectConfig(positives=2),
        fit=FitConfig(learning_rate=3e-4, batch_size=8),
    )  # fmt: skip
    """Stages A to C: how attempts are written, sorted and imitated."""
    redraw: WriteConfig = WriteConfig(shots=0, sampling=_SAMPLING)
    """Stage C': how M_sft attempts every question again."""
    rm: RewardModelConfig = RewardModelConfig(
        pairs=8,
        held_out=0.2,
        epochs=3.0,
        fit=FitConfig(learning_rate=3e-4, head_rate=3e-3, batch_size=8, schedule="cosine"),
    )
    """Stage D: the reward model and its gate."""
    ppo: PpoConfig = PpoConfig(
        updates=5, prompts=12, epochs=1, evaluate_every=3, sampling=_SAMPLING,
        fit=FitConfig(
            learning_rate=2e-5, head_rate=1e-3, batch_size=16, schedule="constant",
            max_grad_norm=0.5,
        ),
    )  # fmt: skip
    """Stage E; its `mode` is one of `modes`."""
    star: StarConfig = StarConfig(
        rounds=2, warm_up=160, warm_up_epochs=3.0, first_steps=45,
        write=WriteConfig(
            hints="failed", sampling=SamplingConfig(temperature=0.0, max_new_tokens=48)
        ),
        fit=FitConfig(learning_rate=3e-4, batch_size=8),
    )  # fmt: skip
    """STaR."""
    dpo: IterativeDpoConfig = IterativeDpoConfig(
        rounds=1, pairs=4, write=WriteConfig(shots=0, sampling=_SAMPLING),
        fit=FitConfig(learning_rate=1e-5, batch_size=16),
    )  # fmt: skip
    """Iterative DPO, from M_sft and its redrawn attempts."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, "modes", "rounds")  # `methods` says which modes
        refuse_nested(self, "sft", "sft.epochs", "sft.evaluations", "star", "dpo")


def run_self_motivated_demo(config: SelfMotivatedDemoConfig, out: Path) -> None:
    """Write `results.json` and `report.html` in `out`, and print the table."""
    unknown = sorted(set(config.methods) - set(METHODS))
    if unknown:
        raise UsageError(f"unknown methods {unknown}; expected some of {', '.join(METHODS)}")
    started = time.monotonic()
    with open_method(config, "self-motivated-demo", out) as setup:
        run = setup.run
        if said_done(run, "demo"):
            return
        methods = floor_of(setup, setup.base)
        curves: list[dict[str, Any]] = []
        models: dict[int, Path] = {}
        for seed in config.seeds:
            own = replace(setup, config=replace(config, seed=seed))
            learned = _learn(own, methods, curves, seed)
            if learned.reward_model:
                models[seed] = learned.reward_model
        if models:
            _score_by_reward_model(setup, methods, models)
        rows = [name for name in methods if name.startswith(("PPO", "iter", "STaR", "RFT,"))]
        start = seeded(config) if config.kept.warm_up else FEW_SHOT
        pairs = [*((name, RFT) for name in rows), (RFT, start)]
        if {"PPO, rm+z", "PPO, z"} <= set(methods):
            pairs.append(("PPO, rm+z", "PPO, z"))
        seconds = time.monotonic() - started  # of this start
        meta = {"seconds": seconds, "seeds": list(config.seeds), "tokens_written": bill(setup)}
        write_results(setup, methods, pairs, meta, votes=curves, trained=_trained(config, methods))
        run.finish("demo", seconds=seconds)


def _trained(config: SelfMotivatedDemoConfig, methods: Methods) -> list[dict[str, Any]]:
    """Which rewards each method (PPO where the gate was open) learned from, by stage."""
    stages = [f"seed{seed}-sft" for seed in config.seeds]
    found = trained_rows(RFT, dict.fromkeys(stages, ("correctness",)))
    if STAR in methods:
        stages = [f"star-{seed}" for seed in config.seeds]
        found += trained_rows(STAR, dict.fromkeys(stages, ("correctness",)))
    for mode, name in PPO_ROWS.items():
        if name in methods:
            stages = [f"{stage_of(mode)}-seed{seed}" for seed in config.seeds]
            found += trained_rows(name, dict.fromkeys(stages, learned_from(mode)))
    if DPO in methods:
        found += trained_rows(DPO, {f"dpo-{seed}": ("correctness",) for seed in config.seeds})
    return found


def seeded(config: SelfMotivatedDemoConfig) -> str:
    """The row of the writer that was taught some of the teacher's rationales first."""
    return f"SFT on {config.kept.warm_up} seed rationales"


def modes_of(config: SelfMotivatedDemoConfig) -> tuple[Mode, ...]:
    """The PPO modes among the methods, or `z`, which trains no reward model."""
    return tuple(m for m in PPO_ROWS if f"ppo-{m}" in config.methods) or ("z",)


def _learn(
    setup: Setup[SelfMotivatedDemoConfig], methods: Methods, curves: list[dict[str, Any]], seed: int
) -> Learned:
    config = setup.config

    def measure(policy: Policy, name: str) -> None:
        for split in setup.final_splits:
            own = setup.evaluate(policy, name, split, seed=seed)
            methods.setdefault(name, {}).setdefault(split, {})[seed] = own

    if config.kept.warm_up:
        measure(warmed_up(setup, share(config.kept, config)), seeded(config))
    learned = attempts_to_rewards(setup, config, modes_of(config), f"seed{seed}")
    measure(again(setup, learned.sft), RFT)
    if config.votes:
        _vote(setup, methods, curves, learned, seed)
    if "star" in config.methods:
        with _left_out(STAR):
            measure(restarting(setup, share(config.star, config), f"star-{seed}").policy, STAR)
    if "dpo" in config.methods:
        with _left_out(DPO):
            own, policy = share(config.dpo, config), again(setup, learned.sft)
            measure(iterative_dpo(setup, policy, own, f"dpo-{seed}", learned.redrawn), DPO)
    scores = {}
    for mode in open_modes(modes_of(config), learned.closed):
        if f"ppo-{mode}" in config.methods:
            stage = f"{stage_of(mode)}-seed{seed}"
            improve(setup, learned, replace(config.ppo, mode=mode), stage)
            measure(again(setup, setup.run.folder("policies", stage)), PPO_ROWS[mode])
            scores[PPO_ROWS[mode], setup.run.folder("policies", stage)] = best_score(setup, stage)
    if seed == config.seeds[-1]:  # development questions say which model to export
        name, folder = max(scores, key=scores.__getitem__, default=(RFT, learned.sft))
        setup.export(again(setup, folder), name, seed=seed)
    return learned


@contextmanager
def _left_out(row: str) -> Iterator[None]:
    """A method that finds nothing to learn from says so; the others go on."""
    try:
        yield
    except (NothingRight, NoPairs) as error:
        say(f"{row} is left out: {error}")


def _vote(
    setup: Setup[SelfMotivatedDemoConfig], methods: Methods, curves: list[dict[str, Any]],
    learned: Learned, seed: int,
) -> None:  # fmt: skip
    """Several attempts of M_sft at each test question: the majority's, the reward model's choice,
    and what k of them are worth.
    """
    config = setup.config
    suite, score = setup.suite, None
    if learned.reward_model and not learned.closed:
        score = "reward_model"
        loaded = {reward.name for reward in suite.rewards}
        if score not in loaded:  # under LoRA it is the policy's neighbour, loaded in its turn
            suite = suite.with_reward(loaded_reward(setup, learned.reward_model))
    for split in setup.final_splits:
        questions = {q.id: q for q in setup.splits[split]}

        def write(split: str = split, questions=questions) -> list[Attempt]:
            sampling = replace(config.redraw.sampling, n=config.votes)
            attempts = write_attempts(
                Sampler(again(setup, learned.sft)), list(questions.values()), sampling,
                Provenance(split, seed, writer=f"{RFT} votes"), label=f"M_sft votes on {split}",
            )  # fmt: skip
            return suite.score(attempts, questions)

        attempts = rollouts(setup.run, f"votes-{split}-{seed}", write)
        groups = {id: [a for a in attempts if a.question_id == id] for id in questions}
        rules: dict[str, tuple[str | None, bool]] = {
            f"RFT, majority of {config.votes}": (None, True)
        }
        if score:
            rules[f"RFT, best of {config.votes} by reward model"] = (score, False)
            rules[f"RFT, {config.votes} votes weighted by reward model"] = (score, True)
        for name, (by, weighted) in rules.items():
            pick = partial(_picked, groups, questions, by, weighted, name, seed)
            stored = rollouts(setup.run, final_shard(name, split, seed), pick)
            methods.setdefault(name, {}).setdefault(split, {})[seed] = stored
        curves += [
            {"method": f"{RFT} on {split}, seed {seed}", **row}
            for row in scaling_curve(attempts, questions, score=score)
        ]


def _picked(
    groups: Mapping[str, Sequence[Attempt]], questions: Mapping[str, Question], by: str | None,
    weighted: bool, name: str, seed: int,
) -> list[Attempt]:  # fmt: skip
    """Of each question's attempts the one that a rule of voting answers with, as the row's own."""
    return [
        replace(
            chosen_attempt(own, questions[id], score=by, weighted=weighted),
            id=f"{name}/{seed}/{id}", writer=name, seed=seed,
        )
        for id, own in groups.items()
    ]  # fmt: skip


def _score_by_reward_model(setup: Setup, methods: Methods, models: Mapping[int, Path]) -> None:
    """Give every attempt the score of its seed's reward model; the floor gets the first one's."""
    for seed, folder in models.items():
        suite = setup.suite.with_reward(loaded_reward(setup, folder))
        alone = suite.only("reward_model")
        for name, splits in methods.items():
            for split, seeds in splits.items():
                for own, attempts in seeds.items():
                    if own == seed or (own not in models and seed == min(models)):
                        seeds[own] = setup.judged(attempts, alone, name, split, own)
    setup.suite = suite


def bill(setup: Setup) -> dict[str, int]:
    """Tokens written on training questions, by who wrote them."""
    tokens: Counter[str] = Counter()
    for attempt in setup.run.attempts(split="train"):
        tokens[attempt.writer.replace("-hinted", "")] += attempt.n_tokens
    return dict(tokens)
