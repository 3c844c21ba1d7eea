"""Self-motivated Learning and its neighbours, from end to end."""

import contextlib
import dataclasses
import json

import pytest
import torch
from tiny import tiny_folder
from toys import GOOD, attempt, question, told_apart

from rationalize.config import from_dict, to_dict
from rationalize.errors import UsageError, UserError
from rationalize.flags import merge
from rationalize.methods.common import share
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
from rationalize.methods.self_motivated import (
    SelfMotivatedConfig,
    say_slow_rates,
    train_self_motivated,
)
from rationalize.methods.self_motivated_demo import SelfMotivatedDemoConfig
from rationalize.models.policy import load_policy
from rationalize.questions import load_questions
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts
from rationalize.training.loop import FitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8, precision="float32", checkpoint_every=0.0)


RM = RewardModelConfig(epochs=12, held_out=0.25, fit=dataclasses.replace(FIT, batch_size=8))


# Neighbours


def test_stars_step_budget():
    assert [steps_in(r, 99, StarConfig()) for r in range(8)] == [40, 48, 57, 69, 82, 99, 119, 143]
    assert steps_in(1, 16, RftConfig(epochs=2, growth=1.5, fit=FIT)) == 6


@pytest.mark.parametrize("config", [StarConfig, RftConfig, IterativeDpoConfig])
def test_replies_are_judged_at_the_length_at_which_they_are_written(config):
    assert config().evaluation_sampling == SamplingConfig(
        temperature=0.0, max_new_tokens=config().write.sampling.max_new_tokens
    )
    long = WriteConfig(sampling=SamplingConfig(max_new_tokens=400))
    assert config(write=long).evaluation_sampling.max_new_tokens == 400
    chosen = SamplingConfig(temperature=0.0, max_new_tokens=40)
    assert config(write=long, evaluation_sampling=chosen).evaluation_sampling == chosen


def test_what_is_nested_is_judged_at_its_runs_length():
    config = SelfMotivatedConfig(kept=RftConfig(write=WriteConfig(shots=0)))
    assert config.evaluation_sampling.max_new_tokens == 256
    for length in (256, 96):  # the nested ones' own defaults
        outer = SelfMotivatedConfig(
            kept=RftConfig(write=WriteConfig(sampling=SamplingConfig(max_new_tokens=length)))
        )
        nested = StarConfig(write=WriteConfig(sampling=SamplingConfig(max_new_tokens=24)))
        for own in (share(nested, outer), share(outer.kept, outer), share(outer.ppo, outer)):
            assert own.evaluation_sampling.max_new_tokens == length
    file = {"write": {"sampling": {"max_new_tokens": 400}}}
    assert from_dict(RftConfig, file).evaluation_sampling.max_new_tokens == 400
    again = from_dict(RftConfig, to_dict(RftConfig(write=WriteConfig())))
    assert again == RftConfig(write=WriteConfig())


def test_an_adapter_at_full_tunings_rates_is_pointed_to_the_preset(capsys):
    say_slow_rates(SelfMotivatedConfig(tuning="lora"))
    assert "--preset lora" in capsys.readouterr().err
    config = merge(SelfMotivatedConfig, None, ["--preset", "lora", "--rounds", "2"])
    say_slow_rates(config)
    assert capsys.readouterr().err == ""
    assert (config.tuning, config.rounds, config.kept.write.sampling.n) == ("lora", 2, 16)
    rates = [own.fit.learning_rate for own in (config.kept, config.rm, config.ppo)]
    assert rates == [2e-4, 1e-4, 1e-5]
    assert config.evaluation_sampling.max_new_tokens == 256


@pytest.mark.parametrize(
    ("flag", "value", "advice"),
    [
        ("--kept.seed", "3", "kept.seed has no effect in SelfMotivatedDemo; set seed"),
        ("--rm.model", "other", "rm.model has no effect in SelfMotivatedDemo; set model"),
        ("--ppo.dev_limit", "3", "set dev_limit"),
        ("--star.seed", "3", "star.seed has no effect"),
        ("--dpo.evaluation_sampling.max_new_tokens", "7", "set evaluation_sampling"),
        ("--rm.attempts", "a.jsonl", "rm.attempts has no effect"),
        ("--rm.select.min_words", "3", "set kept.select"),
        ("--ppo.mode", "z", "ppo.mode has no effect"),
        ("--sft.epochs", "3", "sft.epochs has no effect in SelfMotivatedDemo; leave it out"),
    ],
)
def test_what_a_nested_setting_cannot_change_is_refused(flag, value, advice, capsys):
    with pytest.raises((SystemExit, UsageError)) as error:
        merge(SelfMotivatedDemoConfig, None, [flag, value])
    said = capsys.readouterr()
    assert advice in " ".join(f"{error.value} {said.err} {said.out}".replace("│", " ").split())


def test_what_a_nested_setting_can_change_is_taken():
    asked = ["--kept.write.sampling.max_new_tokens", "64", "--star.rounds", "3"]
    asked += ["--kept.select.min_words", "3", "--rm.select.min_words", "3", "--seed", "2"]
    for positives in ("--kept.select.positives", "--rm.select.positives"):
        asked += [positives, "2"]
    config = merge(SelfMotivatedDemoConfig, None, asked)
    assert config.kept.write.sampling.max_new_tokens == 64
    assert config.evaluation_sampling.max_new_tokens == 64
    assert from_dict(SelfMotivatedDemoConfig, to_dict(config)) == config
    old = {"kept": {"evaluation_sampling": {"temperature": 0.0, "max_new_tokens": 64}}}
    assert from_dict(SelfMotivatedDemoConfig, old)  # as a file of an earlier version has it


def test_nothing_wrong_is_ever_chosen():
    q = question(0)
    attempts = [attempt(q, GOOD, "no"), attempt(q, "quite another way to put the same", None)]
    assert pairs_of(attempts, {q.id: q}, IterativeDpoConfig(levels=3)) == []
    attempts.append(attempt(q, "that is how they say it goes", "yes"))
    pairs = pairs_of(attempts, {q.id: q}, IterativeDpoConfig(levels=3))
    assert len(pairs) == 2
    assert all("(A)" in pair.chosen for pair in pairs)


def test_pairs_that_teach_nothing_take_no_place_under_the_cap():
    q = question(0)
    attempts = [attempt(q, f"{word} one is what they say", "yes") for word in "ab"]
    attempts += [attempt(q, f"{word} two is what they say", "no") for word in "cdef"]
    attempts += [attempt(q, f"{word} three is what they say", None) for word in "ghij"]
    config = IterativeDpoConfig(levels=3, pairs=10, select=SelectConfig(dedupe="none"))
    assert len(pairs_of(attempts, {q.id: q}, config)) == 10  # of 16, beside 16 wrong over unparsed


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    ("scores", "best"),
    [({0: 0.5, 1: 0.9, 2: 0.1}, "dpo-round0"), ({0: 0.5, 1: 0.5, 2: 0.1}, "dpo-start")],
)
def test_dpo_keeps_what_did_best(half_right, scores, best, tuning, tmp_path, monkeypatch):
    from rationalize.methods import iterative_dpo as module

    model, questions = half_right
    monkeypatch.setattr(module, "evaluate_on_dev", lambda *_, round, **__: scores[round])
    config = IterativeDpoConfig(
        model=model, questions=questions, rounds=2, init="model", tuning=tuning,
        write=WriteConfig(sampling=SamplingConfig(n=8, max_new_tokens=24)),
        select=SelectConfig(dedupe="none"), fit=dataclasses.replace(FIT, learning_rate=1e-4),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    train_iterative_dpo(config, tmp_path / "run")
    policies = tmp_path / "run/policies"
    first, last, kept = (
        load_policy(policies / name).model.state_dict() for name in (best, "dpo-round1", "dpo")
    )
    assert all(torch.equal(kept[name], first[name]) for name in kept)
    assert not all(torch.equal(kept[name], last[name]) for name in kept)


def test_a_worse_round_does_not_replace_a_better_one(model, questions, tmp_path, monkeypatch):
    from rationalize.methods import self_motivated as module

    scores = {"ppo-z-round0": 0.5, "ppo-z-round1": 0.2}
    monkeypatch.setattr(module, "best_score", lambda _, stage: scores[stage])
    config = settings(model, questions, rounds=3)
    train_self_motivated(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.done("ppo-z-round1") is not None
    assert run.done("ppo-z-round2") is None  # round 1 brought nothing
    kept, best = (
        load_policy(tmp_path / "run" / place).model.state_dict()
        for place in ("model", "policies/ppo-z-round0")
    )
    assert all(torch.equal(kept[name], best[name]) for name in kept)


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


def from_half_right(half_right, **changes):
    """Settings that start from a model which writes and is right half the time."""
    config = settings(*half_right, **changes)
    slow = dataclasses.replace(FIT, learning_rate=1e-4)
    write = dataclasses.replace(config.kept.write, shots=0)
    select = SelectConfig(dedupe="none")
    kept = dataclasses.replace(
        config.kept, warm_up=0, epochs=1, fit=slow, write=write, select=select
    )
    return dataclasses.replace(config, kept=kept)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_stage_and_mode_on_a_tiny_model(half_right, tuning, tmp_path, monkeypatch):
    from rationalize.methods import self_motivated as module

    told: list[SelfMotivatedConfig] = []
    monkeypatch.setattr(module, "say_slow_rates", told.append)
    config = from_half_right(half_right, modes=("z", "rm", "rm+z"), tuning=tuning)
    train_self_motivated(config, tmp_path / "run")
    assert told == [config] * (tuning == "lora")
    run = Run.read(tmp_path / "run")
    for stage in ("round0-sft-round0", "ppo-z-round0", "ppo-rm-round0", "ppo-rm-z-round0"):
        assert run.done(stage) is not None, stage
    gate = run.read_json("round0-gate.json")
    assert gate["open"]
    assert 0 <= gate["pair_accuracy_masked"] <= 1
    assert (tmp_path / "run/model/config.json").exists()
    with pytest.raises(UsageError, match="expected some of rm, z"):
        dataclasses.replace(config, modes=("x",))
    with pytest.raises(UsageError, match="mode has no effect"):
        dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, mode="z"))
    with pytest.raises(UsageError, match="sft_epochs has no effect"):
        dataclasses.replace(config, sft_epochs=1.0)


def test_a_closed_gate_stops_the_reward_models_arms_alone(model, questions, tmp_path, capsys):
    rm = dataclasses.replace(RM, gate=1.1, held_out=0.5)
    config = settings(model, questions, modes=("z", "rm"), rm=rm)
    train_self_motivated(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.done("ppo-z-round0") is not None
    assert run.done("ppo-rm-round0") is None
    assert "below the gate of 1.1" in run.read_json("round0-gate.json")["reason"]
    assert "PPO with rm is left out" in capsys.readouterr().err
    only = settings(model, questions, modes=("rm",), rm=rm)
    train_self_motivated(only, tmp_path / "only")
    assert (tmp_path / "only/results.json").exists()  # the command ends well


def test_mode_z_loads_no_reward_model(model, questions, tmp_path, monkeypatch):
    from rationalize.methods import self_motivated

    monkeypatch.setattr(self_motivated.RewardModel, "load", lambda *_, **__: pytest.fail("loaded"))
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


def test_a_writer_that_is_never_right_ends_with_figures_and_advice(model, questions, tmp_path):
    write = WriteConfig(shots=0, sampling=SamplingConfig(n=2, max_new_tokens=4))
    config = RftConfig(model=model, questions=questions, write=write, fit=FIT)
    with pytest.raises(UserError) as error:
        train_rft(config, tmp_path / "run")
    for said in (
        "48 attempts at 24 questions: 0.0% right, 100.0% without an answer", "Kept 0",
        "no attempt can be learned from", "warm_up",
    ):  # fmt: skip
        assert said in str(error.value)


def test_a_writer_that_never_answers_is_found_out_before_the_bill(model, half_right, tmp_path):
    write = WriteConfig(shots=0, sampling=SamplingConfig(n=2, max_new_tokens=4))
    config = RftConfig(model=model, questions=half_right[1], write=write, fit=FIT)
    with pytest.raises(UserError, match=r"12 development questions(.|\n)*warm_up"):
        train_rft(config, tmp_path / "run")
    assert not Run.read(tmp_path / "run").attempts(split="train")


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
        Sampler(load_policy(folder)), test, SamplingConfig(n=32, max_new_tokens=24),
        Provenance("test", 3),
    )  # fmt: skip
    return sum(a.prediction == "yes" for a in attempts) / len(attempts)


def test_held_out_accuracy_rises_over_sft(half_right, tmp_path):
    model, questions = half_right
    config = from_half_right(half_right)
    ppo = dataclasses.replace(config.ppo, updates=8, prompts=12, evaluate_every=4)
    drawn = SamplingConfig(n=8, max_new_tokens=24)  # greedy says yes already
    config = dataclasses.replace(config, ppo=ppo, evaluation_sampling=drawn)
    train_self_motivated(config, tmp_path / "run")
    base = sampled_accuracy(model, questions)
    sft = sampled_accuracy(tmp_path / "run/policies/round0-sft-round0", questions)
    learned = sampled_accuracy(tmp_path / "run/policies/ppo-z-round0", questions)
    assert 0.2 < base < 0.8
    assert sft < 0.9
    assert learned > sft + 0.05


class Killed(Exception):
    pass


def killed_again_and_again(train, config, folder, monkeypatch, every):
    """Start a run that is killed at every so many checkpoints, until it ends."""
    from rationalize.training import loop

    real, calls = loop._save, {"n": 0}

    def save(*args):
        real(*args)
        calls["n"] += 1
        if calls["n"] % every == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save)
        for _ in range(60):
            try:
                train(config, folder)
                break
            except Killed:
                pass
    assert calls["n"] > 2 * every


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_killed_anywhere_a_run_ends_the_same(tuning, half_right, tmp_path, monkeypatch):
    """Killed between and within stages: the same weights, the same reward model."""
    config = from_half_right(half_right, modes=("rm+z",), tuning=tuning)
    train_self_motivated(config, tmp_path / "whole")
    killed_again_and_again(train_self_motivated, config, tmp_path / "killed", monkeypatch, 5)
    for file in (
        "policies/round0-sft-round0/model.safetensors",
        "scorers/round0-reward-model/scalar_head.safetensors",
        "policies/ppo-rm-z-round0/model.safetensors",
    ):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_killed_where_something_is_stored_a_run_ends_the_same(half_right, tmp_path, monkeypatch):
    """Killed while attempts are drawn, between their file and its entry in the manifest, and
    between the saved reward model and the mark that it is done: once at each such place.
    """
    from rationalize import runs
    from rationalize.methods import own_attempts as module

    config = from_half_right(half_right, modes=("rm",))
    train_self_motivated(config, tmp_path / "whole")
    killed: list[str] = []

    def once(place, known):
        if known and place not in killed:
            killed.append(place)
            raise Killed

    def write(sampler, questions, sampling, provenance, *args, **options):
        found = write_attempts(sampler, questions, sampling, provenance, *args, **options)
        once(f"draw {provenance.writer}", True)
        return found

    def save(attempts, path, real=runs.save_attempts):
        real(attempts, path)
        once(f"file {path.name}", path.stem.endswith(("-writes", "-redraws", "-writer-dev")))

    def finish(run, stage, real=Run.finish, **facts):
        once(f"mark {stage}", stage.endswith("reward-model"))
        real(run, stage, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_attempts", write)
        patch.setattr(runs, "save_attempts", save)
        patch.setattr(Run, "finish", finish)
        for _ in range(8):
            with contextlib.suppress(Killed):
                train_self_motivated(config, tmp_path / "killed")
    shards = ("round0-sft-writer-dev", "round0-sft-round0-writes", "round0-redraws")
    places = [
        f"{at} {shard}{end}" for shard in shards for at, end in (("draw", ""), ("file", ".parquet"))
    ]
    assert killed == [*places, "mark round0-reward-model"]
    for file in (
        "attempts/manifest.json", "scorers/round0-reward-model/reward_model.json",
        "scorers/round0-reward-model/scalar_head.safetensors",
        "policies/ppo-rm-round0/model.safetensors",
    ):  # fmt: skip
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_killed_star_and_dpo_end_the_same(model, questions, tmp_path, monkeypatch):
    write = WriteConfig(sampling=SamplingConfig(n=4, max_new_tokens=24))
    evaluation = SamplingConfig(temperature=0.0, max_new_tokens=24)
    star = StarConfig(
        model=model, questions=questions, rounds=2, warm_up=12, warm_up_epochs=40, first_steps=60,
        write=dataclasses.replace(write, hints="failed"), fit=FIT, evaluation_sampling=evaluation,
    )  # fmt: skip
    dpo = IterativeDpoConfig(
        model=model, questions=questions, rounds=2, sft_epochs=60.0, sft_fit=FIT, write=write,
        select=SelectConfig(dedupe="exact"), fit=dataclasses.replace(FIT, learning_rate=3e-4),
        evaluation_sampling=evaluation,
    )  # fmt: skip
    for name, train, config in (
        ("star", train_star, star), ("dpo", train_iterative_dpo, dpo),
    ):  # fmt: skip
        whole, killed = tmp_path / name, tmp_path / f"{name}-killed"
        train(config, whole)
        killed_again_and_again(train, config, killed, monkeypatch, 13)
        file = "model/model.safetensors"
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
