"""Where a text names an answer: by the choice's words, or by its letter in brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rationalize.answers import label

_WORD = re.compile(r"\w+(?:['’]\w+)?")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation.

    >>> words("It's 4 + 3, so: seven.")
    ["it's", '4', '3', 'so', 'seven']
    """
    return _WORD.findall(text.lower())


def mentions(text_words: Sequence[str], answer: str) -> list[int]:
    """Positions at which all words of `answer` stand in a row; none for an answer without words."""
    own = words(answer)
    if not own:
        return []
    return [i for i in range(len(text_words)) if list(text_words[i : i + len(own)]) == own]


def names_answer(text: str, answer: str, choices: Sequence[str] | None) -> bool:
    """Whether a text contains the answer's words, or its letter in brackets."""
    if mentions(words(text), answer):
        return True
    if not choices or answer not in choices:
        return False
    return label(list(choices).index(answer)).lower() in text.lower()


def sentences(text: str) -> list[str]:
    """A text cut after `.`, `!`, `?` or a line's end; decimal points do not cut."""
    return [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text) if s.strip()]
