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
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rationalize.answers import reply_text
from rationalize.errors import UserError
from rationalize.files import write_text
from rationalize.methods.coalition.answering import Answer, Answerer
from rationalize.methods.coalition.config import Refiners, Routing, refines
from rationalize.models.answer_texts import Texts
from rationalize.models.controller import KEEP, choose
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers
from rationalize.models.read_only import under_adapters
from rationalize.models.variants import Variants
from rationalize.processes import by_first
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

FIXED = "fixed"
"""File of the run, without `.json`: whom a controller would choose that always chooses alike."""

BASE = "base"
"""M_IFT as a writer."""

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=128)
"""How rationales and refinements are written where nothing else is said."""

AnyRouting = Literal[Routing, "random", "self", "keep", "base"]
"""Who writes and who refines: as a coalition's own routing says; anybody who may, or nobody
refines; a random writer always refines itself; a random writer, unrefined; the base, unrefined.
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
    answer: Answer
    """M_IFT's, from the last rationale."""
    draw: int = 0
    """Which of the writer's texts for the question it is."""
    spent: int = 0
    """Tokens of other writers' texts, which were not kept."""

    @property
    def rationale(self) -> str:
        return self.refined.rationale

    @property
    def prediction(self) -> str | None:
        return self.answer.text

    def as_attempt(self, row: str, seed: int = 0) -> Attempt:
        """The chain as an attempt of a row: its last rationale, its answer, all of its tokens."""
        answer, text = self.prediction, self.rationale
        if answer:
            text = reply_text(text, answer, self.question.choices)
        cost = self.spent + self.written.n_tokens
        cost += self.refined.n_tokens if self.refiner != KEEP else 0
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
            "alone": self._gold(self.answer.alone), "before": self._gold(self.answer.before),
            "after": self._gold(self.answer.after), "sure": self.answer.sure,
            "tokens": self.as_attempt("").n_tokens,
        }  # fmt: skip

    def _gold(self, probabilities: tuple[float, ...]) -> float | None:
        q = self.question
        if not q.choices or q.answer not in q.choices:
            return None
        return probabilities[q.choices.index(q.answer)]


@dataclass(frozen=True)
class Draft:
    """A chain before its answer."""

    question: Question
    written: Attempt
    refined: Attempt | None
    draw: int = 0


@dataclass
class Coalition:
    """Variants, the controller that picks among them, and the base that answers."""

    variants: Variants
    names: Sequence[str]
    refiners: Refiners = "both"
    texts: Texts = "choices"
    controller: bool = True
    """Whether a controller was trained; else `routing` falls back to chance."""
    routing: Routing = "controller"
    """Who works where a call does not say."""

    @cached_property
    def answerer(self) -> Answerer:
        """The base, which answers."""
        return Answerer(self.variants, self.texts)

    def chains(
        self, questions: Sequence[Question], sampling: SamplingConfig = GREEDY, *,
        split: str = "test", seed: int = 0, routing: AnyRouting | None = None,
    ) -> list[Chain]:  # fmt: skip
        """One chain per question, in order."""
        routing = routing or self.routing
        if len({q.id for q in questions}) < len(questions):
            raise ValueError("two questions share an id")
        if not questions:
            return []
        if routing == "controller" and not self.controller:
            routing = "random"
        once, where = replace(sampling, n=1), (split, seed)
        if routing == "surest":
            return self._surest(questions, once, where)

        # who writes, and what
        writers = self.writers(questions, seed, routing)
        written = [a for [a] in self.write(questions, writers, once, where)]

        # who refines it, and what becomes of it
        refiners = self.refiners_of(questions, written, seed, routing)
        refined = self.write(questions, refiners, once, where, given=written)

        # the answer, from the last rationale
        drafts = [Draft(q, w, r[0] if r else None)
                  for q, w, r in zip(questions, written, refined, strict=True)]  # fmt: skip
        return self.answered(drafts)

    def _surest(
        self, questions: Sequence[Question], once: SamplingConfig, where: tuple[str, int]
    ) -> list[Chain]:
        """Every variant writes; each question keeps the chain that M_IFT is surest of."""
        drafts = [
            Draft(q, a, None)
            for name in self.names
            for q, [a] in zip(
                questions, self.write(questions, [name] * len(questions), once, where), strict=True
            )
        ]
        chains, each = self.answered(drafts), len(questions)
        return [surest(chains[i::each]) for i in range(each)]

    def write(
        self, questions: Sequence[Question], names: Sequence[str], sampling: SamplingConfig,
        where: tuple[str, int], given: Sequence[Attempt] | None = None,
    ) -> list[list[Attempt]]:  # fmt: skip
        """Per question the `sampling.n` texts of who is named for it, none for `keep`; with `given`
        refinements of those. All that a variant writes is one batch. `where` is split and seed.
        """
        texts: list[list[Attempt]] = [[] for _ in questions]
        (split, seed), does = where, "refines" if given else "writes"
        for name in (*self.names, BASE):
            rows = [i for i, n in enumerate(names) if n == name]
            if not rows:
                continue
            stream = question_seed(seed, name, *(["refine"] if given else []))
            with self._active(name) as policy:
                attempts = write_attempts(
                    Sampler(policy), [questions[i] for i in rows], sampling,
                    Provenance(split, stream, writer=name),
                    PromptOptions("refine" if given else "rationale"),
                    given=[given[i] for i in rows] if given else None,
                    label=f"{name} {does} {split}",
                )  # fmt: skip
            for k, i in enumerate(rows):
                texts[i] = attempts[k * sampling.n : (k + 1) * sampling.n]
        return texts

    def _active(self, name: str) -> AbstractContextManager[Policy]:
        return self.variants.base_policy() if name == BASE else self.variants.active(name)

    def answered(self, drafts: Sequence[Draft]) -> list[Chain]:
        """Each draft with its answer; an empty refinement is no refinement."""
        lasts = [d.refined if d.refined and d.refined.rationale else d.written for d in drafts]
        answers = self.answerer.answers(
            [d.question for d in drafts], [d.written.rationale for d in drafts],
            [a.rationale for a in lasts],
        )  # fmt: skip
        return [
            Chain(
                d.question, d.written.writer, d.written,
                KEEP if last is d.written else last.writer, last, answer, d.draw,
            )
            for d, last, answer in zip(drafts, lasts, answers, strict=True)
        ]  # fmt: skip

    def writers(self, questions: Sequence[Question], seed: int, routing: AnyRouting) -> list[str]:
        """Who writes for each question."""
        if routing == "controller" and len(self.names) > 1:
            everybody = [self.names] * len(questions)
            return self._chosen(questions, [None] * len(questions), self.names, everybody)
        if routing == "base":
            return [BASE] * len(questions)
        return [random.Random(f"{seed}/writes/{q.id}").choice(self.names) for q in questions]

    def refiners_of(
        self, questions: Sequence[Question], written: Sequence[Attempt], seed: int,
        routing: AnyRouting,
    ) -> list[str]:  # fmt: skip
        """Who refines what was written for each question, or `keep`."""
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

    def save(self, folder: Path, *, reply_tokens: int | None = None) -> None:
        """One folder that `load` reads: the base, the variants' weights, the controller's.

        `reply_tokens`: the longest rationale that it was evaluated with, which the folder says.
        """
        source = self.variants.source
        by_first(lambda: shutil.copytree(source, folder / "base", dirs_exist_ok=True))
        for name in [*self.names, *([CONTROLLER] if self.controller else [])]:
            self.variants.save(name, folder / name)
        facts = {
            "names": list(self.names), "refiners": self.refiners, "texts": self.texts,
            "controller": self.controller, "routing": self.routing,
            "precision": self.variants.base.precision, "reply_tokens": reply_tokens,
        }  # fmt: skip
        by_first(lambda: write_text(folder / FILE, json.dumps(facts, indent=1) + "\n"))

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
        numbers = Numbers(precision=facts.get("precision", "auto"))
        base = load_policy(folder / "base", numbers=numbers, trust_remote_code=trust_remote_code)
        variants = Variants(under_adapters(base), folder / "base")
        for name in [*facts["names"], *([CONTROLLER] if facts["controller"] else [])]:
            variants.load(name, folder / name)
        return cls(
            variants, facts["names"], facts["refiners"], facts["texts"], facts["controller"],
            facts.get("routing", "controller"),
        )  # fmt: skip


def surest(chains: Sequence[Chain]) -> Chain:
    """Of chains for one question, the one whose answer M_IFT is surest of, the first of equals; it
    bears the tokens of all. One with a rationale and an answer goes before others.
    """
    best = max(chains, key=lambda c: preference(c.rationale, c.prediction, c.answer.sure))
    others = sum(c.as_attempt("").n_tokens for c in chains if c is not best)
    return replace(best, spent=best.spent + others)


def preference(rationale: str, prediction: str | None, sure: float) -> tuple[bool, bool, float]:
    """What the surest of some texts is the greatest by."""
    return bool(rationale), prediction is not None, sure
