"""The demo of Self-motivated Learning: every method that learns from one store of attempts.

All rows restart from the same base model, or go on from the same M_sft; STaR alone writes its own
attempts. Where the base model cannot follow demonstrations, the writer is taught some of the
teacher's rationales first: its row says how many.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rationalize.config.checks import at_least, check_seeds
from rationalize.errors import UsageError
from rationalize.evaluation.baselines import FEW_SHOT
from rationalize.methods.base import Experiment, Learned
from rationalize.methods.experiment import (
    Row,
    baselines,
    best_left,
    refuse_unknown_methods,
    run_rows,
    tokens_written,
)
from rationalize.methods.grpo import GrpoConfig
from rationalize.methods.iterative_dpo import IterativeDpoConfig
from rationalize.methods.outcome import last_label, write_results
from rationalize.methods.own_attempts import SelectConfig, WriteConfig
from rationalize.methods.ppo import Mode, PpoConfig
from rationalize.methods.relearn import From, RelearnConfig
from rationalize.methods.self_motivated import RankConfig
from rationalize.methods.self_training import RftConfig, StarConfig
from rationalize.methods.sft import StartConfig
from rationalize.methods.train_scorers.reward_model import RewardModelConfig
from rationalize.methods.votes import score_by_reward_models, vote
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig, HeadFitConfig
from rationalize.training.selection import best_of

HERE = "rationalize.methods"

RFT, STAR, DPO, GRPO = "RFT (M_sft)", "STaR", "iterative DPO", "GRPO"
RELEARN: Mapping[str, tuple[str, From]] = {
    "rft-more": ("RFT, second round", "more"),
    "rft-best": ("RFT, best by reward model", "best"),
    "unfiltered": ("imitation, right or wrong", "unfiltered"),
    "wrong": ("imitation, wrong alone", "wrong"),
    "seeds": ("SFT on the seeds, RFT's steps", "seeds"),
}
CONTROLS = [RELEARN[name][0] for name in ("unfiltered", "wrong", "seeds")]
"""Rows that learn as long as RFT from what correctness did not choose."""
RANK = "reward model"
PPO_ROWS: Mapping[Mode, str] = {"z": "PPO, z", "rm": "PPO, rm", "rm+z": "PPO, rm+z"}

SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=48, n=3)


@dataclass(frozen=True)
class SelfMotivatedDemoConfig:
    """The demo of Self-motivated Learning: every method that learns from one store of attempts."""

    methods: tuple[str, ...] = ("ppo-z", "ppo-rm+z")
    """Beside RFT: star, dpo, grpo, ppo-z, ppo-rm, ppo-rm+z; for as many steps as RFT, on the same
    attempts: rft-more (its second round), rft-best (by the reward model), unfiltered, wrong, seeds.
    """
    seeds: tuple[int, ...] = (0,)
    """One run of every method per seed."""
    votes: int = 4
    """Attempts per test question of M_sft, for the majority and the reward model's choice; 0: none.
    """
    shots: int = 2
    """Demonstrations of the few-shot baseline."""
    direct: StartConfig = StartConfig(epochs=1.0, fit=FitConfig(learning_rate=3e-4, batch_size=8))
    """The direct fine-tune."""
    rft: RftConfig = RftConfig(
        seed_rationales=160, seed_epochs=3.0, epochs=2.0, evaluations=1,
        write=WriteConfig(sampling=SAMPLING), select=SelectConfig(positives=2),
        fit=FitConfig(learning_rate=3e-4, batch_size=8),
    )  # fmt: skip
    """Stages A to C: how attempts are written, sorted and imitated."""
    redraw: SamplingConfig = SAMPLING
    """Stage C': how M_sft attempts every question again."""
    resample: int = 0
    """Further attempts there at questions that were always right or always wrong."""
    rm: RewardModelConfig = RewardModelConfig(
        pairs=8, held_out=0.2, epochs=3.0,
        fit=HeadFitConfig(learning_rate=3e-4, head_rate=3e-3, batch_size=8, schedule="cosine"),
    )  # fmt: skip
    """Stage D: the reward model and its gate."""
    ppo: PpoConfig = PpoConfig(
        updates=5, prompts=12, epochs=1, evaluate_every=3, sampling=SAMPLING,
        fit=HeadFitConfig(
            learning_rate=2e-5, head_rate=1e-3, batch_size=16, schedule="constant",
            max_grad_norm=0.5,
        ),
    )  # fmt: skip
    """Stage E, in the modes that `methods` names."""
    star: StarConfig = StarConfig(
        rounds=2, seed_rationales=160, seed_epochs=3.0, first_steps=45,
        write=WriteConfig(
            hints="failed", sampling=SamplingConfig(temperature=0.0, max_new_tokens=48)
        ),
        fit=FitConfig(learning_rate=3e-4, batch_size=8),
    )  # fmt: skip
    """STaR."""
    dpo: IterativeDpoConfig = IterativeDpoConfig(
        rounds=1, pairs=4, sampling=SAMPLING,
        fit=FitConfig(learning_rate=1e-5, batch_size=16),
    )  # fmt: skip
    """Iterative DPO, from M_sft and its redrawn attempts."""
    grpo: GrpoConfig = GrpoConfig(
        rewards=("correctness",), select_by="accuracy", updates=5, prompts=12, evaluate_every=3,
        fit=FitConfig(learning_rate=2e-5, batch_size=36, schedule="constant"),
        sampling=SAMPLING,
    )  # fmt: skip
    """GRPO on correctness, from M_sft."""

    LORA: ClassVar[dict[str, Any]] = {
        "ppo": {"fit": {"learning_rate": 1e-4}}, "dpo": {"fit": {"learning_rate": 5e-5}},
        "grpo": {"fit": {"learning_rate": 1e-4}},
    }  # fmt: skip
    RUN: ClassVar[dict[str, Any]] = {
        "questions": "builtin:train=180,dev=24,test=72,unseen=0",
        "evaluation_tokens": 48,
    }

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        at_least(self, 0, "votes", "resample")
        at_least(self, 1, "shots")
        others = (*RELEARN, *(f"ppo-{mode}" for mode in PPO_ROWS))
        refuse_unknown_methods(self.methods, ("star", "dpo", "grpo", *others))
        if "seeds" in self.methods and not self.rft.seed_rationales:
            raise UsageError("the row `seeds` learns the seed rationales; set rft.seed_rationales")

    @property
    def modes(self) -> list[Mode]:
        return [mode for mode in PPO_ROWS if f"ppo-{mode}" in self.methods]

    def rows(self) -> list[Row]:
        """The table's rows, each after what it starts from."""
        start, rows = "", []
        if self.rft.seed_rationales:
            start = f"SFT on {self.rft.seed_rationales} seed rationales"
            rows.append(Row(start, f"{HERE}.self_training:seed_sft", self.rft, "seed{seed}-sft"))
        rows.append(Row(RFT, "rft", self.rft, "seed{seed}-sft", start))
        modes: tuple[Mode, ...] = tuple(self.modes) or ("z",)
        if "rft-best" in self.methods:
            modes = (*modes, "rm")  # it reads the reward model too
        ranking = RankConfig(self.redraw, self.rft.select, self.rm, modes, self.resample)
        rank = f"{HERE}.self_motivated:rank"
        rows.append(Row(RANK, rank, ranking, "seed{seed}", RFT, shown=False))
        for name, (label, learns) in RELEARN.items():
            if name in self.methods:
                config = RelearnConfig(self.rft, learns)
                again = f"{HERE}.relearn:relearn"
                rows.append(Row(label, again, config, f"{name}-{{seed}}", RANK))
        if "dpo" in self.methods:
            rows.append(Row(DPO, "dpo", self.dpo, "dpo-{seed}", RANK))
        if "grpo" in self.methods:
            rows.append(Row(GRPO, "grpo", self.grpo, "grpo-{seed}", RANK))
        if "star" in self.methods:
            rows.append(Row(STAR, "star", self.star, "star-{seed}"))
        for mode in self.modes:
            stage = f"ppo-{mode.replace('+', '-')}-seed{{seed}}"
            improve = f"{HERE}.self_motivated:improve"
            rows.append(Row(PPO_ROWS[mode], improve, self.ppo.in_mode(mode), stage, RANK))
        return rows


def self_motivated_demo(exp: Experiment, config: SelfMotivatedDemoConfig, started: float) -> None:
    """Every row with every seed, votes of M_sft, and all attempts scored by the reward models."""
    rows = config.rows()
    votes: list[dict[str, Any]] = []
    table = baselines(exp, config.direct, config.shots)

    def after(seeded: Experiment, row: Row, learned: Learned) -> None:
        if row.label == RANK and config.votes:
            sampling = replace(config.redraw, n=config.votes)
            votes.extend(vote(seeded, table.methods, RFT, learned, sampling))

    run_rows(exp, rows, config.seeds, table, after)
    last = config.seeds[-1]
    ppo = [row for row in PPO_ROWS.values() if (row, last) in table.learned]
    best = best_of({row: table.selected(exp, row, last) for row in ppo}) if ppo else RFT
    model = best_left(exp, table, [best], last)
    models = {
        seed: learned.reward_model
        for (label, seed), learned in table.learned.items()
        if label == RANK and learned.reward_model
    }
    exp = score_by_reward_models(exp, table.methods, models)

    shown = [row.label for row in rows if row.shown]
    rows_of = {*shown[1:], *(last_label(label) for label in shown)}
    learners = [name for name in table.methods if name in rows_of or name.startswith("RFT,")]
    writer = shown[0] if config.rft.seed_rationales else FEW_SHOT
    pairs = [*((name, RFT) for name in learners if name != RFT), (RFT, writer)]
    of_interest = [("PPO, rm+z", "PPO, z"), (GRPO, DPO), *((RFT, control) for control in CONTROLS)]
    pairs = [pair for pair in [*pairs, *of_interest] if set(pair) <= set(table.methods)]
    pairs = [pair for i, pair in enumerate(pairs) if pair[::-1] not in pairs[:i]]
    meta = {"seconds": time.monotonic() - started, "seeds": list(config.seeds)}
    meta["tokens_written"] = tokens_written(exp)
    write_results(
        exp, table.methods, pairs, meta, model=model, votes=votes, trained=table.trained()
    )
