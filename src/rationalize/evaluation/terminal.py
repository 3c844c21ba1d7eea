"""Results as text for the terminal: tables, what they come to in words, and warnings."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from rationalize.evaluation.tables import format_table, splits_of
from rationalize.evaluation.verdicts import verdicts
from rationalize.evaluation.warnings import warnings
from rationalize.text import one_line


def format_results(results: Mapping[str, Any], width: int | None = None) -> str:
    """Every split's tables, the verdicts in words, then the warnings, as plain text."""
    splits = splits_of(results)
    tables = [format_table(results, split, width) for split in splits]
    said = [format_verdicts(results, split, width) for split in splits]
    return "\n\n".join(filter(None, [*tables, *said, format_warnings(results)]))


def format_verdicts(results: Mapping[str, Any], split: str, width: int | None = None) -> str:
    """The split's verdicts, a paragraph each; empty where nothing was compared."""
    if not any(row["split"] == split for row in results["comparisons"]):
        return ""  # the table says it
    width = width or shutil.get_terminal_size((160, 24)).columns
    wrap = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False)
    said = [wrap.fill(f"- {v.text}") for v in verdicts(results, split)]
    return "\n".join([f"{one_line(split)}, in words:", *said])


def format_warnings(results: Mapping[str, Any], most: int = 8) -> str:
    """The report's warnings in lines, at most so many; empty without any."""
    texts = warnings(results)
    lines = [f"warning: {one_line(text)}" for text in texts[:most]]
    more = f"and {len(texts) - most} more warnings: see the report"
    return "\n".join([*lines, more] if len(texts) > most else lines)
