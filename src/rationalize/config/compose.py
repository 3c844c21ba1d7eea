"""One flat configuration out of several: a method's knobs beside the settings of its run.

>>> Settings = compose("mario", [MarioConfig, RunConfig])     # doctest: +SKIP
>>> mario, run = split(Settings(bins=3, seed=1))              # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any


def compose(name: str, parts: Sequence[type], defaults: Mapping[str, Any] | None = None) -> type:
    """A frozen dataclass with the fields of all `parts`, the last part's first.

    `defaults` take the place of the parts' own. Raises `TypeError` where two parts share a field.
    """
    owner: dict[str, type] = {}
    for part in parts:
        for field in dataclasses.fields(part):
            if field.name in owner:
                raise TypeError(
                    f"{part.__name__}.{field.name} has the name of a field of "
                    f"{owner[field.name].__name__}; rename it"
                )
            owner[field.name] = part
    # a type's name means what it means in its own part's module
    kinds = {
        key: typing.get_type_hints(owner[key], include_extras=True)[key] for key in defaults or {}
    }
    members = {
        "__doc__": parts[0].__doc__,
        "__module__": parts[0].__module__,
        "__annotations__": kinds,
        "__post_init__": _check_parts,
        "PARTS": tuple(parts),
        **(defaults or {}),
    }
    return dataclasses.dataclass(frozen=True)(type(name, tuple(parts), members))


def split(settings: Any) -> list[Any]:
    """The parts of a composed configuration, in the order in which they were given."""
    return [
        part(**{f.name: getattr(settings, f.name) for f in dataclasses.fields(part) if f.init})
        for part in settings.PARTS
    ]


def _check_parts(settings: Any) -> None:
    """Every part's own check of its values."""
    for part in settings.PARTS:
        if check := getattr(part, "__post_init__", None):
            check(settings)
