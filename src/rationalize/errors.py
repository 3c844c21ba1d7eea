"""Errors that a user can act on.

Their message says what was found, what was expected and what to do.
"""

from typing import Any


class UserError(Exception):
    """Bad input or a state that the user can mend: shown without a traceback, exit status 1."""


class UsageError(UserError):
    """A wrong flag, key or name: exit status 2."""


class CheckFailed(UserError):
    """A check that was asked to be strict has failed; what was found goes with it."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result
