"""Find answers in a text: by the words of a choice, or by its letter in brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rationalize.answers import label
from rationalize.text import words


def mentions(text_words: Sequence[str], answer: str) -> list[int]:
    """Positions where the words of `answer` begin in a row; none for an answer without words."""
    run = words(answer)
    if not run:
        return []
    return [i for i in range(len(text_words)) if list(text_words[i : i + len(run)]) == run]


def names_answer(text: str, answer: str, choices: Sequence[str] | None) -> bool:
    """Whether a text contains the words of the answer, or its letter in brackets."""
    if mentions(words(text), answer):
        return True
    if not choices or answer not in choices:
        return False
    return label(list(choices).index(answer)).lower() in text.lower()


def sentences(text: str) -> list[str]:
    """The sentences of a text: each ends with `.`, `!`, `?` (before a space) or a line break."""
    return [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text) if s.strip()]


_EMPTY_WORDS = frozenset(
    words(
        "a am an and answer are as be because believe best choice choose clearly correct "
        "definitely explanation final go going guess hence here i is it it's its means must my "
        "obvious obviously of one option or pick rationale reply right say select so sure surely "
        "that that's the there there's therefore think this thus to we which will with would you "
        "your"
    )
)
"""Words that add nothing to an answer."""


def masked(text: str, answers: Sequence[str], mask: str = "___") -> str:
    """The text with every mention of an answer (its words, or its letter in brackets) masked.

    >>> masked("Oil floats, so it is the oil: (B).", ["the water", "the oil"])
    'Oil floats, so it is ___: ___.'
    """
    # longest first: an answer can be part of another one
    for answer in sorted(answers, key=len, reverse=True):
        pattern = r"\W+".join(map(re.escape, words(answer)))
        if pattern:
            text = re.sub(rf"(?<!\w){pattern}(?!\w)", mask, text, flags=re.IGNORECASE)
    letters = "".join(label(i)[1] for i in range(min(len(answers), 26)))
    return re.sub(rf"\([{letters}]\)", mask, text, flags=re.IGNORECASE)


_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def bare_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a text only names answers: all its other words are in `_EMPTY_WORDS`.

    Here a letter also names its answer without brackets.

    >>> bare_answer("So the answer must be the oil.", ["the water", "the oil"])
    True
    >>> bare_answer("Oil: option B is correct.", ["the water", "the oil"])
    True
    >>> bare_answer("Oil is lighter, so it is the oil.", ["the water", "the oil"])
    False
    """
    bare = [_ARTICLE.sub("", answer) or answer for answer in answers]
    letters = {label(i)[1].lower() for i in range(min(len(answers), 26))}
    rest = words(masked(text, [*answers, *bare], mask=" "))
    return all(word in _EMPTY_WORDS or word in letters for word in rest)
