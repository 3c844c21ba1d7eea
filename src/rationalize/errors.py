"""Errors that a user can act on.

Their message says what was found, what was expected and what to do.
"""


class UserError(Exception):
    """Bad input or a state that the user can mend: shown without a traceback, exit status 1."""


class UsageError(UserError):
    """A wrong flag, key or name: exit status 2."""
