"""COALITION's settings; `coalition.py` says which are the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rationalize.errors import UsageError
from rationalize.methods.candidates import CandidateConfig
from rationalize.methods.common import MethodConfig, refuse_nested, refuse_unused
from rationalize.methods.controller import ControllerConfig
from rationalize.methods.instruction import InstructionConfig, check_shares
from rationalize.training.loop import FitConfig

Judge = Literal["cross-fit", "ift", "variants", "reward-model"]
Partition = Literal["quarters", "halves", "all"]


@dataclass(frozen=True)
class CoalitionConfig(MethodConfig):
    """COALITION."""

    variants: int = 2
    """Writers; 1 refines itself alone (ablation A1)."""
    parts: Literal["stratified", "same"] = "stratified"
    """What each variant is tuned on: its own part, stratified by kind, or all of it (A2)."""
    copies: bool = False
    """Full copies instead of adapters on one base."""
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    """How candidates are written, judged and paired."""
    judge: Judge = "cross-fit"
    """Whose likelihood is the utility: a cross-fitted scorer's, M_IFT's, or the variants' mean. Or
    the score of a trained `reward_model` in its place.
    """
    partition: Partition = "quarters"
    """Questions of a variant's DPO: its own for each kind of pair, its own for both, or all."""
    rounds: int = 2
    """Rounds of candidates and DPO; 0 leaves the tuned variants as they are (A8)."""
    select: bool = True
    """Keep the variants of the round that did best on development questions; else of the last."""
    beta: float = 0.1
    """Strength of the pull to the reference."""
    nll_weight: float = 0.0
    """Weight of the NLL of chosen texts."""
    epochs: float = 3.0
    """Passes over a variant's pairs in a round."""
    controller_share: float = 0.25
    """Share of the train questions that only the controller learns from."""
    fit: FitConfig = FitConfig(learning_rate=5e-5, batch_size=16, schedule="cosine", warmup=0.1)
    """How a variant learns from its pairs."""
    instruction: InstructionConfig = field(default_factory=InstructionConfig)
    """Multi-mode tuning of M_IFT, and of the variants for `variant_epochs`."""
    variant_epochs: float = 1.0
    """Passes of each variant over its own part."""
    variant_fit: FitConfig = FitConfig(learning_rate=5e-4, batch_size=16)
    """How a variant learns its own part: a rate for adapters; full copies want a fifth of it."""
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    """How the controller learns."""

    def __post_init__(self) -> None:
        refuse_unused(self, "init", "sft_epochs", "sft_fit", "verifier")
        refuse_nested(self, "instruction")
        check_shares(self.instruction.shares, self.variant_fit.batch_size, "variant_fit.batch_size")
        if self.variants < 1:
            raise ValueError(f"variants is {self.variants}; expected at least 1")
        if self.variants == 1 and self.candidates.refiners == "cross":
            raise ValueError("refiners=cross needs at least 2 variants")
        if self.judge == "reward-model" and not self.reward_model:
            raise UsageError(
                "judge=reward-model without a reward model; name the folder of a trained one: "
                "--reward-model DIR (`rationalize train reward-model` makes one)"
            )

    @property
    def names(self) -> list[str]:
        return [f"variant-{i + 1}" for i in range(self.variants)]

    @property
    def passes(self) -> float:
        """Passes over what a variant is tuned on: as many steps for a part of it as for all."""
        return self.variant_epochs / (self.variants if self.parts == "same" else 1)
