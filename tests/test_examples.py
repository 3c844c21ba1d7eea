"""The examples run, with a tiny model, and show what they say."""

import dataclasses
import importlib
import json
import math
import runpy
import sys
from pathlib import Path

import pytest

from rationalize import (
    EvaluateConfig,
    FitConfig,
    Run,
    SamplingConfig,
    evaluate,
    train,
)
from rationalize.methods.sft import StartConfig
from rationalize.training.loop import ControlFitConfig, HeadFitConfig
from tests.loopback import replies, serving
from tests.tiny import tiny_folder, tiny_policy

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch):
    """As `python examples/x.py` finds its neighbours."""
    monkeypatch.syspath_prepend(EXAMPLES)


def example(name):
    return importlib.import_module(name)


def test_they_are_short():
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text().splitlines()) < 60


def test_score_rationales(capsys):
    module = example("score_rationales")
    dense, repeated, wrong = module.main(module.ROWS)
    assert [s["correctness"] for s in (dense, repeated, wrong)] == [1.0, 1.0, 0.0]
    assert repeated["diversity"] < dense["diversity"] == 1.0
    assert (dense["brevity"], wrong["brevity"]) == (1.0, 0.5)
    assert "A brick is denser than water." in capsys.readouterr().out


def test_score_rationales_as_a_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score_rationales.py"])
    runpy.run_path(str(EXAMPLES / "score_rationales.py"), run_name="__main__")
    assert capsys.readouterr().out.count("correctness") == 3


def test_mario_with_a_reward_of_ones_own(tmp_path):
    quick = {
        "model": str(tiny_folder("decoder", tmp_path / "tiny", chat=True)),
        "questions": "builtin:train=8,dev=4,test=4", "precision": "float32",
        "sft": StartConfig(epochs=4.0, fit=FitConfig(learning_rate=1e-3, batch_size=4)),
        "fit": ControlFitConfig(learning_rate=1e-3, batch_size=4), "steps": 2, "sample_interval": 1,
        "sampling": SamplingConfig(max_new_tokens=24), "evaluation_tokens": 8,
    }  # fmt: skip
    train("mario", tmp_path / "run", **{**example("mario_with_my_reward").SETTINGS, **quick})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"brevity", "correctness"} == {row["reward"] for row in results["obedience"]}
    assert "brevity" in results["methods"]["MaRio"]["splits"]["test"]["metrics"]
    attempts = Run.read(tmp_path / "run").attempts(split="train", round=1)
    assert {tuple(a.control) for a in attempts} == {("correctness", "brevity")}


def test_the_document_shows_the_method_as_it_is():
    page = (EXAMPLES.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = page.partition("## A method of your own")[2].split("```python\n")[1:]
    shown = [block.partition("```")[0] for block in blocks]
    assert shown
    assert all(block in (EXAMPLES / "shortest_right.py").read_text() for block in shown)


def test_ask_under_bins(capsys):
    policy = tiny_policy("decoder", chat=True)
    policy.add_controls({"correctness": 2, "brevity": 3})
    replies = example("ask_under_bins").main(policy)
    assert list(replies) == [
        "correctness=0, brevity=0",
        "correctness=1, brevity=0",
        "correctness=0, brevity=2",
    ]
    assert "->" in capsys.readouterr().out


def test_teacher_behind_a_server(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "sft.jsonl"
    with serving(answer=replies("It is so. So the answer is (A).")) as server:
        kept = example("teacher_behind_a_server").main(server.url, "big", "builtin", file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["completion"] for row in rows] == [a.completion for a in kept]
    assert {a.prediction == a.gold for a in kept} == {True}
    assert 0 < len(kept) < 8 * 4
    assert "8 answers, 56 prompt and 160 completion tokens" in capsys.readouterr().out


def test_compare_two_runs(tmp_path, capsys):
    model = str(tiny_folder("decoder", tmp_path / "tiny", chat=True))
    for name, temperature in (("greedy", 0.0), ("drawn", 1.0)):
        evaluate(
            EvaluateConfig(
                model=model, questions="builtin:train=8,dev=4,test=6", out=tmp_path / name,
                name=name, temperature=temperature, max_new_tokens=4,
            )
        )  # fmt: skip
    page = tmp_path / "page.html"
    results = example("compare_two_runs").main(tmp_path / "greedy", tmp_path / "drawn", page)
    pairs = {(row["a"], row["b"]) for row in results["comparisons"]}
    assert ("drawn", "greedy") in pairs
    assert all(math.isfinite(row["mean"]) for row in results["comparisons"])
    assert "drawn - greedy" in capsys.readouterr().out
    assert "majority answer" in page.read_text()


def test_learn_from_own_attempts(half_right, tmp_path, capsys):
    module = example("learn_from_own_attempts")
    model, questions = half_right
    rft, rm, ppo = (module.SETTINGS[name] for name in ("rft", "rm", "ppo"))
    sampling = SamplingConfig(n=8, max_new_tokens=24)
    head_fit = HeadFitConfig(learning_rate=1e-3, batch_size=8)
    quick = {
        "rft": dataclasses.replace(
            rft, seed_rationales=0, fit=FitConfig(learning_rate=1e-3, batch_size=8),
            write=dataclasses.replace(rft.write, shots=0, sampling=sampling),
        ),
        "redraw": sampling,
        "rm": dataclasses.replace(rm, gate=0.0, gate_masked=0.0, fit=head_fit),
        "ppo": dataclasses.replace(ppo, updates=1, fit=head_fit),
        "modes": ("rm+z",), "model": model, "questions": questions, "precision": "float32",
        "evaluation_tokens": 24,
    }  # fmt: skip
    train("self-motivated", tmp_path / "run", **{**module.SETTINGS, **quick})
    module.compare_two_rationales(tmp_path / "run", questions)
    assert "'right': " in capsys.readouterr().out


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(sources[0], names)
    model = tiny_folder("decoder", tmp_path / "tiny", chat=True)
    names |= {"MODEL": str(model), "QUESTIONS": "builtin:train=8,dev=4,test=4", "TOKENS": 8}
    for source in sources[1:]:
        exec(source, names)
    assert "the whole report: file:///" in capsys.readouterr().out
    assert all(not cell.get("outputs") for cell in cells)
