"""Questions from the hub through `datasets`: MaRio's five sets and the CoT Collection by name, any
other set by its id.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from rationalize.errors import UserError
from rationalize.questions.columns import Columns
from rationalize.questions.files import SPLIT_ALIASES, RawRow

_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_NUMBER_WORDS = (
    "no", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"
)  # fmt: skip
_STANDARD = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class HubSet:
    """A set's address on the hub, and the meaning of its columns."""

    id: str
    columns: Columns = field(default_factory=dict)
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_STANDARD))
    """Our split -> theirs; a missing dev or test is cut from train."""
    choices: tuple[str, ...] | None = None
    """Choices of every question, for a set without a column of choices."""


_KEYED: Columns = {
    "choices": "choices.text",
    "labels": "choices.label",
    "answer": "answerKey:label",
}

NAMED = {
    "strategyqa": HubSet(
        "ChilleD/StrategyQA",
        {"id": "qid", "rationale": "facts"},
        splits={"train": "train", "test": "test"},
    ),
    "quarel": HubSet("community-datasets/quarel", {"answer": "answer_index:index"}),
    "openbookqa": HubSet(
        "allenai/openbookqa", {"question": "question_stem", **_KEYED}, config="main"
    ),
    # the test labels are not public, and the labelled validation file is not on the hub
    "numersense": HubSet(
        "INK-USC/numer_sense",
        {"question": "sentence", "answer": "target"},
        revision="refs/convert/parquet",
        splits={"train": "train"},
        choices=_NUMBER_WORDS,
    ),
    # the test labels are not public: the validation split is the test, as in MaRio's release
    "qasc": HubSet("allenai/qasc", _KEYED, splits={"train": "train", "test": "validation"}),
    # 1.84 million instructions with rationales, for COALITION's tuning: use `load_sample`
    "cot-collection": HubSet(
        "kaist-ai/CoT-Collection",
        {"question": "source", "answer": "target:text", "kind": "task"},
        revision="refs/convert/parquet",
        splits={"train": "train"},
    ),
}


def find_set(source: str) -> HubSet | None:
    """The set of a name or an id (`owner/name[:config]`); None if the source is neither."""
    if source in NAMED:
        return NAMED[source]
    name = source.removeprefix("hub:")
    if _ID.fullmatch(name) or name != source:
        hub_id, _, config = name.partition(":")
        return HubSet(hub_id, config=config or None, splits={})
    return None


def nearest(source: str) -> str:
    """A hint for the error about an unknown source: the most similar name, if any."""
    near = difflib.get_close_matches(source, [*NAMED, "builtin"], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def open_hub(hub: HubSet) -> dict[str, Any]:
    """Our split -> an iterable of its rows. Raises `UserError` if the set cannot be loaded."""
    import datasets

    try:
        loaded = datasets.load_dataset(hub.id, hub.config, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the hub's {hub.id} cannot be loaded ({error}); check the name and the connection, "
            "or load a file: JSONL, parquet, or a folder with train, dev and test"
        ) from error
    splits = hub.splits or _guess_splits(loaded)
    missing = [theirs for theirs in splits.values() if theirs not in loaded]
    if missing or "train" not in splits:
        raise UserError(
            f"the hub's {hub.id} has the splits {', '.join(loaded)}; "
            f"expected {', '.join(missing) or 'train'}. Load another set, or files of your own"
        )
    return {ours: loaded[theirs] for ours, theirs in splits.items()}


def open_saved(folder: Path) -> dict[str, Any]:
    """Our split -> an iterable of its rows, of a folder that `save_to_disk` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"{folder}: cannot be read as a set that `save_to_disk` wrote ({error}); save it again"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        loaded = {"train": loaded}
    splits = _guess_splits(loaded)
    if not splits:
        raise UserError(
            f"{folder}: has the splits {', '.join(loaded)}; expected train, dev or test"
        )
    return {ours: loaded[theirs] for ours, theirs in splits.items()}


def table_rows(name: str, split: str, rows: Any, choices: Sequence[str] | None) -> Iterator[RawRow]:
    """The rows of a split; `choices` where the set has no column of them."""
    for number, row in enumerate(rows, start=1):
        values = dict(row)
        if choices and "choices" not in values:
            values["choices"] = list(choices)
        yield RawRow(f"{name} [{split}]", f"row {number}", values)


def _guess_splits(loaded: Mapping[str, Any]) -> dict[str, str]:
    return {
        ours: next(name for name in names if name in loaded)
        for ours, names in SPLIT_ALIASES.items()
        if any(name in loaded for name in names)
    }
