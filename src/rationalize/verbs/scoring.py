"""`score` and `check-rewards`: rewards on anybody's rationales, and rewards put to the test.

Neither trains anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import Positional

from rationalize.errors import UserError
from rationalize.records import Question
from rationalize.verbs.places import rewards_of
from rationalize.verbs.rows import RationaleFile

T = TypeVar("T")

_BATCH = 256
"""Rows scored together: enough to fill a forward pass, few enough that any file streams."""


@dataclass(frozen=True)
class ScoreConfig:
    """Score anybody's rationales."""

    file: Annotated[Path, Positional]
    """JSONL, JSONL.gz or parquet: a `completion`, or a `rationale` and a `prediction`, a row; and
    `question`, `choices`, `answer`, unless `questions` has them.
    """
    out: Path = Path("scored.jsonl")
    """Where the rows go, each with its `rewards` added."""
    rewards: tuple[str, ...] = ("correctness", "diversity")
    """Rewards by name, or `module:function`."""
    questions: str | None = None
    """Where the questions are, if not in the file; rows name theirs by `question_id` or `id`."""
    split: str = "test"
    """Split of `questions`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for rows of another shape: our field -> theirs."""
    answer_scorer: str | None = None
    """Folder of a trained answer scorer, for `consistency`."""
    verifier: str | None = None
    """Folder of a trained verifier, or `vera`, for `plausibility`."""
    model: str = "default"
    """Model that `fluency` asks."""
    cache: Path | None = None
    """Folder that remembers scores; none: nothing is remembered."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""


@dataclass(frozen=True)
class CheckRewardsConfig:
    """Adversarial tests of rewards."""

    rewards: Annotated[tuple[str, ...], Positional] = ()
    """Rewards by name, or `module:function`; none: every one that needs no scorer, or whose scorer
    is given.
    """
    questions: str = "builtin"
    """Questions with rationales, which are spoiled in plain ways."""
    split: str = "dev"
    """Split of `questions`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for questions of another shape: our field -> theirs."""
    limit: int = 40
    """How many questions."""
    answer_scorer: str | None = None
    """Folder of a trained answer scorer, for `consistency`."""
    verifier: str | None = None
    """Folder of a trained verifier, or `vera`, for `plausibility`."""
    model: str | None = None
    """Model that `fluency` asks; none: `fluency` is tested only when it is named."""
    seed: int = 0
    """Seed of shuffled words and of the intervals."""
    out: Path | None = None
    """Also write the table to this file, as JSON."""


def score(config: ScoreConfig) -> None:
    """Rows in, the same rows out with their scores; a table of means at the end."""
    from rationalize.files import replacing
    from rationalize.questions.bad_rows import settle
    from rationalize.rewards import RewardSuite

    rationales = RationaleFile(config.file, config.columns, _questions_by_id(config))
    settle(rationales.bad_rows(), config.skip_bad_rows)  # before any model is loaded
    suite = RewardSuite(
        rewards_of(
            config.rewards, answer_scorer=config.answer_scorer, verifier=config.verifier,
            model=config.model,
        ),
        cache=config.cache,
    )  # fmt: skip
    values: dict[str, list[float | None]] = {r.name: [] for r in suite.rewards}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(config.out) as fresh, open(fresh, "w", encoding="utf-8") as file:
        for batch in batches(rationales, _BATCH):
            questions = {r.question.id: r.question for r in batch}
            scored = suite.score([r.attempt for r in batch], questions)
            for rationale, attempt in zip(batch, scored, strict=True):
                own = {name: attempt.rewards[name] for name in values}
                row = {**rationale.row, "rewards": {**rationale.row["rewards"], **own}}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                for name, value in own.items():
                    values[name].append(value)
    print(_means(values))
    print(f"{config.out}: {len(next(iter(values.values())))} rows")


def check_rewards(config: CheckRewardsConfig) -> None:
    """Spoil good rationales, print what each reward makes of it."""
    from rationalize.questions import load_questions
    from rationalize.rewards import check

    questions = load_questions(config.questions, config.split, columns=config.columns or None)
    pairs = [(q, r) for q in questions if (r := _good_rationale(q)) is not None][: config.limit]
    if len(pairs) < 2:
        raise UserError(
            f"{config.questions}: found {len(pairs)} {config.split} questions with a rationale "
            "that led to the right answer; expected at least two (30 say more). Name other "
            "questions or another split"
        )
    rewards = rewards_of(
        config.rewards or _testable(config),
        answer_scorer=config.answer_scorer,
        verifier=config.verifier,
        model=config.model or "default",
    )
    rows = check.check_rewards(
        rewards, [q for q, _ in pairs], [r for _, r in pairs], seed=config.seed
    )
    if config.out:
        from rationalize.files import plain, write_text

        write_text(config.out, json.dumps(plain(rows), indent=1) + "\n")
    print(check.format_table(rows))
    suspicious = sorted({row.reward for row in rows if not row.ok})
    print(f"suspicious: {', '.join(suspicious) or 'none'} ({len(pairs)} questions)")


def _questions_by_id(config: ScoreConfig) -> dict[str, Question] | None:
    if config.questions is None:
        return None
    from rationalize.questions import load_questions

    return {q.id: q for q in load_questions(config.questions, config.split)}


def _good_rationale(question: Question) -> str | None:
    """The first rationale that led its teacher to the right answer; of built-in questions, the
    first plainly good one.
    """
    quality = question.extra.get("rationale_quality") or ["good"] * len(question.rationales)
    answers = question.extra.get("teacher_answers") or [question.answer] * len(question.rationales)
    for rationale, how, answer in zip(question.rationales, quality, answers):
        if how == "good" and answer == question.answer and rationale.strip():
            return rationale
    return None


def _testable(config: CheckRewardsConfig) -> list[str]:
    from rationalize.rewards import REWARDS

    needs = {
        "consistency": config.answer_scorer,
        "consistency_discrete": config.answer_scorer,
        "plausibility": config.verifier,
        "fluency": config.model,
    }
    return [name for name in REWARDS if needs.get(name, True)]


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch


def _means(values: dict[str, list[float | None]]) -> str:
    lines = [f"{'reward':<24}{'mean':>10}{'undefined':>12}"]
    for name, scores in values.items():
        defined = [s for s in scores if s is not None]
        mean = f"{sum(defined) / len(defined):.4f}" if defined else "-"
        lines.append(f"{name:<24}{mean:>10}{len(scores) - len(defined):>12}")
    return "\n".join(lines)
