"""What the tries of `mario_links.py` change of MaRio's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rationalize.rewards import Reward

REWARDS = ("consistency", "correctness", "plausibility", "diversity")
FEW_WORDS = Reward(
    "few_words", lambda rationale, **_: [-len(text.split()) for text in rationale], range=(-100, 0)
)
"""A reward that reads no model: what users want beside the others, and what a reply surely tells.
"""


@dataclass(frozen=True)
class Try:
    """What a try changes of MaRio's settings, and what it learns from."""

    changes: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    together: int = 2
    """Questions of a step, each with all of its attempts, which share one pass over their prompt;
    0: eight rows, drawn by bin.
    """
    steps: int = 75
    without_tokens: float = 0.0
    """Share of the rows that are learned without tokens, as for classifier-free guidance."""


QUESTION = {"bins_within": "question"}
WITHIN = {**QUESTION, "contrast": 1.0}
FIVE = (*REWARDS, FEW_WORDS.name)
FEW = {"rewards": FIVE}


def three_times(rewards: tuple[str, ...]) -> Try:
    """What took up three tokens, with these rewards."""
    return Try({**WITHIN, "rewards": rewards}, steps=225)


TRIES = {
    "whole questions": Try(),
    "contrast 1": Try({"contrast": 1.0}),
    "contrast 1, bins within a question": Try(WITHIN),
    "bins within a question": Try(QUESTION),
    "before the repairs": Try({"over_draw": 0.0, "control_init": "statistics"}, together=0),
    "all repairs": Try(together=0),
    "contrast 5": Try({"contrast": 5.0}),
    "diversity alone": Try({"rewards": ("diversity",), "select_by": "diversity"}),
    "tokens that mean nothing": Try({"bins_within": "nothing"}),
    "three tokens a control": Try({"control_copies": 3}),
    "learning rate x3": Try(fit={"learning_rate": 3e-4}),
    "control rows x100": Try(fit={"control_factor": 100.0}),
    "three times the rows": Try(steps=225),
    "contrast 1, three times the rows": Try({"contrast": 1.0}, steps=225),
    "contrast 1, three tokens a control": Try({"contrast": 1.0, "control_copies": 3}),
    "contrast 1, a fifth without tokens": Try({"contrast": 1.0}, without_tokens=0.2),
    "contrast 1, few words too": Try({**FEW, "contrast": 1.0}),
    "contrast 1, bins within a question, few words too, three times the rows": three_times(FIVE),
    "two bins": Try({"bins": 2}),
    "no KL": Try({"beta": 0.0}),
    "capped draws": Try({"control_init": "statistics"}, together=0),
    "tokens from the prompt's end": Try({"over_draw": 0.0}, together=0),
    # the paper's open questions: one reward left out, and the order of the tokens, of which the
    # last is next to the reply
    **{
        f"without {left_out}": three_times(tuple(r for r in FIVE if r != left_out))
        for left_out in ("diversity", "plausibility", "few_words", "correctness", "consistency")
    },
    "tokens in reverse": three_times(FIVE[::-1]),
}
"""In the order of their worth where time is short."""
