"""What a reward is: a named function from texts to scores, with its range and its properties."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from rationalize.errors import OverContext, UserError
from rationalize.records import Question
from rationalize.text import clip

Scores = list[float | None]
"""One score per attempt; None where the reward is undefined."""

ATTACKS = (
    "empty", "one_word", "repetition", "options", "gold", "other_question", "shuffled", "negation",
)  # fmt: skip
"""The ways in which `check_rewards` corrupts a good rationale."""

LONGEST = 16_384
"""Longest input of a scorer model, in characters: attention's memory grows with its square."""

_SLACK = 1e-6  # rounding may carry a score this far beyond its range


class BadReward(UserError):
    """A reward returned something that is not a list of scores in its range."""


@dataclass(frozen=True)
class Reward:
    """A named reward in TRL's signature: texts in, one score per attempt out.

    >>> words = Reward("words", lambda completions, **_: [len(c.split()) for c in completions])
    >>> words(prompts=["Why?"], completions=["It just is."])
    [3.0]
    """

    name: str
    function: Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
    """Called with the columns of `suite.COLUMNS` by name, lists of equal length. Every `gold` is
    None unless `needs_gold`. It may be async."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """Lowest and highest possible score."""
    version: str = "1"
    """Part of every cache key: change it when the function changes."""
    cacheable: bool = True
    """Whether equal texts always get equal scores."""
    needs_gold: bool = False
    """Whether the score depends on the gold answer."""
    levels: tuple[float, ...] | None = None
    """The only scores possible, best first; None where scores are continuous."""
    trainable: bool = True
    """False for diagnostics, which are shown and never trained on."""
    scorer_hash: str = ""
    """Hash of the weights that the score depends on; part of every cache key."""
    should_drop: frozenset[str] = frozenset()
    """Attacks of `check_rewards` under which the score must fall."""
    should_rise: frozenset[str] = frozenset()
    """Attacks under which it must rise (faults that a diagnostic counts)."""
    source: str = ""
    """`module:function` of a reward that is not built in."""
    columns: tuple[str, ...] = ()
    """Further columns of the questions or rows that the function cannot do without."""
    all_columns: bool = False
    """Whether the function is called with every further column that there is."""

    def __post_init__(self) -> None:
        unknown = (self.should_drop | self.should_rise) - set(ATTACKS)
        if unknown:
            raise BadReward(
                f"reward {self.name!r} expects unknown attacks {sorted(unknown)}; "
                f"expected some of {', '.join(ATTACKS)}"
            )

    @property
    def reads_prediction(self) -> bool:
        """Whether the function names the attempt's answer, `prediction`, among its parameters."""
        return "prediction" in inspect.signature(self.function).parameters

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> Scores:
        """One score per completion, checked against range and levels; None where its model cannot
        read the text (`OverContext`).

        Raises `BadReward` if the check fails, and whatever the function raises.
        """
        count = len(completions)
        try:
            scores = settled(self.function(prompts=prompts, completions=completions, **columns))
        except OverContext:
            if count < 2:
                return [None] * count
            columns |= {"prompts": prompts, "completions": completions}
            return [
                score
                for half in (slice(count // 2), slice(count // 2, None))
                for score in self(**{name: column[half] for name, column in columns.items()})
            ]
        return _checked(self, scores, count)


def counted(reward: Reward, scores: Sequence[float | None]) -> list[float]:
    """Scores as they count where attempts are learned from: an undefined one as the worst of the
    reward's range, or as the lowest of these scores where the range has no low end.
    """
    worst = reward.range[0]
    if not math.isfinite(worst):
        worst = min((score for score in scores if score is not None), default=0.0)
    return [worst if score is None else score for score in scores]


def settled(result: Any) -> Any:
    """What a function returned, awaited if it is async."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    return asyncio.run_coroutine_threadsafe(wait(), _loop()).result()


def column_questions(
    question: Sequence[str],
    choices: Sequence[Sequence[str] | None],
    gold: Sequence[str | None],
    context: Sequence[str | None],
    question_id: Sequence[str],
) -> list[Question]:
    """A reward's columns as questions, for scorer models; a missing gold answer becomes `""`."""
    return [
        Question(id=i, question=q, answer=g or "", choices=tuple(c) if c else None, context=x)
        for q, c, g, x, i in zip(question, choices, gold, context, question_id, strict=True)
    ]


def readable(question: Question, text: str) -> bool:
    """Whether question and text fit into `LONGEST`; otherwise the reward is undefined."""
    parts = (question.question, question.context or "", *(question.choices or ()), text)
    return sum(map(len, parts)) <= LONGEST


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop of all async rewards, in a thread of its own as in TRL's trainers: what a function
    keeps between calls (a client's connections) stays bound to it.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return loop


def _checked(reward: Reward, scores: Any, expected: int) -> Scores:
    if not _is_list(scores):
        shape = f" of shape {tuple(scores.shape)}" if hasattr(scores, "shape") else ""
        what = "None" if scores is None else type(scores).__name__ + shape
        raise BadReward(
            f"reward {reward.name!r} returned {what}; expected a list of {expected} scores, one "
            "per completion"
        )
    if len(scores) != expected:
        raise BadReward(
            f"reward {reward.name!r} returned {len(scores)} scores for {expected} completions; "
            "return one per completion, None where it is undefined"
        )
    return [_checked_score(reward, i, score) for i, score in enumerate(scores)]


def _is_list(scores: Any) -> bool:
    """Whether it has an order and one entry per score: a list, a tuple, or an array of one axis."""
    if isinstance(scores, (str, bytes, bytearray, memoryview, Mapping, Set)):
        return False
    axes = getattr(scores, "ndim", 1)
    return axes == 1 and hasattr(scores, "__len__") and hasattr(scores, "__getitem__")


def _checked_score(reward: Reward, index: int, score: Any) -> float | None:
    if score is None:
        return None
    where = f"reward {reward.name!r} gave completion {index} the score {clip(score)}"
    if isinstance(score, (str, bytes, bytearray)):  # `float` would read it
        raise BadReward(f"{where}; expected a number or None")
    try:
        value = float(score)
    except (TypeError, ValueError, OverflowError):
        raise BadReward(f"{where}; expected a number or None") from None
    if not math.isfinite(value):
        raise BadReward(f"{where}; expected a finite number, or None where it is undefined")
    low, high = reward.range
    if not low - _SLACK <= value <= high + _SLACK:
        raise BadReward(f"{where}, outside its range [{low:g}, {high:g}]")
    value = min(max(value, low), high)
    if reward.levels is not None and value not in reward.levels:
        levels = ", ".join(f"{level:g}" for level in reward.levels)
        raise BadReward(f"{where}; its levels are {levels}")
    return value
