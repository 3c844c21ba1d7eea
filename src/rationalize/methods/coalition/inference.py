"""COALITION's step 7, inference: controller -> write -> controller -> refine -> answer.

    coalition = Coalition.load("runs/coalition/coalition")
    [chain] = coalition.chains([question])
    chain.writer, chain.rationale, chain.refiner, chain.refined, chain.prediction

Questions are processed in batches: an adapter is switched once per step, not once per question.
The gold answer is never read.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rationalize.answers import reply_text
from rationalize.errors import UserError
from rationalize.files import write_text
from rationalize.methods.coalition.config import Refiners, refines
from rationalize.models.answer_texts import Texts, answer_prompt
from rationalize.models.choices import ChoiceScorer
from rationalize.models.controller import KEEP, choose
from rationalize.models.policy import load_policy
from rationalize.models.read_only import read_only
from rationalize.models.scorers import AnswerFold
from rationalize.models.variants import Variants
from rationalize.records import Attempt, Question
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    question_seed,
    write_attempts,
)

FILE = "coalition.json"
CONTROLLER = "controller"

BASE = "base"
"""M_IFT as a writer."""

FREE_FORM = SamplingConfig(temperature=0.0, max_new_tokens=64)
"""How an answer is written where there are no choices."""

Routing = Literal["controller", "random", "self", "keep", "base"]
"""Who writes and who refines: the controller says; anybody who may, or nobody refines; a random
writer always refines itself; a random writer, unrefined; the base, unrefined.
"""


@dataclass(frozen=True)
class Chain:
    """How one question was answered."""

    question: Question
    writer: str
    written: Attempt
    refiner: str
    """`keep` where the rationale stayed as it was."""
    refined: Attempt
    """The refinement, or what was written."""
    prediction: str | None
    alone: tuple[float, ...]
    """Probability of each choice given the question alone; empty without choices."""
    before: tuple[float, ...]
    """The same given the rationale as it was written."""
    after: tuple[float, ...]
    """The same given the refined one."""

    @property
    def rationale(self) -> str:
        return self.refined.rationale

    def as_attempt(self, row: str, seed: int = 0) -> Attempt:
        """The chain as an attempt of a row: its last rationale, its answer, all of its tokens."""
        answer, text = self.prediction, self.rationale
        if answer:
            text = reply_text(text, answer, self.question.choices)
        cost = self.written.n_tokens + (self.refined.n_tokens if self.refiner != KEEP else 0)
        return replace(
            self.refined, id=f"{row}/{self.question.id}", mode="rationale_answer",
            completion=text, prediction=answer, parsed=answer is not None, n_tokens=cost,
            writer=row, seed=seed,
        )  # fmt: skip

    def as_row(self) -> dict[str, Any]:
        """For files and the report."""
        q = self.question
        return {
            "question_id": q.id, "question": q.question, "gold": q.answer,
            "writer": self.writer, "written": self.written.rationale,
            "refiner": self.refiner, "refined": self.rationale,
            "prediction": self.prediction,
            "right": q.is_right(self.prediction),
            "alone": self._gold(self.alone), "before": self._gold(self.before),
            "after": self._gold(self.after), "tokens": self.as_attempt("").n_tokens,
        }  # fmt: skip

    def _gold(self, probabilities: tuple[float, ...]) -> float | None:
        q = self.question
        if not q.choices or q.answer not in q.choices:
            return None
        return probabilities[q.choices.index(q.answer)]


@dataclass
class Coalition:
    """Variants, the controller that picks among them, and the base that answers."""

    variants: Variants
    names: Sequence[str]
    refiners: Refiners = "both"
    texts: Texts = "choices"
    controller: bool = True
    """Whether a controller was trained; else `routing` falls back to chance."""
    _without: tuple[list[Question], dict[str, list[float]]] = field(
        default=([], {}), init=False, repr=False
    )
    """The questions that were asked last, and p(choice | question) of each."""

    def chains(
        self, questions: Sequence[Question], sampling: SamplingConfig, *, split: str = "test",
        seed: int = 0, routing: Routing = "controller",
    ) -> list[Chain]:  # fmt: skip
        """One chain per question, in order."""
        if len({q.id for q in questions}) < len(questions):
            raise ValueError("two questions share an id")
        if not questions:
            return []
        if routing == "controller" and not self.controller:
            routing = "random"
        once = replace(sampling, n=1)

        # who writes, and what
        writers = self._writers(questions, seed, routing)
        by_id = self._each(
            questions, writers, lambda sampler, asked, name: write_attempts(
                sampler, asked, once, Provenance(split, question_seed(seed, name), writer=name),
                PromptOptions("rationale"), label=f"{name} writes {split}",
            ),
        )  # fmt: skip
        written = [by_id[q.id] for q in questions]

        # who refines it, and what becomes of it
        refiners = self._refiners(questions, written, seed, routing)
        refined = self._each(
            questions, refiners, lambda sampler, asked, name: write_attempts(
                sampler, asked, once,
                Provenance(split, question_seed(seed, name, "refine"), writer=name),
                PromptOptions("refine"), given=[by_id[q.id] for q in asked],
                label=f"{name} refines {split}",
            ),
        )  # fmt: skip
        # an empty refinement is no refinement
        kept = {id: attempt for id, attempt in refined.items() if attempt.rationale}
        last = [kept.get(q.id, by_id[q.id]) for q in questions]

        # the answer, from the last rationale
        probabilities, answers = self._answers(questions, written, last)
        return [
            Chain(
                q, by_id[q.id].writer, by_id[q.id], kept[q.id].writer if q.id in kept else KEEP,
                attempt, answers[q.id], *(tuple(p.get(q.id, ())) for p in probabilities),
            )
            for q, attempt in zip(questions, last, strict=True)
        ]  # fmt: skip

    def _writers(self, questions: Sequence[Question], seed: int, routing: Routing) -> list[str]:
        if routing == "controller" and len(self.names) > 1:
            everybody = [self.names] * len(questions)
            return self._chosen(questions, [None] * len(questions), self.names, everybody)
        if routing == "base":
            return [BASE] * len(questions)
        return [random.Random(f"{seed}/writes/{q.id}").choice(self.names) for q in questions]

    def _refiners(
        self, questions: Sequence[Question], written: Sequence[Attempt], seed: int, routing: Routing
    ) -> list[str]:
        writers = [a.writer for a in written]
        allowed = [
            [*(n for n in self.names if refines(n, writer, self.refiners)), KEEP]
            for writer in writers
        ]
        if self.refiners == "none" or routing in ("keep", "base"):
            refiners = [KEEP] * len(questions)
        elif routing == "self":
            refiners = writers
        elif routing == "controller":
            rationales = [a.rationale for a in written]
            refiners = self._chosen(questions, rationales, [*self.names, KEEP], allowed)
        else:
            refiners = [
                random.Random(f"{seed}/refines/{q.id}").choice(options)
                for q, options in zip(questions, allowed, strict=True)
            ]
        return [n if a.rationale else KEEP for n, a in zip(refiners, written, strict=True)]

    def _chosen(
        self, questions: Sequence[Question], rationales: Sequence[str | None],
        names: Sequence[str], allowed: Sequence[Sequence[str]],
    ) -> list[str]:  # fmt: skip
        """Per question the one of those `allowed` that the controller finds likeliest."""
        with self.variants.active(CONTROLLER) as policy:
            probabilities = choose(policy, questions, rationales, len(names))
        return [
            max(options, key=dict(zip(names, p, strict=True)).__getitem__)
            for p, options in zip(probabilities, allowed, strict=True)
        ]

    def _each(
        self, questions: Sequence[Question], names: Sequence[str],
        write: Callable[[Sampler, list[Question], str], list[Attempt]],
    ) -> dict[str, Attempt]:  # fmt: skip
        """What each variant writes for its questions, in one batch, by question id."""
        attempts: dict[str, Attempt] = {}
        for name in (*self.names, BASE):
            asked = [q for q, n in zip(questions, names, strict=True) if n == name]
            if asked:
                active = self.variants.base_policy() if name == BASE else self.variants.active(name)
                with active as policy:
                    attempts |= {a.question_id: a for a in write(Sampler(policy), asked, name)}
        return attempts

    def _answers(
        self, questions: Sequence[Question], written: Sequence[Attempt], last: Sequence[Attempt]
    ) -> tuple[list[dict[str, list[float]]], dict[str, str | None]]:
        """By question id: probabilities of the choices given the question alone, what was written
        and the last rationale, under the base; and the answers, the likeliest choice, or what the
        base writes where there are none.
        """
        with_choices = [q for q in questions if q.choices]
        free_form = [q for q in questions if not q.choices]
        drafts, finals = (
            {q.id: a.rationale or None for q, a in zip(questions, attempts, strict=True)}
            for attempts in (written, last)
        )
        with self.variants.base_policy() as policy:
            reader = ChoiceScorer(policy)
            fold = AnswerFold(reader, reader)
            alone = self._alone(fold, with_choices)
            read = [(q, v[q.id]) for v in (drafts, finals) for q in with_choices if v[q.id]]
            asked, texts = [q for q, _ in read], [text for _, text in read]
            given = iter(fold.probabilities(asked, texts, self.texts))
            before, after = (
                {q.id: next(given) if v[q.id] else alone[q.id] for q in with_choices}
                for v in (drafts, finals)
            )
            prompts = [answer_prompt(self.texts, q, finals[q.id]) for q in free_form]
            seeds = [0] * len(prompts)
            replies = Sampler(policy).sample(prompts, FREE_FORM, seeds=seeds) if prompts else []
        answers: dict[str, str | None] = {
            q.id: reply[0].text.strip() or None for q, reply in zip(free_form, replies, strict=True)
        }
        for q in with_choices:
            answers[q.id] = (q.choices or ())[int(np.argmax(after[q.id]))]
        return [alone, before, after], answers

    def _alone(self, fold: AnswerFold, questions: Sequence[Question]) -> dict[str, list[float]]:
        """p(choice | question), computed once for the same questions, whatever the routing."""
        if self._without[0] != list(questions):
            p = fold.probabilities(questions, [None] * len(questions), self.texts)
            self._without = list(questions), dict(zip([q.id for q in questions], p, strict=True))
        return self._without[1]

    def save(self, folder: Path) -> None:
        """One folder that `load` reads: the base, the variants' weights, the controller's."""
        shutil.copytree(self.variants.source, folder / "base", dirs_exist_ok=True)
        for name in [*self.names, *([CONTROLLER] if self.controller else [])]:
            self.variants.save(name, folder / name)
        facts = {
            "names": list(self.names), "refiners": self.refiners, "texts": self.texts,
            "controller": self.controller,
        }  # fmt: skip
        write_text(folder / FILE, json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str, *, trust_remote_code: bool = False) -> Coalition:
        """Raises `UserError` where there is no coalition."""
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise UserError(
                f"{folder}: no {FILE} there; expected the folder `coalition` of a run of "
                "`rationalize train coalition`"
            )
        facts: Mapping = json.loads((folder / FILE).read_text())
        base = load_policy(folder / "base", trust_remote_code=trust_remote_code)
        variants = Variants(read_only(base), folder / "base")
        for name in [*facts["names"], *([CONTROLLER] if facts["controller"] else [])]:
            variants.load(name, folder / name)
        return cls(variants, facts["names"], facts["refiners"], facts["texts"], facts["controller"])
