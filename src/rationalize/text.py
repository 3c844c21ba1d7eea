"""Make text of any origin safe to show, store and tokenise; split it into words. No torch here."""

from __future__ import annotations

import re
from collections.abc import Collection

_PICTURES = {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\n\t"} | {0x7F: "␡"}
_MARK = "\ufffd"

_VISIBLE = _PICTURES | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], _MARK)
_VISIBLE |= dict.fromkeys([0xFFFE, 0xFFFF, 0x202D, 0x202E], _MARK)
"""Control characters -> their Unicode pictures; U+FFFD for unpaired surrogates, non-characters and
overrides of the writing direction (which display letters in another order).
"""

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_PRINTABLE = _VISIBLE | dict.fromkeys([0x2028, 0x2029, 0xFEFF, *_DIRECTIONS], _MARK)
_IN_A_LINE = _PRINTABLE | {ord("\n"): "␊", ord("\t"): "␉"}

_RISKY = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""What UTF-8 cannot encode, what some readers take for a line end, and terminal controls."""

_WORD = re.compile(r"\w+(?:['’]\w+)?")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, in their order.

    >>> words("It's 4 + 3, so: seven.")
    ["it's", '4', '3', 'so', 'seven']
    """
    return _WORD.findall(text.lower())


_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""


def word_count(text: str) -> int:
    """Words of a text by its spaces; in scripts without, three letters count as one word.

    >>> word_count("Ice is smoother."), word_count("冰面比草地光滑得多")
    (3, 3)
    """
    letters = len(_UNSPACED.findall(text))
    return len(_UNSPACED.sub(" ", text).split()) + letters // 3


def visible(text: str) -> str:
    r"""Text for a page, with every character visible: `visible("a\x07b") == "a␇b"`."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def printable(text: str) -> str:
    r"""Text for a terminal, without control characters; line ends and tabs stay.

    Marks of the writing direction are replaced too: a page isolates the direction of each text, a
    terminal does not.

    >>> printable("a\x1b[31mb")
    'a␛[31mb'
    """
    return text.replace("\r\n", "\n").translate(_PRINTABLE)


def one_line(text: str) -> str:
    r"""`printable` with visible line ends and tabs: for a table cell, or a name."""
    return text.translate(_IN_A_LINE)


def clipped(text: str, length: int = 10_000) -> str:
    """The first `length` characters of a text for a page, and how many are left out."""
    left = len(text) - length
    return text if left <= 0 else f"{text[:length]} [{left} more characters are in the run]"


def clip(value: object, length: int = 60) -> str:
    """A value for an error message: one printable line of at most `length` characters."""
    if isinstance(value, (str, bytes)):
        value = value[: length + 1]  # `repr` of a long text is slow
    text = repr(value).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= length else text[: length - 2] + ".."


def listed(names: Collection[str]) -> str:
    """The first three names, and how many more there are."""
    first = ", ".join(list(names)[:3])
    return f"{first} and {len(names) - 3} more" if len(names) > 3 else first


def whole_characters(text: str) -> str:
    """The text with U+FFFD for unpaired surrogates, which UTF-8 and tokenizers reject."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def escaped_json(text: str) -> str:
    """JSON with a backslash escape for every character that is risky to store or print.

    The value stays the same, since such characters occur only inside its strings.
    """
    return _RISKY.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
