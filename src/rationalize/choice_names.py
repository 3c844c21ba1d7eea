"""Which of a question's choices a text names: by letter, or by the choice's own text. No torch."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence

from rationalize.numerals import exact_number, plain, whole_number

_LETTER = re.compile(r"\(\s*([A-Za-z])\s*(?:\)|$)")
_BARE_LETTER = re.compile(r"([A-Za-z])(?:[).,:;]|$)")
_CLOSED_LETTER = re.compile(r"([A-Z])(?:[*_\"`”’!}]|\s+=|$)")
_WRAPPED_LETTER = re.compile(r"[\[{<]\s*([A-Za-z])\s*[\]}>]")
_INTRODUCED = re.compile(
    r"(?:[—→>…\s]|\.(?!\d)|[-–]{2,}|[-–](?!\s?[$£€]?\s?\d)"  # neither a sign nor a point of .5
    r"|(?:therefore|thus|clearly|likely|probably|definitely|most)\b,?\s*)*"
    r"(?:(?:the\s+)?(?:(?:option|choice|letter|answer)\s*:?\s*)+(?=\W?[A-Za-z]\b))?",
    re.IGNORECASE,
)
_THEN_A_REASON = re.compile(
    r"([A-Z])\s+(?:[-–—]+\s|because\b|since\b|as\b|is\b|for\b|due\b|which\b|[(\[])"
)  # fmt: skip
_ANOTHER = re.compile(
    r"\s*(?:,|/|&|\b(?:or|and|nor|vs\.?)\b)\s*(?:(?:or|and)\s+)?(?:option\s+|choice\s+)?"
    r"(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Z])(?=[\s.,:;)]*(?:$|,|\b(?:or|and)\b)))"
)
"""A second letter, with what joins it to the first."""
_AFTER_A_TEXT = re.compile(
    r"\s*$|[.,;:!](?=\s|$)|\s*[(\[]|\s+[-–—]+\s+(?!\d)|\s+(?:because|since|as|due|for|which)\b",
    re.IGNORECASE,
)
_JOINED = re.compile(r"[\s,]*(?:\b(?:or|and|nor)\b|[,/&])\s*", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)", re.IGNORECASE)
_WITH_A_UNIT = re.compile(r"\S*\d(?:\s(?!(?:and|or|nor|not|to|of)\b)[a-z°%]+\.?){1,3}")
"""A number and a unit, of up to three words: `3 apples`, `12 km per hour`."""
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[.,;:!?()]|\b(?:so|thus|hence|therefore|then|but|because)\b")
_DENIED = re.compile(r"(?:\b(?:neither|either|nor|whether|between|not|cannot)|n['’]t)\b")
_NOT = re.compile(r"(?:\bnot|n['’]t)\W*$")
_JOINED_TO_ANOTHER = re.compile(
    r"[^\w.;:!?/]*(?:/|\b(?:or|nor|and)\b)[^\w.;:!?/]*(?:yes|no|true|false)\b", re.IGNORECASE
)


def normalise(text: str) -> str:
    """The answer in lower case, with single spaces and without a final full stop."""
    return " ".join(text.strip().rstrip(".").lower().split())


def same_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that is this text; else the only one that differs in case or punctuation alone."""
    return _same(text, choices, (str.strip, normalise, _without_mark_up, _letters_and_spaces))


def _same(
    text: str, choices: Sequence[str], forms: Iterable[Callable[[str], str]]
) -> str | None:  # fmt: skip
    if text in choices:
        return text
    for form in forms:
        if (wanted := form(text)) and (found := _only(c for c in choices if form(c) == wanted)):
            return found
    return None


def named_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one choice that a line names; None where it names none, or several.

    `(A)` is the first choice, whatever follows. Then come the choices' texts, then a bare `A`, then
    either with words around it. For the choices yes and no, or true and false, `yes_or_no` reads
    the line.
    """
    line = text.strip().rstrip(".").strip()
    bare = line.strip("*\"'` ")  # chat models put answers in bold or quotes
    if letter := _LETTER.match(bare):
        return _of_letter(letter, bare, choices)
    for form in (text.strip().removesuffix("."), line, bare):  # the first stop is the sentence's
        if found := _same(form, choices, (str.strip, normalise)):
            return found
    if letter := _BARE_LETTER.match(bare):
        return _of_letter(letter, bare, choices)
    named = {normalise(c) for c in choices}
    if named in ({"yes", "no"}, {"true", "false"}) and _YES_NO.search(bare):
        said = yes_or_no(bare)
        if "true" in named:
            said = {"yes": "true", "no": "false"}.get(said or "")
        return same_choice(said, choices) if said else None
    return _with_words_around(plain(line), choices)


def yes_or_no(text: str) -> str | None:
    """What the first of the words yes, no, true and false says; true and false mean yes and no.
    `not true` is no; any other denial, and two of these words that are joined, say nothing.

    >>> [yes_or_no(t) for t in ("Yes, it can", "not true", "not yes", "yes or no", "neither")]
    ['yes', 'no', None, None, None]
    """
    word = _YES_NO.search(text)
    if not word:
        return None
    said, clause = word.group().lower(), _CLAUSE.split(text[: word.start()].lower())[-1]
    if _JOINED_TO_ANOTHER.match(text, word.end()):
        return None
    if _DENIED.search(clause):
        return {"true": "no", "false": "yes"}.get(said) if _NOT.search(clause) else None
    return {"true": "yes", "false": "no"}.get(said, said)


def _with_words_around(line: str, choices: Sequence[str]) -> str | None:
    """`[B]`, `option B`, `B because ..`, `B - ice`, `ice (B)`, `the ice`, `ice, because ..`."""
    line = line.strip("*_\"'`“”‘’«» ").rstrip(". ")
    if found := same_choice(line, choices):
        return found
    line = line[introduced.end() :] if (introduced := _INTRODUCED.match(line)) else line
    for form in (_LETTER, _WRAPPED_LETTER, _BARE_LETTER, _CLOSED_LETTER, _THEN_A_REASON):
        if letter := form.match(line):
            return _of_letter(letter, line, choices)
    # a letter before its own text
    head, _, tail = line.partition(" ")
    index = _index(head) if len(head) == 1 and head.isupper() else None
    if index is not None and list(choices[index : index + 1]) == [_begins_with(tail, choices)]:
        return choices[index]
    return _begins_with(line, choices) or _number_with_a_unit(line, choices)


def _number_with_a_unit(line: str, choices: Sequence[str]) -> str | None:
    """The choice 3 in `3 apples`, where all choices are numbers alone."""
    values = {choice: whole_number(choice) for choice in choices}
    said = exact_number(line) if _WITH_A_UNIT.fullmatch(line) else None
    if said is None or None in values.values():
        return None
    return _only(choice for choice, value in values.items() if value == said)


def _begins_with(line: str, choices: Sequence[str]) -> str | None:
    """The choice whose text, perhaps after an article, begins a line that names no other."""
    without = {c: _ARTICLE.sub("", plain(c), count=1) if _ARTICLE.match(plain(c)) else plain(c)
               for c in choices}  # fmt: skip
    start = article.end() if (article := _ARTICLE.match(line)) else 0
    for rest, texts in ((line, {c: plain(c) for c in choices}), (line[start:], without)):
        matches = {c: len(t) for c, t in texts.items() if t and _is_start(t, rest)}
        longest = max(matches.values(), default=0)
        found = _only(c for c, size in matches.items() if size == longest)
        if found is None:
            continue
        after = rest[longest:].lstrip()
        if letter := _LETTER.match(after):  # ice (B)
            return found if _of_letter(letter, after, choices) == found else None
        joined = _JOINED.match(after)
        beyond = after[joined.end() :] if joined else ""
        others = [c for c in choices if c != found]
        named = _LETTER.match(beyond) or any(
            _is_start(form, beyond) for c in others for form in (texts[c], plain(c)) if form
        )
        return None if named or (joined and whole_number(found) and beyond[:1].isdigit()) else found
    return None


def _is_start(text: str, line: str) -> bool:
    return line[: len(text)].lower() == text.lower() and bool(
        _AFTER_A_TEXT.match(line[len(text) :])
    )


def _of_letter(letter: re.Match[str], line: str, choices: Sequence[str]) -> str | None:
    """The choice of a letter, unless another letter is joined to it."""
    index = _index(letter.group(1))
    other = _ANOTHER.match(line, letter.end(1) + (line[letter.end(1) : letter.end(1) + 1] in ")]"))
    if other and _index(other[1] or other[2]) not in (index, None):
        return None
    return choices[index] if index is not None and index < len(choices) else None


def _index(letter: str) -> int | None:
    index = string.ascii_uppercase.find(letter.upper())
    return None if index < 0 else index


def _without_mark_up(text: str) -> str:
    return normalise(plain(text))


def _letters_and_spaces(text: str) -> str:
    """Without punctuation, where that tells nothing apart: not in a number, nor C++ from C."""
    words = re.findall(r"\w+", text.lower())
    short = len("".join(words)) < 3 or any(c.isdigit() for c in text)
    return "" if short else " ".join(words)


def _only(found: Iterable[str]) -> str | None:
    matches = list(found)
    return matches[0] if len(set(matches)) == 1 else None
