"""COALITION's step 6: the controller learns from utilities who should write and who should refine.

    label    index of the option with the highest utility; at refinement keeping is an option too
    weight   best utility minus the next one, clipped to [0.05, 1]
    L = mean_i weight_i CE_i          weights scaled to mean 1 over the examples; the softmax is
                                      over the options there are (self- or cross-refinement alone)
    utility  `learns: utility` in its place: L = mean_i mean_o (logit_io - u_io)^2, both counted
             from their mean over the options o
    oracle   the best option on one draw of the texts, scored on another: what could be known

The paper releases no controller; every choice here is our default (docs/methods/coalition.md). The
letters' rows of the lm-head are its classifier.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rationalize.methods.base import Experiment
from rationalize.methods.coalition.candidates import (
    Candidates,
    UtilityJudge,
    asked_of_all,
    utility,
    with_utilities,
    write_candidates,
)
from rationalize.methods.coalition.config import CoalitionConfig, ControllerConfig
from rationalize.methods.coalition.diagnostics import log_leak, log_refining
from rationalize.methods.coalition.inference import CONTROLLER, FIXED
from rationalize.methods.coalition.tuning import VariantWeights
from rationalize.models.controller import KEEP, choice_logits, choose, controller_row
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.models.variants import Variants
from rationalize.questions import group_duplicates
from rationalize.records import Attempt, Question
from rationalize.runs import Stage
from rationalize.sampling.config import SamplingConfig
from rationalize.signals.draws import shuffled_passes
from rationalize.training.loop import Loss, LossOutput, fit

DRAWS = 2  # of every option, where texts are drawn: the oracle picks on one, scored on another


@dataclass(frozen=True)
class Example:
    """One choice with the utility of every option."""

    question: Question
    rationale: str | None
    """None: who writes; else who refines this."""
    utilities: tuple[float, ...]
    """Mean over draws, by option; NaN for an option that is not to be had."""
    draws: tuple[tuple[float, ...], ...] = ()
    """The same by draw, then by option; empty: there is one draw."""

    @property
    def kind(self) -> str:
        return "write" if self.rationale is None else "refine"

    @property
    def allowed(self) -> tuple[bool, ...]:
        return tuple(u == u for u in self.utilities)

    @property
    def label(self) -> int:
        return int(np.nanargmax(self.utilities))

    @property
    def spread(self) -> float:
        """Best option minus the worst; 0 where all are alike."""
        return float(np.nanmax(self.utilities) - np.nanmin(self.utilities))

    @property
    def gain(self) -> float:
        """Best option minus the next best; 0 for a tie."""
        first, second = sorted((u for u in self.utilities if u == u), reverse=True)[:2]
        return first - second


def fit_controller(
    exp: Experiment, variants: Variants, held: Sequence[Question], judge: UtilityJudge,
    config: CoalitionConfig,
) -> bool:  # fmt: skip
    """Train the controller on candidates for questions that nobody has learned from; False where
    there is nothing to learn: no such question, nobody to choose among, or all options alike.
    """
    if not held or (config.variants == 1 and config.candidates.refiners == "none"):
        return False
    as_answered, draws = written_as_answered(config, exp.evaluation)
    asked = asked_of_all(config.names, held, draws)
    attempts = write_candidates(exp, variants, as_answered, held, CONTROLLER, config.rounds, asked)
    candidates = with_utilities(exp, config, held, attempts, CONTROLLER, judge)
    log_refining(exp, candidates, "final")
    log_leak(exp, candidates, held, config, "final", judge)
    exp.stage(CONTROLLER).facts(FIXED, lambda: fixed_choice(candidates, config.names))
    variants.add_adapter(CONTROLLER)
    stage = exp.stage(CONTROLLER, kind="variants")

    def learn() -> Mapping[str, Any]:
        examples = controller_examples(candidates, held, config.names)
        with variants.active(CONTROLLER) as policy:
            return train_controller(policy, examples, config.controller, stage, exp.seed)

    facts = stage.policy(VariantWeights(variants, CONTROLLER), learn)
    print(describe(facts))
    return facts["learned_from"] > 0


def written_as_answered(
    config: CoalitionConfig, evaluation: SamplingConfig
) -> tuple[CoalitionConfig, int]:
    """The configuration under which candidates are written as the coalition answers, and how many
    of each: drawn, or one greedy text. What refining does to a draw it does not do to a greedy
    text, which has fewer slips to mend.
    """
    if config.draws > 1:
        return config, DRAWS
    greedy = replace(config.candidates, sampling=replace(evaluation, n=1))
    return replace(config, candidates=greedy), 1


def controller_examples(
    candidates: Candidates, questions: Sequence[Question], names: Sequence[str]
) -> list[Example]:
    """Who should write, and who should refine this or nobody, with each option's mean utility: NaN
    for one that nobody took. An example without two options to choose among is left out.
    """
    examples = []
    for q in questions:
        written = candidates.written.get(q.id, ())
        if len(names) > 1:
            examples.append(_example(q, None, _by_writer(written, names)))
        for source in written:
            if source.id in candidates.refined:
                options = _by_writer(candidates.refined[source.id], names)
                kept = [utility(source)] * max(map(len, options))
                examples.append(_example(q, source.rationale, [*options, kept]))
    return [e for e in examples if sum(e.allowed) > 1]


def _by_writer(attempts: Sequence[Attempt], names: Sequence[str]) -> list[list[float]]:
    """Each writer's utilities, in the order of its draws."""
    return [[utility(a) for a in attempts if a.writer == name] for name in names]


def _example(question: Question, rationale: str | None, options: list[list[float]]) -> Example:
    """An example from each option's utilities; an option without any is not to be had."""
    none = float("nan")
    means = tuple(float(np.mean(u)) if u else none for u in options)
    count = min((len(u) for u in options if u), default=0)
    draws = tuple(tuple(u[d] if u else none for u in options) for d in range(count))
    return Example(question, rationale, means, draws)


def fixed_choice(candidates: Candidates, names: Sequence[str]) -> dict[str, Any]:
    """The writer and the refiner (or `keep`) that a controller would choose that always chooses
    alike: those with the highest mean utility on these candidates.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for source in candidates.all_written:
        values.setdefault((source.writer, KEEP), []).append(utility(source))
        for refined in candidates.refined.get(source.id, ()):
            values.setdefault((source.writer, refined.writer), []).append(utility(refined))
    means = {who: float(np.mean(u)) for who, u in values.items()}
    writer, refiner = max(means, key=means.__getitem__)
    return {"writer": writer, "refiner": refiner, "utility": means[writer, refiner]}


def train_controller(
    policy: Policy, examples: Sequence[Example], config: ControllerConfig, stage: Stage, seed: int
) -> dict[str, Any]:
    """Teach `policy` in place; returns its measures on held-out questions, per kind of choice."""
    learn, held = split_by_question(examples, config.held_out, seed)
    clear = [e for e in learn if (e.spread if config.learns == "utility" else e.gain) > 0]
    rows: list[Row] = []
    if clear:
        rows, loss = rows_and_loss(policy, clear, config)
        size = config.fit.batch_size
        steps = max(1, math.ceil(config.epochs * len(rows) / size))

        def batch_at(step: int) -> list[Row]:
            return [rows[i] for i in shuffled_passes(len(rows), size, step, seed)]

        fit(policy, loss, batch_at, config.fit, stage, steps=steps)
    facts: dict[str, Any] = {"learned_from": len(rows), "ties": len(learn) - len(rows)}
    for kind in dict.fromkeys(e.kind for e in held):
        labels = [e.label for e in learn if e.gain > 0 and e.kind == kind]
        facts[kind] = measure(policy, [e for e in held if e.kind == kind], labels)
    return facts


def rows_and_loss(
    policy: Policy, examples: Sequence[Example], config: ControllerConfig
) -> tuple[list[Row], Loss]:
    """The examples as rows for the loss that `config.learns` names; utilities and weights are
    divided by their mean over the examples.
    """
    tags: list[Any]
    if config.learns == "utility":
        loss: Loss = told_utilities
        scale = np.mean([e.spread for e in examples])
        tags = [tuple(u / scale for u in e.utilities) for e in examples]
    else:
        loss = weighted_choice
        weights = np.clip([e.gain for e in examples], config.lowest_weight, 1.0)
        weights = weights / weights.mean()
        tags = [(e.label, e.allowed, float(w)) for e, w in zip(examples, weights, strict=True)]
    rows = [
        controller_row(policy, e.question, e.rationale, tag)
        for e, tag in zip(examples, tags, strict=True)
    ]
    return rows, loss


def told_utilities(policy: Policy, rows: Sequence[Row]) -> LossOutput:
    """Squared error of the options' logits to their utilities, each counted from its mean over the
    options, over rows tagged with the utilities (NaN for an option that is not to be had).

    Linear in the utilities, so that their noise cancels over examples. The option with the highest
    of several noisy utilities need not be a good one, and `weighted_choice` learns to name it.
    """
    count = max(len(row.tag) for row in rows)
    none = float("nan")
    logits_NC = choice_logits(policy, rows, count)
    utilities_NC = logits_NC.new_tensor([[*r.tag, *[none] * (count - len(r.tag))] for r in rows])
    offered_NC = ~utilities_NC.isnan()
    options_N1 = offered_NC.sum(-1, keepdim=True)
    gap_NC = torch.where(offered_NC, logits_NC - utilities_NC.nan_to_num(), 0.0)
    error_NC = torch.where(offered_NC, gap_NC - gap_NC.sum(-1, keepdim=True) / options_N1, 0.0)
    losses_N1 = error_NC.square().sum(-1, keepdim=True) / options_N1
    told_N, best_N = (
        torch.where(offered_NC, values_NC, -torch.inf).argmax(-1)
        for values_NC in (logits_NC, utilities_NC)
    )
    return LossOutput(losses_N1.sum(), len(rows), {"accuracy": (told_N == best_N).sum().item()})


def weighted_choice(policy: Policy, rows: Sequence[Row]) -> LossOutput:
    """Weighted cross-entropy over rows tagged (label, which options are allowed, weight)."""
    # letters that a row does not offer are as those that are not allowed
    count = max(len(row.tag[1]) for row in rows)
    offered = [[*row.tag[1], *[False] * (count - len(row.tag[1]))] for row in rows]
    logits = choice_logits(policy, rows, count)  # (N, count)
    logits = logits.masked_fill(~torch.tensor(offered, device=logits.device), -torch.inf)
    label_N = torch.tensor([row.tag[0] for row in rows], device=logits.device)
    weight_N = torch.tensor([row.tag[2] for row in rows], device=logits.device)
    losses = torch.nn.functional.cross_entropy(logits, label_N, reduction="none")
    right = (logits.argmax(-1) == label_N).sum().item()
    return LossOutput((weight_N * losses).sum(), len(rows), {"accuracy": right})


def split_by_question(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and to measure on; what asks the same is on one side."""
    questions = sorted({e.question.id: e.question for e in examples}.items())
    groups = group_duplicates(question for _, question in questions)
    chosen = random.Random(seed).sample(groups, round(share * len(groups)))
    held = {questions[i][0] for group in chosen for i in group}
    learned = [e for e in examples if e.question.id not in held]
    return learned, [e for e in examples if e.question.id in held]


def measure(policy: Policy, examples: Sequence[Example], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy and mean utility of the controller's choice beside the most frequent label of its
    training examples (ties aside), a random choice (its expectation) and the oracle, over all
    draws. The oracle picks on another draw than the one that it is scored on, if there are several.
    """
    count = len(examples[0].utilities)
    questions, rationales = [e.question for e in examples], [e.rationale for e in examples]
    probabilities = choose(policy, questions, rationales, count)
    frequency = np.bincount(labels, minlength=count) if labels else np.zeros(count)
    # what each puts on the options of an example, summing to 1; `other` is another draw
    pickers: dict[str, Callable[[int, Example, Sequence[float]], np.ndarray]] = {
        "controller": lambda i, e, other: favourite(probabilities[i], e),
        "majority": lambda i, e, other: favourite(frequency, e),
        "random": lambda i, e, other: np.array(e.allowed) / sum(e.allowed),
        "oracle": lambda i, e, other: favourite(other, e),
    }
    scored = [
        (i, e, np.array(draw), (*draws[d + 1 :], *draws[:d], draw)[0])
        for i, e in enumerate(examples)
        for draws in [e.draws or (e.utilities,)]
        for d, draw in enumerate(draws)
    ]
    lengths = [controller_row(policy, e.question, e.rationale).length - 1 for e in examples]
    facts: dict[str, float] = {"n": len(examples), "tokens_read": float(np.mean(lengths))}
    for name, pick in pickers.items():
        picked = [pick(i, e, other) for i, e, _, other in scored]
        best = [p @ (u == np.nanmax(u)) for p, (_, _, u, _) in zip(picked, scored, strict=True)]
        reached = [p @ np.nan_to_num(u) for p, (_, _, u, _) in zip(picked, scored, strict=True)]
        facts[f"{name}_accuracy"] = float(np.mean(best))
        facts[f"{name}_utility"] = float(np.mean(reached))
    return facts


def favourite(scores: Sequence[float] | np.ndarray, example: Example) -> np.ndarray:
    """All of the choice on the allowed option with the highest score, the first of equals."""
    allowed = np.where(example.allowed, scores, -np.inf)
    return np.eye(len(allowed))[int(np.argmax(allowed))]


def describe(facts: Mapping[str, Any]) -> str:
    """What `train_controller` measured, in a line per kind of choice."""
    lines = [f"controller: learned from {facts['learned_from']} choices ({facts['ties']} ties)"]
    for kind in ("write", "refine"):
        if measured := facts.get(kind):
            numbers = ", ".join(
                f"{name} {measured[f'{name}_accuracy']:.3f} / {measured[f'{name}_utility']:.3f}"
                for name in ("controller", "majority", "random", "oracle")
            )
            lines.append(
                f"  who {kind}s, share of best picks / utility: {numbers} (n = {measured['n']}; "
                f"one pass over {measured['tokens_read']:.0f} tokens a choice)"
            )
    return "\n".join(lines)
