"""The controller of COALITION: learns from utilities who should write and who should refine
(coalition.md 5.2).

    label    index of the option with the highest utility; at refinement keeping is an option too
    weight   best utility minus the next one, clipped to [0.05, 1]
    L = mean_i weight_i CE_i          weights scaled to mean 1 over the examples; the softmax is
                                      over the options there are (self- or cross-refinement alone)

The paper releases no controller; every choice here is our default. Deviations from the default in
the specification: the letters' rows of the lm-head take the place of a new linear head, and keeping
is an option.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rationalize.models.controller import choice_logits, choose, controller_row
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.questions import group_duplicates
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.signals.draws import shuffled_passes
from rationalize.training.loop import FitConfig, LossOutput, fit


@dataclass(frozen=True)
class ControllerConfig:
    """How the controller learns."""

    epochs: float = 3.0
    """Passes over its examples."""
    held_out: float = 0.2
    """Share of its questions kept aside to measure it."""
    lowest_weight: float = 0.05
    """Weight of an example whose best two options are alike."""
    fit: FitConfig = FitConfig(learning_rate=2e-4, batch_size=16)
    """How it learns."""


@dataclass(frozen=True)
class Example:
    """One choice with the utility of every option."""

    question: Question
    rationale: str | None
    """None: who writes; else who refines this."""
    utilities: tuple[float, ...]
    """NaN for an option that is not to be had."""

    @property
    def allowed(self) -> tuple[bool, ...]:
        return tuple(u == u for u in self.utilities)

    @property
    def label(self) -> int:
        return int(np.nanargmax(self.utilities))

    @property
    def gain(self) -> float:
        """Best option minus the next best; 0 for a tie."""
        first, second = sorted((u for u in self.utilities if u == u), reverse=True)[:2]
        return first - second


def train_controller(
    policy: Policy, examples: Sequence[Example], config: ControllerConfig, run: Run, stage: str,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Teach `policy` in place; returns its measures on held-out questions, per kind of choice."""
    learn, held = split_by_question(examples, config.held_out, seed)
    clear = [e for e in learn if e.gain > 0]
    weights = np.clip([e.gain for e in clear], config.lowest_weight, 1.0)
    rows = [
        controller_row(policy, e.question, e.rationale, (e.label, e.allowed, float(w)))
        for e, w in zip(clear, weights / weights.mean() if clear else (), strict=True)
    ]
    if rows:
        size = config.fit.batch_size
        steps = max(1, math.ceil(config.epochs * len(rows) / size))

        def batch_at(step: int) -> list[Row]:
            return [rows[i] for i in shuffled_passes(len(rows), size, step, seed)]

        fit(policy, weighted_choice, batch_at, config.fit, run=run, stage=stage, steps=steps)
    facts: dict[str, Any] = {"learned_from": len(rows), "ties": len(learn) - len(rows)}
    for kind, own in by_kind(held).items():
        facts[kind] = measure(policy, own, [e.label for e in clear if kind_of(e) == kind])
    return facts


def weighted_choice(policy: Policy, rows: Sequence[Row]) -> LossOutput:
    """Weighted cross-entropy over rows tagged (label, which options are allowed, weight)."""
    total, right = torch.zeros((), device=policy.device), 0.0
    for count in sorted({len(row.tag[1]) for row in rows}):
        own = [row for row in rows if len(row.tag[1]) == count]
        logits = choice_logits(policy, own, count)
        allowed = torch.tensor([row.tag[1] for row in own], device=logits.device)
        logits = logits.masked_fill(~allowed, -torch.inf)
        label_N = torch.tensor([row.tag[0] for row in own], device=logits.device)
        weight_N = torch.tensor([row.tag[2] for row in own], device=logits.device)
        losses = torch.nn.functional.cross_entropy(logits, label_N, reduction="none")
        total = total + (weight_N * losses).sum()
        right += (logits.argmax(-1) == label_N).sum().item()
    return LossOutput(total, len(rows), {"accuracy": right})


def split_by_question(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and to measure on; what asks the same is on one side."""
    questions = sorted({e.question.id: e.question for e in examples}.items())
    groups = group_duplicates(question for _, question in questions)
    chosen = random.Random(seed).sample(groups, round(share * len(groups)))
    held = {questions[i][0] for group in chosen for i in group}
    return (
        [e for e in examples if e.question.id not in held],
        [e for e in examples if e.question.id in held],
    )


def kind_of(example: Example) -> str:
    return "write" if example.rationale is None else "refine"


def by_kind(examples: Sequence[Example]) -> Mapping[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for example in examples:
        found.setdefault(kind_of(example), []).append(example)
    return found


def measure(policy: Policy, examples: Sequence[Example], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy and mean utility of the controller's choice beside the most frequent label of its
    training examples (ties aside), a random choice (its expectation) and the oracle.
    """
    count = len(examples[0].utilities)
    probabilities = choose(
        policy, [e.question for e in examples], [e.rationale for e in examples], count
    )
    frequency = np.bincount(labels, minlength=count) if labels else np.zeros(count)
    shares: dict[str, Callable[[int, Example], np.ndarray]] = {
        "controller": lambda i, e: favourite(probabilities[i], e),
        "majority": lambda i, e: favourite(frequency, e),
        "random": lambda i, e: np.array(e.allowed) / sum(e.allowed),
        "oracle": lambda i, e: favourite(e.utilities, e),
    }
    lengths = [controller_row(policy, e.question, e.rationale).length - 1 for e in examples]
    facts: dict[str, float] = {"n": len(examples), "tokens_read": float(np.mean(lengths))}
    for name, share in shares.items():
        picked = [share(i, e) for i, e in enumerate(examples)]
        own = [np.nan_to_num(e.utilities) for e in examples]
        best = [np.array(e.utilities) == np.nanmax(e.utilities) for e in examples]
        for kind, values in (("accuracy", best), ("utility", own)):
            facts[f"{name}_{kind}"] = float(
                np.mean([p @ v for p, v in zip(picked, values, strict=True)])
            )
    return facts


def describe(facts: Mapping[str, Any]) -> str:
    """What `train_controller` measured, in a line per kind of choice."""
    lines = [f"controller: learned from {facts['learned_from']} choices ({facts['ties']} ties)"]
    for kind in ("write", "refine"):
        if own := facts.get(kind):
            told = ", ".join(
                f"{name} {own[f'{name}_accuracy']:.3f} / {own[f'{name}_utility']:.3f}"
                for name in ("controller", "majority", "random", "oracle")
            )
            lines.append(
                f"  who {kind}s, share of best picks / utility: {told} (n = {own['n']}; one pass "
                f"over {own['tokens_read']:.0f} tokens a choice)"
            )
    return "\n".join(lines)


def favourite(scores: Sequence[float] | np.ndarray, example: Example) -> np.ndarray:
    """All of the choice on the allowed option with the highest score, the first of equals."""
    own = np.where(example.allowed, scores, -np.inf)
    return np.eye(len(own))[int(np.argmax(own))]
