"""COALITION's demo: baselines, SFT, and a coalition beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rationalize.config.checks import at_least
from rationalize.evaluation.baselines import BASE
from rationalize.methods.base import Experiment
from rationalize.methods.coalition.algorithm import coalition
from rationalize.methods.coalition.config import (
    CandidateConfig,
    CoalitionConfig,
    ControllerConfig,
    InstructionConfig,
    Judge,
    Partition,
)
from rationalize.methods.coalition.evaluate import conclude
from rationalize.methods.demos.mario import SHORT
from rationalize.methods.experiment import SFT, Row, baselines, run_rows
from rationalize.methods.sft import SftConfig, StartConfig
from rationalize.progress import say
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.loop import FitConfig


@dataclass(frozen=True)
class CoalitionDemoConfig(CoalitionConfig):
    """COALITION's demo: baselines, SFT, two variants, one round."""

    shots: int = 2
    """Demonstrations of the few-shot baseline."""
    direct: StartConfig = StartConfig(epochs=1.0, fit=FitConfig(learning_rate=3e-4, batch_size=8))
    """The direct fine-tune."""
    sft: SftConfig = SftConfig(
        epochs=1.0, evaluations=1, fit=FitConfig(learning_rate=3e-4, batch_size=8)
    )
    """SFT."""
    judge: Judge = "ift"
    """Whose likelihood is the utility; the demo trains no scorer beside M_IFT, which judges
    questions that it was not tuned on.
    """
    controller_share: float = 0.18
    """Share of the train questions that only the controller learns from."""
    preference_share: float = 0.3
    """Share of the train questions that only DPO learns from, and M_IFT judges."""
    draws: int = 1
    """Texts of each writer for an evaluation question; 1: greedy."""
    rounds: int = 1
    """Rounds of candidates and DPO."""
    epochs: float = 2.0
    """Passes over a variant's pairs in a round."""
    variant_epochs: float = 0.6
    """Passes of each variant over its own part."""
    partition: Partition = "halves"
    """Questions of a variant's DPO."""
    candidates: CandidateConfig = CandidateConfig(sampling=replace(SHORT, n=2))
    """How candidates are written, judged and paired."""
    instruction: InstructionConfig = InstructionConfig(
        epochs=1.0, fit=FitConfig(learning_rate=3e-4, batch_size=8),
        shares={"rationale": 0.25, "refine": 0.2, "answer_from_rationale": 0.45, "answer": 0.1},
    )  # fmt: skip
    """Multi-mode tuning of M_IFT and of the variants; half of it is reading: what M_IFT cannot read
    out of a rationale is no utility.
    """
    controller: ControllerConfig = ControllerConfig(epochs=2.0, fit=FitConfig(learning_rate=5e-4))
    """How the controller learns."""

    LORA: ClassVar[dict[str, Any]] = {}  # so short a tuning has LoRA's rates already
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    RUN: ClassVar[dict[str, Any]] = {
        "questions": "builtin:train=140,dev=24,test=72,unseen=0", "evaluation_tokens": 48,
    }  # fmt: skip

    def __post_init__(self) -> None:
        CoalitionConfig.__post_init__(self)
        at_least(self, 1, "shots")


def coalition_demo(exp: Experiment, config: CoalitionDemoConfig, started: float) -> None:
    """SFT, and a coalition beside it."""
    table, pairs = baselines(exp, config.direct, config.shots), [("COALITION", BASE)]
    if teacher_attempts(exp.train, "correct"):
        run_rows(exp, [Row(SFT, "sft", config.sft, "sft-{seed}")], [exp.seed], table)
        pairs = [("COALITION", SFT), (SFT, BASE)]
    else:
        say(f"{SFT} is left out: no train question has a teacher rationale that is right")
    learned = coalition(exp, exp.load_policy(), config, exp.stage("coalition"))
    conclude(exp, learned, "COALITION", table.methods, pairs, started)
