"""Attempts on disk: parquet inside a run, JSONL for exchange, TRL's columns for other trainers.

In parquet, `rewards`, `control` and `sampling` are JSON text: their keys differ between files, and
numbers are read back exactly.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rationalize.errors import UserError
from rationalize.files import number_or_text, replacing
from rationalize.records import Attempt, Pair, Question, attempt_from_row, attempt_row, question_row
from rationalize.text import whole_characters

_JSON_COLUMNS = ("rewards", "control", "sampling")
_TEXT_COLUMNS = (
    "id", "question_id", "mode", "prompt", "completion", "rationale", "prediction", "gold",
    "finish", "writer", "model", "split", "refines", "reasoning", *_JSON_COLUMNS,
)  # fmt: skip
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXT_COLUMNS]
    + [(name, pa.int64()) for name in ("round", "step", "seed", "n_tokens")]
    + [(name, pa.bool_()) for name in ("parsed", "hinted")]
)
QUESTION_COLUMNS = {
    "question": pa.string(), "choices": pa.list_(pa.string()), "answer": pa.string(),
    "answer_form": pa.string(), "context": pa.string(), "accepted": pa.list_(pa.string()),
}  # fmt: skip
"""What attempts carry of their questions, beside `question_id`."""
_REQUIRED = ("question_id", "completion")


def save_attempts(
    attempts: Iterable[Attempt], path: Path | str,
    questions: Mapping[str, Question] | None = None,
) -> None:  # fmt: skip
    """Write attempts atomically as parquet, JSONL or JSONL.gz, by the file's suffix.

    With `questions` (by id), every attempt carries its question: text, choices, context, answer.
    """
    path = Path(path)
    attempts = list(attempts)
    asked = [question_row(questions[a.question_id]) for a in attempts] if questions else []
    if path.name.endswith(".parquet"):
        with replacing(path) as fresh:
            pq.write_table(_table(attempts, asked), fresh, compression="zstd")
    else:
        rows = ({**attempt_row(a), **(asked[i] if asked else {})} for i, a in enumerate(attempts))
        _write_jsonl(rows, path)


def load_attempts(path: Path | str, **equal: Any) -> list[Attempt]:
    """Attempts of a file whose fields equal these, e.g. `load_attempts(f, writer="policy")`.

    Raises `UserError` if the file holds no attempts, `ValueError` for an unknown field.
    """
    path = Path(path)
    unknown = [name for name in equal if name not in _SCHEMA.names or name in _JSON_COLUMNS]
    if unknown:
        known = ", ".join(n for n in _SCHEMA.names if n not in _JSON_COLUMNS)
        raise ValueError(f"cannot select attempts by {unknown[0]!r}; expected one of {known}")
    if path.name.endswith(".parquet"):
        return _read_parquet(path, equal)
    attempts = _read_jsonl(path)
    return [a for a in attempts if all(getattr(a, name) == value for name, value in equal.items())]


def attempts_in(place: Path) -> list[Attempt]:
    """The attempts in a file, a run or its `attempts` folder. Raises `UserError`."""
    folder = place / "attempts" if (place / "attempts").is_dir() else place
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    return [a for file in files for a in load_attempts(file)]


def write_sft_jsonl(
    attempts: Iterable[Attempt], path: Path | str, *, messages: bool = False
) -> None:
    """Prompts and completions in TRL's columns, as text or as chat messages.

    As text, the prompt ends with a line break, as before every reply of a few-shot prompt.
    """
    rows = [_trl_row(a.prompt, messages, completion=a.completion) for a in attempts]
    _write_jsonl(rows, Path(path))


def write_dpo_jsonl(pairs: Iterable[Pair], path: Path | str, *, messages: bool = False) -> None:
    """Preference pairs in TRL's columns `prompt`, `chosen`, `rejected`, as text or as messages."""
    rows = [_trl_row(p.prompt, messages, chosen=p.chosen, rejected=p.rejected) for p in pairs]
    _write_jsonl(rows, Path(path))


def _trl_row(prompt: str, messages: bool, **replies: str) -> dict[str, Any]:
    prompt = whole_characters(prompt)  # `datasets` reads UTF-8: no unpaired surrogates
    replies = {name: whole_characters(text) for name, text in replies.items()}
    if not messages:
        return {"prompt": prompt.rstrip("\n") + "\n", **replies}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        **{name: [{"role": "assistant", "content": text}] for name, text in replies.items()},
    }


def _table(attempts: Sequence[Attempt], asked: Sequence[Mapping[str, Any]] = ()) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [getattr(attempt, name) for attempt in attempts] for name in _SCHEMA.names
    }
    for name in _JSON_COLUMNS:
        columns[name] = [
            None if v is None else json.dumps(dict(v), default=number_or_text)
            for v in columns[name]
        ]
    for name in _TEXT_COLUMNS:  # parquet stores UTF-8: no unpaired surrogates
        columns[name] = [None if t is None else whole_characters(t) for t in columns[name]]
    table = pa.table(columns, schema=_SCHEMA)
    for name, kind in QUESTION_COLUMNS.items() if asked else ():
        values = [_whole(row.get(name)) for row in asked]
        table = table.append_column(name, pa.array(values, kind))
    return table


def _whole(value: str | Sequence[str] | None) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else whole_characters(value)
    return [whole_characters(text) for text in value]


def _read_parquet(path: Path, equal: Mapping[str, Any]) -> list[Attempt]:
    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as parquet ({error}); expected a file of attempts"
        ) from error
    _require_fields(path, None, table.column_names)
    for name, value in equal.items():
        if name not in table.column_names:  # a file of an earlier version
            table = table if value is None else table.slice(0, 0)
            continue
        column = table.column(name)
        value = whole_characters(value) if isinstance(value, str) else value  # as stored
        table = table.filter(
            pc.is_null(column) if value is None else pc.equal(column, pa.scalar(value, column.type))
        )
    rows = table.to_pylist()
    for row in rows:
        for name in _JSON_COLUMNS:
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
    try:
        return [attempt_from_row(row) for row in rows]
    except TypeError as error:
        raise UserError(f"{path}: {error}; expected attempts, with every field of one") from error


def _write_jsonl(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    with replacing(path) as fresh:
        if path.name.endswith(".gz"):
            # mtime=0: equal attempts give equal files
            with open(fresh, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                file.writelines(_line(row) for row in rows)
        else:
            with open(fresh, "wb") as file:
                file.writelines(_line(row) for row in rows)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, default=number_or_text).encode() + b"\n"


def _read_jsonl(path: Path) -> list[Attempt]:
    attempts = []
    try:
        with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                _require_fields(path, number, row)
                attempts.append(attempt_from_row(row))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file or folder; expected a run, or attempts as JSONL"
        ) from error
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected attempts as JSONL") from error
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}, line {len(attempts) + 1}: {error}; expected one attempt as a JSON object"
        ) from error
    return attempts


def _require_fields(path: Path, line: int | None, names: Iterable[str]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(
            f"{where}: found no field {missing[0]!r}; expected attempts, with every field of one"
        )
