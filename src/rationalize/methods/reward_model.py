"""The reward model: correctness ranks a question's attempts, and a scalar head learns the rank.

    L(x) = mean over pairs (i, j), level(i) > level(j), of -log sigmoid(R(x, y_i) - R(x, y_j))

averaged over the questions that have attempts of two levels (self_motivated.md 2.D). Each attempt
is encoded once, whatever the number of its pairs. Part of the questions is held out, whole; the
pair accuracy there, on what the model reads and without the answer sentence, is what PPO's gate
asks for; its interval resamples those questions. (Held out
of the rank, that is: the backbone, M_sft, has imitated right attempts at all train questions.)

Deviations: none known; the paper's loss, split and gate could not be read, and are ours. What is
read is the reply as it is learned, the rationale and the answer sentence, not what a writer may
have put after it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rationalize.attempt_files import load_attempts
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.intervals import Interval, bootstrap_mean
from rationalize.methods.common import MethodConfig, load_method_splits, refuse_unused
from rationalize.methods.own_attempts import SelectConfig, is_right, rankable
from rationalize.models.forward import Row
from rationalize.models.heads import attached, new_head, save_head
from rationalize.models.policy import Policy, load_policy
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
from rationalize.runs import Run
from rationalize.signals.ranks import chance_weight, pairs_across, rank_levels
from rationalize.training.batches import grouped_batch
from rationalize.training.loop import FitConfig, fit, forget_checkpoint
from rationalize.training.objectives import RankLoss, RankTag, rank

LEAST_HELD_OUT = 5
"""Fewer held-out questions say too little for the gate to open."""


@dataclass(frozen=True)
class RewardModelConfig(MethodConfig):
    """The reward model."""

    attempts: str | None = None
    """Attempts to learn from: a file, a run, or a run's `attempts` folder. (Inside self-motivated:
    its own.)
    """
    loss: RankLoss = "pairwise"
    """`pairwise`: Bradley-Terry; `listwise`; `pointwise`: cross-entropy (the control)."""
    levels: Literal[2, 3] = 2
    """2: right above wrong; 3: wrong attempts also above those without an answer."""
    reads: Reads = "reply"
    """`rationale`: the answer sentence is masked, in training as in use."""
    select: SelectConfig = SelectConfig()
    """Which attempts are ranked; `positives` has no effect here."""
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
    fit: FitConfig = FitConfig(
        learning_rate=1e-5, head_rate=1e-3, schedule="cosine", warmup=0.03, batch_size=64
    )
    """How it learns; a batch is so many questions."""

    def __post_init__(self) -> None:
        refuse_unused(self, "init", "sft_epochs", "sft_fit")
        if self.centre and self.loss != "pairwise":
            raise UsageError(f"centre has no effect with loss={self.loss}; leave it out")


class NoRank(UserError):
    """Too few questions have attempts on two levels."""


class Ranked(NamedTuple):
    """A question's attempts on more than one level."""

    question: Question
    attempts: list[Attempt]
    pairs: list[tuple[int, int]]
    """`(better, worse)`."""
    weight: float


def train_reward_model(config: RewardModelConfig, out: Path) -> None:
    """From stored attempts to a folder for `RewardModel.load` and the reward `reward_model`."""
    if not config.attempts:
        raise UsageError("name the attempts to learn from: --attempts RUN or FILE")
    splits = load_method_splits(config)
    train = splits["train"]
    attempts = attempts_at(Path(config.attempts), splits)
    policy = load_policy(
        config.model, tuning=config.tuning, trust_remote_code=config.trust_remote_code
    )
    stored = {"method": "reward-model", **dataclasses.asdict(config)}
    with Run.open(out, stored, base_hash=policy.weights_hash) as run:
        facts = learn_rank(
            policy, attempts, train, config, run, "reward-model", run.folder("model"), policy.save
        )
    print(describe(facts), f"\nreward model: {out}", sep="")


def attempts_at(place: Path, splits: Mapping[str, Sequence[Question]]) -> list[Attempt]:
    """The attempts at training questions in a file, a run or its `attempts` folder; says what is
    left out, and raises `UserError` where nothing is left.
    """
    folder = place / "attempts" if (place / "attempts").is_dir() else place
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    found = [a for f in files for a in load_attempts(f)]
    split_of = {q.id: split for split, questions in splits.items() for q in questions}
    counts = Counter(split_of.get(a.question_id, "") for a in found)
    strange, kept = counts.pop("", 0), counts.pop("train", 0)
    others = ", ".join(f"{n} at {split} questions" for split, n in counts.items())
    line = f"{place}: {kept} of {len(found)} attempts are at training questions"
    line += f"; left out: {others}" if others else ""
    line += f"; {strange} match no question (by question_id)" if strange else ""
    if not kept:
        raise UserError(
            f"{line}. Expected attempts at training questions: a run, its `attempts` folder, or a "
            "file; `--questions` must be those that were attempted"
        )
    say(line)
    return [a for a in found if split_of.get(a.question_id) == "train"]


def learn_rank(
    policy: Policy,
    attempts: Sequence[Attempt],
    questions: Sequence[Question],
    config: RewardModelConfig,
    run: Run,
    stage: str,
    folder: Path,
    save: Callable[[Path], None],
    *,
    scale_on: Sequence[Attempt] = (),
    **facts: Any,
) -> dict[str, Any]:
    """Train head and backbone of `policy` in place, write `folder` (the backbone by `save`), and
    return what was measured. Scores get mean 0 and deviation 1 over `scale_on` (the SFT model's
    attempts; by default all).
    """
    if run.done(stage) is not None:
        return read_facts(folder)
    by_id = {q.id: q for q in questions}
    ranked = rank_attempts(attempts, by_id, config)
    learned, held = split_questions(ranked, config.held_out, config.seed)
    if not learned or not held:
        raise NoRank(
            f"{len(ranked)} of {len(questions)} questions have attempts on two levels, expected 2 "
            "at least: questions that are always right or always wrong teach no rank. Write more "
            "attempts per question, or take harder or easier ones"
        )
    scalar_head = new_head(policy, seed=config.seed)
    groups = [ranked_rows(policy, one, config.reads) for one in learned]
    size = min(config.fit.batch_size, len(groups))
    steps = max(1, math.ceil(config.epochs * len(groups) / size))

    def batch_at(step: int) -> list[Row]:
        return grouped_batch(groups, size, step, config.seed)

    with attached(policy, scalar_head):
        fit(
            policy, rank(scalar_head, kind=config.loss, centre=config.centre), batch_at, config.fit,
            run=run, stage=stage, steps=steps, group_of=lambda row: row.tag.question,
        )  # fmt: skip
    model = RewardModel(lambda: nullcontext(policy), scalar_head, reads=config.reads)
    free = [a for a in scale_on or attempts if not a.hinted]
    scores = np.array(raw_scores(model, free, by_id, config.reads))
    measured = {
        "questions": len(learned),
        "pairs": sum(len(one.pairs) for one in learned),
        "held_out_questions": len(held),
        "pair_accuracy_learned": pair_accuracy(model, learned, config.reads),
        **with_interval("pair_accuracy", pair_rates(model, held, config.reads)),
        **with_interval("pair_accuracy_masked", pair_rates(model, held, "rationale")),
        "loss": config.loss,
        "reads": config.reads,
        "mean": float(scores.mean()),
        "std": float(scores.std()) or 1.0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save(folder)
    save_head(scalar_head, folder)
    save_facts(folder, **measured, **facts)
    run.finish(stage, **measured)
    forget_checkpoint(run, stage)
    return read_facts(folder)


def rank_attempts(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: RewardModelConfig, *,
    best_only: bool = False,
) -> list[Ranked]:  # fmt: skip
    """Per question its attempts and pairs; questions whose attempts are on one level are left out.
    With `best_only`, right attempts alone are better than others (iterative DPO). Attempts with a
    hint or a fault are never ranked, and equal ones once (stage B).
    """
    own: dict[str, list[Attempt]] = {}
    in_order = sorted(attempts, key=lambda a: a.id)  # whatever the order they come in
    for attempt in rankable(in_order, questions, config.select):
        own.setdefault(attempt.question_id, []).append(attempt)
    ranked = []
    for number, (id, group) in enumerate(sorted(own.items())):
        question = questions[id]
        correct = [is_right(a, question) for a in group]
        levels = rank_levels(correct, [a.parsed for a in group], config.levels)
        if best_only:
            levels = [
                None if level is None else int(ok)
                for level, ok in zip(levels, correct, strict=True)
            ]
        pairs = pairs_across(levels, config.pairs, [config.seed, number])
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
    learned, held = ([ranked[i] for i in part] for part in parts)
    return learned, held


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
    own = [questions[a.question_id] for a in attempts]
    texts = [reply(q, a.rationale, a.prediction, reads) for q, a in zip(own, attempts, strict=True)]
    return model.raw(own, texts)


def pair_accuracy(model: RewardModel, ranked: Sequence[Ranked], reads: Reads) -> float:
    """Share of pairs whose better one scores higher, averaged over questions."""
    rates = pair_rates(model, ranked, reads)
    return float(np.mean(rates)) if rates else 0.5


def with_interval(name: str, rates: Sequence[float]) -> dict[str, float]:
    """A pair accuracy and its 95 % interval over questions; without any, nothing is known."""
    found = bootstrap_mean(rates) if rates else Interval(0.5, 0.0, 1.0, 0)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def pair_rates(model: RewardModel, ranked: Sequence[Ranked], reads: Reads) -> list[float]:
    """Per question the share of pairs whose better one scores higher; a tie counts half.

    Without the answer sentence, pairs of equal rationales are left out.
    """
    flat = [a for one in ranked for a in one.attempts]
    by_id = {one.question.id: one.question for one in ranked}
    scores = iter(raw_scores(model, flat, by_id, reads))
    rates = []
    for one in ranked:
        own = [next(scores) for _ in one.attempts]
        told = [
            (i, j)
            for i, j in one.pairs
            if reads == "reply" or one.attempts[i].rationale != one.attempts[j].rationale
        ]
        if told:
            rates.append(float(np.mean([0.5 * (1 + np.sign(own[i] - own[j])) for i, j in told])))
    return rates


def gate_reason(facts: Mapping[str, Any], config: RewardModelConfig) -> str | None:
    """Why PPO should not learn from this reward model, or None."""
    n = facts["held_out_questions"]
    if n < LEAST_HELD_OUT and max(config.gate, config.gate_masked) > 0:
        return (
            f"pair accuracy was measured on {n} held-out questions, expected {LEAST_HELD_OUT} at "
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
