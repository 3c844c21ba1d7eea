"""Self-motivated Learning, from end to end."""

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path

import pytest
import torch
from toys import experiment, question

from rationalize import train
from rationalize.config.flags import merge
from rationalize.errors import UsageError
from rationalize.methods import METHODS
from rationalize.methods.base import Learned, NothingToLearn
from rationalize.methods.launch import settings_of, tokens_of
from rationalize.methods.own_attempts import SelectConfig, WriteConfig, pass_rates
from rationalize.methods.ppo import PpoConfig
from rationalize.methods.self_motivated import (
    SelfMotivatedConfig,
    improve,
    rank,
    self_motivated,
)
from rationalize.methods.self_training import RftConfig, self_training
from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers.reward_model import RewardModelConfig, learn_rank
from rationalize.models.policy import load_policy
from rationalize.questions import load_questions, load_splits
from rationalize.rewards import Reward, RewardSuite
from rationalize.rewards.correctness import correctness
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts
from rationalize.training.loop import FitConfig, HeadFitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8)
SLOW = FitConfig(learning_rate=1e-4, batch_size=8)
HEAD_FIT = HeadFitConfig(learning_rate=3e-3, batch_size=8)
SETTINGS = settings_of(METHODS["self-motivated"])


def short(n):
    return SamplingConfig(n=n, max_new_tokens=24)


CONFIG = SelfMotivatedConfig(
    rft=RftConfig(
        write=WriteConfig(sampling=short(8)), seed_rationales=12, seed_epochs=40, epochs=6,
        evaluations=1, fit=FIT, select=SelectConfig(dedupe="exact", positives=0),
    ),
    redraw=short(4),
    rm=RewardModelConfig(epochs=2, held_out=0.25, gate=0.0, gate_masked=0.0, fit=HEAD_FIT),
    ppo=PpoConfig(
        updates=4, prompts=6, epochs=2, evaluate_every=2, stop_kl=1e9, epoch_kl=1e9, beta=0.01,
        fit=dataclasses.replace(
            HEAD_FIT, learning_rate=1e-3, batch_size=16, schedule="constant"
        ),
        sampling=short(4),
    ),
    modes=("z",),
)  # fmt: skip
"""For a base model that knows nothing."""

HALF_RIGHT = dataclasses.replace(
    CONFIG,
    rft=dataclasses.replace(
        CONFIG.rft, seed_rationales=0, epochs=1, fit=SLOW, select=SelectConfig(dedupe="none"),
        write=WriteConfig(shots=0, sampling=short(4)),
    ),
)  # fmt: skip
"""For a model which writes and is right half the time."""


def start(out, config, model, questions, **changes):
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    run = {"model": model, "questions": questions, "precision": "float32"}
    train("self-motivated", out, **{**values, **run, **changes})


def experiment_on(path, model, questions, **facts):
    splits = load_splits(questions)
    facts.setdefault("evaluation", SamplingConfig(temperature=0.0, max_new_tokens=24))
    config = RunConfig(
        model=model, questions=questions, precision="float32", tuning=facts.pop("tuning", "full")
    )
    return experiment(
        path, splits["train"], splits["dev"], policy=load_policy(model), config=config, **facts
    )


# Settings


def test_replies_are_judged_at_the_length_at_which_attempts_are_written():
    assert tokens_of(SelfMotivatedConfig()) == 256
    long = RftConfig(write=WriteConfig(sampling=SamplingConfig(max_new_tokens=400)))
    assert tokens_of(SelfMotivatedConfig(rft=long)) == 400


@pytest.mark.parametrize(
    "flag",
    ["rft.seed", "rm.model", "ppo.limits", "rm.attempts", "rm.select.min_words", "ppo.mode",
     "redraw.shots", "redraw.hints"],
)  # fmt: skip
def test_what_has_no_effect_cannot_be_named(flag):
    with pytest.raises(UsageError, match="unknown flag"):
        merge(SETTINGS, None, [f"--{flag}", "3"], method="self-motivated")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"modes": ("x",)}, "expected some of rm, z"), ({"modes": ()}, "expected some of rm, z"),
     ({"rounds": 0}, "rounds is 0")],
)  # fmt: skip
def test_settings_that_make_no_run_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(CONFIG, **changes)


# The whole


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_stage_and_mode_on_a_tiny_model(half_right, tuning, tmp_path, capsys):
    config = dataclasses.replace(HALF_RIGHT, modes=("z", "rm", "rm+z"))
    rft = dataclasses.replace(config.rft, fit=FitConfig(learning_rate=1e-4))
    config = dataclasses.replace(config, rft=rft)  # the rate of full tuning, by default
    start(tmp_path / "run", config, *half_right, tuning=tuning)
    assert ("--preset lora" in capsys.readouterr().err) is (tuning == "lora")
    run = Run.read(tmp_path / "run")
    for stage in ("round0-sft-round0", "ppo-z-round0", "ppo-rm-round0", "ppo-rm-z-round0"):
        assert run.done(stage) is not None, stage
    gate = run.read_json("round0-gate.json")
    assert gate["open"]
    assert 0 <= gate["pair_accuracy_masked"] <= 1
    assert (tmp_path / "run/model/config.json").exists()


class Loaded:
    """A policy of which is known what it was loaded with last."""

    now = "base"

    def load_weights(self, folder):
        self.now = folder


def scripted_rounds(tmp_path, monkeypatch, modes, scores):
    """Three rounds at 12 development questions with the given development accuracy of each PPO:
    what each started from, by its stage, and the policy and what it is at the end.
    """
    turns, begun, policy = iter(scores), {}, Loaded()

    def imitated(exp, policy, config, stage):
        policy.load_weights(f"M_sft of {stage.name}")
        return Learned(policy, policy.now)

    def improved(exp, policy, config, stage):
        begun[stage.name] = policy.now
        stage.once(lambda: {"scores": {"4": next(turns)}})
        policy.load_weights(stage.name)
        return Learned(policy, stage.name)

    patches = {"self_training": imitated, "rank": lambda exp, *_, **__: exp.start}
    for name, patch in (patches | {"improve": improved}).items():
        monkeypatch.setattr(f"rationalize.methods.self_motivated.{name}", patch)
    run_config, dev = RunConfig(tuning="full"), [question(i) for i in range(12)]
    exp = experiment(tmp_path / "run", [], dev, config=run_config)
    config = SelfMotivatedConfig(modes=modes, rounds=3)
    learned = self_motivated(exp, policy, config, exp.stage("self-motivated"))
    assert learned.weights == policy.now
    return begun, policy.now


def test_every_mode_starts_from_m_sft(tmp_path, monkeypatch):
    begun, _ = scripted_rounds(tmp_path, monkeypatch, ("z", "rm", "rm+z"), [0.5, 0.7, 0.6] * 2)
    assert begun == {
        f"ppo-{mode}-round{round}": f"M_sft of round{round}-sft"
        for round in (0, 1)
        for mode in ("z", "rm", "rm-z")
    }


@pytest.mark.parametrize(
    ("scores", "rounds", "kept"),
    [
        ((0.5, 0.6, 0.8), 2, 1), ((0.5, 0.7, 0.8), 3, 2), ((0.5, 0.4, 0.8), 2, 0),
        ((0.1, 0.3, 0.2), 3, 1),
    ],
)  # fmt: skip
def test_rounds_end_when_one_brings_less_than_a_standard_error(
    scores, rounds, kept, tmp_path, monkeypatch
):
    """Of a share of 12 questions: .144."""
    begun, now = scripted_rounds(tmp_path, monkeypatch, ("z",), scores)
    assert list(begun) == [f"ppo-z-round{round}" for round in range(rounds)]
    assert now == f"ppo-z-round{kept}"


def test_a_closed_gate_stops_the_reward_models_arms_alone(half_right, tmp_path, capsys):
    rm = dataclasses.replace(CONFIG.rm, gate=1.1, held_out=0.5)
    start(tmp_path / "run", HALF_RIGHT, *half_right, rm=rm, modes=("z", "rm"))
    run = Run.read(tmp_path / "run")
    assert run.done("ppo-z-round0") is not None
    assert run.done("ppo-rm-round0") is None
    assert "below the gate of 1.1" in run.read_json("round0-gate.json")["reason"]
    assert "PPO with rm is left out" in capsys.readouterr().err
    start(tmp_path / "only", HALF_RIGHT, *half_right, rm=rm, modes=("rm",))
    results = json.loads((tmp_path / "only/results.json").read_text())  # the command ends well
    assert "RFT" in results["methods"]


def test_mode_z_needs_no_reward_model(tiny_model, mostly_yes, tmp_path):
    start(tmp_path / "run", CONFIG, tiny_model, mostly_yes)
    assert not (tmp_path / "run/scorers").exists()
    assert not (tmp_path / "run/round0-gate.json").exists()


def test_a_worse_round_does_not_replace_a_better_one(half_right, tmp_path):
    turns = iter(range(100))

    def falling(completions, **_):
        return [1.0 - 0.01 * next(turns)] * len(completions)

    suite = RewardSuite([correctness(), Reward("falling", falling, cacheable=False)])
    exp = experiment_on(tmp_path / "run", *half_right, suite=suite)
    ppo = dataclasses.replace(CONFIG.ppo, select_by="falling")
    config = dataclasses.replace(HALF_RIGHT, ppo=ppo, rounds=3)
    policy = exp.load_policy()
    learned = self_motivated(exp, policy, config, exp.stage("self-motivated"))
    assert exp.run.done("ppo-z-round1") is not None
    assert exp.run.done("ppo-z-round2") is None  # round 1 brought nothing
    assert learned.weights == tmp_path / "run/policies/ppo-z-round0"
    assert learned.trained == {"ppo-z-round0": ("correctness",)}
    kept, best = policy.model.state_dict(), load_policy(learned.weights).model.state_dict()
    assert all(torch.equal(kept[name], best[name]) for name in best)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_rows_of_an_experiment_go_on_from_each_other(half_right, tuning, tmp_path, monkeypatch):
    """RFT, its rank, PPO in each mode: by what each leaves, without its policy."""
    exp = experiment_on(tmp_path / "run", *half_right, tuning=tuning)
    config = dataclasses.replace(HALF_RIGHT, modes=("z", "rm"))

    def after(learned):
        return dataclasses.replace(exp, start=dataclasses.replace(learned, policy=None))

    m_sft = self_training(exp, exp.load_policy(), config.rft, exp.stage("seed0-sft"))
    ranked_exp = after(m_sft)
    policy = exp.load_policy(m_sft.weights)
    learned_from = []

    def learn(policy, data, *given, **named):
        learned_from.append(data)
        return learn_rank(policy, data, *given, **named)

    monkeypatch.setattr("rationalize.methods.self_motivated.learn_rank", learn)
    ranked = rank(ranked_exp, policy, config.ranking, exp.stage("seed0"))
    [data] = learned_from
    assert {a.id for a in data.attempts} == {a.id for a in [*m_sft.store, *ranked.attempts]}
    assert data.scale_on == ranked.attempts
    assert (len(m_sft.store), len(ranked.attempts), len(ranked.store)) == (24 * 4, 24 * 4, 24 * 8)
    assert ranked.reward_model == tmp_path / "run/scorers/seed0-reward-model"
    assert (ranked.closed, ranked.weights) == ("", m_sft.weights)
    first, now = load_policy(m_sft.weights).model, policy.model
    now = now.merge_and_unload() if tuning == "lora" else now  # M_sft again after the rank
    assert all(torch.equal(first.state_dict()[n], t) for n, t in now.state_dict().items())
    for mode, rewards in (("z", ("correctness",)), ("rm", ("reward_model",))):
        stage = exp.stage(f"ppo-{mode}-seed0")
        policy = exp.load_policy(ranked.weights)
        improved = improve(after(ranked), policy, config.ppo.in_mode(mode), stage)
        assert improved.trained == {f"ppo-{mode}-seed0": rewards}
        assert improved.policy is policy
        assert not improved.attempts  # they are M_sft's
        asked = {
            a.question_id for k in range(4) for a in exp.run.read_shard(f"{stage.name}-update{k}")
        }
        assert asked == {id for id, rate in pass_rates(ranked.attempts).items() if 0 < rate < 1}
    closed = dataclasses.replace(ranked, closed="below the gate")
    with pytest.raises(NothingToLearn, match="below the gate"):
        improve(after(closed), policy, config.ppo.in_mode("rm"), exp.stage("other"))
    with pytest.raises(UsageError, match="start it from RFT's row"):
        rank(exp, policy, config.ranking, exp.stage("other"))


def sampled_accuracy(folder, questions):
    test = load_questions(questions, "test")
    policy, drawn = load_policy(folder), SamplingConfig(n=32, max_new_tokens=24)
    attempts = write_attempts(Sampler(policy), test, drawn, Provenance("test", 3))
    return sum(a.prediction == "yes" for a in attempts) / len(attempts)


def test_held_out_accuracy_rises_over_sft(half_right, tmp_path):
    model, questions = half_right
    exp = experiment_on(tmp_path / "run", *half_right, evaluation=short(8))  # greedy says yes
    ppo = dataclasses.replace(CONFIG.ppo, updates=8, prompts=12, evaluate_every=4)
    rft = dataclasses.replace(HALF_RIGHT.rft, write=WriteConfig(shots=0, sampling=short(8)))
    config = dataclasses.replace(HALF_RIGHT, ppo=ppo, rft=rft)
    self_motivated(exp, exp.load_policy(), config, exp.stage("self-motivated"))
    base = sampled_accuracy(model, questions)
    sft = sampled_accuracy(tmp_path / "run/policies/round0-sft-round0", questions)
    learned = sampled_accuracy(tmp_path / "run/policies/ppo-z-round0", questions)
    assert 0.2 < base < 0.8
    assert sft < 0.9
    assert learned > sft + 0.05


# Kills


class Killed(Exception):
    pass


def assert_same(one, other, files):
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


RESUMED = dataclasses.replace(HALF_RIGHT, modes=("rm+z",))


@pytest.fixture(scope="module")
def whole(half_right, tmp_path_factory):
    """The folder of a run without a kill, by its tuning; each is made once."""

    @functools.cache
    def made(tuning):
        out = tmp_path_factory.mktemp("whole") / tuning
        start(out, RESUMED, *half_right, tuning=tuning, checkpoint_every=0.0)
        return out

    return made


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_killed_anywhere_a_run_ends_the_same(tuning, half_right, whole, tmp_path, monkeypatch):
    """Killed between and within stages: the same weights, the same reward model."""
    settings = {"tuning": tuning, "checkpoint_every": 0.0}
    real, steps = torch.optim.AdamW.step, {"n": 0}

    def step(*args, **options):
        steps["n"] += 1
        if steps["n"] % 6 == 0:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        for _ in range(60):
            try:
                start(tmp_path / "killed", RESUMED, *half_right, **settings)
                break
            except Killed:
                pass
    assert steps["n"] > 12
    assert_same(
        tmp_path / "killed", whole(tuning),
        [
            "policies/round0-sft-round0/model.safetensors",
            "scorers/round0-reward-model/scalar_head.safetensors",
            "policies/ppo-rm-z-round0/model.safetensors",
        ],
    )  # fmt: skip


def test_killed_where_something_is_stored_a_run_ends_the_same(
    half_right, whole, tmp_path, monkeypatch
):
    """Killed when attempts are drawn, between their file and its entry in the manifest, and between
    the saved reward model and the mark that it is done: once at each such place.
    """
    shards = ("round0-sft-writer-dev", "round0-sft-round0-writes", "round0-redraws")
    killed: list[str] = []

    def once(place):
        if place not in killed:
            killed.append(place)
            raise Killed

    def replace(fresh, path, real=os.replace):
        name = Path(path).stem
        if name in shards:
            once(f"before {name}")
        if name == "stages" and '"round0-reward-model"' in Path(fresh).read_text():
            once("mark of the reward model")
        real(fresh, path)
        if name in shards:
            once(f"after {name}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        for _ in range(8):
            with contextlib.suppress(Killed):
                start(tmp_path / "killed", RESUMED, *half_right, checkpoint_every=0.0)
    places = [f"{when} {shard}" for shard in shards for when in ("before", "after")]
    assert killed == [*places, "mark of the reward model"]
    assert_same(
        tmp_path / "killed", whole("full"),
        [
            "attempts/manifest.json", "scorers/round0-reward-model/reward_model.json",
            "scorers/round0-reward-model/scalar_head.safetensors",
            "policies/ppo-rm-z-round0/model.safetensors",
        ],
    )  # fmt: skip
