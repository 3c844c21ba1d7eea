"""Questions in, attempts out: prompts rendered, completions sampled and parsed, every attempt with
its provenance.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from rationalize.answers import is_correct, parse_reply, read_answer, reply_text
from rationalize.progress import Progress, progress_bar
from rationalize.records import Attempt, Completion, Question
from rationalize.sampling.config import SamplingConfig
from rationalize.templates import BLOCK_END, prompt_text

Teacher = Literal["correct", "all", "none"]


class AnySampler(Protocol):
    """Prompts in, completions out: `local.Sampler` in this process, `server.ServerSampler` beyond
    it.
    """

    @property
    def name(self) -> str:
        """The model's, for an attempt's provenance."""

    def sample(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int] | None] | None = None,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions per prompt, in order. A reply ends before `stop`: in a chat,
        before the first one after the answer.
        """


class Recorded:
    """A sampler that keeps, in order, the token ids of all it drew: text does not say which."""

    def __init__(self, sampler: AnySampler) -> None:
        self._sampler, self.name = sampler, sampler.name
        self.ids: list[tuple[int, ...]] = []

    def sample(
        self, prompts: Sequence[str], config: SamplingConfig, **options: Any
    ) -> list[list[Completion]]:
        """As the sampler's own."""
        completions_PG = self._sampler.sample(prompts, config, **options)
        self.ids += [completion.ids for own in completions_PG for completion in own]
        return completions_PG


def write_attempts(
    sampler: AnySampler,
    questions: Sequence[Question],
    sampling: SamplingConfig,
    *,
    split: str,
    seed: int,
    writer: str = "policy",
    mode: str = "rationale_answer",
    round: int = 0,
    step: int = 0,
    control: Mapping[str, int] | None = None,
    demos: Sequence[Question] = (),
    given: Sequence[Attempt] | None = None,
    hinted: bool = False,
    stream: str = "",
    label: str | None = None,
) -> list[Attempt]:
    """`sampling.n` attempts per question, in the order of the questions.

    `control` names the bins to write under (0 is best); `given` are attempts, one per question,
    whose rationales the modes `refine` and `answer_from_rationale` read; `hinted` shows the gold
    answer. Draws depend on `(seed, round, repeat, question id, sample)` alone, and on `stream`:
    writers of one run that must not draw alike have each their own.
    """
    read: list[Attempt | None] = list(given) if given is not None else [None] * len(questions)
    prompts = [
        prompt_text(mode, q, a.rationale if a else None, demos, hinted=hinted)
        for q, a in zip(questions, read, strict=True)
    ]
    repeats = _occurrences([q.id for q in questions])
    own = (stream,) if stream else ()
    seeds = [
        question_seed(seed, round, k, q.id, *own) for k, q in zip(repeats, questions, strict=True)
    ]
    controls = [control] * len(prompts) if control else None
    with progress_bar(label or f"{writer} writes {split}", "replies") as progress:
        completions_PG = sampler.sample(
            prompts, sampling, seeds=seeds, controls=controls, progress=progress,
            stop=BLOCK_END if demos else None,
        )  # fmt: skip
    attempts = []
    for question, prompt, source, repeat, completions_G in zip(
        questions, prompts, read, repeats, completions_PG, strict=True
    ):
        for j, completion in enumerate(completions_G):
            attempt = _attempt(
                question, prompt, completion, mode=mode, writer=writer,
                id=f"{f'{source.id}>' if source else ''}"
                f"{split}/{writer}/{round}/{repeat}/{question.id}/{j}",
                model=sampler.name, round=round, step=step, split=split, seed=seed,
                control=dict(control) if control else None, sampling=sampling.as_dict(),
                refines=source.id if source else None, hinted=hinted,
            )  # fmt: skip
            attempts.append(attempt)
    return attempts


def teacher_attempts(questions: Iterable[Question], which: Teacher = "correct") -> list[Attempt]:
    """The teacher's rationales as attempts; `correct` keeps those that led the teacher to the gold
    answer (mario.md 1.4).
    """
    attempts = []
    for question in questions:
        for j, (rationale, answer) in enumerate(_teacher_samples(question)):
            if which == "none" or (which == "correct" and not _right(question, answer)):
                continue
            if not rationale.strip():
                continue  # the released filter: an empty rationale is never kept
            text = reply_text(rationale, answer, question.choices)
            prompt = prompt_text("rationale_answer", question)
            completion = Completion(text, "stop", 0)
            attempts.append(
                _attempt(
                    question, prompt, completion, mode="rationale_answer", writer="teacher",
                    id=f"train/teacher/0/{question.id}/{j}", model="teacher", round=0, step=0,
                    split="train", seed=0, control=None, sampling={},
                )
            )  # fmt: skip
    return attempts


def question_seed(*parts: int | str) -> int:
    """A stable 63-bit seed from its parts; Python's own `hash` changes between processes."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _occurrences(ids: Sequence[str]) -> list[int]:
    """How often each id came before: a question that is asked twice gets another draw."""
    seen: Counter[str] = Counter()
    counts = []
    for id in ids:
        counts.append(seen[id])
        seen[id] += 1
    return counts


def _teacher_samples(question: Question) -> list[tuple[str, str]]:
    answers = question.extra.get("teacher_answers") or [question.answer] * len(question.rationales)
    samples = list(zip(question.rationales, answers, strict=True))
    for wrong in question.extra.get("rationales_wrong") or ():
        predicted = wrong.get("predicted")
        if predicted is not None and (not question.choices or predicted in question.choices):
            samples.append((wrong["rationale"], predicted))
    return samples


def _right(question: Question, answer: str) -> bool:
    return is_correct(answer, question.answer, question.choices)


def _attempt(
    question: Question, prompt: str, completion: Completion, *, mode: str, **where
) -> Attempt:
    if mode in ("answer", "answer_from_rationale"):
        prediction = read_answer(completion.text, question.choices)
        rationale = ""
    else:
        reply = parse_reply(completion.text, question.choices)
        rationale, prediction = reply.rationale, reply.prediction
    return Attempt(
        question_id=question.id, mode=mode, prompt=prompt, completion=completion.text,
        rationale=rationale, prediction=prediction, gold=question.answer,
        parsed=prediction is not None, finish=completion.finish, n_tokens=completion.n_tokens,
        **where,
    )  # fmt: skip
