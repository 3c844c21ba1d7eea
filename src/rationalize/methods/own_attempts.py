"""A model's own attempts at training questions, sorted by whether they are right.

STaR, RFT, iterative DPO and the reward model learn from them (docs/methods/self-motivated.md,
stages A and B). Each attempt keeps the prompt that it was written under, with demonstrations and
hint; it is learned as an answer to the question alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from rationalize.answers import MARKER, answer_alone, normalise, reply_text
from rationalize.config.checks import at_least
from rationalize.errors import UsageError, UserError
from rationalize.methods.base import Experiment, NothingToLearn
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.questions.demonstrations import demonstrations
from rationalize.questions.splits import same_question_key
from rationalize.records import Attempt, Question
from rationalize.rewards.correctness import correctness
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Stage
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    teacher_attempts,
    write_attempts,
)
from rationalize.signals.duplicates import Dedupe, distinct
from rationalize.signals.equations import equations_hold
from rationalize.signals.filters import first_of_each
from rationalize.signals.ranks import usable_share
from rationalize.templates import INSTRUCTION, form_of, prompt_text
from rationalize.text import word_count

Hints = Literal["off", "failed", "all"]

MIN_DEV_QUESTIONS = 8
"""Fewer development questions do not stop a run whose writer answers none of them."""


@dataclass(frozen=True)
class WriteConfig:
    """How a model attempts training questions."""

    shots: int = 4
    """Demonstrations before a question, while the writer is the base model; a tuned writer gets
    none.
    """
    demos: str = "builtin"
    """Where they come from: `builtin` (per form of answer), `train`, or a file of solved questions.
    """
    hints: Hints = "off"
    """Attempts that are shown the gold answer: none, for questions that no attempt solved (STaR's
    rationalisation), or for all. They are flagged, and count in no pass rate.
    """
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_new_tokens=256, n=8)
    """How attempts are written."""
    resample: int = 0
    """Further attempts at questions that were always wrong (where pairs are made of them, at those
    that were always right too), before any hint.
    """

    def __post_init__(self) -> None:
        at_least(self, 0, "shots", "resample")
        if self.resample and self.sampling.most_texts < math.inf:
            raise UsageError(
                f"resample is {self.resample}, but the sampling is greedy or by beams and would "
                "write the same again; expected a temperature above 0 and beams 1, or resample 0"
            )


@dataclass(frozen=True)
class RejectConfig:
    """Which attempts are not learned from."""

    min_words: int = 5
    """A rationale with fewer words is rejected."""
    dedupe: Dedupe = "auto"
    """One of equal rationales is kept: by `equations` where there are some, else by `words`."""
    true_equations: bool = False
    """Reject a rationale with a false equation (RFT)."""

    def __post_init__(self) -> None:
        at_least(self, 0, "min_words")


@dataclass(frozen=True)
class SelectConfig(RejectConfig):
    """Which attempts are imitated."""

    positives: int = 4
    """Right attempts kept per question; 0: all."""

    def __post_init__(self) -> None:
        RejectConfig.__post_init__(self)
        at_least(self, 0, "positives")


@dataclass
class Sorted:
    """Attempts by what can be learned from them; what is dropped is counted with its reason."""

    positives: list[Attempt] = field(default_factory=list)
    """Right, distinct, within the cap."""
    negatives: list[Attempt] = field(default_factory=list)
    """Wrong, with an answer that could be read."""
    unparsed: list[Attempt] = field(default_factory=list)
    """Without a readable answer."""
    hinted: list[Attempt] = field(default_factory=list)
    """Right, but shown the answer: imitated, never ranked."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason -> how many."""


@dataclass(frozen=True)
class Coverage:
    """How far attempts without hints reach."""

    questions: int
    attempts: int
    pass_rate: float
    """Mean over questions of the share of right attempts."""
    solved: float
    """Share of questions with a right attempt."""
    with_signal: float
    """Share of questions with right and wrong attempts, which alone give pairs."""
    expected_signal: float
    """The same if every question had the mean pass rate p: 1 - p^n - (1 - p)^n."""
    unparsed: float
    """Share of attempts without a readable answer."""

    def __str__(self) -> str:
        return (
            f"{self.attempts} attempts at {self.questions} questions: {self.pass_rate:.1%} right, "
            f"{self.unparsed:.1%} without an answer; {self.solved:.1%} of the questions solved, "
            f"{self.with_signal:.1%} with right and wrong attempts"
        )


def own_attempts(
    exp: Experiment, policy: Policy, config: WriteConfig, stage: Stage, part: str, *,
    round: int = 0, split: str = "train", few_shot: bool = False, for_pairs: bool = False,
) -> list[Attempt]:  # fmt: skip
    """The policy's `config.sampling.n` attempts per question, further ones and hinted ones: written
    and stored as a part of the stage, or read back. Correctness is scored.

    `for_pairs`: a question that is always right is of no use either, and is asked again too.

    `few_shot`: the writer is the base model, and is shown demonstrations, or told the form of the
    answer; a question that is one of them is not asked.
    """
    writer = f"{stage.name}-{part}"
    questions = exp.splits.get(split, [])
    if split != "train":  # there are demonstrations for the forms of training questions alone
        forms = {form_of(q) for q in exp.train}
        questions = [q for q in questions if form_of(q) in forms]
    shots = config.shots if few_shot else 0
    shown = demonstrations(config.demos, questions, shots, exp.train)  # form -> questions
    solved_for = {same_question_key(demo) for demos in shown.values() for demo in demos}
    questions = [q for q in questions if same_question_key(q) not in solved_for]

    def ask(
        questions: Sequence[Question], sampling: SamplingConfig, *, again: bool = False,
        hinted: bool = False,
    ) -> list[Attempt]:  # fmt: skip
        by_id: dict[str, list[Attempt]] = {}
        sampler = exp.sampler(policy) if split == "train" else Sampler(policy)
        told = few_shot and not policy.knows_form
        name = f"{writer}-hinted" if hinted else f"{writer}-again" if again else writer
        stream = name if again else writer  # other draws than the first ones
        source = Provenance(split, exp.seed, writer=name, round=round, stream=stream)
        for form, demos in shown.items():
            asked = [q for q in questions if form_of(q) == form]
            for attempt in write_attempts(
                sampler, asked, sampling, source,
                PromptOptions(demos=demos, hinted=hinted, told=told), label=f"{name} writes",
            ):  # fmt: skip
                by_id.setdefault(attempt.question_id, []).append(attempt)
        in_order = [a for q in questions for a in by_id.get(q.id, [])]
        return RewardSuite([correctness()]).score(in_order, {q.id: q for q in questions})

    def write() -> list[Attempt]:
        attempts = ask(questions, config.sampling)
        if config.resample:
            rates = pass_rates(attempts)
            useless = (0.0, 1.0) if for_pairs else (0.0,)
            unsure = [q for q in questions if rates.get(q.id) in useless]
            attempts += ask(unsure, replace(config.sampling, n=config.resample), again=True)
        rates = pass_rates(attempts)
        failed = [q for q in questions if not rates.get(q.id)]
        to_hint = {"off": [], "failed": failed, "all": questions}[config.hints]
        return attempts + ask(to_hint, config.sampling, hinted=True) if to_hint else attempts

    return stage.attempts(part, write)


def pass_rates(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Of each question the share of its attempts that are right, as they were scored."""
    right: dict[str, list[float]] = {}
    for attempt in attempts:
        right.setdefault(attempt.question_id, []).append(attempt.rewards["correctness"] or 0.0)
    return {id: sum(scores) / len(scores) for id, scores in right.items()}


def seed_attempts(train: Sequence[Question], count: int) -> list[Attempt]:
    """The first right teacher rationale of each of the first `count` questions that have one."""
    taught = teacher_attempts(train, "correct")
    first = first_of_each([a.question_id for a in taught])
    seeds = [a for a, ok in zip(taught, first, strict=True) if ok][:count]
    if len(seeds) < count:
        raise UserError(
            f"seed_rationales asks for {count}, but only {len(seeds)} training questions have a "
            "teacher rationale that led to the right answer; lower seed_rationales"
        )
    return seeds


def sort_attempts(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: SelectConfig
) -> Sorted:
    """Right, wrong, unreadable and hinted attempts, each question's in order (stage B)."""
    result = Sorted()
    right: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        question = questions[attempt.question_id]
        if not attempt.parsed:
            result.unparsed.append(attempt)
        elif why := fault(attempt, question, config):
            result.rejected[why] += 1
        elif not is_right(attempt, question):
            result.rejected["wrong despite the hint"] += attempt.hinted
            result.negatives += [] if attempt.hinted else [attempt]
        else:
            right.setdefault(question.id, []).append(attempt)
    for group in right.values():
        # a hint is of use only where no attempt without one was right
        unhinted = [a for a in group if not a.hinted]
        usable = unhinted or group
        result.rejected["solved without the hint"] += len(group) - len(usable)
        first = distinct([a.rationale for a in usable], config.dedupe)
        kept = [a for a, keep in zip(usable, first, strict=True) if keep]
        cap = config.positives or len(kept)
        result.rejected["says the same"] += len(usable) - len(kept)
        result.rejected["over the cap"] += len(kept[cap:])
        (result.positives if unhinted else result.hinted).extend(kept[:cap])
    result.rejected = +result.rejected
    return result


CUT, TOO_SHORT = "cut at the length limit", "too short"


def fault(attempt: Attempt, question: Question, config: RejectConfig) -> str | None:
    """Why an attempt with an answer is not learned from, or None."""
    if attempt.finish != "stop":
        return CUT
    if INSTRUCTION["rationale_answer"] in attempt.completion:
        return "goes on with another question"
    if word_count(attempt.rationale) < config.min_words:
        return TOO_SHORT
    if normalise(attempt.rationale) == normalise(question.question):
        return "repeats the question"
    if config.true_equations and not equations_hold(attempt.rationale):
        return "a false equation"
    return None


def is_right(attempt: Attempt, question: Question) -> bool:
    return question.is_right(attempt.prediction)


def coverage(attempts: Sequence[Attempt], questions: Sequence[Question]) -> Coverage:
    """Pass rates over all attempts without a hint, whatever was kept of them."""
    by_id = {q.id: q for q in questions}
    right: dict[str, list[bool]] = {}
    wrong: set[str] = set()
    unhinted = [a for a in attempts if not a.hinted]
    for attempt in unhinted:
        correct = is_right(attempt, by_id[attempt.question_id])
        right.setdefault(attempt.question_id, []).append(correct)
        if attempt.parsed and not correct:
            wrong.add(attempt.question_id)
    if not right:
        return Coverage(len(questions), 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    rates = [sum(correct) / len(correct) for correct in right.values()]
    mean, n = sum(rates) / len(rates), round(len(unhinted) / len(right))
    return Coverage(
        questions=len(right), attempts=len(unhinted), pass_rate=mean,
        solved=sum(rate > 0 for rate in rates) / len(rates),
        with_signal=sum(any(right[id]) for id in wrong) / len(rates),
        expected_signal=usable_share(mean, n),
        unparsed=sum(not a.parsed for a in unhinted) / len(unhinted),
    )  # fmt: skip


def log_coverage(
    stage: Stage, attempts: Sequence[Attempt], questions: Sequence[Question], kept: Sorted
) -> str:
    """Log and print how far attempts reach and what is kept; returns the line that was printed."""
    reached = coverage(attempts, questions)
    counts = {"kept": len(kept.positives), "hinted": len(kept.hinted)}
    stage.log("coverage", 0, [{**asdict(reached), **counts, "rejected": dict(kept.rejected)}])
    reasons = ", ".join(f"{n} {why}" for why, n in kept.rejected.most_common())
    line = (
        f"{stage.name}: {reached}. Kept {counts['kept']} (+{counts['hinted']} hinted); not kept: "
        f"{reasons or 'none'}"
    )
    say(line)
    return line


def nothing_right(figures: str) -> NothingToLearn:
    """The error that no attempt can be learned from, with figures and advice."""
    return NothingToLearn(
        f"{figures}\nno attempt can be learned from. Write more per question "
        "(`write.sampling.n`), give demonstrations of your questions (`write.demos`), allow hints "
        "(`write.hints failed`), teach the writer a few seed rationales first "
        "(`seed_rationales`), or take a larger model (in a demo and in self-motivated these "
        "settings are under `rft.`)"
    )


def check_writer(
    attempts: Sequence[Attempt], questions: Sequence[Question], stage: Stage, hints: Hints
) -> None:
    """Say how well the first writer does on development questions, before the long writing starts.

    Raises `NothingToLearn` where none of its replies can be read, and no hint would help.
    """
    reached = coverage(attempts, questions)
    if not reached.attempts:
        return
    line = (
        f"{stage.name}: the first writer is right on {reached.pass_rate:.1%} of "
        f"{reached.questions} development questions; {reached.unparsed:.1%} of its replies have no "
        "answer"
    )
    say(line)
    if reached.unparsed == 1 and hints == "off" and reached.questions >= MIN_DEV_QUESTIONS:
        raise nothing_right(
            f"{line}: each should end in `{MARKER} ..` (`evaluation_tokens` leaves room for it?)"
        )


def rankable(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: RejectConfig
) -> list[Attempt]:
    """Attempts without a hint and without a fault; those that say the same as an earlier one with
    the same answer are left out (stage B, for the rank).
    """
    groups: dict[tuple[str, str | None], list[Attempt]] = {}
    for attempt in attempts:
        question = questions[attempt.question_id]
        if attempt.hinted or (attempt.parsed and fault(attempt, question, config)):
            continue
        if not attempt.completion.strip():
            continue  # cut before its first word: there is nothing to read
        groups.setdefault((question.id, attempt.prediction), []).append(attempt)
    ranked = []
    for group in groups.values():
        first = distinct([a.rationale for a in group], config.dedupe)
        ranked += [a for a, keep in zip(group, first, strict=True) if keep]
    return ranked


def learned_text(attempt: Attempt, question: Question) -> tuple[str, str]:
    """Prompt and response to imitate: no demonstrations, no hint, nothing after the answer."""
    answer = answer_alone(attempt.prediction or "", question.answer, question.choices)
    reply = reply_text(attempt.rationale, answer, question.choices)
    return prompt_text("rationale_answer", question), reply
