"""What a study asks about two rationales: MaRio's three questions, one, or those of a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rationalize.config import from_dict, load_yaml, nearest
from rationalize.config.checks import OutOfRange
from rationalize.errors import UsageError

Kind = Literal["pair", "each"]

FORM_FIELDS = ("form", "item", "shown")
"""What a vote's form holds beside the answers."""
CONSENT = (
    "You will read questions with two explanations each, and say which one is better. Taking part "
    "is voluntary: you may stop at any time, and go on later with the same link.\n\n"
    "What is stored: your votes, when you gave them, and the name under which you were invited. "
    "Your votes will be used for research, and may be published without that name. Do not pass "
    "your link on: who has it votes in your place."
)


@dataclass(frozen=True)
class Ask:
    """One question that annotators answer about every item."""

    name: str
    """What results call it: small letters, digits and `_`."""
    ask: str
    """The question as annotators read it."""
    kind: Kind = "pair"
    """`pair`: which of the two; `each`: yes or no about each of the two."""
    tie: bool = True
    """Whether `pair` has the answer "about the same"."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            raise OutOfRange(
                f"name is {self.name!r}; expected up to 40 small letters, digits and '_', a letter "
                "first"
            )
        if self.kind == "pair" and self.name in FORM_FIELDS:
            raise OutOfRange(
                f"name is {self.name!r}, which forms use themselves; expected another name than "
                f"{', '.join(FORM_FIELDS)}"
            )
        if not self.ask.strip():
            raise OutOfRange(f"ask of {self.name} is empty; expected the question's text")

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that a vote can give: about the pair, or about each side."""
        if self.kind == "each":
            return ("yes", "no")
        return ("1", "2", "same") if self.tie else ("1", "2")


@dataclass(frozen=True)
class Questionnaire:
    """What annotators read and answer."""

    questions: tuple[Ask, ...]
    """What is asked about every item, in this order."""
    title: str = "Which explanation is better?"
    """Heading of every page."""
    consent: str = CONSENT
    """What annotators must agree to before their first item."""

    def __post_init__(self) -> None:
        names = [q.name for q in self.questions]
        if not names or len(set(names)) < len(names):
            raise OutOfRange(f"questions are named {names}; expected at least one, each once")
        if not self.consent.strip():
            raise OutOfRange("consent is empty; expected what annotators agree to")


BETTER = Ask("better", "Which explanation would you rather accept?")
BUILT_IN: Mapping[str, tuple[Ask, ...]] = {
    "better": (BETTER,),
    "mario": (
        Ask("plausibility", "Which explanation is more plausible: are its statements true and "
            "sensible, whatever they are to explain?"),
        Ask("consistency", "Which explanation supports the correct answer more: would it lead you "
            "to that answer?"),
        BETTER,
    ),
}  # fmt: skip
"""MaRio's three axes (arXiv 2311.02805, human evaluation): plausibility and consistency as its
rewards define them, and the overall preference.
"""


def questionnaire(name: str) -> Questionnaire:
    """The questions called `name`, or those of a YAML file with the fields of `Questionnaire`:

        title: Which hint helps more?
        questions:
          - name: helps
            ask: Which hint helps more?
          - name: safe
            ask: Is it free of insults?
            kind: each

    Raises `UsageError` where they are neither, or not as described.
    """
    if name in BUILT_IN:
        return Questionnaire(BUILT_IN[name])
    if not name.endswith((".yaml", ".yml")):
        raise UsageError(f"--ask {name!r}: no such questions{nearest(name, [*BUILT_IN])}")
    found = load_yaml(Path(name))
    if "questions" not in found:
        raise UsageError(
            f"{name}: no 'questions'; expected a list, each with name, ask, kind and tie"
        )
    return from_dict(Questionnaire, found, name)
