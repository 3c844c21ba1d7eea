"""COALITION's settings, and what several of its files share.

Which defaults are the paper's (arXiv 2503.02463), its code's or ours: docs/methods/coalition.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from rationalize.config import nearest
from rationalize.config.checks import above, at_least, between, finite
from rationalize.errors import UsageError
from rationalize.methods.own_attempts import RejectConfig
from rationalize.methods.scoring import Scoring
from rationalize.methods.settings import ScorerFolders
from rationalize.methods.sft import LORA_FIT
from rationalize.models.answer_texts import Texts
from rationalize.models.reward_model import read_facts, reward_model_folder
from rationalize.progress import say
from rationalize.questions.load import check_source
from rationalize.records import Question
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.loop import FitConfig

Judge = Literal["cross-fit", "ift", "variants", "reward-model"]
Partition = Literal["quarters", "halves", "all"]
Leak = Literal["none", "mask", "penalty"]
Routing = Literal["controller", "surest"]
LeakControl = Literal["auto", "none", "mask", "penalty"]
Refiners = Literal["both", "self", "cross", "none"]
Parts = Literal["stratified", "kinds", "same"]
From = Literal["ift", "base"]

SHARES = {"rationale": 0.35, "refine": 0.35, "answer_from_rationale": 0.2, "answer": 0.1}
"""Modes of instruction tuning, and the share of a batch that each has by default."""

# Settings that a part of the algorithm depends on. A run with the same ones has made the same part,
# which is taken over from there (`Experiment.stage(needs=..)`).
FOR_IFT = ("instruction", "controller_share", "preference_share", "candidates.reject")
FOR_VARIANTS = (
    *FOR_IFT, "variants", "parts", "variant_sources", "copies", "variants_from", "variant_epochs",
    "variant_fit",
)  # fmt: skip
FOR_WRITING = (*FOR_VARIANTS, "candidates.sampling", "partition")
FOR_REFINING = (*FOR_WRITING, "candidates.refiners", "candidates.panel")
FOR_JUDGING = ("judge", "answer_scorer", "reward_model")
FOR_UTILITIES = (*FOR_REFINING, *FOR_JUDGING, "candidates.leak")


def refines(refiner: str, writer: str, refiners: Refiners) -> bool:
    """Whether one variant refines what another wrote."""
    return refiners == "both" or (refiners == "self" and refiner == writer) or (
        refiners == "cross" and refiner != writer
    )  # fmt: skip


@dataclass(frozen=True)
class InstructionConfig:
    """Multi-mode instruction tuning."""

    source: str = ""
    """Questions with rationales to tune on in the place of the train questions: a file, a folder, a
    set's name (`cot-collection`), a hub id.
    """
    source_columns: dict[str, str] = field(default_factory=dict)
    """Column names of the source, as `columns`."""
    source_sample: int = 0
    """How many of the source's questions, at random; 0: all."""
    epochs: float = 2.0
    """Passes over the rationales, warm-up included."""
    warm_up: float = 0.4
    """Share of the steps before the imperfect rationales are written."""
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    """Share of each mode (rationale, refine, answer_from_rationale, answer) in a batch, of their
    sum; a mode at 0 is not learned.
    """
    texts: Texts = "choices"
    """How answers are written: in the words of the choice, or as its letter (`modes`)."""
    imperfect: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=48)
    """How the rationales to refine are written."""
    shots: int = 3
    """Built-in demonstrations for the few-shot attempts where no question has a rationale."""
    fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=16)
    """How the model learns."""

    def __post_init__(self) -> None:
        at_least(self, 0, "source_sample", "shots")
        above(self, 0, "epochs")
        between(self, 0, 1, "warm_up")
        check_shares(self.shares, self.fit.batch_size, "fit.batch_size")
        finite(self, "shares")


@dataclass(frozen=True)
class CandidateConfig:
    """How candidates are written, judged and paired."""

    refiners: Refiners = "both"
    """Who refines a rationale: its writer, the others, both, or nobody (ablations A3, A4)."""
    panel: int = 0
    """At most so many refiners of a rationale, drawn at random where more may; 0: all."""
    leak: LeakControl = "auto"
    """What is done about rationales that state the answer. `auto`: `mask` where the judge can read
    what that leaves of a teacher's rationale, else `penalty`.
    """
    labels: Literal["utility", "random"] = "utility"
    """Which of two candidates is chosen: the more useful, or either (A5)."""
    filtered: bool = True
    """Drop pairs whose better half does not beat the reference (A6: off)."""
    margin: float = 0.0
    """By how much more than nothing the better half must beat the reference and the worse half."""
    reject: RejectConfig = RejectConfig()
    """Which of the model's own texts no variant is taught to write: they win no pair, and stand for
    no missing teacher rationale.
    """
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64)
    """How rationales and refinements are written; at least two of each are."""

    def __post_init__(self) -> None:
        at_least(self, 0, "panel", "margin")

    @property
    def control(self) -> Leak:
        """`leak`, or `mask` while `auto` is undecided."""
        return "mask" if self.leak == "auto" else self.leak


@dataclass(frozen=True)
class ControllerConfig:
    """How the controller learns."""

    learns: Literal["best", "utility"] = "best"
    """What it learns: to name the option with the highest utility, an example weighted by its lead;
    or to tell each option's utility, of which it takes the highest.
    """
    epochs: float = 3.0
    """Passes over its examples."""
    held_out: float = 0.2
    """Share of its questions kept aside to measure it."""
    lowest_weight: float = 0.05
    """Weight of an example whose best two options are alike."""
    fit: FitConfig = FitConfig(learning_rate=2e-4, batch_size=16)
    """How it learns."""

    def __post_init__(self) -> None:
        above(self, 0, "epochs")
        between(self, 0, 1, "held_out", "lowest_weight")


@dataclass(frozen=True)
class CoalitionConfig:
    """COALITION."""

    variants: int = 2
    """Writers; 1 refines itself alone (ablation A1)."""
    parts: Parts = "stratified"
    """What each variant is tuned on: its own part, stratified by kind; kinds of its own (`kinds`,
    which makes variants differ more); or all of it (A2).
    """
    variant_sources: tuple[str, ...] = ()
    """Questions with rationales that each variant is tuned on in the place of its part, one name a
    variant (as `instruction.source`); an empty name: its part.
    """
    copies: bool = False
    """Full copies instead of adapters on one base."""
    variants_from: From = "ift"
    """What variants go on from: M_IFT, or the base model, which has seen no other variant's part,
    so that they differ more (`copies`; `variant_epochs` are then all that they learn).
    """
    candidates: CandidateConfig = CandidateConfig()
    """How candidates are written, judged and paired."""
    judge: Judge = "cross-fit"
    """Whose likelihood is the utility: a cross-fitted scorer's, M_IFT's, or the variants' mean. Or
    the score of a trained `reward_model` in its place.
    """
    answer_scorer: str | None = None
    """Folder of the trained answer scorer that judges; none: one is trained in this run."""
    reward_model: str | None = None
    """Folder of the trained reward model that judges."""
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
    routing: Routing = "controller"
    """Who works when the coalition answers: whom the controller chooses (the paper's); or all
    variants write, nobody refines, and M_IFT keeps the rationale that makes it `surest`.
    """
    controller_share: float = 0.25
    """Share of the train questions that only the controller learns from."""
    preference_share: float = 0.0
    """Share of the train questions that only DPO learns from: M_IFT, not tuned on them, is then a
    judge out of sample. 0: DPO's are those that M_IFT was tuned on.
    """
    held_out_pairs: float = 0.1
    """Share of a variant's questions whose pairs are not learned from, but ordered afterwards."""
    draws: int = 2
    """Texts of each writer for a question of an evaluation split, all of them refined: drawn as
    candidates are, or 1 that is written greedily.
    """
    fit: FitConfig = FitConfig(learning_rate=5e-5, batch_size=16, schedule="cosine", warmup=0.1)
    """How a variant learns from its pairs."""
    instruction: InstructionConfig = field(default_factory=InstructionConfig)
    """Multi-mode tuning of M_IFT, and of the variants for `variant_epochs`."""
    variant_epochs: float = 1.0
    """Passes of each variant over its own part."""
    variant_fit: FitConfig = FitConfig(learning_rate=5e-4, batch_size=16)
    """How a variant learns its own part: a rate for adapters; full copies want a fifth of it."""
    controller: ControllerConfig = ControllerConfig()
    """How the controller learns."""

    LORA: ClassVar[dict[str, Any]] = {"instruction": LORA_FIT}  # variants are adapters anyway
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "lora": {"tuning": "lora", **LORA},
        # the code release: no controller, no filter; a batch of 32 pairs, 100 steps of warm-up
        "released": {
            "judge": "variants", "copies": True, "variants_from": "base", "variant_epochs": 2.0,
            "rounds": 1, "controller_share": 0.0,
            "held_out_pairs": 0.0, "select": False, "draws": 1, "tuning": "full",
            "candidates": {
                "leak": "none", "filtered": False, "reject": {"min_words": 0},
                "sampling": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 256, "beams": 3},
            },
            "fit": {"learning_rate": 1e-6, "batch_size": 64, "warmup": 100, "schedule": "cosine"},
            "variant_fit": {"learning_rate": 1e-5, "batch_size": 128, "schedule": "cosine"},
            "instruction": {
                "shares": {"rationale": 1, "refine": 1, "answer_from_rationale": 1, "answer": 1.3},
                "imperfect": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 256, "beams": 3},
                "fit": {"learning_rate": 1e-5, "batch_size": 128, "schedule": "cosine"},
            },
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        at_least(self, 1, "variants")
        at_least(self, 0, "rounds", "beta", "nll_weight", "variant_epochs")
        above(self, 0, "epochs")
        at_least(self, 1, "draws")
        between(self, 0, 1, "controller_share", "preference_share", "held_out_pairs")
        if self.controller_share + self.preference_share >= 1:
            raise UsageError(
                f"controller_share {self.controller_share:g} and preference_share "
                f"{self.preference_share:g} leave M_IFT no question; expected a sum below 1"
            )
        if self.variant_sources and len(self.variant_sources) != self.variants:
            raise UsageError(
                f"variant_sources names {len(self.variant_sources)} sources for {self.variants} "
                "variants; expected one for each (an empty one: its part of the train questions)"
            )
        if self.variants_from == "base" and not (self.copies and self.variant_epochs):
            raise UsageError(
                "variants_from=base tunes full copies of the base model, for `variant_epochs` from "
                "the start; expected copies=true and variant_epochs above 0"
            )
        if self.draws > (most := self.candidates.sampling.most_texts):
            raise UsageError(
                f"draws is {self.draws}, and candidates.sampling writes at most {most:g} "
                "different texts (greedily, or one a beam); expected no more, or a temperature "
                "above 0"
            )
        check_shares(self.instruction.shares, self.variant_fit.batch_size, "variant_fit.batch_size")
        if self.variants == 1 and self.candidates.refiners == "cross":
            raise UsageError("refiners=cross needs at least 2 variants")
        if self.judge == "reward-model" and not self.reward_model:
            raise UsageError(
                "judge=reward-model without a reward model; name the folder of a trained one: "
                "--reward-model DIR (`rationalize train reward-model` makes one)"
            )

    @property
    def max_new_tokens(self) -> int:
        """The longest rationale that a variant writes."""
        return self.candidates.sampling.max_new_tokens

    @property
    def names(self) -> list[str]:
        return [f"variant-{i + 1}" for i in range(self.variants)]

    @property
    def passes(self) -> float:
        """Passes over what a variant is tuned on: as many steps for a part of it as for all."""
        return self.variant_epochs / (self.variants if self.parts == "same" else 1)

    def judged_by(self, train: Sequence[Question]) -> Judge:
        """Who judges: M_IFT where a cross-fitted scorer has nothing to learn from."""
        if self.judge != "cross-fit" or self.answer_scorer or teacher_attempts(train, "correct"):
            return self.judge
        return "ift"

    def scoring(self, folders: ScorerFolders, train: Sequence[Question]) -> Scoring:
        """The run's rewards; consistency among them where its answer scorer judges anyway.

        Raises `UserError` where there is no such judge, before anything is trained.
        """
        for source in filter(None, (self.instruction.source, *self.variant_sources)):
            check_source(source)
        if self.judge == "reward-model":
            read_facts(reward_model_folder(self.reward_model or ""))
        judge = self.judged_by(train)
        if judge != self.judge:
            say(
                f"none of the {len(train)} train questions has a teacher rationale that led to its "
                "answer, which the judge cross-fit learns from: M_IFT judges in its place "
                "(--judge ift)"
            )
        if judge in ("ift", "variants") and not (self.preference_share or self.instruction.source):
            say(
                f"the judge {judge} has learned the answers to the questions that it judges: "
                "utilities are in sample. --preference-share keeps DPO's questions from it"
            )
        rewards = ("consistency",) if judge == "cross-fit" else ()
        folders = replace(folders, answer_scorer=self.answer_scorer)
        return Scoring(("correctness", "diversity", *rewards), folders)


def check_shares(shares: Mapping[str, float], batch_size: int, name: str) -> None:
    """Raise `UsageError` where the shares name no mode, or cannot fill a batch."""
    for mode, share in shares.items():
        if mode not in SHARES:
            raise UsageError(f"shares: unknown mode {mode!r}{nearest(mode, SHARES)}")
        if not share >= 0:
            raise UsageError(f"shares: {mode} has the share {share}; expected at least 0")
    shared = [mode for mode, share in shares.items() if share]
    if set(shared) <= {"refine"}:
        raise UsageError(
            "shares: no mode but refine has a share; expected one of "
            f"{', '.join(m for m in SHARES if m != 'refine')}, which come before it"
        )
    if batch_size < len(shared):
        raise UsageError(
            f"{name} is {batch_size}; expected at least {len(shared)}, a row for each mode that "
            f"has a share ({', '.join(shared)})"
        )
