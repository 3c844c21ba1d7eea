"""`python -m rationalize`."""

from rationalize.cli import entry

entry()
