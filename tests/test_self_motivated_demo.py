"""The demo of Self-motivated Learning on a tiny model: every row, and a page that shows it."""

import dataclasses
import json

import pytest

from rationalize import demo
from rationalize.errors import UsageError
from rationalize.evaluation.compare import read_run
from rationalize.methods.demos.self_motivated import PPO_ROWS, SelfMotivatedDemoConfig
from rationalize.methods.own_attempts import WriteConfig
from rationalize.methods.sft import StartConfig
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig, HeadFitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8)
HEAD_FIT = HeadFitConfig(learning_rate=3e-3, batch_size=8)


def small(config, **changes):
    return dataclasses.replace(config, **changes)


def test_every_row_is_on_the_page(half_right, tmp_path):
    model, questions = half_right
    d = SelfMotivatedDemoConfig()
    sampling = SamplingConfig(n=4, max_new_tokens=24)
    slow = small(FIT, learning_rate=1e-4)
    settings = {
        "model": model, "questions": questions, "precision": "float32", "evaluation_tokens": 24,
        "methods": ("star", "dpo", *(f"ppo-{mode}" for mode in PPO_ROWS)), "shots": 1,
        "direct": StartConfig(epochs=1.0, fit=FIT), "redraw": sampling,
        "rft": small(d.rft, seed_rationales=2, seed_epochs=1, epochs=1, fit=slow,
                     write=WriteConfig(sampling=sampling)),
        "rm": small(d.rm, gate=0.0, gate_masked=0.0, fit=HEAD_FIT),
        "ppo": small(d.ppo, updates=1, prompts=4, fit=HEAD_FIT,
                     sampling=SamplingConfig(n=2, max_new_tokens=8)),
        "star": small(d.star, rounds=1, seed_rationales=2, seed_epochs=1, first_steps=8, fit=slow,
                      write=small(d.star.write, sampling=sampling)),
        "dpo": small(d.dpo, fit=FIT, levels=3),
    }  # fmt: skip
    demo("self-motivated", tmp_path / "run", **settings)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {
        "SFT on 2 seed rationales", "RFT (M_sft)", "RFT, majority of 4",
        "RFT, best of 4 by reward model", "STaR", "iterative DPO", "PPO, z", "PPO, rm",
        "PPO, rm+z",
    } <= set(results["methods"])  # fmt: skip
    for name, row in results["methods"].items():
        measured = row["splits"]["test"]["metrics"]
        writes = name not in ("majority answer", "direct fine-tune")
        assert ("reward_model" in measured) is writes, name
    assert {row["k"] for row in results["votes"]} == {1, 2, 4}
    found = read_run(tmp_path / "run").attempts
    assert len({a.id for a in found["RFT, majority of 4"]["test"][0]}) == 12  # for `compare`
    assert results["rollouts"]
    assert {row["method"] for row in results["trained"]} >= {"RFT (M_sft)", "STaR", "PPO, z"}
    for stage in {s for row in results["trained"] for s in row["stages"]}:
        own = [r for r in results["rounds"] if r["method"] == stage and r["reward"] == "accuracy"]
        assert len(own) >= 2  # before and after: what a verdict needs
    assert results["coverage"]
    assert all(n > 0 for n in results["meta"]["tokens_written"].values())
    page = (tmp_path / "run/report.html").read_text()
    for title in (
        "Reinforcement learning, update by update",
        "Choosing among attempts",
        "Own attempts",
    ):
        assert title in page
    demo("self-motivated", tmp_path / "run", **settings)  # says that it is done


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected some of star"):
        SelfMotivatedDemoConfig(methods=("ppo",))
