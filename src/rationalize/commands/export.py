"""`export`: attempts as files that TRL's own commands train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from rationalize.commands.output_file import OutputFile
from rationalize.config.checks import LARGEST_SEED, at_least, between
from rationalize.errors import UsageError, UserError
from rationalize.records import Pair, Question


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


def output_of(config: ExportConfig, overwrite: bool) -> OutputFile:
    """The file; another choice of the same attempts may replace it, it is made in a moment."""
    made_from = {"attempts": config.attempts, "format": config.format}
    return OutputFile(config.out, "export", made_from, overwrite)


def export(config: ExportConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the rows; print and return how many there are and what was left out."""
    from rationalize.attempt_files import load_attempts, write_dpo_jsonl, write_sft_jsonl
    from rationalize.evaluation.results import QUESTIONS_FILE, read_questions
    from rationalize.runs import Run
    from rationalize.signals.export_selection import learnable, right_ones, right_over_wrong

    if not config.out.name.endswith((".jsonl", ".jsonl.gz")) or config.out.is_dir():
        raise UsageError(
            f"--out: found {str(config.out)!r}, expected a name ending in .jsonl or .jsonl.gz"
        )
    out = output_of(config, overwrite)
    out.check()
    questions: Mapping[str, Question] = {}  # those whose choices are known
    if config.attempts.is_dir():
        run = Run.read(config.attempts)
        everything = run.attempts()
        if run.read_json(QUESTIONS_FILE) is not None:
            questions = read_questions(run)
    else:
        everything = load_attempts(config.attempts)
    selected = [a for a in everything if a.split == config.split]
    if config.writer is not None:
        selected = [a for a in selected if a.writer == config.writer]
    usable, left_out = learnable(selected)
    unselected = len(everything) - len(selected)
    left_out[f"not of split {config.split}, or of another writer"] += unselected
    kept = usable
    pairs: list[Pair] = []
    if config.format == "dpo":
        pairs, why_not = right_over_wrong(usable, questions, config.pairs, config.seed)
        left_out += why_not
    elif config.keep == "correct":
        kept, why_not = right_ones(usable, questions)
        left_out += why_not
    rows = len(pairs if config.format == "dpo" else kept)
    why = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count) or "none"
    if not rows:
        sources = sorted({(a.split, a.writer) for a in everything})
        raise UserError(
            f"{config.attempts}: none of {len(everything)} attempts makes a row ({why}); expected "
            f"attempts at {config.split} questions. There are (split, writer): "
            f"{', '.join(f'({s}, {w!r})' for s, w in sources) or 'none'}. `rationalize sample "
            "--model RUN --split train` writes some; --split names another split"
        )
    out.claim()
    if config.format == "sft":
        write_sft_jsonl(kept, config.out, messages=config.messages)
    else:
        write_dpo_jsonl(pairs, config.out, messages=config.messages)
    out.sign()
    what = "prompts with completions" if config.format == "sft" else "pairs"
    print(f"{config.out}: {rows} {what} of {len(everything)} attempts; left out: {why}")
    print(f"trl {config.format} --dataset_name {config.out.parent} --model_name_or_path MODEL ..")
    return {
        "out": config.out, "rows": rows, "attempts": len(everything),
        "left_out": {reason: count for reason, count in left_out.items() if count},
    }  # fmt: skip
