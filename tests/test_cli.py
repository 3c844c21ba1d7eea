"""The command line: what it calls, what it prints, how it ends."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rationalize import cli
from rationalize.cli import METHODS, VERBS, Command, main
from rationalize.config import load_yaml
from rationalize.errors import UsageError, UserError
from rationalize.config.flags import field_docs
from rationalize.runs import Run

called: list[tuple] = []


@dataclass(frozen=True)
class ToyConfig:
    """A toy."""

    model: str = "default"
    """Base model."""
    fail: str = ""
    """How to end."""


def run_toy(config: ToyConfig, out: Path) -> None:
    called.append((config, out))
    if config.fail == "user":
        raise UserError("q.jsonl:3: no answer")
    if config.fail == "usage":
        raise UsageError("unknown reward")
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    if config.fail == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if config.fail == "weights":  # its words on a full disk
        raise SafetensorError("Error while serializing: I/O error: No space left on device "
                              "(os error 28)")  # fmt: skip
    if config.fail == "bug":
        raise AssertionError("a bug")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    called.clear()
    command = Command(__name__, "ToyConfig", "run_toy", "play", True)
    monkeypatch.setattr(cli, "METHODS", {**METHODS, "toy": command})


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_names_every_verb_and_method_and_loads_no_torch():
    started = time.monotonic()
    found = python(
        "import sys; from rationalize.cli import main; status = main(['--help']);"
        "print(status, [m for m in ('torch', 'transformers', 'tyro', 'numpy') if m in sys.modules])"
    )
    assert time.monotonic() - started < 5  # under a second on an idle machine
    assert found.stdout.splitlines()[-1] == "0 []", found.stderr
    for name in [*VERBS, *METHODS, "train", "config"]:
        assert f"  {name}" in found.stdout


def test_module_runs_as_a_program():
    found = subprocess.run(
        [sys.executable, "-m", "rationalize", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("rationalize 0.")


def test_train_calls_the_method_with_its_configuration_and_folder(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: a\nfail: ''\n")
    assert main(["train", "toy", "--config", str(file), "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "toy", "--config", str(file), "--model", "b"]) == 0
    assert called == [(ToyConfig("a"), tmp_path / "run"), (ToyConfig("b"), Path("runs/toy"))]


@pytest.mark.parametrize(
    ("fail", "status", "message"),
    [
        ("user", 1, "rationalize: q.jsonl:3: no answer\n"),
        ("usage", 2, "rationalize: unknown reward\n"),
        ("interrupt", 130, "\ninterrupted; run again with the same directory to resume\n"),
    ],
)
def test_how_a_verb_can_end(capsys, fail, status, message):
    assert main(["train", "toy", "--fail", fail]) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("fail", ["disk", "weights"])
def test_a_full_disk_is_a_sentence(capsys, fail):
    assert main(["train", "toy", "--fail", fail]) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert "make room and start the same command again" in said


def test_a_bug_keeps_its_traceback():
    with pytest.raises(AssertionError, match="a bug"):
        main(["train", "toy", "--fail", "bug"])


def test_dry_run_prints_the_configuration_and_calls_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy", "--model", "b", "--dry-run", "--out", "there"]) == 0
    printed = capsys.readouterr().out
    assert "model: b\n" in printed
    assert "a new run in there" in printed
    assert called == []
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_whether_a_folder_would_be_resumed(tmp_path, capsys):
    Run.open(tmp_path, {"method": "toy", "model": "b", "fail": ""}, base_hash="9f2c").close()
    assert main(["train", "toy", "--model", "b", "--dry-run", "--out", str(tmp_path)]) == 0
    assert f"resume the run in {tmp_path}" in capsys.readouterr().out
    assert main(["train", "toy", "--model", "c", "--dry-run", "--out", str(tmp_path)]) == 1
    assert "belongs to another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected a verb"),
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train"], "expected a METHOD first"),
        (["train", "--seed", "1"], "expected a METHOD first"),
        (["train", "mairo"], "unknown METHOD 'mairo'; did you mean 'mario'?"),
        (["train", "toy", "--modle", "x"], "unknown flag --modle; did you mean 'model'?"),
        (["train", "toy", "--config"], "--config needs a value"),
        (["train", "toy", "--config", "no.yaml"], "no.yaml: there is no such file"),
        (["config", "toyy"], "unknown METHOD 'toyy'; did you mean 'toy'?"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_meant(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_in_a_file_exits_2(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("modle: a\n")
    assert main(["train", "toy", "--config", str(file)]) == 2
    assert f"{file}: unknown key 'modle'; did you mean 'model'?" in capsys.readouterr().err


@pytest.mark.parametrize("method", [*METHODS, "demo"])
def test_every_configuration_is_a_valid_file_and_is_explained(method, tmp_path, capsys):
    assert main(["config", method, "--explain"]) == 0
    explained = capsys.readouterr().out
    file = tmp_path / "c.yaml"
    file.write_text(explained)
    assert main(["config", method, "--config", str(file)]) == 0
    assert load_yaml(file) == load_yaml_text(capsys.readouterr().out, tmp_path)


@pytest.mark.parametrize("command", [*METHODS.values(), *VERBS.values()], ids=[*METHODS, *VERBS])
def test_every_field_of_every_configuration_has_a_docstring(command):
    cls = getattr(importlib.import_module(command.module), command.config)
    assert {f.name for f in dataclasses.fields(cls)} <= set(field_docs(cls))
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.default):
            nested = type(f.default)
            assert {g.name for g in dataclasses.fields(nested)} <= set(field_docs(nested))


def load_yaml_text(text: str, tmp_path: Path) -> dict:
    (tmp_path / "other.yaml").write_text(text)
    return load_yaml(tmp_path / "other.yaml")


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "demo"])
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: rationalize {verb}" in capsys.readouterr().out
