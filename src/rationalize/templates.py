"""Prompts and targets of every mode: question -> text.

The question comes first, so that the prompts of a question share a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from rationalize.answers import answer_label, label, reply_text
from rationalize.records import Attempt, Question

MODES = ("rationale_answer", "rationale", "refine", "answer", "answer_from_rationale")
ANSWER_ALONE = ("answer", "answer_from_rationale")
"""Modes whose reply is the answer itself, without a rationale."""

TEMPLATE_VERSION = "1"
"""Part of every cache key: change it when a template changes."""

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
    *, hinted: bool = False,
) -> str:  # fmt: skip
    """The prompt of a mode, after the solved questions `demos` (few-shot).

    `hinted` prompts tell the gold answer, in demonstrations too (STaR's rationalisation, arXiv
    2203.14465). Raises `ValueError` for an unknown mode, and if `rationale` is missing or unused.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}")
    if (mode in ("refine", "answer_from_rationale")) != (rationale is not None):
        raise ValueError(
            f"mode {mode!r} {'takes no' if rationale is not None else 'needs a'} rationale"
        )
    blocks = [f"{_block(mode, d, hinted=hinted)}\n{target_text(mode, d)}" for d in demos]
    return BLOCK_END.join([*blocks, _block(mode, question, rationale, hinted=hinted)])


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
    block = prompt.rpartition(BLOCK_END)[2]
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
    """The gold target of a mode: what the model should write.

    Raises `ValueError` if the mode needs a rationale and there is none.
    """
    if rationale is None and mode in ("rationale_answer", "rationale", "refine"):
        if not question.rationales:
            raise ValueError(
                f"question {question.id!r} has no rationale, which mode {mode!r} needs as its "
                "target"
            )
        rationale = question.rationales[0]
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
