"""One flat configuration out of a method's own and the run's."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from rationalize.config import from_dict, to_dict
from rationalize.config.compose import compose, split
from rationalize.config.flags import explain, field_docs, merge
from rationalize.errors import UsageError
from rationalize.methods import DEMOS, METHODS
from rationalize.methods.launch import settings_of
from rationalize.methods.settings import EvaluationConfig, RunConfig


@dataclass(frozen=True)
class Fit:
    """How it learns."""

    rate: float = 0.5
    """Learning rate."""


@dataclass(frozen=True)
class Game:
    """A game."""

    dice: int = 2
    """How many dice."""
    fit: Fit = Fit()
    """How it is learned."""

    PRESETS: ClassVar = {"large": {"dice": 9, "seed": 4}}

    def __post_init__(self):
        if self.dice < 1:
            raise ValueError(f"dice is {self.dice}; expected at least 1")


@dataclass(frozen=True)
class Table:
    """Where it is played."""

    seed: int = 0
    """Seed of every throw."""
    light: Literal["day", "lamp"] = "day"
    """What it is played by."""

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected 0 or more")


Settings = compose("Settings", [Game, Table])


def test_it_holds_the_fields_of_all_parts_and_is_split_into_them():
    settings = Settings(dice=3, fit=Fit(0.1), seed=1)
    assert set(to_dict(settings)) == {"dice", "fit", "seed", "light"}
    assert split(settings) == [Game(3, Fit(0.1)), Table(1)]
    assert split(Settings()) == [Game(), Table()]
    assert split(dataclasses.replace(settings, seed=2)) == [Game(3, Fit(0.1)), Table(2)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.dice = 4


def test_it_is_read_from_files_flags_and_presets(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("fit: {rate: 0.1}\nlight: lamp\n")
    merged = merge(Settings, file, ["--seed", "1", "--preset", "large"])
    assert split(merged) == [Game(9, Fit(0.1)), Table(1, "lamp")]
    with pytest.raises(UsageError, match="unknown key 'dise'; did you mean 'dice'"):
        from_dict(Settings, {"dise": 1})
    with pytest.raises(UsageError, match=r"'light'.*one of day, lamp"):
        from_dict(Settings, {"light": "moon"})


def test_two_fields_of_one_name_are_refused():
    @dataclass(frozen=True)
    class Other:
        seed: int = 3

    with pytest.raises(TypeError, match=r"Other\.seed has the name of a field of Table; rename it"):
        compose("Clash", [Game, Table, Other])


@pytest.mark.parametrize(
    ("values", "message"),
    [({"dice": 0}, "dice is 0; expected at least 1"), ({"seed": -1}, "seed is -1; expected 0")],
)
def test_every_part_checks_its_values(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)
    with pytest.raises(UsageError, match=message):
        from_dict(Settings, values)


def test_the_docs_of_all_parts_are_its_help():
    assert Settings.__doc__ == "A game."
    assert field_docs(Settings) == {
        "dice": "How many dice.", "fit": "How it is learned.", "seed": "Seed of every throw.",
        "light": "What it is played by.",
    }  # fmt: skip
    assert "# Seed of every throw.\nseed: 0\n" in explain(Settings())
    assert "  # Learning rate.\n  rate: 0.5\n" in explain(Settings())


def test_defaults_take_the_place_of_the_parts_own():
    changed = compose("Changed", [Game, Table], {"seed": 7, "light": "lamp"})
    assert split(changed()) == [Game(), Table(7, "lamp")]
    assert split(changed(seed=1)) == [Game(), Table(1, "lamp")]
    assert split(Settings()) == [Game(), Table()]
    assert field_docs(changed) == field_docs(Settings)
    assert "# Seed of every throw.\nseed: 7\n" in explain(changed())


def test_defaults_keep_the_types_that_their_part_gives_them():
    pinned = compose("Pinned", [Game, RunConfig], {"precision": "float32"})
    assert from_dict(pinned, {}).precision == "float32"
    with pytest.raises(UsageError, match=r"'precision'.*one of auto, bfloat16, float32"):
        from_dict(pinned, {"precision": "float8"})


def leaves(value):
    return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1


@pytest.mark.parametrize("name", [*METHODS, *(f"demo {name}" for name in DEMOS)])
def test_a_command_has_its_own_settings_and_the_runs_once(name):
    demo = name.removeprefix("demo ")
    settings = settings_of(DEMOS[demo] if demo != name else METHODS[name])()
    config, *others = split(settings)
    assert to_dict(settings) == {k: v for p in (*others, config) for k, v in to_dict(p).items()}
    assert [type(part) for part in others[-2:]] == [EvaluationConfig, RunConfig]
    assert leaves(to_dict(settings)) <= (63 if name == "mario" else 240)
