"""The reward model: correctness ranks a question's attempts, and a scalar head learns the rank.

    L(x) = mean over pairs (i, j), level(i) > level(j), of -log sigmoid(R(x, y_i) - R(x, y_j))

averaged over the questions that have attempts of two levels (Bradley-Terry, as in InstructGPT,
arXiv 2203.02155, equation 1; stage D of docs/methods/self-motivated.md). Each attempt is encoded
once, whatever the number of its pairs. Part of the questions is held out, whole; the pair accuracy
there, on what the model reads and without the answer sentence, is what PPO's gate asks for; its
interval resamples those questions. They are held out of the rank: the backbone, M_sft, has imitated
right attempts at all training questions.

Which state of a reply the head reads is chosen first (`score: auto`): linear heads on the frozen
states of M_sft order questions that they were not fitted to, beside M_sft's own log-likelihood,
which needs no learning. A head at the end of the reply alone, which is usual, reads a state that is
almost the same for all replies. In the place of a head, `score: dpo` trains V-STaR's verifier
(arXiv 2402.06457, section 3): M_sft learns the same pairs by DPO, and its likelihood scores.

Deviations: none known; the loss, split and gate of Self-motivated Learning (arXiv 2404.07017) could
not be read, and are ours. What is read is the reply as it is learned, the rationale and the answer
sentence, not what a writer may have put after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch.nn import Linear

from rationalize.answers import read_prediction
from rationalize.attempt_files import attempts_in
from rationalize.config import to_dict
from rationalize.config.checks import above, at_least, between
from rationalize.errors import UsageError, UserError
from rationalize.methods.base import NothingToLearn
from rationalize.methods.inputs import inputs_of
from rationalize.methods.own_attempts import RejectConfig
from rationalize.methods.pair_accuracy import with_interval
from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers.choosing import (
    Tried,
    chosen_score,
    describe_tried,
    try_scores,
)
from rationalize.methods.train_scorers.ranking import (
    Ranked,
    pair_accuracy,
    pair_rates,
    pair_texts,
    rank_attempts,
    ranked_rows,
    raw_scores,
    split_questions,
)
from rationalize.methods.tuning import settle
from rationalize.models.heads import attached, new_head, save_head
from rationalize.models.policy import Policy
from rationalize.models.reward_model import Reads, RewardModel, Score, read_facts, save_facts
from rationalize.processes import by_first
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.runs import Run, Stage, check_resumable
from rationalize.training.batches import grouped_batch
from rationalize.training.loop import HeadFitConfig, fit
from rationalize.training.objectives import RankLoss, rank
from rationalize.training.preference import learn_pairs

MIN_HELD_OUT = 5
"""Fewer held-out questions say too little for the gate to open."""
MOST_SCALED = 500
"""Attempts that mean and deviation of the scores are of: known to a twentieth of a deviation."""
MOST_LEARNED = 50
"""Questions learned from whose pairs are ordered again, for the figure beside the held-out one."""


@dataclass(frozen=True)
class RewardModelConfig:
    """The reward model."""

    loss: RankLoss = "pairwise"
    """`pairwise`: Bradley-Terry; `listwise`; `pointwise`: cross-entropy (the control)."""
    levels: Literal[2, 3] = 2
    """2: right above wrong; 3: wrong attempts also above those without an answer."""
    score: Score | Literal["auto"] = "auto"
    """What scores a reply: a head on a state of it (`end`, `answer`, `mean`), M_sft's `likelihood`,
    or V-STaR's verifier (`dpo`); `auto`: the state that orders most pairs of other questions.
    """
    beta: float = 0.1
    """DPO's beta, with `score=dpo`."""
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
    """The same without the answer sentence, where questions have choices: below it, the model knows
    which choice is right, whatever is said of it.
    """
    epochs: float = 1.0
    """Passes over the questions."""
    fit: HeadFitConfig = HeadFitConfig(
        learning_rate=1e-5, head_rate=1e-3, schedule="cosine", warmup=0.03, batch_size=64
    )
    """How it learns; a batch is so many questions."""

    LORA: ClassVar[dict[str, Any]] = {"fit": {"learning_rate": 1e-4}}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"lora": {"tuning": "lora", **LORA}}

    def __post_init__(self) -> None:
        at_least(self, 0, "pairs", "centre", "beta")
        between(self, 0, 1, "held_out")
        at_least(self, 0, "gate", "gate_masked")
        above(self, 0, "epochs")
        if self.centre and self.loss != "pairwise":
            raise UsageError(f"centre has no effect with loss={self.loss}; leave it out")
        for name in ("loss", "reads", "centre", "chance_correction"):
            found, default = getattr(self, name), getattr(type(self), name)
            if self.score == "dpo" and found != default:
                raise UsageError(
                    f"{name} is {found}, but score=dpo learns by DPO from whole replies; expected "
                    f"{name}={default}, or a score of a head (auto)"
                )


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
    closed = gate_reason(facts, config, splits["train"])
    print(describe(facts))
    print("gate: open" if closed is None else f"gate: closed, {closed}")
    print(f"reward model: {out}")


def attempts_at(place: Path, splits: Mapping[str, Sequence[Question]]) -> list[Attempt]:
    """The attempts at training questions in a file, a run or its `attempts` folder.

    Says what is left out, and raises `UserError` where nothing is left, and where a prediction is
    none of its question's choices.
    """
    attempts = attempts_in(place)
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
    by_id = {q.id: q for q in splits["train"]}
    return [
        with_prediction(a, by_id[a.question_id], place) for a in attempts if a.question_id in by_id
    ]


def with_prediction(attempt: Attempt, question: Question, place: Path) -> Attempt:
    """The attempt with its prediction as the choice that it names."""
    if attempt.prediction is None or not question.choices:
        return attempt
    prediction = read_prediction(attempt.prediction, question.choices)
    if prediction is None:
        raise UserError(
            f"{place}: attempt {attempt.id} at {question.id} predicts {attempt.prediction!r}; "
            f"expected one of the choices {list(question.choices)}, or null"
        )
    return replace(attempt, prediction=prediction)


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
        # choose what scores
        tried: Tried = {}
        score: Score
        if config.score == "auto":
            tried = try_scores(policy, learned, config.reads, data.seed)
            score = chosen_score(tried)
            say(f"{stage.name}: pairs of other questions in order by {describe_tried(tried)}")
        else:
            score = config.score
        # learn
        scalar_head = _learn(policy, learned, config, score, stage, data.seed)
        # measure: pair accuracies for the gate, mean and deviation for the scale
        model = RewardModel(
            lambda: nullcontext(policy), scalar_head, reads=config.reads, score=score
        )
        unhinted = [a for a in data.scale_on or data.attempts if not a.hinted]
        every = max(1, math.ceil(len(unhinted) / MOST_SCALED))
        scores_N = np.array(raw_scores(model, unhinted[::every], questions, config.reads))
        measured = {
            "questions": len(learned), "pairs": sum(len(one.pairs) for one in learned),
            "held_out_questions": len(held_out),
            "pair_accuracy_learned": pair_accuracy(model, learned[:MOST_LEARNED], config.reads),
            **with_interval("pair_accuracy", pair_rates(model, held_out, config.reads)),
            **with_interval("pair_accuracy_masked", pair_rates(model, held_out, "rationale")),
            "score": score, "tried": tried, "loss": config.loss, "reads": config.reads,
            "mean": float(scores_N.mean()), "std": float(scores_N.std()) or 1.0,
        }  # fmt: skip
        by_first(lambda: folder.mkdir(parents=True, exist_ok=True))
        (save or policy.save)(folder)
        if scalar_head is not None:
            save_head(scalar_head, folder)
        save_facts(folder, **measured, **facts)
        return measured

    stage.once(make)
    return read_facts(folder)


def _learn(
    policy: Policy, learned: Sequence[Ranked], config: RewardModelConfig, score: Score,
    stage: Stage, seed: int,
) -> Linear | None:  # fmt: skip
    """Teach `policy` in place, with the head that it returns where one scores."""
    if score == "likelihood":
        return None
    size = min(config.fit.batch_size, len(learned))
    if score == "dpo":
        pairs = [pair for one in learned for pair in pair_texts(one)]
        learn_pairs(
            policy, pairs, config.fit, beta=config.beta, nll_weight=0.0, epochs=config.epochs,
            stage=stage, seed=seed,
        )  # fmt: skip
        return None
    # a batch is so many questions, with all attempts that are in their pairs
    scalar_head = new_head(policy, seed=seed)
    groups = [ranked_rows(policy, one, config.reads) for one in learned]
    pooling: Any = score
    objective = rank(scalar_head, kind=config.loss, centre=config.centre, pooling=pooling)
    with attached(policy, scalar_head):
        fit(
            policy, objective, lambda step: grouped_batch(groups, size, step, seed), config.fit,
            stage, steps=max(1, math.ceil(config.epochs * len(groups) / size)),
        )  # fmt: skip
    return scalar_head


def gate_reason(
    facts: Mapping[str, Any], config: RewardModelConfig, questions: Sequence[Question]
) -> str | None:
    """Why PPO should not learn from this reward model, or None.

    Without choices there is no choice to know: the answer, and what is said before it, have to be
    worked out, so that the gate without the answer sentence is not asked.
    """
    n = facts["held_out_questions"]
    least_masked = config.gate_masked if any(q.choices for q in questions) else 0.0
    if n < MIN_HELD_OUT and max(config.gate, least_masked) > 0:
        return (
            f"pair accuracy was measured on {n} held-out questions, expected {MIN_HELD_OUT} at "
            "least: write more attempts per question, hold out a larger share (`held_out`), or "
            "open the gate (`gate` and `gate_masked` 0)"
        )
    for name, least, words in (
        ("pair_accuracy", config.gate, "held-out pair accuracy"),
        ("pair_accuracy_masked", least_masked, "the same without the answer sentence"),
    ):
        if facts[name] < least:
            return (
                f"{words} is {_figure(facts, name)} (n = {n} questions), below the gate of {least}"
            )
    return None


def describe(facts: Mapping[str, Any]) -> str:
    """The figures in a line."""
    return (
        f"reward model by {facts.get('score', 'end')}: {facts['pairs']} pairs of "
        f"{facts['questions']} questions, in order after learning: "
        f"{_figure(facts, 'pair_accuracy_learned')}; held-out pair accuracy "
        f"{_figure(facts, 'pair_accuracy')}, without the answer sentence "
        f"{_figure(facts, 'pair_accuracy_masked')} (n = {facts['held_out_questions']} questions)"
    )


def _figure(facts: Mapping[str, Any], name: str) -> str:
    """`0.710 [0.580, 0.830]`; a reward model of an earlier version has no interval."""
    if name not in facts:
        return "not measured"
    low, high = facts.get(f"{name}_low"), facts.get(f"{name}_high")
    return f"{facts[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
