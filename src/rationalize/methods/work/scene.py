"""What a method's work depends on beside its own settings: questions, lengths, rewards, who judges.

Unknown before the run, and assumed: a policy that was taught, or is shown demonstrations, replies
as long as the teacher does, another half as long as it may; the share `right` of replies leads to
the gold answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from rationalize.methods.base import ANSWER_SAMPLING, WithSplits
from rationalize.methods.settings import RunConfig
from rationalize.methods.work.parts import (
    Learner,
    Learns,
    Loss,
    Reader,
    Reads,
    Stores,
    Work,
    Writes,
)
from rationalize.models.choices import TREE_TOKENS
from rationalize.models.scorers import statement_prompt
from rationalize.questions.demonstrations import training_demonstrations
from rationalize.records import Question
from rationalize.rewards import READS_ANSWERS, RewardSuite
from rationalize.runs import slug
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.templates import prompt_text, target_text
from rationalize.training.loop import CPU_PASS, FitConfig

RIGHT = 0.5
"""Share of a model's replies that are taken to be right."""

_LOOKED_AT = 200  # questions whose texts are measured: enough for a mean


@dataclass(frozen=True)
class Lengths:
    """From text to tokens."""

    characters: float = 4.2
    """Characters of a token."""
    around: float = 30.0
    """Tokens that the chat template puts around a prompt."""

    def tokens(self, texts: Sequence[str]) -> float:
        """Mean tokens of the texts, without the template."""
        return sum(map(len, texts)) / self.characters / len(texts) if texts else 0.0


@dataclass(frozen=True)
class Scene(WithSplits):
    """A run before it begins."""

    splits: Mapping[str, Sequence[Question]]
    config: RunConfig
    suite: RewardSuite
    """The rewards that attempts are scored by, diagnostics among them; not loaded."""
    evaluation: SamplingConfig
    tuning: Literal["full", "lora"] = "full"
    lengths: Lengths = Lengths()
    right: float = RIGHT
    folds: int = 2
    """Models of a cross-fitted scorer: a training question is read by one, another by all."""

    @property
    def rewards(self) -> list[str]:
        return [reward.name for reward in self.suite.rewards]

    @cached_property
    def taught_reply(self) -> float:
        """Tokens of a teacher's reply, its end included; without one, half the longest reply."""
        texts = [a.completion for a in teacher_attempts(self.train[:_LOOKED_AT], "correct")]
        return self.lengths.tokens(texts) + 1 if texts else self.evaluation.max_new_tokens / 2

    @cached_property
    def rationale(self) -> float:
        """Tokens of a rationale, without the sentence that answers."""
        texts = [a.rationale for a in teacher_attempts(self.train[:_LOOKED_AT], "correct")]
        return self.lengths.tokens(texts) if texts else self.taught_reply

    @cached_property
    def statement(self) -> float:
        """Tokens around a rationale where a verifier is asked about it."""
        return self.lengths.tokens([statement_prompt("")])

    def asked(
        self, questions: Sequence[Question], mode: str = "rationale_answer", shots: int = 0
    ) -> float:
        """Tokens of a prompt: question, template, `shots` demonstrations, and in the modes that
        read one a rationale.
        """
        some = questions[:_LOOKED_AT]
        reads = mode in ("refine", "answer_from_rationale")
        demos = training_demonstrations(self.train, shots) if shots else None
        texts = [
            prompt_text(mode, q, "" if reads else None, list(demos.before(q)) if demos else ())
            for q in some
        ]
        return self.lengths.tokens(texts) + self.lengths.around + (self.rationale if reads else 0)

    def choices(self, questions: Sequence[Question]) -> float:
        """Tokens of all choices of a question."""
        texts = [" ".join(q.choices or (q.answer,)) for q in questions[:_LOOKED_AT]]
        counts = [len(q.choices or (q.answer,)) for q in questions[:_LOOKED_AT]]
        return self.lengths.tokens(texts) + sum(counts) / max(1, len(counts))

    def answer(self, questions: Sequence[Question]) -> float:
        """Tokens of an answer without a rationale."""
        return self.lengths.tokens([target_text("answer", q) for q in questions[:_LOOKED_AT]]) + 1

    def writes(
        self, stage: str, questions: Sequence[Question], sampling: SamplingConfig, *,
        mode: str = "rationale_answer", shots: int = 0, taught: bool = True,
    ) -> Writes:  # fmt: skip
        """Replies to the questions, by a policy that was `taught` to reply in our form or not."""
        limit = sampling.max_new_tokens
        expected = {"rationale": self.rationale + 1, "refine": self.rationale + 1}
        expected["answer"] = self.answer(questions)
        reply = expected.get(mode, self.taught_reply) if taught or shots else limit / 2
        n = 1 if sampling.greedy else sampling.n
        prompt = self.asked(questions, mode, shots)
        return Writes(
            stage, len(questions), n, prompt, min(limit, reply), limit, top_p=sampling.top_p
        )

    def scores(
        self, stage: str, questions: Sequence[Question], n: float = 1, *,
        names: Sequence[str] | None = None, trained_on: bool = False,
    ) -> Iterator[Reads]:  # fmt: skip
        """What the rewards read of `n` attempts at each question. `trained_on`: the scorers have
        seen the questions, and one fold of two judges each.
        """
        names, rows = self.rewards if names is None else names, len(questions) * n
        folds = 1 if trained_on else self.folds
        prompt = self.asked(questions, "answer") - self.lengths.around
        if readers := sum(name in READS_ANSWERS for name in names):
            choices = self.choices(questions)
            asked = f"{len(questions)} from {questions[0].id}"  # without a rationale: once
            yield Reads(stage, "choices", folds * len(questions), prompt, choices, remembered=asked)
            read = self.rationale + choices
            yield Reads(
                stage, "choices", folds * rows * readers, prompt, read, sharing(n, prompt, read)
            )
        if "plausibility" in names:
            yield Reads(stage, "statements", folds * rows, self.rationale + self.statement, 1)
        if "fluency" in names:
            together = sharing(n, self.asked(questions), self.rationale)
            yield Reads(stage, "fluency", rows, self.asked(questions), self.rationale, together)
        if "reward_model" in names:
            yield self.reads_replies(stage, "rank", rows, n, self.asked(questions))

    def reads_replies(
        self, stage: str, reader: Reader, rows: float, each: float, prompt: float | None = None
    ) -> Reads:
        """Replies in passes as learning makes them, `each` to a prompt."""
        asked = self.asked(self.train) if prompt is None else prompt
        together = sharing(each, asked, self.taught_reply, CPU_PASS)
        return Reads(stage, reader, rows, asked, self.taught_reply, together)

    def evaluates(
        self, stage: str, split: str = "dev", *, mode: str = "rationale_answer", shots: int = 0,
        taught: bool = True, scored: bool = True, draws: int = 0,
    ) -> Iterator[Work]:  # fmt: skip
        """A greedy reply to each question of a split, or some drawn ones, scored by all rewards."""
        questions = self.splits.get(split, [])
        if not questions:
            return
        sampling = self.evaluation
        if mode == "answer":
            longest = max(ANSWER_SAMPLING.max_new_tokens, math.ceil(self.answer(questions)))
            sampling = replace(ANSWER_SAMPLING, max_new_tokens=longest)
        if draws:
            sampling = replace(sampling, temperature=1.0, n=draws)
        yield self.writes(stage, questions, sampling, mode=mode, shots=shots, taught=taught)
        if scored and mode != "answer":  # an answer alone has no rationale to be scored
            yield from self.scores(stage, questions, max(1, draws))

    def finals(self, row: str, **how: object) -> Iterator[Work]:
        """A row's evaluation on the splits that are kept for the end."""
        for split in self.final_splits:
            yield from self.evaluates(f"final-{slug(row)}", split, **how)  # type: ignore[arg-type]

    def learns(
        self, stage: str, loss: Loss, steps: float, fit: FitConfig, *, rows: float | None = None,
        prompt: float | None = None, reply: float | None = None, learner: Learner = "policy",
        together: int = 1,
    ) -> Learns:  # fmt: skip
        """Steps of `fit.batch_size` rows (or `rows`); of a question and a reply, unless said."""
        return Learns(
            stage, loss, steps, fit.batch_size if rows is None else rows,
            self.asked(self.train) if prompt is None else prompt,
            self.taught_reply if reply is None else reply, learner, together, fit.micro_tokens,
        )  # fmt: skip

    def stores(self, stage: str, *, evaluations: int = 0, loads: float = 0.0) -> Stores:
        """A stage's weights, and its best so far: of the evaluations between the first and the last
        half are taken to be better than those before, and are written.
        """
        passing = max(0, evaluations - 2) / 2 if self.tuning == "full" else 0.0
        return Stores(stage, kept=1.0, passing=passing, loads=loads)


def sharing(n: float, prompt: float, reply: float, tokens: int = TREE_TOKENS) -> float:
    """Of `n` texts after a prompt, how many are read with it at once, within so many tokens.

    >>> [sharing(n, 56, 20) for n in (1, 4, 50)]
    [1.0, 4.0, 10.0]
    """
    return max(1.0, min(float(n), (tokens - prompt) / reply))
