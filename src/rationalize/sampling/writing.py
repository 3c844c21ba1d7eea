"""Questions in, attempts out: prompts rendered, completions sampled and parsed, every attempt with
its provenance.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rationalize.answers import parse_answer, parse_reply, reply_text
from rationalize.progress import Progress, progress_bar
from rationalize.questions.demonstrations import Demonstrations
from rationalize.records import Attempt, Completion, Question
from rationalize.sampling.config import SamplingConfig
from rationalize.teacher import teacher_samples
from rationalize.templates import ANSWER_ALONE, BLOCK_END, prompt_text

log = logging.getLogger(__name__)

Teacher = Literal["correct", "all", "none"]

Control = Mapping[str, int | tuple[int, ...]]
"""Bin per reward to write under (0 is best), or several, of which each question draws one."""


class AnySampler(Protocol):
    """What both samplers do: `local.Sampler` in this process, `server.ServerSampler` over HTTP."""

    @property
    def name(self) -> str:
        """The model's name, for an attempt's provenance."""

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
        """`config.n` completions per prompt, in order; none for a prompt that a server refused. A
        reply ends before `stop`: in a chat, before the first `stop` after the answer.
        """

    def fits(
        self, prompt: str, config: SamplingConfig, control: Mapping[str, int] | None = None
    ) -> bool:
        """Whether prompt and reply are within the model's context, as far as that is known."""


class Recorded:
    """A sampler that keeps the token ids of every completion, in order.

    PPO needs them: the same text can be tokenized in other ways.
    """

    def __init__(self, sampler: AnySampler) -> None:
        self._sampler, self.name = sampler, sampler.name
        self.ids: list[tuple[int, ...]] = []

    def sample(
        self, prompts: Sequence[str], config: SamplingConfig, **options: Any
    ) -> list[list[Completion]]:
        """What the wrapped sampler returns."""
        completions_PG = self._sampler.sample(prompts, config, **options)
        self.ids += [c.ids for completions_G in completions_PG for c in completions_G]
        return completions_PG

    def fits(self, prompt: str, config: SamplingConfig, *control: Any) -> bool:
        """What the wrapped sampler says."""
        return self._sampler.fits(prompt, config, *control)


@dataclass(frozen=True)
class Provenance:
    """Where attempts come from. Their ids and their random draws follow from it."""

    split: str
    """Split of the questions; in the ids."""
    seed: int
    """Seed of the draws."""
    writer: str = "policy"
    """Who writes; in the ids."""
    round: int = 0
    """The method's round; in the ids and the draws."""
    step: int = 0
    """Training steps so far; neither ids nor draws depend on it."""
    stream: str = ""
    """In the draws. Writers of one run that must not draw alike need a stream each."""


@dataclass(frozen=True)
class PromptOptions:
    """What is put to the model beside the question."""

    mode: str = "rationale_answer"
    """One of `templates.MODES`."""
    control: Control | None = None
    """Bin per reward to write under."""
    demos: Sequence[Question] | Demonstrations = ()
    """Solved questions shown first (few-shot): the same to all, or each question's own."""
    hinted: bool = False
    """Whether the prompt tells the gold answer (STaR's rationalisation)."""
    told: bool = False
    """Whether prompts without demonstrations say the form of the answer: for a model that was not
    trained on it (`Policy.knows_form`).
    """


def write_attempts(
    sampler: AnySampler,
    questions: Sequence[Question],
    sampling: SamplingConfig,
    provenance: Provenance,
    options: PromptOptions | None = None,
    *,
    given: Sequence[Attempt] | None = None,
    label: str | None = None,
) -> list[Attempt]:
    """`sampling.n` attempts per question, in the order of the questions; none, and a warning, for
    questions whose prompt a server refused.

    `given` are attempts, one per question, whose rationales the modes `refine` and
    `answer_from_rationale` read; `label` names the progress bar. Sample j of a question depends on
    the seed, round and stream of `provenance`, on the question's id, on how often that id came
    before, and on j; on nothing else.
    """
    # render
    options = options or PromptOptions()
    sources: Sequence[Attempt | None] = [None] * len(questions) if given is None else given
    # a seed per question, so that a draw does not depend on the other questions
    repeats = _occurrences([q.id for q in questions])
    stream = (provenance.stream,) if provenance.stream else ()
    seeds = [
        question_seed(provenance.seed, provenance.round, repeat, question.id, *stream)
        for question, repeat in zip(questions, repeats, strict=True)
    ]
    controls = [_control(options.control, seed) for seed in seeds]
    prompts = [
        _prompt(sampler, sampling, options, question, source, control)
        for question, source, control in zip(questions, sources, controls, strict=True)
    ]
    if cut := [left_out for _, left_out in prompts if left_out]:
        log.warning(
            "%d of %d prompts were beyond the model's context: up to %d of their demonstrations "
            "were left out", len(cut), len(prompts), max(cut),
        )  # fmt: skip

    # sample
    label = label or f"{provenance.writer} writes {provenance.split}"
    with progress_bar(label, "replies") as progress:
        completions_PG = sampler.sample(
            [text for text, _ in prompts], sampling, seeds=seeds, progress=progress,
            controls=controls if options.control else None,
            stop=BLOCK_END if options.demos else None,
        )  # fmt: skip

    # parse
    prefix = f"{provenance.split}/{provenance.writer}/{provenance.round}"
    attempts = []
    for question, (prompt, _), source, repeat, control, completions_G in zip(
        questions, prompts, sources, repeats, controls, completions_PG, strict=True
    ):
        refined = f"{source.id}>" if source else ""
        for j, completion in enumerate(completions_G):
            attempt = _attempt(
                question, prompt, completion, options.mode, provenance,
                id=f"{refined}{prefix}/{repeat}/{question.id}/{j}", model=sampler.name,
                control=control,
                refines=source.id if source else None, hinted=options.hinted,
                sampling=sampling.as_dict(),
            )  # fmt: skip
            attempts.append(attempt)
    skipped = [
        q.id for q, completions in zip(questions, completions_PG, strict=True) if not completions
    ]
    if skipped:
        log.warning(
            "%d of %d questions have no attempt, because their prompts were refused: %s",
            len(skipped), len(questions), ", ".join(skipped),
        )  # fmt: skip
    return attempts


def _prompt(
    sampler: AnySampler, sampling: SamplingConfig, options: PromptOptions, question: Question,
    source: Attempt | None, control: Mapping[str, int] | None,
) -> tuple[str, int]:  # fmt: skip
    """A prompt, and how many of its demonstrations are left out: the last ones, where all of them
    are beyond the model's context.
    """
    demos = options.demos
    all_demos = list(demos.before(question) if isinstance(demos, Demonstrations) else demos)
    for shown in range(len(all_demos), -1, -1):
        prompt = prompt_text(
            options.mode,
            question,
            source.rationale if source else None,
            all_demos[:shown],
            hinted=options.hinted,
            told=options.told,
        )
        if not shown or sampler.fits(prompt, sampling, control):
            break
    return prompt, len(all_demos) - shown


def _control(asked: Control | None, seed: int) -> dict[str, int] | None:
    """A question's bin per reward, drawn where several are asked for."""
    if not asked:
        return None
    lot = random.Random(f"{seed}/control")
    return {n: b if isinstance(b, int) else lot.choice(b) for n, b in asked.items()}


def teacher_attempts(questions: Iterable[Question], which: Teacher = "correct") -> list[Attempt]:
    """The teacher's rationales as attempts.

    `correct` keeps those that led the teacher to the gold answer: the filter of MaRio's released
    code (arXiv 2311.02805). Empty ones are never kept.
    """
    provenance = Provenance("train", 0, writer="teacher")
    attempts = []
    for question in questions:
        prompt = prompt_text("rationale_answer", question)
        for j, (rationale, answer) in enumerate(teacher_samples(question)):
            if which == "none" or (which == "correct" and not question.is_right(answer)):
                continue
            if not rationale.strip():
                continue
            text = reply_text(rationale, answer, question.choices)
            attempt = _attempt(
                question, prompt, Completion(text, "stop", 0), "rationale_answer", provenance,
                id=f"train/teacher/0/{question.id}/{j}", model="teacher",
            )  # fmt: skip
            attempts.append(attempt)
    return attempts


def question_seed(*parts: int | str) -> int:
    """A stable 63-bit seed from its parts; Python's `hash` changes between processes."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _occurrences(ids: Sequence[str]) -> list[int]:
    """How often each id came before: a question that is asked twice gets two draws."""
    seen: Counter[str] = Counter()
    counts = []
    for id in ids:
        counts.append(seen[id])
        seen[id] += 1
    return counts


def _attempt(
    question: Question, prompt: str, completion: Completion, mode: str, provenance: Provenance,
    **facts: Any,
) -> Attempt:  # fmt: skip
    parse = parse_answer if mode in ANSWER_ALONE else parse_reply
    reply = parse(completion.text, question.choices)
    thought = [part for part in (completion.reasoning, reply.reasoning) if part]
    return Attempt(
        question_id=question.id, mode=mode, prompt=prompt, completion=completion.text,
        rationale=reply.rationale, prediction=reply.prediction, gold=question.answer,
        parsed=reply.parsed, finish=completion.finish, n_tokens=completion.n_tokens,
        writer=provenance.writer, round=provenance.round, step=provenance.step,
        split=provenance.split, seed=provenance.seed,
        reasoning="\n".join(thought) or None, **facts,
    )  # fmt: skip
