"""Errors that a user can act on.

Their message says what was found, what was expected and what to do.
"""

from __future__ import annotations

import errno
from typing import Any


class UserError(Exception):
    """Bad input or a state that the user can mend: shown without a traceback, exit status 1."""


class UsageError(UserError):
    """A wrong flag, key or name: exit status 2."""


class OverContext(UserError):
    """A text is longer than the model that shall score it can read: a reward is undefined there."""


class CheckFailed(UserError):
    """A check that was asked to be strict has failed; what was found goes with it."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class NotFinite(UserError, FloatingPointError):
    """Learning made a number that is infinite or not a number."""


def machine_failure(error: Exception) -> str | None:
    """What to do where the machine failed: memory or disk full, a file cut. None for a bug."""
    kind, text = type(error).__name__, str(error)
    full = (errno.ENOSPC, errno.EDQUOT)
    # safetensors has errors of its own kind
    if getattr(error, "errno", None) in full or any(f"os error {n})" in text for n in full):
        return (
            f"the disk is full ({text}); make room and start the same command again: a run goes on "
            "from its last checkpoint"
        )
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "DefaultCPUAlloc" in text:
        first = text.partition("\n")[0]
        return (
            f"out of memory ({first or kind}); take smaller passes (fit.micro_tokens), shorter "
            "replies (max_new_tokens), a smaller model, or tuning=lora"
        )
    if kind == "SafetensorError":
        return f"a file of weights cannot be read ({text}); restore it, or start in another folder"
    return None
