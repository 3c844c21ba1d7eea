"""A model's own attempts at training questions, sorted by whether they are right: the one store
that STaR, RFT, iterative DPO, the reward model and PPO's start all read (self_motivated.md 2.A, B).

Each attempt keeps the prompt that it was written under, demonstrations and hint included; whoever
learns from it learns it as an answer to the question alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from rationalize.answers import MARKER, answer_alone, is_correct, normalise, reply_text
from rationalize.errors import UserError
from rationalize.methods.common import rollouts
from rationalize.progress import say
from rationalize.questions.demonstrations import demonstrations, form_of
from rationalize.records import Attempt, Question
from rationalize.rewards.correctness import correctness
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    teacher_attempts,
    write_attempts,
)
from rationalize.signals.duplicates import Dedupe, distinct, equations_hold
from rationalize.signals.filters import first_of_each
from rationalize.signals.ranks import usable_share
from rationalize.templates import INSTRUCTION, prompt_text

Hints = Literal["off", "failed", "all"]

LEAST_ASKED = 8
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


@dataclass(frozen=True)
class SelectConfig:
    """Which attempts are learned from."""

    min_words: int = 5
    """A rationale with fewer words is rejected."""
    dedupe: Dedupe = "auto"
    """One of equal rationales is kept: by `equations` where there are some, else by `words`."""
    true_equations: bool = False
    """Reject a rationale with a false equation (RFT)."""
    positives: int = 4
    """Right attempts kept per question; 0: all."""


@dataclass
class Sorted:
    """Attempts by what they are good for. Nothing is dropped without a name."""

    positives: list[Attempt] = field(default_factory=list)
    """Right, distinct, within the cap."""
    negatives: list[Attempt] = field(default_factory=list)
    """Wrong, with an answer that could be read."""
    unparsed: list[Attempt] = field(default_factory=list)
    """Without a readable answer: the third bucket."""
    hinted: list[Attempt] = field(default_factory=list)
    """Right, but shown the answer: to imitate, never to rank."""
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
    """Share of questions with a right attempt and a wrong one: they alone give pairs."""
    expected_signal: float
    """The same, were every question passed at the mean rate (self_motivated.md B.5)."""
    unparsed: float
    """Share of attempts without a readable answer."""

    def __str__(self) -> str:
        return (
            f"{self.attempts} attempts at {self.questions} questions: {self.pass_rate:.1%} right, "
            f"{self.unparsed:.1%} without an answer; {self.solved:.1%} of the questions solved, "
            f"{self.with_signal:.1%} with right and wrong attempts"
        )


def own_attempts(
    sampler: Sampler,
    questions: Sequence[Question],
    config: WriteConfig,
    run: Run,
    shard: str,
    *,
    round: int,
    seed: int,
    few_shot: bool,
    train: Sequence[Question] = (),
    split: str = "train",
) -> list[Attempt]:
    """`config.sampling.n` attempts per question, and hinted ones, stored in the run as `shard`.

    `few_shot` shows demonstrations, where `train` may be their source; a question that is one of
    them is not asked. Correctness is scored.
    """
    shown = demonstrations(config.demos, questions, config.shots if few_shot else 0, train)
    solved_for = {demo.id for demos in shown.values() for demo in demos}
    questions = [q for q in questions if q.id not in solved_for]

    def written(asked: Sequence[Question], hinted: bool) -> list[Attempt]:
        by_id: dict[str, list[Attempt]] = {}
        writer = f"{shard}-hinted" if hinted else shard
        for form, demos in shown.items():
            own = [q for q in asked if form_of(q) == form]
            for attempt in write_attempts(
                sampler, own, config.sampling,
                Provenance(split, seed, writer, round, stream=shard),
                PromptOptions(demos=demos, hinted=hinted),
                label=f"{shard} writes{', hinted' if hinted else ''}",
            ):  # fmt: skip
                by_id.setdefault(attempt.question_id, []).append(attempt)
        in_order = [a for q in asked for a in by_id.get(q.id, [])]
        return RewardSuite([correctness()]).score(in_order, {q.id: q for q in asked})

    def write() -> list[Attempt]:
        attempts = written(questions, False)
        if config.hints != "off":
            solved = {a.question_id for a in attempts if a.rewards["correctness"]}
            failed = [q for q in questions if config.hints == "all" or q.id not in solved]
            attempts += written(failed, True) if failed else []
        return attempts

    return rollouts(run, shard, write)


def first_right(questions: Sequence[Question]) -> list[Attempt]:
    """The first right teacher rationale of each question that has one."""
    taught = teacher_attempts(questions, "correct")
    first = first_of_each([a.question_id for a in taught])
    return [a for a, ok in zip(taught, first, strict=True) if ok]


def seed_attempts(train: Sequence[Question], count: int) -> list[Attempt]:
    """The first right teacher rationale of each of the first `count` questions that have one."""
    seeds = first_right(train)[:count]
    if len(seeds) < count:
        raise UserError(
            f"warm_up asks for {count} seed rationales, but only {len(seeds)} training questions "
            "have a teacher rationale that led to the right answer; lower warm_up"
        )
    return seeds


def sort_attempts(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: SelectConfig
) -> Sorted:
    """Right, wrong, unreadable and hinted attempts, each question's in the order they were written
    (stage B).
    """
    found = Sorted()
    right: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        question = questions[attempt.question_id]
        if not attempt.parsed:
            found.unparsed.append(attempt)
        elif why := fault(attempt, question, config):
            found.rejected[why] += 1
        elif not is_right(attempt, question):
            found.rejected["wrong despite the hint"] += attempt.hinted
            found.negatives += [] if attempt.hinted else [attempt]
        else:
            right.setdefault(question.id, []).append(attempt)
    for own in right.values():
        free = [a for a in own if not a.hinted]
        hinted = [] if free else [a for a in own if a.hinted]
        found.rejected["solved without the hint"] += len(own) - len(free) - len(hinted)
        same = distinct([a.rationale for a in free or hinted], config.dedupe)
        kept = [a for a, keep in zip(free or hinted, same, strict=True) if keep]
        cap = config.positives or len(kept)
        found.rejected["says the same"] += len(free or hinted) - len(kept)
        found.rejected["over the cap"] += len(kept[cap:])
        (found.positives if free else found.hinted).extend(kept[:cap])
    found.rejected = +found.rejected
    return found


def fault(attempt: Attempt, question: Question, config: SelectConfig) -> str | None:
    """Why an attempt with an answer is not learned from, or None."""
    if attempt.finish != "stop":
        return "cut at the length limit"
    if INSTRUCTION["rationale_answer"] in attempt.completion:
        return "goes on with another question"
    if len(attempt.rationale.split()) < config.min_words:
        return "too short"
    if normalise(attempt.rationale) == normalise(question.question):
        return "repeats the question"
    if config.true_equations and not equations_hold(attempt.rationale):
        return "a false equation"
    return None


def is_right(attempt: Attempt, question: Question) -> bool:
    return is_correct(attempt.prediction, question.answer, question.choices)


def coverage(attempts: Sequence[Attempt], questions: Sequence[Question]) -> Coverage:
    """Pass rates over all attempts without a hint, whatever was kept of them."""
    by_id = {q.id: q for q in questions}
    right: dict[str, list[bool]] = {}
    wrong: set[str] = set()
    free = [a for a in attempts if not a.hinted]
    for attempt in free:
        correct = is_right(attempt, by_id[attempt.question_id])
        right.setdefault(attempt.question_id, []).append(correct)
        if attempt.parsed and not correct:
            wrong.add(attempt.question_id)
    signal = {id: any(own) and id in wrong for id, own in right.items()}
    if not right:
        return Coverage(len(questions), 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    rates = [sum(own) / len(own) for own in right.values()]
    mean, n = sum(rates) / len(rates), round(len(free) / len(right))
    return Coverage(
        questions=len(right),
        attempts=len(free),
        pass_rate=mean,
        solved=sum(rate > 0 for rate in rates) / len(rates),
        with_signal=sum(signal.values()) / len(rates),
        expected_signal=usable_share(mean, n),
        unparsed=sum(not a.parsed for a in free) / len(free),
    )


def log_coverage(
    attempts: Sequence[Attempt], questions: Sequence[Question], found: Sorted, run: Run, stage: str
) -> str:
    """Log and print how far attempts reach and what is kept; returns the line that was printed."""
    reached = coverage(attempts, questions)
    run.rewind(f"{stage}/coverage", 0)
    run.log(
        f"{stage}/coverage", 0, **asdict(reached), kept=len(found.positives),
        hinted=len(found.hinted), rejected=dict(found.rejected),
    )  # fmt: skip
    reasons = ", ".join(f"{n} {why}" for why, n in found.rejected.most_common())
    line = f"{stage}: {reached}. Kept {len(found.positives)} (+{len(found.hinted)} hinted)"
    say(f"{line}; not kept: {reasons or 'none'}")
    return f"{line}; not kept: {reasons or 'none'}"


class NothingRight(UserError):
    """No attempt can be learned from."""

    def __init__(self, figures: str) -> None:
        super().__init__(
            f"{figures}\nno attempt can be learned from. Write more per question "
            "(`write.sampling.n`), give demonstrations of your questions (`write.demos`), allow "
            "hints (`write.hints failed`), teach the writer a few seed rationales first "
            "(`warm_up`), or take a larger model (in a demo and in self-motivated these settings "
            "are under `kept.`)"
        )


def check_writer(
    before: Sequence[Attempt], questions: Sequence[Question], stage: str, hints: Hints
) -> None:
    """Say how well the first writer does on development questions, before the long writing starts;
    raise `NothingRight` where none of its replies can be read, and no hint would help.
    """
    reached = coverage(before, questions)
    if not reached.attempts:
        return
    line = (
        f"{stage}: the first writer is right on {reached.pass_rate:.1%} of {reached.questions} "
        f"development questions; {reached.unparsed:.1%} of its replies have no answer"
    )
    say(line)
    if reached.unparsed == 1 and hints == "off" and reached.questions >= LEAST_ASKED:
        raise NothingRight(
            f"{line}: each should end in `{MARKER} ..` (`evaluation_sampling.max_new_tokens` "
            "leaves room for it?)"
        )


def rankable(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: SelectConfig
) -> list[Attempt]:
    """Attempts without a hint and without a fault; those that say the same as an earlier one with
    the same answer are left out (stage B, for the rank).
    """
    groups: dict[tuple[str, str | None], list[Attempt]] = {}
    for attempt in attempts:
        question = questions[attempt.question_id]
        if attempt.hinted or (attempt.parsed and fault(attempt, question, config)):
            continue
        groups.setdefault((question.id, attempt.prediction), []).append(attempt)
    return [
        attempt
        for own in groups.values()
        for attempt, keep in zip(
            own, distinct([a.rationale for a in own], config.dedupe), strict=True
        )
        if keep
    ]


def learned_text(attempt: Attempt, question: Question) -> tuple[str, str]:
    """Prompt and response to imitate: no demonstrations, no hint, nothing after the answer."""
    answer = answer_alone(attempt.prediction or "", question.answer, question.choices)
    return (
        prompt_text("rationale_answer", question),
        reply_text(attempt.rationale, answer, question.choices),
    )


def as_zero_shot(attempt: Attempt, question: Question) -> Attempt:
    """The attempt under the prompt that it is learned with."""
    prompt, completion = learned_text(attempt, question)
    return replace(attempt, prompt=prompt, completion=completion, finish="stop")
