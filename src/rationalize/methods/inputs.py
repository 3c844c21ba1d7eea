"""What a run takes from outside, as digests that pin it: questions, rationales, rewards, files."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.records import Question
from rationalize.rewards.base import Reward
from rationalize.runs import Inputs, digest

_FILES = {
    "answer_scorer", "verifier", "reward_model", "attempts", "demos", "source", "variant_sources",
    "full",
}  # fmt: skip
"""Settings that can name a file or folder to read, wherever they are nested."""
_NAMES = ("builtin", "train", "vera")
"""Values of theirs that name none."""
_CHANGING = {
    "lock", "env.json", "metrics.jsonl", "results.json", "report.html", "README.md", "inputs.json",
    "times.jsonl",
}  # fmt: skip
"""Files of a run that a later start may write again without another result."""


def inputs_of(
    settings: Mapping[str, Any], splits: Mapping[str, Sequence[Question]], tokenizer: Any = None,
    rewards: Iterable[Reward] = (),
) -> Inputs:  # fmt: skip
    """The inputs of a run: `settings` are those of its configuration.

    Questions count as they were read, so the form of their file does not. Of a reward's module its
    code counts, not comments; modules that it imports do not.
    """
    groups: dict[str, dict[str, str]] = {}
    for split, questions in splits.items():
        groups[f"questions of {split}"] = {q.id: digest(_asked(q)) for q in questions}
        groups[f"rationales of {split}"] = {
            q.id: digest(_told(q)) for q in questions if any(_told(q))
        }
    modules = {r.name: r.source.partition(":")[0] for r in rewards if r.source}
    groups["rewards"] = {name: _code_digest(module) for name, module in modules.items()}
    groups["files"] = {
        f"{key} {value}": _path_digest(Path(value)) for key, value in _paths(settings)
    }
    if tokenizer is not None:
        words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        groups["tokenizer"] = {
            "chat template": digest(tokenizer.chat_template), "vocabulary": digest(words),
        }  # fmt: skip
    return groups


def _asked(question: Question) -> dict[str, Any]:
    fields = dataclasses.asdict(question)
    del fields["rationales"]
    fields["extra"] = {k: v for k, v in fields["extra"].items() if not k.startswith("teacher_")}
    return fields


def _told(question: Question) -> tuple[Any, ...]:
    """Rationales, and the answers that their teacher gave."""
    teacher = {k: v for k, v in question.extra.items() if k.startswith("teacher_")}
    return question.rationales, teacher


def _code_digest(module: str) -> str:
    """Of an imported module's code, without comments and layout."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not file.endswith(".py"):
        return "?"
    return digest(ast.dump(ast.parse(Path(file).read_bytes())))


def _paths(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings that name a file or folder that is there, by their dotted names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
        elif key in _FILES:
            for name in [value] if isinstance(value, str) else value or ():
                if name and name not in _NAMES and Path(name).exists():
                    yield f"{prefix}{key}", name


def _path_digest(path: Path) -> str:
    """Of a file's bytes, or of all files of a folder that hold what is read from it."""
    if path.is_file():
        return _bytes_digest(path)
    files = sorted(
        p for p in path.rglob("*")
        if p.is_file() and p.name not in _CHANGING and p.name[0] != "."
        and not {"checkpoints", "scores"} & set(p.relative_to(path).parts)
    )  # fmt: skip
    return digest([(p.relative_to(path).as_posix(), _bytes_digest(p)) for p in files])


def _bytes_digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
