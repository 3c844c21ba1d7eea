"""The command line: what it calls, what it prints, how it ends."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tiny import tiny_folder

from rationalize import Method
from rationalize.cli import main
from rationalize.commands.table import VERBS, command_of, trained
from rationalize.config import load_yaml
from rationalize.config.flags import field_docs
from rationalize.errors import NotFinite, UsageError, UserError
from rationalize.methods import DEMOS
from rationalize.termination import Terminated

called: list[tuple] = []


@dataclass(frozen=True)
class ToyConfig:
    """A toy."""

    game: str = "chess"
    """What to play."""
    fail: str = ""
    """How to end."""


def play(exp, policy, config: ToyConfig, stage):
    """Play."""
    called.append((config, exp.run.path))
    if config.fail == "user":
        raise UserError("q.jsonl:3: no answer")
    if config.fail == "usage":
        raise UsageError("unknown reward")
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    if config.fail == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if config.fail == "memory":
        raise MemoryError
    if config.fail == "diverged":
        raise NotFinite("sft, step 3: the loss became nan")
    if config.fail == "terminated":
        stop = Terminated()
        stop.places += ["sft at 3 of 9 steps", "a checkpoint is stored"]
        raise stop
    if config.fail == "weights":  # its words on a full disk
        raise SafetensorError("Error while serializing: I/O error: No space left on device "
                              "(os error 28)")  # fmt: skip
    if config.fail == "bug":
        raise AssertionError("a bug")
    return policy


def nothing(exp, policy, settings):
    """Lacks two parameters."""


toy = Method(play, ToyConfig, "toy", "play", conclude=lambda *_: None)
TOY = f"{__name__}:toy"


@pytest.fixture(autouse=True)
def _forget():
    called.clear()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Flags of a small run."""
    model = tiny_folder("decoder", tmp_path_factory.mktemp("tiny"))
    return ["--model", str(model), "--questions", "builtin:train=4,dev=2,test=2"]


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
    for name in [*VERBS, *trained(), "train", "config"]:
        assert f"  {name}" in found.stdout


def test_module_runs_as_a_program():
    found = subprocess.run(
        [sys.executable, "-m", "rationalize", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("rationalize 0.")


def test_train_calls_the_method_with_its_configuration_and_folder(tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.yaml"
    file.write_text("game: a\nfail: ''\n")
    started = ["train", TOY, "--config", str(file), *small]
    assert main([*started, "--out", str(tmp_path / "run")]) == 0
    assert main([*started, "--game", "b"]) == 0
    assert called == [(ToyConfig("a"), tmp_path / "run"), (ToyConfig("b"), Path("runs/toy"))]


@pytest.mark.parametrize(
    ("fail", "status", "message"),
    [
        ("user", 1, "rationalize: q.jsonl:3: no answer\n"),
        ("usage", 2, "rationalize: unknown reward\n"),
        ("diverged", 1, "rationalize: sft, step 3: the loss became nan\n"),
        (
            "terminated",
            143,
            "\nrationalize: stopped by SIGTERM in sft at 3 of 9 steps; a checkpoint is "
            "stored. Start the same command again to go on\n",
        ),
        ("interrupt", 130, "\ninterrupted; run again with the same directory to resume\n"),
    ],
)
def test_how_a_verb_can_end(capsys, fail, status, message, small, tmp_path):
    started = ["train", TOY, "--fail", fail, "--out", str(tmp_path), *small]
    assert main([*started, "--quiet"]) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("fail", ["disk", "weights"])
def test_a_full_disk_is_a_sentence(capsys, fail, small, tmp_path):
    assert main(["train", TOY, "--fail", fail, "--out", str(tmp_path), *small]) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert "make room and start the same command again" in said


def test_a_lack_of_memory_is_a_sentence(capsys, small, tmp_path):
    assert main(["train", TOY, "--fail", "memory", "--out", str(tmp_path), *small]) == 1
    assert "out of memory (MemoryError); take smaller passes" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(small, tmp_path):
    with pytest.raises(AssertionError, match="a bug"):
        main(["train", TOY, "--fail", "bug", "--out", str(tmp_path), *small])


def test_dry_run_prints_the_configuration_and_calls_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", TOY, "--game", "b", "--dry-run", "--out", "there"]) == 0
    printed = capsys.readouterr().out
    assert "game: b\n" in printed
    assert "a new run in there" in printed
    assert called == []
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_whether_a_folder_would_be_resumed(tmp_path, capsys, small):
    started = ["train", TOY, "--out", str(tmp_path), *small]
    assert main([*started, "--game", "b"]) == 0
    assert main([*started, "--game", "b", "--dry-run"]) == 0
    assert f"resume the run in {tmp_path}" in capsys.readouterr().out
    assert main([*started, "--game", "c", "--dry-run"]) == 1
    assert "belongs to another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected a verb"),
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train"], "expected a METHOD first"),
        (["train", "--seed", "1"], "expected a METHOD first"),
        (["train", "mairo"], "unknown METHOD 'mairo'; did you mean 'mario'?"),
        (["train", TOY, "--modle", "x"], "unknown flag --modle; did you mean 'model'?"),
        (["train", TOY, "--gaem", "x"], "unknown flag --gaem; did you mean 'game'?"),
        (["train", TOY, "--config"], "--config needs a value"),
        (["train", TOY, "--config", "no.yaml"], "no.yaml: there is no such file"),
        (["config", "mairo"], "unknown METHOD 'mairo'; did you mean 'mario'?"),
        (["demo", "--method", "mairo"], "unknown --method 'mairo'; did you mean 'mario'?"),
        (["config", "demo", "--method", "mairo"], "unknown --method 'mairo'; did you mean"),
        (["plan", "demo", "--method", "mairo", "--dry-run"], "unknown --method 'mairo'; did you"),
        (["train", "no_such_file:toy"], "no module 'no_such_file' for the method"),
        (["train", f"{__name__}:dice"], "has no 'dice' for the method"),
        (["train", f"{__name__}:TOY"], "found str, expected a Method or a function"),
        (["train", f"{__name__}:nothing"], "expected (exp, policy, config, stage)"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_meant(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_in_a_file_exits_2(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("modle: a\n")
    assert main(["train", TOY, "--config", str(file)]) == 2
    assert f"{file}: unknown key 'modle'; did you mean 'model'?" in capsys.readouterr().err


CONFIGURED = [[name] for name in (*trained(), TOY)] + [["demo", "--method", name] for name in DEMOS]


@pytest.mark.parametrize("words", CONFIGURED, ids=" ".join)
def test_every_configuration_is_a_valid_file_and_is_explained(words, tmp_path, capsys):
    assert main(["config", *words, "--explain"]) == 0
    explained = capsys.readouterr().out
    file = tmp_path / "c.yaml"
    file.write_text(explained)
    assert main(["config", *words, "--config", str(file)]) == 0
    assert load_yaml(file) == load_yaml_text(capsys.readouterr().out, tmp_path)


COMMANDS = {**VERBS, **{name: command_of(name) for name in trained()}}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_of_every_configuration_has_a_docstring(name):
    cls = COMMANDS[name].config()
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


def test_what_has_a_runs_folder_takes_another_number_of_processes(tmp_path, capsys):
    flags = ["--questions", "builtin", "--dry-run"]
    out = ["--model", "default", "--out", str(tmp_path / "run")]
    assert main(["evaluate", *flags, *out, "--world-size-may-change"]) == 0
    assert main(["sample", *flags, "--model", "default", "--world-size-may-change"]) == 2
    assert "world-size-may-change" in capsys.readouterr().err
