"""`export`: attempts as files that TRL's own commands train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from rationalize.commands.output_file import OutputFile
from rationalize.config.checks import LARGEST_SEED, at_least, between
from rationalize.errors import UsageError, UserError
from rationalize.records import Attempt, Pair, Question


@dataclass(frozen=True)
class ExportConfig:
    """Attempts of a run as training data in TRL's columns."""

    attempts: Annotated[Path, Positional, arg(metavar="RUN")]
    """A run, or a file of attempts (parquet, JSONL, JSONL.gz)."""
    format: Literal["sft", "dpo"] = "sft"
    """`sft`: prompt, completion. `dpo`: prompt, chosen, rejected: right over wrong."""
    out: Path = Path("export/train.jsonl")
    """Where the rows go: .jsonl or .jsonl.gz. Its folder is trl's `--dataset_name`."""
    messages: bool = False
    """Chat messages, which go through the trained model's chat template; else plain text."""
    split: str = "train"
    """Attempts at questions of this split."""
    writer: str | None = None
    """Attempts of this writer alone, such as `teacher` or `policy`; none: of all."""
    keep: Literal["correct", "all"] = "correct"
    """`sft`: only replies with the right answer, or all."""
    pairs: int = 10
    """`dpo`: at most so many pairs per prompt, drawn at random; 0: all."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        at_least(self, 0, "pairs")
        between(self, 0, LARGEST_SEED, "seed")


@dataclass(frozen=True)
class Rows:
    """What becomes rows: attempts, or pairs of them."""

    attempts: Sequence[Attempt]
    pairs: Sequence[Pair]
    of: int
    """Attempts that there are."""
    left_out: Mapping[str, int]
    """Reason -> attempts."""

    def __len__(self) -> int:
        return len(self.pairs or self.attempts)

    @property
    def why(self) -> str:
        return ", ".join(f"{n} {reason}" for reason, n in self.left_out.items()) or "none"


def output_of(config: ExportConfig, overwrite: bool) -> OutputFile:
    """The file, checked; another choice of the same attempts may replace it, it is made in a
    moment.
    """
    if not config.out.name.endswith((".jsonl", ".jsonl.gz")) or config.out.is_dir():
        raise UsageError(
            f"--out: found {str(config.out)!r}, expected a name ending in .jsonl or .jsonl.gz"
        )
    made_from = {"attempts": config.attempts, "format": config.format}
    out = OutputFile(config.out, "export", made_from, overwrite)
    out.check()
    return out


def rows_of(config: ExportConfig) -> Rows:
    """The rows to write; a `UserError` where there are none."""
    from rationalize.attempt_files import load_attempts
    from rationalize.evaluation.results import QUESTIONS_FILE, read_questions
    from rationalize.runs import Run
    from rationalize.signals.export_selection import learnable, right_ones, right_over_wrong

    questions: Mapping[str, Question] = {}  # those whose choices are known
    if config.attempts.is_dir():
        run = Run.read(config.attempts)
        everything = run.attempts()
        if run.read_json(QUESTIONS_FILE) is not None:
            questions = read_questions(run)
    else:
        everything = load_attempts(config.attempts)
        if any(a.rewards.get("correctness") is None for a in everything):  # not judged yet
            questions = questions_beside(config.attempts)
    selected = [a for a in everything if a.split == config.split]
    if config.writer is not None:
        selected = [a for a in selected if a.writer == config.writer]
    kept, left_out = learnable(selected)
    unselected = len(everything) - len(selected)
    left_out[f"not of split {config.split}, or of another writer"] += unselected
    pairs: list[Pair] = []
    if config.format == "dpo":
        pairs, why_not = right_over_wrong(kept, questions, config.pairs, config.seed)
        kept = []
        left_out += why_not
    elif config.keep == "correct":
        kept, why_not = right_ones(kept, questions)
        left_out += why_not
    rows = Rows(kept, pairs, len(everything), {why: n for why, n in left_out.items() if n})
    if not len(rows):
        sources = sorted({(a.split, a.writer) for a in everything})
        raise UserError(
            f"{config.attempts}: none of {rows.of} attempts makes a row ({rows.why}); expected "
            f"attempts at {config.split} questions. There are (split, writer): "
            f"{', '.join(f'({s}, {w!r})' for s, w in sources) or 'none'}. `rationalize sample "
            "--model RUN --split train` writes some; --split names another split"
        )
    return rows


def export(config: ExportConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the rows; print and return how many there are and what was left out."""
    from rationalize.attempt_files import write_dpo_jsonl, write_sft_jsonl

    out = output_of(config, overwrite)
    rows = rows_of(config)
    out.claim()
    if config.format == "sft":
        write_sft_jsonl(rows.attempts, config.out, messages=config.messages)
    else:
        write_dpo_jsonl(rows.pairs, config.out, messages=config.messages)
    out.sign()
    what = "prompts with completions" if config.format == "sft" else "pairs"
    print(f"{config.out}: {len(rows)} {what} of {rows.of} attempts; left out: {rows.why}")
    print(f"trl {config.format} --dataset_name {config.out.parent} --model_name_or_path MODEL ..")
    return {
        "out": config.out, "rows": len(rows), "attempts": rows.of, "left_out": rows.left_out,
    }  # fmt: skip


def questions_beside(path: Path) -> dict[str, Question]:
    """The questions that a file's attempts carry, by id, as `sample` writes them: with choices and
    all accepted answers. What cannot be read is left out.
    """
    from rationalize.attempt_files import QUESTION_COLUMNS
    from rationalize.questions.bad_rows import BadRow, RowError
    from rationalize.questions.columns import read_row
    from rationalize.questions.files import read_rows

    questions: dict[str, Question] = {}
    for raw in read_rows(path):
        values = {} if isinstance(raw, BadRow) else raw.values
        id = str(values.get("question_id"))
        if id in questions or not (values.get("question") and values.get("answer")):
            continue
        row = {name: values[name] for name in QUESTION_COLUMNS if values.get(name) is not None}
        with suppress(RowError):
            questions[id] = read_row(row, {}, id).question
    return questions
