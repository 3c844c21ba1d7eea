"""What an answer scorer reads and writes: our templates, or MaRio's released formats.

`choices` answers in the words of the choice, `modes` with its letter, as the templates do. Words
are far easier for a small model: the answer that a rationale ends with can be copied, while a
letter must first be bound to its choice.
"""

from __future__ import annotations

from typing import Literal

from rationalize.answers import answer_label, label
from rationalize.records import Question
from rationalize.templates import prompt_text

Texts = Literal["modes", "choices", "released"]


def answer_prompt(texts: Texts, question: Question, rationale: str | None) -> str:
    """What the scorer reads: our templates, or MaRio's released formats (mario.md 4.2)."""
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
    """What the scorer may write, one text per choice; the gold text alone where there are none."""
    if not question.choices:
        return [question.answer]
    if texts == "choices":
        return list(question.choices)
    if texts == "released" and _is_yes_no(question):
        return [c.lower() for c in question.choices]
    return [answer_label(c, question.choices) for c in question.choices]


def gold_text(texts: Texts, question: Question) -> str:
    """What a scorer learns to write."""
    at = question.choices.index(question.answer) if question.choices else 0
    return answer_texts(texts, question)[at]


def _is_yes_no(question: Question) -> bool:
    return {c.lower() for c in question.choices or ()} == {"yes", "no"}
