"""User reward functions as rewards, and our rewards as functions for TRL."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rationalize.answers import parse_reply
from rationalize.config.user_code import import_user_object
from rationalize.errors import UsageError
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.suite import COLUMNS


def user_reward(place: str) -> Reward:
    """The reward at `module:name`: a `Reward`, or a function in TRL's signature.

    A bare function may use the gold answer, has no range, and is never cached: write
    `Reward(name, function, range=..., cacheable=True)` in your module to say more. Modules of the
    working folder are found. A function whose annotation says that completions are messages (as
    those of `trl.rewards` do) gets prompts and completions as messages.
    """
    found = import_user_object(place, "reward")
    if isinstance(found, Reward):
        return replace(found, source=place)
    if not callable(found):
        raise UsageError(
            f"{place!r} is {type(found).__name__}; expected a Reward, or a function "
            "`f(prompts, completions, **columns) -> list of scores`"
        )
    own = getattr(found, "__name__", place.partition(":")[2])
    return Reward(own, _fed(found, place), cacheable=False, needs_gold=True, source=place)


def to_trl(reward: Reward) -> Callable[..., Scores]:
    """A reward function for TRL's trainers, on a dataset with the columns of a question file.

    It reads the columns `question`, `answer`, `id`, `choices` and `context`, as far as there are
    any. Completions can be text or messages. TRL logs the reward under its name.
    """

    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Scores:
        count = len(completions)
        texts = [_text(c) for c in completions]
        choices = columns.get("choices") or [None] * count
        replies = [parse_reply(t, c) for t, c in zip(texts, choices, strict=True)]
        question = columns.get("question") or [_text(p) for p in prompts]
        gold = columns.get("answer") or [None] * count
        return reward(
            prompts=[_text(p) for p in prompts],
            completions=texts,
            rationale=[r.rationale for r in replies],
            prediction=[r.prediction for r in replies],
            gold=gold if reward.needs_gold else [None] * count,
            choices=choices,
            question=question,
            context=columns.get("context") or [None] * count,
            question_id=columns.get("id") or [""] * count,
        )

    function.__name__ = reward.name
    return function


def _fed(function: Callable[..., Any], place: str) -> Callable[..., Any]:
    """The function, wrapped to get messages if its annotation asks for them.

    Raises `UsageError` if it requires a column that attempts do not have.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return function
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [n for n, p in parameters.items() if p.kind in named and p.default is p.empty]
    if lacking := [name for name in needed if name not in COLUMNS]:
        raise UsageError(
            f"the reward {place!r} asks for {', '.join(lacking)}; attempts have the columns "
            f"{', '.join(COLUMNS)}. Name a function of yours that calls it with one of these"
        )
    completions = parameters.get("completions")
    if completions is None or "dict" not in str(completions.annotation):
        return function

    @functools.wraps(function)
    def with_messages(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> Any:
        return function(
            prompts=[[{"role": "user", "content": p}] for p in prompts],
            completions=[[{"role": "assistant", "content": c}] for c in completions],
            **columns,
        )

    return with_messages


def _text(value: Any) -> str:
    """Plain text, or the content of the last message."""
    return value if isinstance(value, str) else value[-1]["content"]
