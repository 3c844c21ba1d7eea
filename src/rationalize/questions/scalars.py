"""Texts and numbers of a row as text, and lists in a table's cells. Raises `RowError`."""

from __future__ import annotations

import ast
import json
import math
from typing import Any

from rationalize.questions.bad_rows import RowError
from rationalize.text import clip


def text_of(value: Any, name: str) -> str:
    """Stripped text."""
    if not isinstance(value, str):
        raise RowError(f"{clip(value)} as {name}", "text", name)
    return value.strip()


def scalar(value: Any, name: str) -> str:
    """Text, or a number as text: `43.0 -> "43"`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if abs(value) >= 10**300:  # `str` of a huge number is refused or slow
            raise RowError(f"more than 300 digits as {name}", "text or a number", name)
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return text_of(value, name)


def of_cell(text: str) -> Any:
    """The list or dictionary that a table's cell holds as text, of JSON or of Python. Raises
    `ValueError`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def texts_of_cell(value: Any) -> Any:
    """The list of texts that a table's cell holds as text; anything else as it is.

    >>> texts_of_cell("['Ice is cold.', 'Snow is too.']")
    ['Ice is cold.', 'Snow is too.']
    """
    if not isinstance(value, str) or value.lstrip()[:1] != "[":
        return value
    try:
        found = of_cell(value)
    except ValueError:
        return value
    texts = isinstance(found, list) and all(isinstance(text, str | None) for text in found)
    return found if texts else value


def check_unicode(text: str, name: str) -> None:
    """Raise `RowError` for text that cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = clip(text[error.start])
        raise RowError(
            f"an unpaired surrogate in the {name} ({surrogate})", "valid Unicode", name
        ) from None
