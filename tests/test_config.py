"""Configurations: dictionary, YAML and flags give the same object, and errors name the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationalize.config import dump_yaml, from_dict, load_yaml, to_dict
from rationalize.config.flags import explain, field_docs, merge, take
from rationalize.errors import UsageError
from rationalize.methods import METHODS
from rationalize.methods.launch import settings_of


@dataclass(frozen=True)
class Fit:
    """How it learns."""

    learning_rate: float = 1e-4
    """Peak rate."""
    steps: int = 10
    """Optimiser steps."""


@dataclass(frozen=True)
class Base:
    model: str = "default"
    """Base model."""
    seed: int = 0
    """Seed of every
    random draw."""


@dataclass(frozen=True)
class Toy(Base):
    """A configuration with a field of every kind."""

    mode: Literal["one", "two"] = "one"
    """Which."""
    resume: bool = True
    """Go on."""
    note: str | None = None
    """A remark."""
    out: Path = Path("runs/toy")
    """Where to."""
    limit: int | str = 3
    """A number or a word."""
    rewards: tuple[str, ...] = ("consistency", "diversity")
    """Rewards."""
    shape: tuple[int, float] = (1, 0.5)
    """A pair."""
    names: list[str] = field(default_factory=list)
    """Names."""
    bins: dict[str, int] = field(default_factory=dict)
    """Bins."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns."""
    fit: Fit = Fit(learning_rate=3e-4)
    """How it learns."""
    second: Fit | None = None
    """A second stage."""
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"small": {"seed": 5, "fit": {"steps": 2}}}

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")


@dataclass(frozen=True)
class Needs:
    model: str
    """No default."""
    n: int = 1


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
real = st.floats(allow_nan=False)
fits = st.builds(Fit, learning_rate=real, steps=st.integers())
toys = st.builds(
    Toy,
    model=text,
    seed=st.integers(min_value=0),
    mode=st.sampled_from(["one", "two"]),
    resume=st.booleans(),
    note=st.none() | text,
    out=st.sampled_from([Path("a"), Path("a b/c")]),
    limit=st.integers() | text,
    rewards=st.lists(text, max_size=3).map(tuple),
    shape=st.tuples(st.integers(), real),
    names=st.lists(text, max_size=2),
    bins=st.dictionaries(text, st.integers(), max_size=2),
    columns=st.dictionaries(text, text, max_size=2),
    fit=fits,
    second=st.none() | fits,
)


@given(toys)
@settings(max_examples=70, deadline=None)
def test_dictionary_and_yaml_give_the_same_configuration_back(tmp_path_factory, toy):
    assert from_dict(Toy, to_dict(toy)) == toy
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(explain(toy), encoding="utf-8", newline="")
    assert from_dict(Toy, load_yaml(path)) == toy


@given(
    st.sampled_from(
        [
            "no",
            "on",
            "1e-4",
            "1_0",
            "~",
            "null",
            ".5",
            "0x1",
            "2026-01-01",
            "a: b",
            "# x",
            "1:30",
            "=",
        ]
    )
)
def test_words_that_look_like_something_else_stay_words(tmp_path_factory, word):
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(dump_yaml({"a": word, "b": [word]}))
    assert load_yaml(path) == {"a": word, "b": [word]}


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    return path


def test_numbers_as_people_write_them(tmp_path):
    assert load_yaml(written(tmp_path, "a: 1e-4\nb: 3e5\nc: .inf\nd: no\ne: 1.5")) == {
        "a": 1e-4, "b": 3e5, "c": math.inf, "d": "no", "e": 1.5,
    }  # fmt: skip
    assert from_dict(Toy, {"fit": {"steps": 1e3}}).fit.steps == 1000


def test_a_nested_part_keeps_the_rest_of_the_fields_default():
    assert from_dict(Toy, {"fit": {"steps": 1}}).fit == Fit(3e-4, 1)
    assert from_dict(Toy, {"second": {"steps": 1}}).second == Fit(1e-4, 1)


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"sed": 1}, ["unknown key 'sed'", "'seed'"]),
        ({"fit": {"lerning_rate": 1}}, ["'fit.lerning_rate'", "'learning_rate'"]),
        ({"zzz": 1}, ["unknown key 'zzz'", "expected one of", "rewards"]),
        ({"seed": "1"}, ["'seed'", "the text '1'", "a whole number"]),
        ({"seed": True}, ["'seed'", "True", "a whole number"]),
        ({"seed": 1.5}, ["1.5", "a whole number"]),
        ({"fit": {"learning_rate": "fast"}}, ["'fit.learning_rate'", "'fast'", "a number"]),
        ({"fit": 3}, ["'fit'", "the keys of Fit"]),
        ({"mode": "tow"}, ["one of one, two", "'two'"]),
        ({"model": 7}, ["'model'", "7", "text"]),
        ({"model": None}, ["'model'", "None", "text"]),
        ({"rewards": "diversity"}, ["'rewards'", "a list"]),
        ({"rewards": ["a", 1]}, ["'rewards[1]'", "text"]),
        ({"shape": [1]}, ["'shape'", "a list of 2"]),
        ({"bins": {"a": "x"}}, ["'bins.a'", "a whole number"]),
        ({"note": 3}, ["'note'", "text"]),
        ({"resume": "yes"}, ["'resume'", "true or false"]),
        ({"seed": -1}, ["seed must not be negative"]),
    ],
)
def test_errors_name_the_key_what_was_found_and_what_was_expected(mapping, parts):
    with pytest.raises(UsageError) as error:
        from_dict(Toy, mapping, "toy.yaml")
    assert str(error.value).startswith("toy.yaml: ")
    assert not [part for part in parts if part not in str(error.value)], str(error.value)


def test_a_required_key_that_is_missing():
    with pytest.raises(UsageError, match="'model' is missing; expected text"):
        from_dict(Needs, {"n": 2})


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"a: [1", r"c\.yaml:\d: not YAML"),
        (b"- 1", "expected keys and values"),
        (b"a: 1\na: 2", r"c\.yaml:2: .*duplicate key 'a'"),
        (b"a: \xff", "not UTF-8"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, part):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=part):
        load_yaml(path)
    with pytest.raises(UsageError, match="no such file"):
        load_yaml(tmp_path / "other.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        load_yaml(tmp_path)


def test_empty_file_is_all_defaults(tmp_path):
    assert merge(Toy, written(tmp_path, "# nothing\n"), []) == Toy()


def test_flags_lie_over_the_file_over_the_preset_over_defaults(tmp_path):
    file = written(tmp_path, "preset: small\nmode: two\nfit: {learning_rate: 1}")
    merged = merge(Toy, file, ["--fit.steps", "7", "--no-resume", "--note", "x"])
    assert merged == Toy(seed=5, mode="two", resume=False, note="x", fit=Fit(1.0, 7))
    assert merge(Toy, None, ["--preset", "small"]) == Toy(seed=5, fit=Fit(3e-4, 2))
    with pytest.raises(UsageError, match="unknown --preset 'smal'; did you mean 'small'"):
        merge(Toy, None, ["--preset", "smal"])


def test_a_runs_own_configuration_is_a_valid_file(tmp_path):
    file = written(tmp_path, "method: toy\nseed: 3\nbase_hash: 9f2c")
    assert merge(Toy, file, [], method="toy") == Toy(seed=3)
    with pytest.raises(UsageError, match="a configuration of 'toy', expected one of 'sft'"):
        merge(Toy, file, [], method="sft")


def test_lists_of_names_and_mappings_have_a_short_form():
    expected = Toy(rewards=("a", "b"), columns={"id": "key", "answer": "gold"})
    assert merge(Toy, None, ["--rewards", "a,b", "--columns", "id=key", "answer=gold"]) == expected
    assert merge(Toy, None, ["--rewards=a,b", "--columns=id=key", "answer=gold"]) == expected
    assert (
        merge(Toy, None, ["--rewards", "a", "b", "--columns", "id", "key", "answer", "gold"])
        == expected
    )


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--fit.step", "'fit.steps'"),
        ("--steps", "'fit.steps'"),
        ("--sed", "'seed'"),
        ("--fit.learning-rat=1", "'fit.learning-rate'"),
        ("--no-seed", "'seed'"),
        ("--second.steps", "'fit.steps'"),
    ],
)
def test_an_unknown_flag_names_the_nearest(flag, near):
    with pytest.raises(UsageError) as error:
        merge(Toy, None, [flag, "1"])
    assert near in str(error.value)


def test_a_wrong_value_of_a_flag_exits_2(capsys):
    for value, message in [("x", "--seed"), ("-1", "must not be negative")]:
        with pytest.raises(SystemExit) as stop:
            merge(Toy, None, ["--seed", value])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_required_field_comes_from_the_file_or_a_flag(tmp_path):
    assert merge(Needs, written(tmp_path, "model: m"), []) == Needs("m")
    assert merge(Needs, None, ["--model", "m"]) == Needs("m")
    with pytest.raises(SystemExit) as stop:
        merge(Needs, None, [])
    assert stop.value.code == 2


def test_docstrings_are_the_help_and_the_comments(capsys):
    docs = field_docs(Toy)
    assert docs["seed"] == "Seed of every random draw."
    assert docs["fit"] == "How it learns."
    with pytest.raises(SystemExit) as stop:
        merge(Toy, None, ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    explained = explain(Toy())
    assert "A second stage." in explained  # an absent nested configuration has no flag
    for text in [*(docs[n] for n in docs if n != "second"), *field_docs(Fit).values()]:
        assert text in shown
        assert f"# {text}" in explained
    assert "  # Optimiser steps.\n  steps: 10\n" in explained
    assert "# " not in explain(Toy(), comments=False)


def test_take_removes_a_flag_and_its_value():
    assert take(["a", "--out", "x", "b"], "--out") == ("x", ["a", "b"])
    assert take(["--out=x", "b"], "--out") == ("x", ["b"])
    assert take(["b"], "--out") == (None, ["b"])
    with pytest.raises(UsageError, match="--out needs a value"):
        take(["--out", "--b"], "--out")


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["train", "mario", "--lr", "1"], "fit.learning-rate"),
        (["train", "mario", "--fit.lr", "1"], "fit.learning-rate"),
        (["train", "sft", "--batch_size", "1"], "fit.batch-size"),
        (["train", "sft", "--per-device-train-batch-size", "1"], "fit.batch-size"),
        (["train", "sft", "--num_train_epochs", "1"], "epochs"),
        (["train", "filt-acc", "--max-steps", "1"], "steps"),
        (["train", "mario", "--max-completion-length", "1"], "sampling.max-new-tokens"),
        (["train", "grpo", "--scale_rewards", "none"], "scale"),
        (["train", "gdpo", "--num-generations", "4"], "sampling.n"),
        (["train", "sft", "--model_name_or_path", "x"], "model"),
        (["train", "sft", "--output-dir", "x"], "out"),
        (["sample", "--max-tokens", "1"], "max-new-tokens"),
        (["sample", "--num-generations", "1"], "n"),
        (["evaluate", "--num_fewshot", "1"], "shots"),
        (["train", "sft", "--zzzzzz", "1"], "--help lists all flags"),
    ],
)
def test_a_flag_of_another_library_is_answered_with_ours(argv, meant, capsys):
    from rationalize.cli import main

    assert main(argv) == 2
    said = capsys.readouterr().err
    assert f"'{meant}'" in said or (meant.startswith("--") and meant in said)


def test_a_mapping_on_the_command_line_stands_beside_the_files(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("limits: {train: 100, dev: 20}\ncolumns: {id: key}\n")
    cls = settings_of(METHODS["sft"])
    flags = ["--limits", "train=5", "test=7", "--columns=question=stem", "--seed", "3"]
    config = merge(cls, file, flags)
    assert config.limits == {"train": 5, "dev": 20, "test": 7}
    assert (config.columns, config.seed) == ({"id": "key", "question": "stem"}, 3)
    assert merge(cls, file, ["--limits.dev", "2"]).limits == {"train": 100, "dev": 2}
    with pytest.raises(UsageError, match="limits"):
        merge(cls, file, ["--limits", "train=many"])
    with pytest.raises(UsageError, match=r"limits\.train is 0"):
        merge(cls, file, ["--limits", "train=0"])
