"""Prompts and targets of every mode: question -> text.

The question comes first, so that the prompts of a question share a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from rationalize.answers import MARKER, answer_label, label, reply_text
from rationalize.records import Attempt, Question
from rationalize.teacher import solved

MODES = ("rationale_answer", "rationale", "refine", "answer", "answer_from_rationale")
ANSWER_ALONE = ("answer", "answer_from_rationale")
"""Modes whose reply is the answer itself, without a rationale."""

TEMPLATE_VERSION = "2"
"""Change it when a template changes; `template_version` says from which on a prompt is as it is."""

DEFAULT_SYSTEM = "You are a careful reasoner."
"""System message of a chat. Always set, since many chat templates insert a default of their own."""

INSTRUCTION = {
    "rationale_answer": "Explain, then answer.",
    "rationale": "Explain how to find the answer.",
    "refine": "Correct and complete this explanation.",
    "answer": "Answer.",
    "answer_from_rationale": "Answer.",
}
"""Mode -> the last line of its prompt."""

Form = Literal["number", "yes/no", "choice", "text"]

_NUMBER = re.compile(r"-?[$€£]?\d[\d,]*(?:\.\d+)?%?")
_TOLD = {
    "rationale_answer": f"End with: {MARKER} {{}}.",
    "answer": "Write only {}.",
    "answer_from_rationale": "Write only {}.",
}
"""Mode -> what its last line adds where the form of the answer is told."""
_PLACES = {"choice": "(letter)", "yes/no": "yes or no", "number": "(number)", "text": "(answer)"}


def form_of(question: Question) -> Form:
    """The form of a question's answer."""
    answers = {c.strip().lower() for c in question.choices or (question.answer,)}
    if answers <= {"yes", "no", "true", "false"}:
        return "yes/no"
    if question.choices:
        return "choice"
    return "number" if _NUMBER.fullmatch(question.answer.strip()) else "text"


def question_text(question: Question) -> str:
    """Context, question and lettered choices: the prefix that all modes share."""
    parts = [question.context] if question.context else []
    parts.append(question.question)
    if question.choices:
        parts.append(" ".join(f"{label(i)} {c}" for i, c in enumerate(question.choices)))
    return "\n".join(parts)


BLOCK_END = "\n\n"
"""Separates demonstrations. What a base model writes after it is a question of its own."""


def prompt_text(
    mode: str, question: Question, rationale: str | None = None, demos: Sequence[Question] = (),
    *, hinted: bool = False, told: bool = False,
) -> str:  # fmt: skip
    """The prompt of a mode, after the solved questions `demos` (few-shot).

    `hinted` prompts tell the gold answer, in demonstrations too (STaR's rationalisation, arXiv
    2203.14465). `told` prompts say the form of the answer, unless demonstrations show it. Raises
    `ValueError` for an unknown mode, and if `rationale` is missing or unused.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}")
    if (mode in ("refine", "answer_from_rationale")) != (rationale is not None):
        raise ValueError(
            f"mode {mode!r} {'takes no' if rationale is not None else 'needs a'} rationale"
        )
    blocks = [f"{_block(mode, d, hinted=hinted)}\n{target_text(mode, d)}" for d in demos]
    prompt = BLOCK_END.join([*blocks, _block(mode, question, rationale, hinted=hinted)])
    if not told or demos or mode not in _TOLD:
        return prompt
    form = "choice" if question.choices else form_of(question)
    return f"{prompt} {_TOLD[mode].format(_PLACES[form])}"


def untold(prompt: str) -> str:
    """The prompt without what it says of the answer's form: as a model is trained on it.

    >>> untold("2 + 2?\\nExplain, then answer. End with: So the answer is (number).")
    '2 + 2?\\nExplain, then answer.'
    """
    body, _, line = prompt.rpartition("\n")
    for mode, told in _TOLD.items():
        for place in _PLACES.values():
            if line == f"{INSTRUCTION[mode]} {told.format(place)}":
                return f"{body}\n{INSTRUCTION[mode]}"
    return prompt


def template_version(prompt: str) -> str:
    """The first version of the templates that makes this prompt: part of the keys of stored scores.

    Version 2 tells the form of the answer; all other prompts are those of version 1.
    """
    return "1" if untold(prompt) == prompt else TEMPLATE_VERSION


def _block(
    mode: str, question: Question, rationale: str | None = None, *, hinted: bool = False
) -> str:
    if rationale is None and mode in ("refine", "answer_from_rationale"):
        rationale = target_text("rationale", question)  # a demonstration
    lines = [question_text(question)]
    if rationale is not None:
        lines.append(f"Explanation: {rationale}")
    if hinted:
        lines.append(f"Hint: the answer is {answer_label(question.answer, question.choices)}.")
    lines.append(INSTRUCTION[mode])
    return "\n".join(lines)


def listed_choices(prompt: str) -> tuple[str, ...] | None:
    r"""The choices that the last question of a `rationale_answer` prompt lists, None without any.

    >>> listed_choices("Which sinks?\n(A) ice (B) a stone\nExplain, then answer.")
    ('ice', 'a stone')
    """
    block = untold(prompt).rpartition(BLOCK_END)[2]
    body = block.removesuffix("\n" + INSTRUCTION["rationale_answer"])
    _, start, rest = body.rpartition(f"\n{label(0)} ")
    if not start or body == block:
        return None
    choices = []
    for i in range(1, 26):
        choice, mark, after = rest.partition(f" {label(i)} ")
        if not mark:
            break
        choices.append(choice)
        rest = after
    return (*choices, rest)


def target_text(mode: str, question: Question, rationale: str | None = None) -> str:
    """The gold target of a mode: what the model should write. The default rationale is the first
    that led to the answer.

    Raises `ValueError` if the mode needs a rationale and there is none.
    """
    if rationale is None and mode in ("rationale_answer", "rationale", "refine"):
        one = solved(question)
        if one is None:
            raise ValueError(
                f"question {question.id!r} has no rationale that led to its answer, which mode "
                f"{mode!r} needs as its target"
            )
        [rationale] = one.rationales
    if mode == "rationale_answer":
        return reply_text(rationale or "", question.answer, question.choices)
    if mode in ("rationale", "refine"):
        return rationale or ""
    return answer_label(question.answer, question.choices)


def statement_text(question: str, context: str | None, text: str) -> str:
    """Context, question and a choice or rationale in one line, for a verifier that reads all.

    >>> statement_text("Which sinks?", None, "A stone is denser than water.")
    'Which sinks? A stone is denser than water.'
    """
    return " ".join(filter(None, [context, question, text]))


def given_attempt(
    id: str, question: Question, rationale: str, prediction: str | None, *, writer: str, split: str,
    model: str | None = None, completion: str | None = None,
) -> Attempt:  # fmt: skip
    """A rationale from elsewhere as an attempt at its question.

    Default `completion`: rationale and answer sentence, as a policy writes them. Default `model`:
    the writer.
    """
    if completion is None:
        completion = rationale
        if prediction is not None:
            completion = reply_text(rationale, prediction, question.choices)
    return Attempt(
        id=id, question_id=question.id, mode="rationale_answer",
        prompt=prompt_text("rationale_answer", question), completion=completion,
        rationale=rationale, prediction=prediction, gold=question.answer,
        parsed=prediction is not None, finish="stop", writer=writer, model=model or writer, round=0,
        step=0, split=split, seed=0, n_tokens=0,
    )  # fmt: skip
