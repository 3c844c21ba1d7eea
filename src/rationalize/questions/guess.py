"""A mapping that a row's own column names suggest; it is named in messages, and never taken."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from rationalize.questions.choices import unmapped_choices

# by likelihood; compared without case, "-" and "_"
_ALIASES = {
    "question": ("question", "query", "prompt", "problem", "stem", "input", "instruction"),
    "answer": (
        "answer", "gold", "target", "correct", "correctanswer", "answerkey", "key", "label",
        "goldanswer", "finalanswer", "output",
    ),
    "rationales": (
        "rationales", "rationale", "explanations", "explanation", "reasonings", "reasoning",
        "reasons", "reason", "cot", "chainofthought", "solution", "solutions",
    ),
}  # fmt: skip


def hint(values: Mapping[str, Any], missing: str, named: str | None) -> str:
    """What a message on a missing field adds: the mapping that the row suggests; or, where a
    mapping `named` a column for it, the row's column that is spelled most alike.
    """
    if named is None:
        mapping = mapping_for(values, missing)
        return f", here perhaps --columns {mapping}" if mapping else ""
    plain = {str(name).lower(): str(name) for name in values}
    near = difflib.get_close_matches(named.lower(), plain, n=1)
    return f"; did you mean {plain[near[0]]!r}?" if near else ""


def mapping_for(values: Mapping[str, Any], missing: str) -> str | None:
    """The `--columns` that this row suggests, all fields in one; None without one for `missing`.

    >>> mapping_for({"Query": "?", "A": "ice", "B": "snow", "key": "A"}, "question")
    'question=Query choices=A,B answer=key'
    """
    plain = {str(name).lower().replace("_", "").replace("-", ""): str(name) for name in values}
    found: dict[str, str] = {}
    for field, aliases in _ALIASES.items():
        own = field in values or (field == "rationales" and "rationale" in values)
        column = next((plain[alias] for alias in aliases if alias in plain), None)
        if not own and column is not None:
            found[field] = column
    if missing not in found:
        return None
    if "choices" not in values and (choices := plain.get("choices") or unmapped_choices(values)):
        found["choices"] = choices
    fields = ("question", "choices", "answer", "rationales")
    return " ".join(f"{field}={found[field]}" for field in fields if field in found)
