"""What a question's teacher wrote: rationales, each with the answer that it led the teacher to."""

from __future__ import annotations

from dataclasses import replace

from rationalize.records import Question


def teacher_samples(question: Question) -> list[tuple[str, str]]:
    """`(rationale, answer)` of each teacher rationale, the wrong ones last."""
    answers = question.extra.get("teacher_answers") or [question.answer] * len(question.rationales)
    samples = list(zip(question.rationales, answers, strict=True))
    for wrong in question.extra.get("rationales_wrong") or ():
        predicted = wrong.get("predicted")
        if predicted is not None and (not question.choices or predicted in question.choices):
            samples.append((wrong["rationale"], predicted))
    return samples


def solved(question: Question) -> Question | None:
    """The question with the first rationale that led its teacher to the right answer, to be shown
    or imitated; None if none did.
    """
    for rationale, answer in teacher_samples(question):
        if rationale.strip() and question.is_right(answer):
            return replace(question, rationales=(rationale,), extra={})
    return None
