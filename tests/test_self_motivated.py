"""Self-motivated Learning and its neighbours, from end to end."""

import dataclasses
import json

import pytest
from tiny import tiny_folder
from toys import told_apart

from rationalize.errors import UsageError
from rationalize.methods.expert_iteration import (
    RftConfig,
    StarConfig,
    steps_in,
    train_rft,
    train_star,
)
from rationalize.methods.iterative_dpo import IterativeDpoConfig, pairs_of, train_iterative_dpo
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
)
from rationalize.methods.ppo import PpoConfig
from rationalize.methods.reward_model import (
    RewardModelConfig,
    rank_attempts,
)
from rationalize.methods.self_motivated import SelfMotivatedConfig, train_self_motivated
from rationalize.models.policy import load_policy
from rationalize.questions import load_questions
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import write_attempts
from rationalize.training.loop import FitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8, precision="float32", checkpoint_every=0.0)


RM = RewardModelConfig(epochs=12, held_out=0.25, fit=dataclasses.replace(FIT, batch_size=8))


# Neighbours


def test_stars_step_budget():
    assert [steps_in(r, 99, StarConfig()) for r in range(8)] == [40, 48, 57, 69, 82, 99, 119, 143]
    assert steps_in(1, 16, RftConfig(epochs=2, growth=1.5, fit=FIT)) == 6


def test_dpo_pairs_are_the_reward_models():
    questions, attempts = told_apart(3)
    by_id = {q.id: q for q in questions}
    pairs = pairs_of(attempts, by_id, IterativeDpoConfig())
    assert len(pairs) == sum(len(r.pairs) for r in rank_attempts(attempts, by_id, RM)) == 6
    for pair in pairs:
        assert pair.prompt.endswith("Explain, then answer.")
        assert ("(A)" in pair.chosen, "(B)" in pair.rejected) == (True, True)


# The whole


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("decoder", tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The answer is mostly "yes", which the warm-up's few rationales do not say."""
    folder = tmp_path_factory.mktemp("questions")
    rows = {
        split: [
            {
                "id": f"{split}{i}", "question": f"{split[:2]} {i}?", "answer": "yes",
                "choices": ["yes", "no"], "rationales": ["a b c d e f."],
            }
            for i in range(n)
        ]
        for split, n in (("train", 24), ("dev", 6), ("test", 6))
    }  # fmt: skip
    for split, own in rows.items():
        if split == "train":
            for row in own[:12:2]:
                row["answer"] = "no"
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in own))
    return str(folder)


def settings(model, questions, **changes):
    write = WriteConfig(sampling=SamplingConfig(n=8, max_new_tokens=24))
    kept = RftConfig(
        write=write, warm_up=12, warm_up_epochs=40, epochs=6, evaluations=1, fit=FIT,
        select=SelectConfig(dedupe="exact", positives=0),
    )  # fmt: skip
    ppo = PpoConfig(
        updates=4, prompts=6, epochs=2, evaluate_every=2, stop_kl=1e9, epoch_kl=1e9, beta=0.01,
        fit=dataclasses.replace(FIT, learning_rate=1e-3, batch_size=16, schedule="constant"),
        sampling=SamplingConfig(n=4, max_new_tokens=24),
    )  # fmt: skip
    config = SelfMotivatedConfig(
        model=model, questions=questions, kept=kept, ppo=ppo, modes=("z",),
        redraw=WriteConfig(shots=0, sampling=SamplingConfig(n=4, max_new_tokens=24)),
        rm=dataclasses.replace(RM, epochs=2, gate=0.0, gate_masked=0.0),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_stage_and_mode_on_a_tiny_model(model, questions, tuning, tmp_path):
    config = settings(model, questions, modes=("z", "rm", "rm+z"), tuning=tuning)
    if tuning == "lora":  # an adapter takes larger steps
        fit = dataclasses.replace(FIT, learning_rate=2e-2)
        config = dataclasses.replace(config, kept=dataclasses.replace(config.kept, fit=fit))
    train_self_motivated(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    for stage in ("round0-sft-round0", "ppo-z-round0", "ppo-rm-round0", "ppo-rm-z-round0"):
        assert run.done(stage) is not None, stage
    gate = run.read_json("round0-gate.json")
    assert gate["open"]
    assert 0 <= gate["pair_accuracy_masked"] <= 1
    assert (tmp_path / "run/model/config.json").exists()
    with pytest.raises(UsageError, match="expected some of rm, z"):
        dataclasses.replace(config, modes=("x",))


def test_a_closed_gate_stops_the_reward_models_arms_alone(model, questions, tmp_path, capsys):
    config = settings(model, questions, modes=("z", "rm"), rm=dataclasses.replace(RM, gate=1.1))
    train_self_motivated(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.done("ppo-z-round0") is not None
    assert run.done("ppo-rm-round0") is None
    assert "below the gate of 1.1" in run.read_json("round0-gate.json")["reason"]
    assert "PPO with rm is left out" in capsys.readouterr().err
    only = settings(model, questions, modes=("rm",), rm=dataclasses.replace(RM, gate=1.1))
    train_self_motivated(only, tmp_path / "only")
    assert (tmp_path / "only/results.json").exists()  # the command ends well


def test_mode_z_loads_no_reward_model(model, questions, tmp_path, monkeypatch):
    from rationalize.methods import self_motivated

    monkeypatch.setattr(self_motivated.RewardModel, "load", lambda *_: pytest.fail("loaded"))
    train_self_motivated(settings(model, questions), tmp_path / "run")
    assert not (tmp_path / "run/scorers").exists()


@pytest.mark.parametrize(
    ("train", "config", "name"),
    [(train_star, StarConfig, "STaR"), (train_rft, RftConfig, "RFT")],
)  # fmt: skip
def test_star_and_rft_end_to_end(train, config, name, model, questions, tmp_path):
    write = WriteConfig(hints="failed" if name == "STaR" else "off",
                        sampling=SamplingConfig(n=4, max_new_tokens=24))  # fmt: skip
    own = config(
        model=model, questions=questions, write=write, warm_up=12, warm_up_epochs=40, rounds=2,
        first_steps=60, evaluations=1, fit=FIT, select=SelectConfig(dedupe="none", positives=0),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    train(own, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    lines = [m for m in run.metrics() if m["stage"].endswith("/coverage")]
    assert len(lines) == 2
    assert all(0 < line["pass_rate"] < 1 for line in lines)
    kept = run.read_json(f"{name.lower()}-rounds.json")
    assert kept["dev_accuracy"][kept["kept"]] == max(kept["dev_accuracy"].values())
    assert name in run.read_json("results.json")["methods"]


def test_iterative_dpo_end_to_end(model, questions, tmp_path):
    config = IterativeDpoConfig(
        model=model, questions=questions, rounds=2, sft_epochs=60.0, sft_fit=FIT,
        write=WriteConfig(sampling=SamplingConfig(n=8, max_new_tokens=24)),
        fit=dataclasses.replace(FIT, learning_rate=3e-4),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    train_iterative_dpo(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.done("dpo") is not None
    [first, *_] = run.metrics("dpo-round0")
    assert first["dpo"] == pytest.approx(0.693147, abs=1e-5)


def sampled_accuracy(folder, questions):
    test = load_questions(questions, "test")
    attempts = write_attempts(
        Sampler(load_policy(folder)), test, SamplingConfig(n=32, max_new_tokens=24), split="test",
        seed=3,
    )  # fmt: skip
    return sum(a.prediction == "yes" for a in attempts) / len(attempts)


def test_held_out_accuracy_rises_over_sft(half_right, tmp_path):
    model, questions = half_right
    config = settings(model, questions)
    slow = dataclasses.replace(FIT, learning_rate=1e-4)
    write = dataclasses.replace(config.kept.write, shots=0)
    kept = dataclasses.replace(config.kept, warm_up=0, epochs=1, fit=slow, write=write)
    ppo = dataclasses.replace(config.ppo, updates=8, prompts=12, evaluate_every=4)
    train_self_motivated(dataclasses.replace(config, ppo=ppo, kept=kept), tmp_path / "run")
    base = sampled_accuracy(model, questions)
    sft = sampled_accuracy(tmp_path / "run/policies/round0-sft-round0", questions)
    learned = sampled_accuracy(tmp_path / "run/policies/ppo-z-round0", questions)
    assert 0.2 < base < 0.8
    assert sft < 0.9
    assert learned > sft + 0.05


def test_killed_anywhere_a_run_ends_the_same(model, questions, tmp_path, monkeypatch):
    """Killed between and within stages: the same weights, the same reward model."""
    from rationalize.training import loop

    config = settings(model, questions, modes=("rm+z",))
    short = dataclasses.replace(config.kept, warm_up_epochs=20, epochs=3)
    config = dataclasses.replace(config, kept=short)
    train_self_motivated(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    real, calls = loop._save, {"n": 0}

    def save(*args):
        real(*args)
        calls["n"] += 1
        if calls["n"] % 11 == 0:
            raise Killed

    monkeypatch.setattr(loop, "_save", save)
    for _ in range(40):
        try:
            train_self_motivated(config, tmp_path / "killed")
            break
        except Killed:
            pass
    assert calls["n"] > 33
    for file in (
        "policies/round0-sft-round0/model.safetensors",
        "scorers/round0-reward-model/scalar_head.safetensors",
        "policies/ppo-rm-z-round0/model.safetensors",
    ):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
