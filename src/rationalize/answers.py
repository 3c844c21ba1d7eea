"""What an answer is: choice labels, numbers, yes/no; reading one from text; matching.

No torch here.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

MARKER = "So the answer is"
"""The sentence that separates the rationale from the answer; the last one in a reply wins."""

# ASCII: `str.lower` changes the length of some texts, Unicode folding takes other letters for ours
_MARKER = re.compile(rf"(?<![a-z]){MARKER}(?![a-z])", re.IGNORECASE | re.ASCII)
_LETTER = re.compile(r"\(\s*([A-Za-z])\s*(?:\)|$)")
_BARE_LETTER = re.compile(r"([A-Za-z])(?:[).,:;]|$)")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Reply:
    """A completion taken apart."""

    rationale: str
    prediction: str | None
    """Choice text, or the free-form answer; None when none could be read."""

    @property
    def parsed(self) -> bool:
        return self.prediction is not None


def label(index: int) -> str:
    """`0 -> "(A)"`."""
    return f"({string.ascii_uppercase[index]})"


def answer_label(answer: str, choices: Sequence[str] | None) -> str:
    """What a model writes for this answer: the choice's letter, or the answer itself."""
    return label(list(choices).index(answer)) if choices else answer


def reply_text(rationale: str, answer: str, choices: Sequence[str] | None) -> str:
    """`{rationale} So the answer is {label}.`; a rationale without a full stop gets one."""
    rationale = rationale.strip()
    if rationale and rationale[-1] not in ".!?":
        rationale += "."
    sentence = f"{MARKER} {answer_label(answer, choices)}."
    return f"{rationale} {sentence}" if rationale else sentence


def parse_reply(completion: str, choices: Sequence[str] | None) -> Reply:
    """Split at the last marker (case and a colon are ignored) and read the answer after it."""
    markers = list(_MARKER.finditer(completion))
    if not markers:
        return Reply(completion.strip(), None)
    last = markers[-1]
    return Reply(completion[: last.start()].strip(), read_answer(completion[last.end() :], choices))


def has_marker(text: str) -> bool:
    """Whether a reply with this text in it would be split there."""
    return _MARKER.search(text) is not None


def read_answer(text: str, choices: Sequence[str] | None) -> str | None:
    """Read a choice (by letter, then by text), or a free-form answer, from the text after the
    marker.

    `(A)` is the first choice whatever follows it; a bare `A` only where no choice has that text.
    """
    text = text.strip().lstrip(":").strip()
    if not text:
        return None
    line = text.splitlines()[0].strip().rstrip(".").strip()
    if not choices:
        return line or None
    bare = line.strip("*\"'` ")  # chat models set answers in bold or quotes
    found = _LETTER.match(bare)
    if not found:
        texts = {normalise(c): c for c in reversed(choices)}
        for form in (line, bare):
            if normalise(form) in texts:
                return texts[normalise(form)]
        found = _BARE_LETTER.match(bare)
    index = string.ascii_uppercase.index(found.group(1).upper()) if found else len(choices)
    return choices[index] if index < len(choices) else None


def normalise(text: str) -> str:
    """Case, surrounding space and a closing full stop do not make an answer different."""
    return " ".join(text.strip().rstrip(".").lower().split())


def number(text: str) -> float | None:
    """The last number in a text, thousands separators and currency ignored."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("$", "")) if found else None


def is_correct(prediction: str | None, answer: str, choices: Sequence[str] | None = None) -> bool:
    """Exact match of choices; free-form answers also match as numbers."""
    if prediction is None:
        return False
    if normalise(prediction) == normalise(answer):
        return True
    if choices:
        return False
    try:
        gold = float(answer.replace(",", "").replace("$", ""))
    except ValueError:
        return False
    return number(prediction) == gold
