"""Settings that every method's run has: its model, its questions, its evaluation and scorers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from rationalize.config.checks import LARGEST_SEED, at_least, between
from rationalize.errors import UsageError
from rationalize.models.policy import Policy, Precision, load_policy
from rationalize.models.precision import Numbers
from rationalize.questions import check_overlap, load_splits
from rationalize.records import Question
from rationalize.runs.track import Tracker
from rationalize.training.sharded import Parallel


@dataclass(frozen=True)
class RunConfig:
    """The run: settings that hold for all of its stages."""

    model: str = "default"
    """Base model: `default` (SmolLM2-135M-Instruct), a folder, a GGUF file, or a hub id."""
    questions: str = "builtin"
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for questions of another shape: our field -> theirs."""
    limits: dict[str, int] = field(default_factory=dict)
    """Most questions of a split (`train=400 dev=20`), and most `rationales` of a question."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""
    tuning: Literal["auto", "full", "lora", "qlora"] = "auto"
    """Which weights learn; `auto`: all up to 500M parameters where the memory holds that, else an
    adapter (LoRA), at its learning rates where they are not set. `qlora`: an adapter over weights
    in 4 bits, on an accelerator.
    """
    lora_rank: int = 16
    """Rank of adapters."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the weights are kept in; `bfloat16`: half the memory, for LoRA alone."""
    gradient_checkpointing: bool = False
    """Compute activations twice in place of keeping them: less memory, a third more time."""
    precision: Precision = "auto"
    """What learning computes in; `auto`: bfloat16 where the processor or accelerator has it."""
    parallel: Parallel = "auto"
    """What each of several processes holds of weights that learn: all (`ddp`), or a part (`fsdp`);
    `auto`: a part where the whole does not fit.
    """
    checkpoint_every: float = 120.0
    """Seconds between two checkpoints of what is learning; more where writing one takes long."""
    track: Tracker | None = None
    """A tracker that metrics.jsonl is mirrored to; it must be installed (the extra `track`)."""
    seed: int = 0
    """Seed of every random draw."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""
    rollouts: str | None = None
    """Servers (vLLM or SGLang) that write what the policy learns from, with its weights as they
    are then: `http://a:8000/v1,http://b:8000/v1`; none: they are written in this process.
    """
    rollout_folder: str | None = None
    """Folder that this machine and the servers see, for the weights, or `HERE=THERE` where its path
    differs; none: `served` in the run's folder.
    """

    def __post_init__(self) -> None:
        at_least(self, 1, "limits")
        between(self, 0, math.inf, "checkpoint_every")
        between(self, 0, LARGEST_SEED, "seed")
        at_least(self, 1, "lora_rank")
        if self.dtype == "bfloat16" and self.tuning == "full":
            raise UsageError(
                "dtype=bfloat16 rounds full tuning's small steps away; expected dtype=float32, or "
                "tuning=lora, whose adapters are kept in float32"
            )

    def load_policy(self, model: str | Path | None = None, **options: Any) -> Policy:
        """The base model (or another) as a policy; `options` are those of `load_policy` and of its
        `Numbers`.
        """
        quantise = self.tuning == "qlora"
        of_numbers = {f.name for f in dataclasses.fields(Numbers)} & set(options)
        numbers = Numbers(
            self.precision, getattr(torch, self.dtype), quantise, self.gradient_checkpointing
        )
        numbers = replace(numbers, **{name: options.pop(name) for name in of_numbers})
        options = {
            "tuning": "lora" if quantise else self.tuning, "lora_rank": self.lora_rank,
            "adapter_seed": self.seed, "numbers": numbers, **options,
        }  # fmt: skip
        model = self.model if model is None else model
        return load_policy(model, trust_remote_code=self.trust_remote_code, **options)

    def load_splits(self) -> dict[str, list[Question]]:
        """Questions by split, limited, checked for overlap."""
        splits = load_splits(
            self.questions, columns=self.columns or None, skip_bad_rows=self.skip_bad_rows
        )
        if unknown := sorted(set(self.limits) - {*splits, "rationales"}):
            raise UsageError(
                f"limits names {unknown}; expected splits of the questions ({', '.join(splits)}), "
                "or rationales"
            )
        splits = {s: q[: self.limits.get(s)] for s, q in splits.items()}
        if most := self.limits.get("rationales"):
            splits["train"] = [with_first(q, most) for q in splits["train"]]
        check_overlap(splits)
        return splits


@dataclass(frozen=True)
class EvaluationConfig:
    """How a method's run is evaluated."""

    evaluation_tokens: int = 0
    """Longest greedy reply to a development or test question; 0: as long as the method's own, or
    where it writes none as long as 99 % of the teacher's, 64 at least.
    """

    def __post_init__(self) -> None:
        at_least(self, 0, "evaluation_tokens")


@dataclass(frozen=True)
class ScorerFolders:
    """Models that rewards read with."""

    answer_scorer: str | None = None
    """Folder of a trained answer scorer; none: one is trained in this run where needed."""
    verifier: str | None = None
    """Folder of a trained verifier, or `vera`; none: one is trained in this run where needed."""
    reward_model: str | None = None
    """Folder of a trained reward model, for the reward of that name."""


def with_first(question: Question, count: int) -> Question:
    """The question with its first `count` teacher rationales, and as many that went wrong."""
    extra = dict(question.extra)
    for key in ("teacher_answers", "rationales_wrong"):
        if extra.get(key):
            extra[key] = extra[key][:count]
    return dataclasses.replace(question, rationales=question.rationales[:count], extra=extra)
