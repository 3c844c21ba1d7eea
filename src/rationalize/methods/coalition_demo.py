"""`rationalize demo --method coalition`: the floor, SFT, and a coalition beside it, to a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rationalize.evaluation.baselines import BASE
from rationalize.methods.candidates import CandidateConfig
from rationalize.methods.coalition import coalition, open_coalition
from rationalize.methods.coalition_config import CoalitionConfig, Judge, Partition
from rationalize.methods.coalition_results import conclude
from rationalize.methods.common import refuse_nested
from rationalize.methods.controller import ControllerConfig
from rationalize.methods.demo import SFT, floor_of, taught_by_sft
from rationalize.methods.instruction import InstructionConfig
from rationalize.methods.setup import said_done
from rationalize.methods.sft import SftConfig
from rationalize.progress import say
from rationalize.sampling.local import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.loop import FitConfig


@dataclass(frozen=True)
class CoalitionDemoConfig(CoalitionConfig):
    """COALITION's demo: floor, SFT, two variants, one round."""

    questions: str = "builtin:train=108,dev=24,test=72,unseen=0"
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=48)
    """How development and test rationales are written."""
    shots: int = 2
    """Demonstrations of the few-shot floor."""
    sft: SftConfig = SftConfig(
        epochs=1.25, evaluations=1, fit=FitConfig(learning_rate=3e-4, batch_size=8)
    )
    """SFT and the direct fine-tune."""
    direct_epochs: float = 1.0
    """Passes of the direct fine-tune over the questions."""
    judge: Judge = "ift"
    """Whose likelihood is the utility; the demo trains no scorer beside M_IFT."""
    rounds: int = 1
    """Rounds of candidates and DPO."""
    epochs: float = 2.0
    """Passes over a variant's pairs in a round."""
    variant_epochs: float = 0.6
    """Passes of each variant over its own part."""
    partition: Partition = "halves"
    """Questions of a variant's DPO."""
    candidates: CandidateConfig = CandidateConfig(
        sampling=SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=48, n=2)
    )
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

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_nested(self, "sft")


def run_coalition_demo(config: CoalitionDemoConfig, out: Path) -> None:
    """Write `results.json`, `report.html` and `coalition/` in `out`, and print the table."""
    started = time.monotonic()
    with open_coalition(config, "coalition-demo", out) as setup:
        run = setup.run
        if said_done(run, "demo"):
            return
        methods = floor_of(setup, setup.base)
        pairs = [("COALITION", BASE)]
        if teacher_attempts(setup.train, "correct"):
            policy = taught_by_sft(setup, config.seed)
            for split in setup.final_splits:
                own = setup.evaluate(policy, SFT, split, seed=config.seed)
                methods.setdefault(SFT, {})[split] = {config.seed: own}
            pairs = [("COALITION", SFT), (SFT, BASE)]
        else:
            say(f"{SFT} is left out: no train question has a teacher rationale that is right")
        made = coalition(setup, setup.config)
        conclude(setup, made, methods, pairs, started)
        run.finish("demo", seconds=time.monotonic() - started)  # of this start
