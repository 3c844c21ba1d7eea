"""The reward model: correctness ranks a question's attempts, and a scalar head learns the rank.

    L(x) = mean over pairs (i, j), level(i) > level(j), of -log sigmoid(R(x, y_i) - R(x, y_j))

averaged over the questions that have attempts of two levels (Bradley-Terry, as in InstructGPT,
arXiv 2203.02155, equation 1; stage D of docs/methods/self-motivated.md). Each attempt is encoded
once, whatever the number of its pairs. Part of the questions is held out, whole; the pair accuracy
there, on what the model reads and without the answer sentence, is what PPO's gate asks for; its
interval resamples those questions. They are held out of the rank: the backbone, M_sft, has imitated
right attempts at all training questions.

Deviations: none known; the loss, split and gate of Self-motivated Learning (arXiv 2404.07017) could
not be read, and are ours. What is read is the reply as it is learned, the rationale and the answer
sentence, not what a writer may have put after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from rationalize.attempt_files import load_attempts
from rationalize.config import to_dict
from rationalize.config.checks import above, at_least, between
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.intervals import Interval, bootstrap_mean
from rationalize.methods.base import NothingToLearn, RunConfig
from rationalize.methods.inputs import inputs_of
from rationalize.methods.own_attempts import RejectConfig, is_right, rankable
from rationalize.methods.tuning import settle
from rationalize.models.forward import Row
from rationalize.models.heads import attached, new_head, save_head
from rationalize.models.policy import Policy
from rationalize.models.reward_model import (
    Reads,
    RewardModel,
    read_facts,
    reply,
    reward_row,
    save_facts,
)
from rationalize.progress import say
from rationalize.questions import hold_out
from rationalize.records import Attempt, Question
from rationalize.runs import Run, Stage, check_resumable
from rationalize.signals.ranks import chance_weight, pairs_across, rank_levels
from rationalize.training.batches import grouped_batch
from rationalize.training.loop import HeadFitConfig, fit
from rationalize.training.objectives import RankLoss, RankTag, rank

MIN_HELD_OUT = 5
"""Fewer held-out questions say too little for the gate to open."""


@dataclass(frozen=True)
class RewardModelConfig:
    """The reward model."""

    loss: RankLoss = "pairwise"
    """`pairwise`: Bradley-Terry; `listwise`; `pointwise`: cross-entropy (the control)."""
    levels: Literal[2, 3] = 2
    """2: right above wrong; 3: wrong attempts also above those without an answer."""
    reads: Reads = "reply"
    """`rationale`: the answer sentence is masked, in training as in use."""
    pairs: int = 16
    """At most so many pairs of a question, drawn uniformly; 0: all."""
    centre: float = 0.0
    """Weight of `(R_i + R_j)^2`, which keeps scores near 0."""
    chance_correction: bool = False
    """Weigh a question by how far its pass rate is above guessing."""
    held_out: float = 0.1
    """Share of the questions kept aside for pair accuracy."""
    gate: float = 0.65
    """Least held-out pair accuracy for PPO to learn from it (this and the next at 0: no gate)."""
    gate_masked: float = 0.60
    """The same without the answer sentence: below it, the model has memorised answers."""
    epochs: float = 1.0
    """Passes over the questions."""
    fit: HeadFitConfig = HeadFitConfig(
        learning_rate=1e-5, head_rate=1e-3, schedule="cosine", warmup=0.03, batch_size=64
    )
    """How it learns; a batch is so many questions."""

    LORA: ClassVar[dict[str, Any]] = {"fit": {"learning_rate": 1e-4}}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"lora": {"tuning": "lora", **LORA}}

    def __post_init__(self) -> None:
        at_least(self, 0, "pairs", "centre")
        between(self, 0, 1, "held_out")
        at_least(self, 0, "gate", "gate_masked")
        above(self, 0, "epochs")
        if self.centre and self.loss != "pairwise":
            raise UsageError(f"centre has no effect with loss={self.loss}; leave it out")


@dataclass(frozen=True)
class AttemptsConfig:
    """The attempts that `train reward-model` learns from."""

    attempts: str | None = None
    """Attempts to learn from: a file, a run, or a run's `attempts` folder."""
    select: RejectConfig = RejectConfig()
    """Which of them are not ranked."""


@dataclass(frozen=True)
class RankData:
    """What a reward model learns from."""

    attempts: Sequence[Attempt]
    questions: Sequence[Question]
    select: RejectConfig = RejectConfig()
    """Which attempts are not ranked."""
    scale_on: Sequence[Attempt] = ()
    """Over whose scores mean 0 and deviation 1 are taken: the SFT model's attempts; none: all."""
    seed: int = 0


class Ranked(NamedTuple):
    """A question's attempts on more than one level."""

    question: Question
    attempts: list[Attempt]
    pairs: list[tuple[int, int]]
    """`(better, worse)`, places among the attempts."""
    weight: float


def train_reward_model(
    run_config: RunConfig, config: RewardModelConfig, source: AttemptsConfig, out: Path, *,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """From stored attempts to a folder for `RewardModel.load` and the reward `reward_model`."""
    if not source.attempts:
        raise UsageError("name the attempts to learn from: --attempts RUN or FILE")
    stored = {"method": "reward-model"}
    stored |= {k: v for part in (run_config, config, source) for k, v in to_dict(part).items()}
    check_resumable(out, stored, overwrite=overwrite)
    splits = run_config.load_splits()
    attempts = attempts_at(Path(source.attempts), splits)
    base = run_config.load_policy(tuning="full", quantise=False)
    inputs = inputs_of(stored, splits, base.tokenizer)
    with Run.open(
        out, stored, base_hash=base.weights_hash, inputs=inputs, overwrite=overwrite
    ) as run:
        run_config, config = settle(run, base, run_config, config)
        policy = base if run_config.tuning == "full" else run_config.load_policy(quantise=False)
        data = RankData(attempts, splits["train"], source.select, seed=run_config.seed)
        stage = Stage(run, "reward-model")
        facts = learn_rank(policy, data, config, stage, run.path / "model")
    closed = gate_reason(facts, config)
    print(describe(facts))
    print("gate: open" if closed is None else f"gate: closed, {closed}")
    print(f"reward model: {out}")


def attempts_at(place: Path, splits: Mapping[str, Sequence[Question]]) -> list[Attempt]:
    """The attempts at training questions in a file, a run or its `attempts` folder.

    Says what is left out, and raises `UserError` where nothing is left.
    """
    folder = place / "attempts" if (place / "attempts").is_dir() else place
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    attempts = [a for file in files for a in load_attempts(file)]
    split_of = {q.id: split for split, questions in splits.items() for q in questions}
    counts = Counter(split_of.get(a.question_id, "") for a in attempts)
    unknown, kept = counts.pop("", 0), counts.pop("train", 0)
    others = ", ".join(f"{n} at {split} questions" for split, n in counts.items())
    line = f"{place}: {kept} of {len(attempts)} attempts are at training questions"
    line += f"; left out: {others}" if others else ""
    line += f"; {unknown} match no question (by question_id)" if unknown else ""
    if not kept:
        raise UserError(
            f"{line}. Expected attempts at training questions: a run, its `attempts` folder, or a "
            "file; `--questions` must be those that were attempted"
        )
    say(line)
    return [a for a in attempts if split_of.get(a.question_id) == "train"]


def learn_rank(
    policy: Policy, data: RankData, config: RewardModelConfig, stage: Stage, folder: Path, *,
    save: Callable[[Path], None] | None = None, **facts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train head and backbone of `policy` in place, write `folder` (the backbone by `save`, if not
    the policy's own), and return what was measured, with further `facts`.

    Raises `NothingToLearn` where too few questions have attempts on two levels.
    """
    questions = {q.id: q for q in data.questions}

    def make() -> Mapping[str, Any]:
        # rank: pairs of attempts at a question; whole questions are held out
        ranked = rank_attempts(data.attempts, questions, data.select, config, data.seed)
        learned, held_out = split_questions(ranked, config.held_out, data.seed)
        if not learned or not held_out:
            raise NothingToLearn(
                f"{len(ranked)} of {len(questions)} questions have attempts on two levels, "
                "expected 2 at least: questions that are always right or always wrong teach no "
                "rank. Write more attempts per question, or take harder or easier ones"
            )
        # learn: a batch is so many questions, with all attempts that are in their pairs
        scalar_head = new_head(policy, seed=data.seed)
        groups = [ranked_rows(policy, one, config.reads) for one in learned]
        size = min(config.fit.batch_size, len(groups))
        with attached(policy, scalar_head):
            fit(
                policy, rank(scalar_head, kind=config.loss, centre=config.centre),
                lambda step: grouped_batch(groups, size, step, data.seed), config.fit, stage,
                steps=max(1, math.ceil(config.epochs * len(groups) / size)),
            )  # fmt: skip
        # measure: pair accuracies for the gate, mean and deviation for the scale
        model = RewardModel(lambda: nullcontext(policy), scalar_head, reads=config.reads)
        unhinted = [a for a in data.scale_on or data.attempts if not a.hinted]
        scores_N = np.array(raw_scores(model, unhinted, questions, config.reads))
        measured = {
            "questions": len(learned), "pairs": sum(len(one.pairs) for one in learned),
            "held_out_questions": len(held_out),
            "pair_accuracy_learned": pair_accuracy(model, learned, config.reads),
            **with_interval("pair_accuracy", pair_rates(model, held_out, config.reads)),
            **with_interval("pair_accuracy_masked", pair_rates(model, held_out, "rationale")),
            "loss": config.loss, "reads": config.reads, "mean": float(scores_N.mean()),
            "std": float(scores_N.std()) or 1.0,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (save or policy.save)(folder)
        save_head(scalar_head, folder)
        save_facts(folder, **measured, **facts)
        return measured

    stage.once(make)
    return read_facts(folder)


def rank_attempts(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], select: RejectConfig,
    config: RewardModelConfig, seed: int, *, best_only: bool = False,
) -> list[Ranked]:  # fmt: skip
    """Per question its attempts and pairs; questions whose attempts are on one level are left out.

    With `best_only`, right attempts alone are better than others (iterative DPO). Attempts with a
    hint or a fault are never ranked, and equal ones once (stage B).
    """
    groups: dict[str, list[Attempt]] = {}
    in_order = sorted(attempts, key=lambda a: a.id)  # whatever the order they come in
    for attempt in rankable(in_order, questions, select):
        groups.setdefault(attempt.question_id, []).append(attempt)
    ranked = []
    for number, (id, group) in enumerate(sorted(groups.items())):
        question = questions[id]
        correct = [is_right(a, question) for a in group]
        levels = rank_levels(correct, [a.parsed for a in group], config.levels)
        if best_only:
            ranks = zip(levels, correct, strict=True)
            levels = [None if level is None else int(ok) for level, ok in ranks]
        pairs = pairs_across(levels, config.pairs, [seed, number])
        if not pairs:
            continue
        weight = 1.0
        if config.chance_correction:
            choices = len(question.choices) if question.choices else None
            weight = chance_weight(sum(correct) / len(correct), choices)
        if weight > 0:
            ranked.append(Ranked(question, group, pairs, weight))
    return ranked


def split_questions(
    ranked: Sequence[Ranked], share: float, seed: int
) -> tuple[list[Ranked], list[Ranked]]:
    """Questions to learn from and held out: whole questions, never single pairs."""
    parts = hold_out([one.question for one in ranked], share, f"{seed}/reward-model", least=1)
    learned, held_out = ([ranked[i] for i in part] for part in parts)
    return learned, held_out


def ranked_rows(policy: Policy, one: Ranked, reads: Reads) -> list[Row]:
    """A row per attempt that is in a pair, tagged with the attempts it is better than."""
    used = sorted({i for pair in one.pairs for i in pair})
    place = {i: k for k, i in enumerate(used)}
    rows = []
    for i in used:
        attempt = one.attempts[i]
        worse = tuple(place[j] for better, j in one.pairs if better == i)
        tag = RankTag(0, place[i], worse, is_right(attempt, one.question), one.weight)
        text = reply(one.question, attempt.rationale, attempt.prediction, reads)
        rows.append(reward_row(policy, one.question, text, tag))
    return rows


def raw_scores(
    model: RewardModel, attempts: Sequence[Attempt], questions: Mapping[str, Question], reads: Reads
) -> list[float]:
    """What the head says of each attempt, before scaling."""
    asked = [questions[a.question_id] for a in attempts]
    texts = [
        reply(q, a.rationale, a.prediction, reads) for q, a in zip(asked, attempts, strict=True)
    ]
    return model.raw(asked, texts)


def pair_accuracy(model: RewardModel, ranked: Sequence[Ranked], reads: Reads) -> float:
    """Share of pairs whose better one scores higher, averaged over questions."""
    rates = pair_rates(model, ranked, reads)
    return float(np.mean(rates)) if rates else 0.5


def with_interval(name: str, rates: Sequence[float]) -> dict[str, float]:
    """A pair accuracy and its 95 % interval over questions; without any, nothing is known."""
    interval = bootstrap_mean(rates) if rates else Interval(0.5, 0.0, 1.0, 0)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def pair_rates(model: RewardModel, ranked: Sequence[Ranked], reads: Reads) -> list[float]:
    """Per question the share of pairs whose better one scores higher; a tie counts half.

    Without the answer sentence, pairs of equal rationales are left out.
    """
    flat = [a for one in ranked for a in one.attempts]
    by_id = {one.question.id: one.question for one in ranked}
    scores = iter(raw_scores(model, flat, by_id, reads))
    rates = []
    for one in ranked:
        scores_N = [next(scores) for _ in one.attempts]
        gaps = [
            scores_N[i] - scores_N[j]
            for i, j in one.pairs
            if reads == "reply" or one.attempts[i].rationale != one.attempts[j].rationale
        ]
        if gaps:
            rates.append(float(np.mean([0.5 * (1 + np.sign(gap)) for gap in gaps])))
    return rates


def gate_reason(facts: Mapping[str, Any], config: RewardModelConfig) -> str | None:
    """Why PPO should not learn from this reward model, or None."""
    n = facts["held_out_questions"]
    if n < MIN_HELD_OUT and max(config.gate, config.gate_masked) > 0:
        return (
            f"pair accuracy was measured on {n} held-out questions, expected {MIN_HELD_OUT} at "
            "least: write more attempts per question, hold out a larger share (`held_out`), or "
            "open the gate (`gate` and `gate_masked` 0)"
        )
    for name, least, words in (
        ("pair_accuracy", config.gate, "held-out pair accuracy"),
        ("pair_accuracy_masked", config.gate_masked, "the same without the answer sentence"),
    ):
        if facts[name] < least:
            return (
                f"{words} is {_figure(facts, name)} (n = {n} questions), below the gate of {least}"
            )
    return None


def describe(facts: Mapping[str, Any]) -> str:
    """The figures in a line."""
    return (
        f"reward model: {facts['pairs']} pairs of {facts['questions']} questions, in order after "
        f"learning: {_figure(facts, 'pair_accuracy_learned')}; held-out pair accuracy "
        f"{_figure(facts, 'pair_accuracy')}, without the answer sentence "
        f"{_figure(facts, 'pair_accuracy_masked')} (n = {facts['held_out_questions']} questions)"
    )


def _figure(facts: Mapping[str, Any], name: str) -> str:
    """`0.710 [0.580, 0.830]`; a reward model of an earlier version has no interval."""
    if name not in facts:
        return "not measured"
    low, high = facts.get(f"{name}_low"), facts.get(f"{name}_high")
    return f"{facts[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
