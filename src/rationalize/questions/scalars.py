"""Texts and numbers of a row as text. Raises `RowError`."""

from __future__ import annotations

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


def check_unicode(text: str, name: str) -> None:
    """Raise `RowError` for text that cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = clip(text[error.start])
        raise RowError(
            f"an unpaired surrogate in the {name} ({surrogate})", "valid Unicode", name
        ) from None
