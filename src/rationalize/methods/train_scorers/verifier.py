"""A verifier of our own, for where Vera's 11B parameters or the hub are out of reach.

Vera (Liu et al., 2023) learns from statements made of multiple-choice questions: one true and
several false ones a group. Here a small language model answers `Is this plausible?` after the
statement, and the statement's logit is log p(yes) - log p(no). Loss per group, with `y` the true
statement:

    L = mean_{true} -log s(z) + mean_{false} -log (1 - s(z))  +  w * -log softmax(z)_y

Deviations:

1. What it will score are rationales, which question-and-choice statements hardly resemble. So each
   of the teacher's rationales that led to the gold answer heads a group too, against corruptions of
   it: the teacher's rationale for a wrong answer, its conclusion swapped to another choice,
   negated, spliced with another question's rationale, words shuffled, said again and again, all
   choices listed. (`choice_statements=1 rationale_statements=0` is Vera's own recipe.)
2. Question and choice are joined by a space, not rewritten into a declarative sentence by a larger
   model. With `statement=question` rationales stand behind their question in the same way, and
   another question's rationale is one more false statement.
   A teacher's rationale that mostly repeats itself, or argues for another choice than it answers,
   is not true although it led to the gold answer; it may be drawn as a false one.
3. No contrastive loss: it needs large batches, and Vera's ablation found it the least of the three.
4. Cross-fitted in two folds, one temperature each, fitted on the rationales of held-out questions.
5. The lower layers stay as they are, which costs a third less.

The self-tests of `check_rewards` spoil rationales in some of the same ways: passing `shuffled`,
`negation`, `repetition` and `options` is what it was taught, passing the others is not.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rationalize.config.checks import at_least, between
from rationalize.errors import UserError
from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers.crossfit import ScorerConfig, cross_fit, train_model
from rationalize.models.calibration import fit_temperature
from rationalize.models.forward import Row, collate, hidden_at_response
from rationalize.models.logits import head
from rationalize.models.policy import Policy
from rationalize.models.scorers import (
    VerifierFold,
    label_ids,
    load_choice_scorer,
    statement_prompt,
)
from rationalize.records import Question
from rationalize.rewards.check import all_options, negated
from rationalize.rewards.mentions import mentions
from rationalize.rewards.repetition import repeated_share
from rationalize.runs import Run
from rationalize.sampling.writing import teacher_attempts
from rationalize.templates import statement_text
from rationalize.text import words
from rationalize.training.batches import grouped_batch
from rationalize.training.loop import BatchAt, FitConfig, Grouped, Loss, LossOutput


@dataclass(frozen=True)
class VerifierConfig(ScorerConfig):
    """How the verifier is trained."""

    epochs: float = 1.0
    """Passes over a fold's groups of statements."""
    negatives: int = 2
    """False statements beside each true one, at most."""
    choice_weight: float = 1.0
    """Weight of the choice among a group's statements beside each statement's own truth."""
    choice_statements: float = 0.5
    """Share of the questions whose choices make a group of statements."""
    rationale_statements: float = 1.0
    """Share of the rationales that head a group."""
    statement: Literal["rationale", "question"] = "rationale"
    """What is judged: the rationale alone, or the question and the rationale together."""
    fit: FitConfig = FitConfig(learning_rate=2e-4, batch_size=18)
    """How a fold learns; the batch size counts statements."""

    def __post_init__(self) -> None:
        ScorerConfig.__post_init__(self)
        at_least(self, 1, "negatives")
        at_least(self, 0, "choice_weight")
        between(self, 0, 1, "choice_statements", "rationale_statements")


@dataclass(frozen=True)
class Statement:
    """One statement and whether it is true."""

    text: str
    true: bool


class StatementTag(NamedTuple):
    """Which group a row is of, and whether its statement is true."""

    group: int
    true: bool


MOSTLY = 0.5
"""Share of a rationale's words in repeated runs, above which it counts as repetitive."""

_BY_THE_WAY = {"yes", "no", "true", "false"}
_BESIDE = re.compile(
    r"\b(?:than|not|nor|without|unlike)\s+(?:(?:an?|the|in|on|at|to)\s+)*\w+", re.IGNORECASE
)
"""What a rationale names to compare with, or to rule out."""
_CONCLUDES = re.compile(
    r"\b(?:so|thus|therefore|hence|we (?:get|want)|which means)\b", re.IGNORECASE
)

Group = list[Statement]
"""Statements of one question, exactly one of them true."""


def train_verifier(
    run_config: RunConfig, config: VerifierConfig, out: Path,
    train: Sequence[Question] | None = None,
    *, overwrite: bool = False,
) -> None:  # fmt: skip
    """Train in `out`; load the result with `Verifier.load(out)`."""

    def learn(
        run: Run, name: str, questions: Sequence[Question], held_out: Sequence[Question]
    ) -> dict[str, Any]:
        seed = run_config.seed
        prepare = partial(_prepare, questions=questions, config=config, seed=seed)
        train_model(run, name, run_config, config, prepare)
        groups = rationale_groups(
            held_out, config.negatives, seed, with_question=config.statement == "question"
        )
        return {"model": name, **_calibrate(run.path / name, groups)}

    cross_fit(
        run_config, config, out, "verifier", learn, train, overwrite=overwrite,
        statement=config.statement,
    )  # fmt: skip


def vera_loss(
    logits_N: Tensor, group_N: Tensor, true_N: Tensor, choice_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the groups: total, binary part, choice part.

    Binary: in each group the mean over its true statements plus the mean over its false ones.
    Choice: cross-entropy of the true statement among the group; 0 for a group that has not exactly
    one.
    """
    logits_N = logits_N.float()
    binary = torch.zeros((), device=logits_N.device)
    choice = torch.zeros((), device=logits_N.device)
    for group in group_N.unique():
        z, true = logits_N[group_N == group], true_N[group_N == group]
        for own, sign in ((z[true], 1.0), (z[~true], -1.0)):
            if len(own):
                binary = binary - torch.nn.functional.logsigmoid(sign * own).mean()
        if true.sum() == 1:
            choice = choice + z.logsumexp(0) - z[true][0]
    return binary + choice_weight * choice, binary, choice


def statement_loss(policy: Policy, choice_weight: float) -> Loss:
    """`vera_loss` over rows tagged with `StatementTag` whose response is the label yes."""
    yes, no = label_ids(policy)

    def loss(policy: Policy, rows: Sequence[Row]) -> LossOutput:
        logits = head(policy, hidden_at_response(policy, collate(rows, policy)))  # (N, V)
        z_N = logits[:, yes] - logits[:, no]
        group_N = torch.tensor([row.tag.group for row in rows], device=z_N.device)
        true_N = torch.tensor([row.tag.true for row in rows], device=z_N.device)
        total, binary, choice = vera_loss(z_N, group_N, true_N, choice_weight)
        right = ((z_N > 0) == true_N).float().mean().item()
        n_groups = len(group_N.unique())
        metrics = {"binary": binary.item(), "choice": choice.item(), "accuracy": right * n_groups}
        return LossOutput(total, n_groups, metrics)

    return Grouped(loss, lambda row: row.tag.group)


def choice_groups(
    questions: Sequence[Question], negatives: int, share: float, seed: int
) -> list[Group]:
    """`{question} {choice}` per choice, Vera's own statements, of a share of the questions."""
    groups = []
    for question in questions:
        rng = random.Random(f"{seed}/choices/{question.id}")
        if not question.choices or rng.random() >= share:
            continue
        others = [c for c in question.choices if c != question.answer]
        chosen = [question.answer, *rng.sample(others, min(negatives, len(others)))]
        groups.append([Statement(_about(question, c), c == question.answer) for c in chosen])
    return groups


def _about(question: Question, text: str) -> str:
    return statement_text(question.question, question.context, text)


def rationale_groups(
    questions: Sequence[Question], negatives: int, seed: int, share: float = 1.0, *,
    with_question: bool = False,
) -> list[Group]:  # fmt: skip
    """Each sound rationale that led the teacher to the gold answer, against corruptions of it.

    With the question before each, another question's rationale is a false statement too.
    """
    by_id = {q.id: q for q in questions}
    right: dict[str, list[str]] = {q.id: [] for q in questions}
    for attempt in teacher_attempts(questions, "correct"):
        if sound(attempt.rationale, by_id[attempt.question_id]):
            right[attempt.question_id].append(attempt.rationale)
    samples = teacher_attempts(questions, "all")
    wrong: dict[str, list[str]] = {q.id: [] for q in questions}
    for attempt in samples:
        if attempt.rationale not in right[attempt.question_id]:
            wrong[attempt.question_id].append(attempt.rationale)
    pool = [a.rationale for a in samples]
    groups = []
    for question in questions:
        for j, rationale in enumerate(right[question.id]):
            rng = random.Random(f"{seed}/rationale/{question.id}/{j}")
            if rng.random() >= share:
                continue
            other = rng.choice(pool)
            false = corruptions(rationale, question, wrong[question.id], other, rng)
            if with_question and other not in (*right[question.id], *false):
                false.insert(rng.randrange(len(false) + 1), other)
            texts = [rationale, *false[:negatives]]
            if with_question:
                texts = [_about(question, text) for text in texts]
            if len(texts) > 1:
                groups.append([Statement(text, i == 0) for i, text in enumerate(texts)])
    return groups


def sound(rationale: str, question: Question) -> bool:
    """Whether a rationale that led to the gold answer may count as true: it does not mostly repeat
    itself, does not conclude with another choice, and does not name others alone. What stands after
    "than" or "not" is not named, and "yes" and "no" are words like others.

    >>> question = Question("q", "?", "taller", ("taller", "shorter"))
    >>> [sound(r, question) for r in ("Taller, as B is shorter.", "A: taller, so it is shorter.")]
    [True, False]
    >>> sound("Ann is taller, Ann is taller, Ann is taller.", question)
    False
    """
    if repeated_share(rationale) > MOSTLY:
        return False
    said = _BESIDE.sub(" ", rationale)
    *_, concluded = _CONCLUDES.split(said)
    for part in (concluded, said):
        named = {c for c in question.choices or () if mentions(words(part), c)}
        if {c.lower() for c in named} - _BY_THE_WAY:
            return question.answer in named
    return True


def corruptions(
    rationale: str, question: Question, wrong: Sequence[str], other: str, rng: random.Random
) -> list[str]:
    """Distinct false statements made from a rationale, in a random order."""
    made: list[Callable[[], str]] = [
        lambda: negated(rationale),
        lambda: spliced(rationale, other),
        lambda: " ".join(rng.sample(rationale.split(), len(rationale.split()))),
        lambda: swapped(rationale, question, rng),
        lambda: rng.choice(list(wrong)) if wrong else rationale,
        lambda: " ".join([rationale] * rng.choice((2, 3))),
        lambda: all_options(question, rationale),
    ]
    rng.shuffle(made)
    return [text for text in dict.fromkeys(make() for make in made) if text != rationale]


def swapped(rationale: str, question: Question, rng: random.Random) -> str:
    """The last mention of the gold choice replaced by another one; the rationale if there is none.

    >>> question = Question("q", "?", "steel", ("wood", "steel"))
    >>> swapped("Steel is dense. So it is steel.", question, random.Random(0))
    'Steel is dense. So it is wood.'
    """
    others = [c for c in question.choices or () if c != question.answer]
    pattern = rf"(?<!\w){re.escape(question.answer)}(?!\w)"
    found = list(re.finditer(pattern, rationale, re.IGNORECASE))
    if not found or not others:
        return rationale
    return rationale[: found[-1].start()] + rng.choice(others) + rationale[found[-1].end() :]


def spliced(rationale: str, other: str) -> str:
    """The first half of one rationale and the second half of another."""
    first, second = rationale.split(), other.split()
    return " ".join(first[: math.ceil(len(first) / 2)] + second[len(second) // 2 :])


def _prepare(
    policy: Policy, questions: Sequence[Question], config: VerifierConfig, seed: int
) -> tuple[Loss, BatchAt, int]:
    groups = rationale_groups(
        questions, config.negatives, seed, config.rationale_statements,
        with_question=config.statement == "question",
    )  # fmt: skip
    groups += choice_groups(questions, config.negatives, config.choice_statements, seed)
    if not groups:
        raise UserError(
            "no statements to learn from: no training question has choices, or a rationale that "
            "led to its answer"
        )
    yes, _ = label_ids(policy)

    def row(s: Statement) -> Row:
        prompt = policy.encode_prompt(statement_prompt(s.text))
        return Row(tuple(prompt), (yes,), tag=StatementTag(0, s.true))

    rows = [[row(statement) for statement in group] for group in groups]
    size, steps = groups_in_a_step(groups, config)

    def batch_at(step: int) -> list[Row]:
        return grouped_batch(rows, size, step, seed)

    return statement_loss(policy, config.choice_weight), batch_at, steps


def groups_in_a_step(groups: Sequence[Group], config: VerifierConfig) -> tuple[int, int]:
    """Groups in a batch, and how many batches `epochs` passes over them take."""
    size = max(1, config.fit.batch_size * len(groups) // sum(map(len, groups)))
    return size, max(1, math.ceil(config.epochs * len(groups) / size))


def _calibrate(folder: Path, groups: Sequence[Group]) -> dict[str, Any]:
    """Temperature on held-out statements, and how well they are told apart."""
    statements = [s for group in groups for s in group]
    logits = VerifierFold(load_choice_scorer(folder)).logits([s.text for s in statements])
    true = [s.true for s in statements]
    right = [(z > 0) == t for z, t in zip(logits, true, strict=True)]
    by_text = iter(logits)
    best = [
        max(zip((next(by_text) for _ in group), group, strict=True), key=lambda p: p[0])[1]
        for group in groups
    ]
    return {
        "temperature": fit_temperature([[0.0, z] for z in logits], [int(t) for t in true]),
        "held_out": {
            "n": len(right), "accuracy": sum(right) / max(1, len(right)),
            "best_is_true": sum(s.true for s in best) / max(1, len(best)),
        },
    }  # fmt: skip
