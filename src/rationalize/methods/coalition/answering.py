"""How M_IFT answers from a rationale, and how sure it is: the last step of every chain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rationalize.answers import read_answer
from rationalize.models.answer_texts import Texts, answer_prompt
from rationalize.models.choices import ChoiceScorer
from rationalize.models.scorers import AnswerFold
from rationalize.models.variants import Variants
from rationalize.records import Question
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.local import Sampler

FREE_FORM = SamplingConfig(temperature=0.0, max_new_tokens=64)
"""How an answer is written where there are no choices."""


@dataclass(frozen=True)
class Answer:
    """An answer, and the probabilities that it was chosen by, empty without choices."""

    text: str | None
    """The likeliest choice, or what was written and read where there are none."""
    sure: float = 0.0
    """How sure the base is of it: the choice's probability; without choices, e to the mean
    log-probability of the written tokens.
    """
    alone: tuple[float, ...] = ()
    """Probability of each choice given the question alone."""
    before: tuple[float, ...] = ()
    """The same given the rationale as it was written."""
    after: tuple[float, ...] = ()
    """The same given the last one."""


@dataclass
class Answerer:
    """The base of some variants, which reads rationales and answers."""

    variants: Variants
    texts: Texts = "choices"
    _without: tuple[list[Question], dict[str, list[float]]] = field(
        default=([], {}), init=False, repr=False
    )
    """The questions that were asked last, and p(choice | question) of each."""

    def answers(
        self, questions: Sequence[Question], written: Sequence[str], last: Sequence[str]
    ) -> list[Answer]:
        """In the order of the questions, which may repeat: answers from the last rationales, beside
        the probabilities given what was `written` first.
        """
        drafts, finals = ([text or None for text in texts] for texts in (written, last))
        with self.variants.base_policy() as policy:
            reader = ChoiceScorer(policy)
            fold = AnswerFold(reader, reader)
            known = self._alone(fold, list({q.id: q for q in questions if q.choices}.values()))
            alone = [known.get(q.id, []) for q in questions]
            read = [
                (q, text)
                for texts in (drafts, finals)
                for q, text in zip(questions, texts, strict=True)
                if q.choices and text
            ]
            asked, given = [q for q, _ in read], [text for _, text in read]
            views = iter(fold.probabilities(asked, given, self.texts))
            prompts = {  # each once
                (q.id, text): answer_prompt(self.texts, q, text)
                for q, text in zip(questions, finals, strict=True)
                if not q.choices
            }
            said = dict(zip(prompts, _said(reader, list(prompts.values())), strict=True))
        before, after = (
            [
                next(views) if q.choices and text else p
                for q, text, p in zip(questions, texts, alone, strict=True)
            ]
            for texts in (drafts, finals)
        )
        answers = []
        for q, text, *of_choices in zip(questions, finals, alone, before, after, strict=True):
            if q.choices:
                p = of_choices[-1]
                best = int(np.argmax(p))
                answers.append(Answer(q.choices[best], p[best], *map(tuple, of_choices)))
            else:
                answers.append(said[q.id, text])
        return answers

    def _alone(self, fold: AnswerFold, questions: Sequence[Question]) -> dict[str, list[float]]:
        """p(choice | question), computed once for the same questions, whatever the routing."""
        if self._without[0] != list(questions):
            p = fold.probabilities(questions, [None] * len(questions), self.texts)
            self._without = list(questions), dict(zip([q.id for q in questions], p, strict=True))
        return self._without[1]


def _said(reader: ChoiceScorer, prompts: Sequence[str]) -> Iterator[Answer]:
    """What the base writes after each prompt, greedily, and how sure it is of these tokens."""
    if not prompts:
        return
    seeds = [0] * len(prompts)
    texts = [r.text for [r] in Sampler(reader.policy).sample(prompts, FREE_FORM, seeds=seeds)]
    scores = iter(reader.score(
        [p for p, text in zip(prompts, texts, strict=True) if text.strip()],
        [[text] for text in texts if text.strip()],
    ))  # fmt: skip
    for text in texts:
        sure = math.exp(next(scores)[0].mean) if text.strip() else 0.0
        yield Answer(read_answer(text, None), sure)
