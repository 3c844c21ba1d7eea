"""The whole pipeline with a tiny model: every stage, a report, a second start that has no work."""

import json
from dataclasses import replace

import pytest
from tiny import tiny_folder

from rationalize import demo
from rationalize.config import to_dict
from rationalize.errors import UserError
from rationalize.evaluation.baselines import BASE, FEW_SHOT, MAJORITY
from rationalize.methods import DEMOS
from rationalize.methods.experiment import DIRECT, SFT
from rationalize.methods.filt_acc import FiltAccConfig
from rationalize.methods.grpo import GdpoConfig
from rationalize.methods.launch import settings_of
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.sft import SftConfig, StartConfig
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig
from rationalize.methods.train_scorers.verifier import VerifierConfig
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import ControlFitConfig, FitConfig

FIT = FitConfig(learning_rate=1e-3, batch_size=4)
CONTROL_FIT = ControlFitConfig(learning_rate=1e-3, batch_size=4)
SHORT = SamplingConfig(max_new_tokens=8)
SETTINGS = {
    "questions": "builtin:train=16,dev=4,test=4,unseen=2",
    "methods": ("filt-acc", "mario", "product", "gdpo"), "seeds": (0, 1), "shots": 1,
    "evaluation_tokens": 8, "precision": "float32",
    "direct": StartConfig(epochs=0.5, fit=FIT),
    "sft": SftConfig(epochs=0.5, evaluations=1, fit=FIT),
    "filt_acc": FiltAccConfig(steps=2, sample_interval=1, prompts=4, fit=FIT, sampling=SHORT),
    "mario": MarioConfig(
        steps=2, sample_interval=1, prompts=4, bins=2, fit=CONTROL_FIT, sampling=SHORT
    ),
    "gdpo": GdpoConfig(updates=1, prompts=2, fit=FIT, sampling=replace(SHORT, n=2)),
    "train_answer_scorer": AnswerScorerConfig(epochs=0.5, fit=FIT),
    "train_verifier": VerifierConfig(epochs=0.5, fit=FIT),
}  # fmt: skip


def test_the_demo_end_to_end(tmp_path, capsys):
    settings = {**SETTINGS, "model": str(tiny_folder("decoder", tmp_path / "tiny", chat=True))}
    out = tmp_path / "run"
    demo("mario", out, **settings)
    results = json.loads((out / "results.json").read_text())
    floor = {MAJORITY, BASE, FEW_SHOT, DIRECT, SFT}
    # where an earlier policy was kept, the last one has a row of its own
    rows = {name for name in results["methods"] if not name.endswith(", last policy")}
    assert rows == floor | {"FILT-ACC", "MaRio", "PRODUCT", "GDPO"}
    cell = results["methods"]["MaRio"]["splits"]["test"]
    assert cell["seeds"] == [0, 1]
    for metric in ("accuracy", "nrg", "consistency", "plausibility", "diversity"):
        row = cell["metrics"][metric]
        assert row["low"] <= row["mean"] <= row["high"]
        assert (row["n"], len(row["seeds"])) == (4, 2)
    pairs = {(c["a"], c["b"]) for c in results["comparisons"]}
    assert {("MaRio", SFT), ("FILT-ACC", SFT), ("MaRio", "FILT-ACC")} <= pairs
    rewards = {"consistency", "correctness", "plausibility", "diversity", "product"}
    assert {r["reward"] for r in results["obedience"]} >= rewards
    assert "<html" in (out / "report.html").read_text()
    assert (out / "model" / "config.json").exists()
    assert "\n# GDPO, from " in (out / "model" / "README.md").read_text()

    run = Run.read(out)
    held_out = {a.question_id for a in run.attempts() if a.split in ("test", "unseen")}
    learned = {a.question_id for a in run.attempts(split="train")}
    assert held_out
    assert learned
    assert not held_out & learned

    shown = capsys.readouterr().out
    assert "accuracy" in shown
    demo("mario", out, **settings)
    assert "is done" in capsys.readouterr().out


def test_a_row_that_finds_nothing_to_learn_is_left_out_of_the_demo(tmp_path, capsys):
    settings = {
        **SETTINGS, "model": str(tiny_folder("decoder", tmp_path / "tiny")), "seeds": (0,),
        "methods": ("mario", "filt-acc"),
        # of its own attempts alone, none of which is right
        "filt_acc": replace(SETTINGS["filt_acc"], teacher="none"),
        "mario": replace(SETTINGS["mario"], token_questions=0),
    }  # fmt: skip
    demo("mario", tmp_path / "run", **settings)
    assert "FILT-ACC is left out: nothing to learn from" in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "MaRio" in results["methods"]
    assert "FILT-ACC" not in results["methods"]
    assert "\n# MaRio, from " in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize("variant", ["classic", "product"])
def test_a_reward_of_ones_own_goes_through_the_demo(variant, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from rationalize.rewards import Reward\n\n\n"
        "def score(rationale, **_):\n    return [1 / (1 + len(r.split())) for r in rationale]\n\n\n"
        "brief = Reward('brief', score, range=(0.0, 1.0))\n"
    )
    monkeypatch.chdir(tmp_path)
    mine = replace(SETTINGS["mario"], rewards=("correctness", "mine:brief"), variant=variant)
    demo("mario", tmp_path / "run", **{
        **SETTINGS, "model": str(tiny_folder("decoder", tmp_path / "tiny", chat=True)),
        "methods": ("mario", "only-mine:brief"), "seeds": (0,), "mario": mine,
    })  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"MaRio", "MaRio, mine:brief alone"} <= set(results["methods"])


def test_another_configuration_is_refused(tmp_path):
    settings = {**SETTINGS, "model": str(tiny_folder("decoder", tmp_path / "tiny", chat=True))}
    stored = settings_of(DEMOS["mario"])(**settings, seed=7)
    Run.open(tmp_path / "run", {"method": "demo", **to_dict(stored)})
    with pytest.raises(UserError, match="seed"):
        demo("mario", tmp_path / "run", **settings)


@pytest.mark.parametrize("name", DEMOS)
def test_a_few_shot_row_without_demonstrations_is_refused(name):
    with pytest.raises(UserError, match="shots is 0; expected at least 1"):
        settings_of(DEMOS[name])(shots=0)
