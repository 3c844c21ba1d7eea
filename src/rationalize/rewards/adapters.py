"""User reward functions as rewards, and our rewards as functions for TRL."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rationalize.answers import parse_reply
from rationalize.config.user_code import import_user_object
from rationalize.errors import UsageError, UserError
from rationalize.questions.bad_rows import RowError
from rationalize.questions.columns import read_row
from rationalize.records import Question
from rationalize.rewards.base import BadReward, Reward, Scores, settled
from rationalize.rewards.suite import COLUMNS
from rationalize.text import clip

log = logging.getLogger(__name__)

_OF_A_FILE = {"answer": "gold", "id": "question_id"}
"""Columns under the names that question files have for them: TRL passes these."""
_LOGGERS = ("log_extra", "log_metric")
_IN_TRL_ONLY = ("completion_ids", "trainer_state", "environments")
_READ_AS_MESSAGE = ("string indices must be integers", "'str' object has no attribute 'get'")
"""What Python says of a text that is read as a message."""


def user_reward(place: str) -> Reward:
    """The reward at `module:name`: a `Reward`, or a function in TRL's signature, also an async one.

    A bare function may use the gold answer, has no range, and is never cached: write
    `Reward(name, function, range=..., cacheable=True)` in your module to say more. Modules of the
    working folder are found. A function that reads completions as messages (as those of
    `trl.rewards` do) gets prompts and completions as messages. Columns that attempts lack are
    taken from the questions or rows.
    """
    found = import_user_object(place, "reward")
    if isinstance(found, Reward):
        return replace(found, function=_UserFunction(found.function, place), source=place)
    if not callable(found) or inspect.isclass(found):
        what = "a class" if inspect.isclass(found) else type(found).__name__
        raise UsageError(
            f"{place!r} is {what}; expected a Reward, or a function "
            "`f(prompts, completions, **columns) -> list of scores`"
        )
    function = _UserFunction(found, place)
    return Reward(
        getattr(found, "__name__", place.partition(":")[2]), function, cacheable=False,
        needs_gold=True, source=place, columns=function.further, all_columns=True,
    )  # fmt: skip


def to_trl(reward: Reward) -> Callable[..., Scores]:
    """A reward function for TRL's trainers, on a dataset with the columns of a question file.

    It reads the columns `question`, `answer`, `id`, `choices` and `context`, as far as there are
    any, as question files are read, and passes on those that the reward asks for. Completions can
    be text or messages. TRL logs the reward under its name. Raises `UserError` for a row that is no
    question.
    """

    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Scores:
        count = len(completions)
        texts = [_text(c) for c in completions]
        asked = _asked([_text(p) for p in prompts], columns)
        choices = [q.choices for q in asked]
        replies = [parse_reply(t, c) for t, c in zip(texts, choices, strict=True)]
        gold = [q.answer or None for q in asked]
        further = {
            name: column
            for name, column in columns.items()
            if name not in (*COLUMNS, *_OF_A_FILE, *_IN_TRL_ONLY)
            and (reward.all_columns or name in reward.columns)
        }
        return reward(
            prompts=[_text(p) for p in prompts],
            completions=texts,
            rationale=[r.rationale for r in replies],
            prediction=[r.prediction for r in replies],
            gold=gold if reward.needs_gold else [None] * count,
            choices=choices,
            accepted=[q.accepted for q in asked],
            question=[q.question for q in asked],
            context=[q.context for q in asked],
            question_id=[q.id for q in asked],
            **further,
        )

    function.__name__ = reward.name
    return function


_READ = ("id", "question", "choices", "answer", "answer_form", "context", "accepted")


def _asked(prompts: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[Question]:
    """The question of each row of a batch; its text is the prompt where there is no column."""
    questions = []
    for i, prompt in enumerate(prompts):
        row = {name: columns[name][i] for name in _READ if columns.get(name)}
        row = {name: v for name, v in row.items() if v is not None}
        row.setdefault("question", prompt)
        try:
            questions.append(read_row(row, {}, "", scored=True).question)
        except RowError as error:
            if row.get("choices") or not isinstance(row.get("answer", ""), str):
                raise UserError(
                    f"row {i} of a batch: found {error.found}; expected {error.expected}"
                ) from error
            questions.append(Question(row.get("id", ""), row["question"], row.get("answer", "")))
    return questions


class _UserFunction:
    """A user's function, called with what it can take, as TRL's trainers call it.

    `further` holds the parameters that it requires and that are no column of attempts.
    """

    def __init__(self, function: Callable[..., Any], place: str) -> None:
        self._function, self._place = function, place
        self._messages = False
        self._taken: frozenset[str] | None = None  # its keywords; None: any
        self.further: tuple[str, ...] = ()
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a builtin without a signature
            return
        if positional := [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]:
            raise UsageError(
                f"the reward {place!r} takes {', '.join(positional)} by position alone; expected "
                "parameters that can be given by name, as TRL gives them"
            )
        named = {
            p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        needed = [name for name, p in named.items() if p.default is p.empty]
        if trainers := [name for name in needed if name in _IN_TRL_ONLY]:
            raise UsageError(
                f"the reward {place!r} asks for {', '.join(trainers)}, which only TRL's trainers "
                "have; name a function of yours that calls it without"
            )
        self.further = tuple(n for n in needed if n not in (*COLUMNS, *_OF_A_FILE, *_LOGGERS))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            self._taken = frozenset(named)
        if "completions" in named:
            annotation = str(named["completions"].annotation).lower()
            self._messages = any(word in annotation for word in ("dict", "mapping", "message"))

    def __call__(self, **columns: Any) -> Any:
        """What the function returns. Raises `BadReward` from what it raises."""
        for alias, name in _OF_A_FILE.items():
            columns[alias] = columns.get(name)
        columns = {**dict.fromkeys(_LOGGERS, _ignore), **columns}
        try:
            return self._result(
                {n: c for n, c in columns.items() if self._taken is None or n in self._taken}
            )
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise BadReward(self._sentence(error, columns)) from error

    def _result(self, columns: dict[str, Any]) -> Any:
        """The function on text or messages, whichever it reads."""
        if not self._messages:
            try:
                return settled(self._function(**columns))
            except (TypeError, AttributeError) as error:
                if not any(said in str(error) for said in _READ_AS_MESSAGE):
                    raise
        result = settled(self._function(**_as_messages(columns)))
        if not self._messages:
            self._messages = True
            log.warning("the reward %r reads messages, and so gets messages", self._place)
        return result

    def _sentence(self, error: Exception, columns: Iterable[str]) -> str:
        """The error, where in the user's file it came up, and the columns where one is missing."""
        file = getattr(sys.modules.get(self._place.partition(":")[0]), "__file__", None)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        kind, text = type(error).__name__, clip(str(error), 200)
        said = f"the reward {self._place!r} raised {kind}{place}: {text}"
        if isinstance(error, KeyError) and error.args and error.args[0] not in columns:
            there = ", ".join(name for name in columns if name not in _LOGGERS)
            return f"{said}; if that is a column: there are {there}"
        return f"{said}; mend the function"


def _ignore(*_: Any) -> None:
    """TRL's `log_extra` and `log_metric`, which only its trainers show."""


def _as_messages(columns: Mapping[str, Any]) -> dict[str, Any]:
    roles = {"prompts": "user", "completions": "assistant"}
    return {
        name: [[{"role": roles[name], "content": text}] for text in column]
        if name in roles
        else column
        for name, column in columns.items()
    }


def _text(value: Any) -> str:
    """Plain text, or the text of the last message, whose content may come in parts."""
    if isinstance(value, str):
        return value
    content = value[-1].get("content") if value else None
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part.get("type") == "text")
