"""A method of a user's own is a command: help, config, resume, report, ask, compare."""

import dataclasses
import json
from pathlib import Path

import pytest

from rationalize.cli import main
from rationalize.config import load_yaml
from rationalize.errors import UsageError
from rationalize.methods import Method, method_named

EXAMPLES = Path(__file__).parents[1] / "examples"
NAME = "shortest_right:shortest_right"


@pytest.fixture
def beside_the_example(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)


def settings(half_right, out):
    model, questions = half_right
    return [
        "train", NAME, "--model", model, "--questions", questions, "--out", str(out),
        "--rounds", "1", "--sft.epochs", "0", "--sampling.max-new-tokens", "24",
        "--learning.epochs", "2", "--learning.fit.learning-rate", "3e-3", "--precision", "float32",
    ]  # fmt: skip


def test_its_settings_stand_beside_the_runs(beside_the_example, capsys):
    assert main(["config", NAME]) == 0
    Path("c.yaml").write_text(capsys.readouterr().out)
    shown = load_yaml("c.yaml")
    assert (shown["rounds"], shown["seed"], shown["sft"]["epochs"]) == (2, 0, 2.0)
    assert main(["train", NAME, "--config", "c.yaml", "--rounds", "3", "--dry-run"]) == 0
    assert "rounds: 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", NAME, "--help"])
    assert "How often the policy writes and learns." in " ".join(capsys.readouterr().out.split())


def test_it_learns_resumes_and_is_compared(beside_the_example, half_right, tmp_path, capsys):
    argv = settings(half_right, tmp_path / "short")
    assert main(argv) == 0
    results = json.loads((tmp_path / "short/results.json").read_text())
    test = results["methods"]["shortest right"]["splits"]["test"]["metrics"]
    [kept] = [a for a in results["trained"] if a["method"] == "shortest right"]
    assert kept["rewards"] == ["correctness"]
    rounds = [row for row in results["rounds"] if row["reward"] == "accuracy"]
    assert test["accuracy"]["mean"] >= 0.5
    assert rounds

    before = (tmp_path / "short/metrics.jsonl").read_bytes()
    assert main(argv) == 0  # nothing is left to do
    assert (tmp_path / "short/metrics.jsonl").read_bytes() == before
    assert main([*argv, "--rounds", "2"]) == 1  # another configuration
    assert "rounds: 1 in the run, 2 asked for" in capsys.readouterr().err

    page = tmp_path / "side.html"
    assert main(["compare", str(tmp_path / "short"), "--out", str(page)]) == 0
    assert "shortest right" in page.read_text()
    assert main(["ask", "ab 1?", "--model", str(tmp_path / "short"), "--choices", "yes", "no"]) == 0
    assert "answer: " in capsys.readouterr().out


def test_a_bare_function_is_a_method(tmp_path, monkeypatch):
    (tmp_path / "bare_method.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Config:\n    rounds: int = 1\n    '''Rounds.'''\n"
        "def do_nothing(exp, policy, config: Config, stage):\n    '''Leave it.'''\n"
        "    return policy\n"
        "def wrong(policy, config: Config):\n    return policy\n"
    )
    monkeypatch.chdir(tmp_path)
    method = method_named("bare_method:do_nothing")
    assert (method.label, method.about, method.start) == ("do nothing", "Leave it", "model")
    assert dataclasses.is_dataclass(method.config)
    with pytest.raises(UsageError, match=r"expected \(exp, policy, config, stage\)"):
        method_named("bare_method:wrong")
    with pytest.raises(UsageError, match="no module 'nowhere' for the method"):
        method_named("nowhere:method")


def test_an_installed_package_offers_its_method_by_an_entry_point(tmp_path, monkeypatch):
    package = tmp_path / "other_package-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[rationalize.methods]\nshortest = {NAME}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    assert isinstance(method_named("shortest"), Method)
    assert main(["train", "shortest", "--dry-run"]) == 0
