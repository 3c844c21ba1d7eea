"""Text from outside: safe to show, to store and to tokenise; and its words. No torch here."""

from __future__ import annotations

import re

_PICTURES = {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\n\t"} | {0x7F: "␡"}
_MARK = "\ufffd"

_VISIBLE = _PICTURES | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], _MARK)
_VISIBLE |= dict.fromkeys([0xFFFE, 0xFFFF, 0x202D, 0x202E], _MARK)
"""Control characters become their pictures. Lone surrogates, non-characters and overrides of the
reading direction (which show letters in an order that they don't have) become the replacement mark.
"""

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_PRINTABLE = _VISIBLE | dict.fromkeys([0x2028, 0x2029, 0xFEFF, *_DIRECTIONS], _MARK)
_IN_A_LINE = _PRINTABLE | {ord("\n"): "␊", ord("\t"): "␉"}

_RISKY = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""What UTF-8 cannot hold, what ends a line for some readers, and what a terminal obeys."""

_WORD = re.compile(r"\w+(?:['’]\w+)?")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, in their order.

    >>> words("It's 4 + 3, so: seven.")
    ["it's", '4', '3', 'so', 'seven']
    """
    return _WORD.findall(text.lower())


def visible(text: str) -> str:
    r"""Text for a page, every character of which shows: `visible("a\x07b") == "a␇b"`."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def printable(text: str) -> str:
    r"""Text for a terminal, which obeys none of it; line ends and tabs stay.

    Marks of the reading direction become the replacement mark too: a page keeps each text's
    direction to itself, a terminal lets it run on.

    >>> printable("a\x1b[31mb")
    'a␛[31mb'
    """
    return text.replace("\r\n", "\n").translate(_PRINTABLE)


def one_line(text: str) -> str:
    r"""`printable`, with line ends and tabs shown as well: for a cell of a table, or a name."""
    return text.translate(_IN_A_LINE)


def clipped(text: str, length: int = 10_000) -> str:
    """Text for a page, which a megabyte in every cell would choke: its beginning, and what is left
    out.
    """
    left = len(text) - length
    return text if left <= 0 else f"{text[:length]} [{left} more characters are in the run]"


def clip(value: object, length: int = 60) -> str:
    """A value as it may stand in a message: one short printable line."""
    if isinstance(value, (str, bytes)):
        value = value[: length + 1]  # `repr` of a megabyte takes its time
    text = repr(value).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= length else text[: length - 2] + ".."


def whole_characters(text: str) -> str:
    """The text with U+FFFD for unpaired surrogates, which UTF-8 and tokenizers refuse."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def escaped_json(text: str) -> str:
    """JSON in which everything that is risky to store or to print raw is a backslash escape.

    The JSON keeps its meaning: such characters stand in its strings only.
    """
    return _RISKY.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
