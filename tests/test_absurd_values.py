"""Every field of every configuration, with absurd values: refused in a sentence, or taken."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rationalize.cli import main
from rationalize.commands.table import VERBS, command_of, demo_command
from rationalize.config import from_dict
from rationalize.config.checks import LARGEST_SEED, above, at_least, between, check_seeds, finite
from rationalize.config.compose import split
from rationalize.errors import UsageError
from rationalize.methods import DEMOS, METHODS, TRAINERS
from rationalize.training.loop import FitConfig

COMMANDS = {
    **{f"train {name}": command_of(name) for name in (*METHODS, *TRAINERS)},
    **{f"demo {name}": demo_command(name) for name in DEMOS},
    **VERBS,
}
NUMBERS = (0, -1, 1, 2, 10**12, -(10**12), 10**400, 0.5, -0.5, math.nan, math.inf, -math.inf, 1e308)
ABSURD = (*NUMBERS, None, "", " ", "x", "\x00", True, [], [0], [-1], ["", ""], [math.nan], {},
          {"": ""}, {"correctness": math.nan}, {"rationale": -1}, {"answer": 10**400},
          {1: 2})  # fmt: skip
REQUIRED = {
    str: "x", Path: Path("x"), tuple[str, ...]: ("x",)
}  # fmt: skip


def plausible(cls: type) -> Any:
    """A configuration whose required fields have some value of their type."""
    hints = typing.get_type_hints(cls)
    missing = {
        f.name: REQUIRED[hints[f.name]]
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return from_dict(cls, missing)


def parts_of(cls: type) -> Iterator[type]:
    """A command's configuration, and all that it is composed of and holds."""
    yield cls
    for part in getattr(cls, "PARTS", ()):
        yield from parts_of(part)
    for hint in typing.get_type_hints(cls).values():
        for arm in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(arm):
                yield from parts_of(typing.cast(type, arm))


CONFIGS = {name: command.config() for name, command in COMMANDS.items()}
PARTS = {part: None for cls in CONFIGS.values() for part in parts_of(cls)}


@pytest.mark.parametrize("cls", [c for c in PARTS if c not in CONFIGS.values()] or PARTS)
def test_any_value_is_refused_in_a_sentence_or_taken(cls):
    base = plausible(cls)
    for field in dataclasses.fields(cls):
        for value in ABSURD:
            with contextlib.suppress(UsageError):
                from_dict(cls, {field.name: value}, base=base)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_command_refuses_what_its_parts_refuse(name):
    """No number of steps, rows or shares is negative or NaN; weights alone may be negative."""
    cls = CONFIGS[name]
    base = plausible(cls)
    signed = {"guidance"}
    for field in dataclasses.fields(cls):
        value = getattr(base, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        for absurd in (-1, math.nan, "", []):
            try:
                config = from_dict(cls, {field.name: absurd}, base=base)
            except UsageError:
                continue
            assert not number or (field.name in signed and absurd == -1), (field.name, absurd)
            if hasattr(cls, "PARTS"):
                split(config)


def test_what_numbers_may_be():
    config = FitConfig()
    for check, refused in (
        (lambda c: at_least(c, 9, "batch_size"), "batch_size is 8; expected at least 9"),
        (lambda c: above(c, 8, "batch_size"), "batch_size is 8; expected a number above 8"),
        (
            lambda c: between(c, 0, 7, "batch_size"),
            "batch_size is 8; expected a number from 0 to 7",
        ),
    ):
        with pytest.raises(UsageError, match=refused):
            check(config)
    at_least(config, 8, "batch_size")
    above(config, 7, "batch_size")
    between(config, 8, 8, "batch_size")
    finite(config, "learning_rate")
    for seeds in ((), (0, 0), (-1,), (LARGEST_SEED + 1,)):
        with pytest.raises(UsageError, match="seeds"):
            check_seeds(seeds)
    check_seeds((0, LARGEST_SEED))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["train", "sft", "--fit.batch-size", "0"], "batch_size is 0; expected at least 1"),
        (["train", "sft", "--epochs", "-1"], "epochs is -1; expected a number above 0"),
        (["train", "mario", "--fit.learning-rate", "nan"], "learning_rate is nan"),
        (["demo", "--seeds", "0", "0"], "each once"),
        (["sample", "--model", "m", "--questions", "q", "--n", "0"], "n is 0"),
        (["evaluate", "--model", "m", "--questions", "q", "--limit", "0"], "limit is 0"),
    ],
)
def test_a_number_out_of_range_leaves_no_folder(argv, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
