"""Questions from the hub through `datasets`: sets of `named.py` by name, any other by its id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rationalize.errors import UserError
from rationalize.files import looks_local
from rationalize.questions.files import SPLIT_ALIASES, RawRow
from rationalize.questions.named import NAMED, HubSet

_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def find_set(source: str) -> HubSet | None:
    """The set of a name (in any case) or an id (`owner/name[:config]`); None if it is neither."""
    if source.lower() in NAMED:
        return NAMED[source.lower()]
    if looks_local(source):
        return None
    name = source.removeprefix("hub:")
    if _ID.fullmatch(name) or name != source:
        hub_id, _, config = name.partition(":")
        for known in NAMED.values():  # the same set by its address
            if known.id == hub_id and config in ("", known.config):
                return known
        return HubSet(hub_id, config=config or None, splits={})
    return None


def on_hub(source: str) -> bool:
    """Whether questions would be fetched from the hub."""
    return not Path(source).exists() and find_set(source) is not None


def nearest(source: Path) -> str:
    """A hint for the error about an unknown source: the most similar set or file, if any."""
    beside = source.parent.iterdir() if source.parent.is_dir() else ()
    known = [*NAMED, "builtin", *(str(path) for path in beside)]
    near = difflib.get_close_matches(str(source), known, n=1, cutoff=0.75)
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
