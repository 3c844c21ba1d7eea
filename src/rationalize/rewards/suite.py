"""Several rewards over attempts; every distinct text is scored once and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.errors import UserError
from rationalize.models.memo import forget_memos
from rationalize.processes import by_first, launched
from rationalize.records import Attempt, Question
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.cache import ScoreCache
from rationalize.runs.shards import in_shards
from rationalize.templates import template_version

COLUMNS = (
    "prompts", "completions", "rationale", "prediction", "gold", "choices", "question", "context",
    "question_id", "accepted",
)  # fmt: skip
"""The columns that every reward is called with, in TRL's format."""

_NOT_PASSED = ("prompt", "completion", "completion_ids")  # as in TRL's trainers


class RewardSuite:
    """Several rewards, scored together.

    >>> suite = RewardSuite(load_rewards(["correctness", "diversity"]), cache="runs/scores")
    >>> attempts = Run.read("runs/mine").attempts(split="test")
    >>> questions = {q.id: q for q in load_questions("my/test.jsonl")}
    >>> suite.score(attempts, questions)[0].rewards
    {'correctness': 1.0, 'diversity': 0.93}
    """

    def __init__(
        self, rewards: Sequence[Reward], cache: ScoreCache | Path | str | None = None
    ) -> None:
        names = [r.name for r in rewards]
        duplicates = sorted({n for n in names if names.count(n) > 1})
        if duplicates:
            raise UserError(f"duplicate reward names: {', '.join(duplicates)}; rename all but one")
        self.rewards = list(rewards)
        # of the processes of a launch the first alone has it: several machines cannot write one
        cache = cache if launched().first else None
        self.cache = ScoreCache(cache) if isinstance(cache, (str, Path)) else cache

    def __getitem__(self, name: str) -> Reward:
        """The reward of this name or `module:function`. Raises `UserError` if there is none."""
        for reward in self.rewards:
            if name in (reward.name, reward.source):
                return reward
        known = ", ".join(r.name for r in self.rewards)
        raise UserError(f"the reward {name!r} is not among those loaded: {known}")

    @property
    def trainable(self) -> list[Reward]:
        """The rewards that a method may learn from."""
        return [r for r in self.rewards if r.trainable]

    @property
    def diagnostics(self) -> list[Reward]:
        """The rewards that are only shown."""
        return [r for r in self.rewards if not r.trainable]

    def only(self, *names: str) -> RewardSuite:
        """A suite of these rewards, with the same cache."""
        return RewardSuite([self[name] for name in names], self.cache)

    def with_reward(self, reward: Reward) -> RewardSuite:
        """A suite that also has this reward, instead of one with its name; the same cache."""
        others = [r for r in self.trainable if r.name != reward.name]
        return RewardSuite([*others, reward, *self.diagnostics], self.cache)

    def score(
        self,
        attempts: Sequence[Attempt],
        questions: Mapping[str, Question],
        *,
        columns: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Attempt]:
        """The attempts with a score of every reward; their other scores stay.

        `columns` holds further columns per attempt for the rewards that ask for them (see
        `Reward.columns`), beside those in the `extra` of its question.

        Raises `UserError` if `questions` (by id) lacks the question of an attempt, and where a
        reward asks for a column that there is not.
        """
        asked = [_question_of(a, questions) for a in attempts]
        further = columns if columns is not None else [{}] * len(attempts)
        rows = [
            {**q.extra, **more, **_columns(a, q)}
            for a, q, more in zip(attempts, asked, further, strict=True)
        ]
        self._check_columns(rows)
        scores = {r.name: self._scores(r, rows) for r in self.rewards if not _asks_model(r)}
        scores |= self._by_shards([r for r in self.rewards if _asks_model(r)], rows)
        names = [r.name for r in self.rewards]
        return [a.scored({n: scores[n][i] for n in names}) for i, a in enumerate(attempts)]

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Raise `UserError` where a reward asks for a column that no question has."""
        self._check_columns([q.extra for q in questions])

    def _check_columns(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows or not any(r.columns for r in self.rewards):
            return
        there = dict.fromkeys([*COLUMNS, *(name for row in rows for name in _others(row))])
        for reward in self.rewards:
            if lacking := [name for name in reward.columns if name not in there]:
                raise UserError(
                    f"the reward {reward.source or reward.name!r} asks for {', '.join(lacking)}; "
                    f"attempts and their questions have the columns {', '.join(there)}. Add it to "
                    "the questions, or name a function of yours that calls it with one of these"
                )

    def _scores(self, reward: Reward, rows: Sequence[dict[str, Any]]) -> Scores:
        rows = _seen_by(reward, rows)
        if not reward.cacheable:  # it may score anew each time
            return by_first(lambda: _call(reward, rows))
        # score only distinct rows that are not cached
        keys = [score_key(reward, row) for row in rows]
        distinct = dict(zip(keys, rows, strict=True))
        known = self._cached(list(distinct))
        missing = [key for key in distinct if key not in known]
        scores = _call(reward, [distinct[key] for key in missing])
        fresh = dict(zip(missing, scores, strict=True))
        self._store(fresh)
        known.update(fresh)
        return [known[key] for key in keys]

    def _by_shards(
        self, rewards: Sequence[Reward], rows: Sequence[dict[str, Any]]
    ) -> dict[str, Scores]:
        """The scores of rewards that ask a model, by their names. Distinct rows that are not cached
        are cut into shards, and all these rewards score a shard together: they read the same texts.
        """
        rows_of = {r.name: _seen_by(r, rows) for r in rewards}
        keys_of = {r.name: [score_key(r, row) for row in rows_of[r.name]] for r in rewards}
        distinct = list(dict.fromkeys(key for keys in keys_of.values() for key in keys))
        known = by_first(lambda: self._cached(distinct))
        # a row of each combination of keys of which some lack a score, and those that do
        combinations: dict[tuple[bytes, ...], tuple[int, list[str]]] = {}
        for i, keys in enumerate(zip(*keys_of.values(), strict=True)):
            if lacking := [key.hex() for key in keys if key not in known]:
                combinations.setdefault(keys, (i, lacking))
        wanted = list(combinations.values())

        def score(shard: Sequence[tuple[int, list[str]]]) -> list[list[float | None]]:
            forget_memos()
            scored: dict[str, float | None] = {}
            for reward in rewards:
                keys, of_reward = keys_of[reward.name], rows_of[reward.name]
                first: dict[bytes, dict[str, Any]] = {}
                for i, _ in shard:
                    if keys[i] not in known:
                        first.setdefault(keys[i], of_reward[i])
                scores = _call(reward, list(first.values()))
                scored |= zip((key.hex() for key in first), scores, strict=True)
            return [[scored[key] for key in lacking] for _, lacking in shard]

        fresh: dict[bytes, float | None] = {}
        for (_, lacking), scores in zip(
            wanted, in_shards(wanted, score, settings="scores", label="scores"), strict=True
        ):
            for key, value in zip(lacking, scores, strict=True):
                fresh.setdefault(bytes.fromhex(key), value)
        self._store(fresh)
        known.update(fresh)
        return {name: [known[key] for key in keys] for name, keys in keys_of.items()}

    def _cached(self, keys: Sequence[bytes]) -> dict[bytes, float | None]:
        return self.cache.get(keys) if self.cache is not None else {}

    def _store(self, fresh: Mapping[bytes, float | None]) -> None:
        if self.cache is not None and fresh:
            self.cache.put(fresh)


def _asks_model(reward: Reward) -> bool:
    """Whether a reward may ask a model, and a row's score does not depend on other rows."""
    return reward.cacheable and bool(reward.scorer_hash or reward.source)


def _seen_by(reward: Reward, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The rows; without the answer where the reward must not see it."""
    return rows if reward.needs_gold else [{**row, "gold": None} for row in rows]


def score_key(reward: Reward, row: Mapping[str, Any]) -> bytes:
    """Hash of everything that a score depends on.

    This includes the question's id: it picks the fold of a cross-fitted scorer.
    """
    version = template_version(str(row["prompts"]))
    parts = [reward.name, reward.version, reward.scorer_hash, version]
    names = [*COLUMNS, *(_others(row) if reward.all_columns else reward.columns)]
    text = json.dumps([*parts, [row.get(name) for name in names]], default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).digest()


def _others(row: Mapping[str, Any]) -> list[str]:
    """The names of a row's further columns."""
    return [name for name in row if name not in (*COLUMNS, *_NOT_PASSED)]


def _call(reward: Reward, rows: Sequence[Mapping[str, Any]]) -> Scores:
    if not rows:
        return []
    further: Iterable[str] = reward.columns
    if reward.all_columns:
        further = dict.fromkeys(name for row in rows for name in _others(row))
    # a row may lack a column that others have
    names = dict.fromkeys([*COLUMNS, *further])
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
    return reward(**columns)


def _question_of(attempt: Attempt, questions: Mapping[str, Question]) -> Question:
    try:
        return questions[attempt.question_id]
    except KeyError:
        raise UserError(
            f"attempt {attempt.id!r} answers question {attempt.question_id!r}, which is not among "
            f"the {len(questions)} questions given; score it with the questions it was written for"
        ) from None


def _columns(attempt: Attempt, question: Question) -> dict[str, Any]:
    return {
        "prompts": attempt.prompt,
        "completions": attempt.completion,
        "rationale": attempt.rationale,
        "prediction": attempt.prediction,
        "gold": attempt.gold,
        "choices": question.choices,
        "question": question.question,
        "context": question.context,
        "question_id": question.id,
        "accepted": question.accepted,
    }
