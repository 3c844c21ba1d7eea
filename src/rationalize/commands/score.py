"""`score`: rewards on anybody's rationales; trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from rationalize.commands.rationale_file import Rationale, RationaleFile
from rationalize.commands.resolve import ScorerPlaces, rewards_of
from rationalize.commands.resumable_file import begin, end, work_folder
from rationalize.commands.scored_file import (
    ScoredRows,
    copied,
    file_digest,
    leak_line,
    means_table,
    questions_digest,
    source_digest,
)
from rationalize.errors import UsageError
from rationalize.progress import progress_bar
from rationalize.records import Question
from rationalize.text import one_line

if TYPE_CHECKING:
    from rationalize.rewards import RewardSuite

_BATCH = 256
"""Rows scored together: enough to fill a forward pass, few enough that any file streams."""
_CHARACTERS = 1 << 22
"""A batch ends where its texts are this long: a row may be a megabyte."""


@dataclass(frozen=True)
class ScoreConfig(ScorerPlaces):
    """Score anybody's rationales."""

    file: Annotated[Path, Positional]
    """JSONL, JSONL.gz or parquet, or `-` for standard input: a `completion`, or a `rationale` and a
    `prediction`, a row; and `question`, `choices`, `answer`, unless `questions` has them.
    """
    out: Path = Path("scored.jsonl")
    """Where the rows go, each with its `rewards` added: .jsonl or .jsonl.gz. A second start of a
    call that was stopped goes on where it was.
    """
    rewards: tuple[str, ...] = ("correctness", "diversity")
    """Rewards by name, or `module:function`."""
    questions: str | None = None
    """Where the questions are, if not in the file; rows name theirs by `question_id` or `id`."""
    split: str = "test"
    """Split of `questions`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for rows of another shape: our field -> theirs."""
    model: str = "default"
    """Model that `fluency` asks."""
    cache: Path | None = None
    """Folder that remembers scores; none: nothing is remembered."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""


def score(config: ScoreConfig) -> None:
    """Rows in, the same rows out with their scores; a table of means at the end."""
    if config.out.suffix == ".parquet" or config.out.is_dir():
        raise UsageError(
            f"--out: found {str(config.out)!r}, expected a name ending in .jsonl or .gz"
        )
    with work_folder(config.out) as folder:
        if config.file == Path("-"):
            _score(config, folder, copied(sys.stdin.buffer, folder / "input"), "standard input")
        elif config.file.is_fifo() or config.file.is_char_device():  # can be read once only
            with open(config.file, "rb") as source:
                _score(config, folder, copied(source, folder / "input"), str(config.file))
        else:
            _score(config, folder, config.file, str(config.file))


def _score(config: ScoreConfig, folder: Path, file: Path, name: str) -> None:
    from rationalize.rewards import RewardSuite

    questions = _questions_by_id(config)
    rationales = RationaleFile(file, config.columns, questions, name)
    total = rationales.check(config.skip_bad_rows)  # before any model is loaded
    suite = RewardSuite(
        rewards_of(
            config.rewards, config, model=config.model,
        ),
        cache=config.cache,
    )  # fmt: skip
    begin(
        folder,
        {
            "rows": file_digest(file),
            "questions": questions and [questions_digest(questions.values()), config.split],
            "columns": config.columns,
            "rewards": [
                [r.name, r.version, r.scorer_hash, source_digest(r)] for r in suite.rewards
            ],
        },
    )
    names = [r.name for r in suite.rewards]
    scored = ScoredRows(folder, names, rationales.rewards_column)
    seen = 0
    with progress_bar("score", "rows") as progress:
        for batch in batches(rationales):
            there = max(0, scored.count - seen)
            seen += len(batch)
            if there >= len(batch):
                continue
            rows = _scored(suite, batch, rationales.rewards_column)
            scored.add(rows[there:])  # a batch is scored whole, as it was before a kill
            progress(scored.count, total, 0)
    scored.become(config.out)
    end(folder)
    print(means_table(scored.means))
    if adjusted := leak_line(scored.by_leak):
        print(adjusted)
    print(one_line(f"{config.out}: {scored.count} rows"))


def _scored(suite: RewardSuite, batch: Sequence[Rationale], column: str) -> list[dict[str, Any]]:
    """The rows of a batch, the suite's scores among those under `column`."""
    questions = {r.question.id: r.question for r in batch}
    attempts = suite.score([r.attempt for r in batch], questions)
    return [
        {**r.row, column: {**r.row[column], **a.rewards}}
        for r, a in zip(batch, attempts, strict=True)
    ]


def _questions_by_id(config: ScoreConfig) -> dict[str, Question] | None:
    if config.questions is None:
        return None
    from rationalize.questions import load_questions

    return {q.id: q for q in load_questions(config.questions, config.split)}


def batches(rationales: Iterable[Rationale]) -> Iterator[list[Rationale]]:
    """Rows to score together, in order; the same for the same file."""
    batch: list[Rationale] = []
    characters = 0
    for rationale in rationales:
        batch.append(rationale)
        characters += sum(len(v) for v in rationale.row.values() if isinstance(v, str))
        if len(batch) == _BATCH or characters > _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
