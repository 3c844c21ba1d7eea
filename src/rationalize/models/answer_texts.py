"""Prompts and answers of an answer scorer, in our templates or in MaRio's released formats.

`choices` answers in the words of the choice, `modes` with its letter, as our templates do. Words
are far easier for a small model: it can copy the answer that a rationale ends with, while a letter
must first be bound to its choice. `released` is MaRio's format (docs/methods/scorers.md).
"""

from __future__ import annotations

from typing import Literal

from rationalize.answers import answer_label, label
from rationalize.records import Question
from rationalize.templates import prompt_text

Texts = Literal["modes", "choices", "released"]


def answer_prompt(texts: Texts, question: Question, rationale: str | None) -> str:
    """The prompt for a question, alone (`rationale` None) or with a rationale."""
    if texts != "released":
        if rationale is None:
            return prompt_text("answer", question)
        return prompt_text("answer_from_rationale", question, rationale)
    stem = " ".join(filter(None, [question.context, question.question]))
    if _is_yes_no(question):
        marked = f"{stem}: choice: no choice: yes"
    else:
        marked = " ".join(
            [stem, *(f"choice: {label(i)} {c}" for i, c in enumerate(question.choices or ()))]
        )
    return f"explain {marked}" if rationale is None else f"{marked} explanation: {rationale}"


def answer_texts(texts: Texts, question: Question) -> list[str]:
    """The possible answers, one text per choice; without choices only the gold answer."""
    if not question.choices:
        return [question.answer]
    if texts == "choices":
        return list(question.choices)
    if texts == "released" and _is_yes_no(question):
        return [c.lower() for c in question.choices]
    return [answer_label(c, question.choices) for c in question.choices]


def gold_text(texts: Texts, question: Question) -> str:
    """The answer that a scorer is trained to give."""
    index = question.choices.index(question.answer) if question.choices else 0
    return answer_texts(texts, question)[index]


def _is_yes_no(question: Question) -> bool:
    return {c.lower() for c in question.choices or ()} == {"yes", "no"}
