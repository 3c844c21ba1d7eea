"""Each method on a toy task: a held-out number improves, and a killed run ends in the same bits."""

import dataclasses
import hashlib

import pytest
import torch
from tiny import tiny_policy

from rationalize.errors import UserError
from rationalize.evaluation.obedience import obedience
from rationalize.methods.common import restore_or
from rationalize.methods.expert_iteration import ExpertIterationConfig, expert_iteration
from rationalize.methods.mario import MarioConfig, mario
from rationalize.methods.sft import SftConfig, sft
from rationalize.records import Question
from rationalize.rewards import RewardSuite, load_rewards
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.training.loop import FitConfig

WORDS = ("ice", "sand", "wood", "stone", "grass", "glass", "clay", "mud", "wool", "silk")
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=40)
FIT = FitConfig(learning_rate=3e-3, batch_size=16, precision="float32", checkpoint_every=0.0)
SFT = SftConfig(epochs=100, evaluations=1, fit=FIT, evaluation_sampling=GREEDY)
MARIO = MarioConfig(
    rewards=("correctness", "diversity"), bins=2, steps=60, sample_interval=30, obedience="none",
    select_by="diversity", fit=dataclasses.replace(FIT, control_factor=3.0),
    evaluation_sampling=GREEDY, sampling=SamplingConfig(temperature=1.0, max_new_tokens=40),
)  # fmt: skip
FILTER = ExpertIterationConfig(
    steps=60, sample_interval=30, fit=FIT, evaluation_sampling=GREEDY,
    sampling=SamplingConfig(temperature=1.0, max_new_tokens=40),
)  # fmt: skip


def toy(words):
    """Every question has one clean and one repetitive rationale: the fault that diversity sees."""
    return [
        Question(
            id=w, question=f"{w}?", answer="yes", choices=("yes", "no"),
            rationales=("a b c d e f.", "so so so so so so."),
            extra={"teacher_answers": ("yes", "yes")},
        )
        for w in words
    ]  # fmt: skip


TRAIN, DEV = toy(WORDS[:8]), toy(WORDS[8:])


def suite():
    return RewardSuite(load_rewards(["correctness", "diversity"]))


def weights(policy):
    digest = hashlib.sha256()
    for _, tensor in sorted(policy.model.state_dict().items()):
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


EPOCHS = {"decoder": 100, "t5": 200}


@pytest.fixture(scope="module")
def sft_folder(tmp_path_factory):
    """An SFT model of each kind, trained once."""
    made = {}

    def folder(kind):
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            policy = tiny_policy(kind)
            config = dataclasses.replace(SFT, epochs=EPOCHS[kind])
            sft(policy, TRAIN, DEV, config, Run.open(path / "run", {}), "sft")
            policy.save(path / "model")
            made[kind] = path / "model"
        return made[kind]

    return folder


def taught(kind, sft_folder):
    policy = tiny_policy(kind)
    policy.load_weights(sft_folder(kind))
    return policy


def mean_diversity(policy, control):
    by_id = {q.id: q for q in DEV}
    attempts = suite().score(
        write_attempts(
            Sampler(policy),
            DEV,
            SamplingConfig(max_new_tokens=40, n=16),
            Provenance("dev", 5),
            PromptOptions(control=control),
        ),
        by_id,
    )
    return sum(a.rewards["diversity"] for a in attempts) / len(attempts)


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_mario_raises_the_held_out_reward_and_obeys(kind, sft_folder, tmp_path):
    policy = taught(kind, sft_folder)
    before = mean_diversity(policy, None)
    assert 0.1 < before < 0.9  # SFT imitates both kinds of rationale
    run = Run.open(tmp_path / "mario", {})
    mario(policy, suite(), TRAIN, DEV, MARIO, run, "mario")
    assert mean_diversity(policy, {"correctness": 0, "diversity": 0}) > before + 0.05
    rows = obedience(
        Sampler(policy),
        suite(),
        DEV,
        SamplingConfig(max_new_tokens=40, n=16),
        bins={"diversity": [0, 1], "correctness": [0]},
        split="dev",
        seed=3,
    )
    best, worst, _ = rows
    assert best["mean"] > worst["mean"] + 0.2
    assert worst["gap"]["mean"] == pytest.approx(best["mean"] - worst["mean"])


def test_filter_raises_held_out_accuracy(sft_folder, tmp_path):
    policy = taught("decoder", sft_folder)
    by_id = {q.id: q for q in DEV}
    sampling = SamplingConfig(max_new_tokens=40, n=16)

    def reward(seed):
        attempts = suite().score(
            write_attempts(Sampler(policy), DEV, sampling, Provenance("dev", seed)), by_id
        )
        return sum(a.rewards["diversity"] for a in attempts) / len(attempts)

    before = reward(1)
    config = dataclasses.replace(
        FILTER, filters={"diversity": 0.9}, select_by="diversity", teacher="none"
    )
    expert_iteration(policy, suite(), TRAIN, DEV, config, Run.open(tmp_path / "run", {}), "filt")
    assert reward(1) > before + 0.05


def test_a_question_asked_twice_gets_two_draws(tmp_path):
    policy = tiny_policy("decoder")
    sampling = SamplingConfig(max_new_tokens=20)
    once, twice = write_attempts(Sampler(policy), [DEV[0], DEV[0]], sampling, Provenance("dev", 0))
    assert once.id != twice.id
    assert once.completion != twice.completion


def test_additive_selects_only_what_was_trained_under_every_token(sft_folder, tmp_path):
    policy = taught("decoder", sft_folder)
    run = Run.open(tmp_path / "mario", {})
    config = dataclasses.replace(MARIO, variant="additive", steps=40, sample_interval=20)
    mario(policy, suite(), TRAIN, DEV, config, run, "mario")
    assert run.done("mario")["step"] == 40  # at 20 only one of the two tokens was trained


def test_a_user_reward_and_a_filter_beside_the_rewards(sft_folder, tmp_path, monkeypatch):
    from rationalize.methods.mario import named_as_loaded

    (tmp_path / "mine.py").write_text(
        "def brief(completions, **_):\n    return [1 / (1 + len(c.split())) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    policy = taught("decoder", sft_folder)
    rewards = RewardSuite(load_rewards(["correctness", "diversity", "mine:brief"]))
    config = dataclasses.replace(
        MARIO, rewards=("correctness", "mine:brief"), filters={"diversity": 0.05}, steps=4,
        sample_interval=4,
        select_by="accuracy",
    )  # fmt: skip
    own = named_as_loaded(config, rewards)
    assert own.rewards == ("correctness", "brief")
    run = Run.open(tmp_path / "mario", {})
    mario(policy, rewards, TRAIN, DEV, own, run, "mario")
    assert {r["reward"] for r in run.metrics("mario/bins")} == {"correctness", "brief"}
    assert run.metrics("mario/pool")[0]["written"] == 24


@pytest.mark.parametrize(
    "wrong",
    [
        {"select_by": "repetition"},
        {"groups": (1,)},
        {"bins_of": {"brief": 3}},
        {"variant": "additive", "interval": 60},
    ],
)
def test_wrong_settings_are_refused_before_anything_is_paid_for(wrong):
    from rationalize.errors import UsageError

    with pytest.raises(UsageError, match="mario"):
        dataclasses.replace(MARIO, **wrong)


def test_a_kill_while_the_end_is_written_loses_nothing(tmp_path, monkeypatch):
    from tiny import tiny_folder

    from rationalize.methods.mario import train_mario
    from rationalize.methods.setup import Setup

    config = dataclasses.replace(
        MARIO, model=str(tiny_folder("decoder", tmp_path / "tiny")),
        rewards=("correctness", "diversity"), steps=4, sample_interval=2,
        questions="builtin:train=12,dev=4,test=4,unseen=4", sft_epochs=0.5, sft_fit=FIT,
        sampling=SamplingConfig(max_new_tokens=8),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=8),
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Setup, "conclude", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train_mario(config, tmp_path / "run")
    train_mario(config, tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists()


class Killed(Exception):
    pass


def killing(monkeypatch, at):
    """Raise in the middle of optimiser step `at`, as a kill would stop it."""
    import rationalize.training.loop as loop

    real, seen = loop._optimise, {"n": 0}

    def optimise(*args):
        if seen["n"] == at:
            raise Killed
        seen["n"] += 1
        return real(*args)

    monkeypatch.setattr(loop, "_optimise", optimise)


@pytest.mark.parametrize(
    ("kind", "at"), [("decoder", 0), ("decoder", 13), ("decoder", 20), ("t5", 31)]
)
def test_a_killed_mario_run_ends_in_the_same_bits(kind, at, sft_folder, tmp_path, monkeypatch):
    config = dataclasses.replace(
        MARIO, beta=0.05, obedience="ends", steps=36, sample_interval=18, obedience_questions=1
    )

    def learn(path):
        policy = taught(kind, sft_folder)
        run = Run.open(path, {})
        restore_or(
            run, "mario", policy, lambda: mario(policy, suite(), TRAIN, DEV, config, run, "mario")
        )
        return weights(policy), run.metrics("mario")

    whole = learn(tmp_path / "whole")
    with monkeypatch.context() as patch:
        killing(patch, at)
        with pytest.raises(Killed):
            learn(tmp_path / "killed")
    assert learn(tmp_path / "killed") == whole


def test_lora_keeps_no_second_model_and_learns(tmp_path):
    policy = tiny_policy("decoder", tuning="lora")
    run = Run.open(tmp_path / "sft", {})
    sft(
        policy,
        TRAIN,
        DEV,
        dataclasses.replace(SFT, epochs=20, fit=dataclasses.replace(FIT, learning_rate=1e-2)),
        run,
        "sft",
    )
    before = mean_diversity(policy, None)
    parameters = sum(p.numel() for p in policy.model.parameters())
    run = Run.open(tmp_path / "mario", {})
    config = dataclasses.replace(MARIO, fit=dataclasses.replace(MARIO.fit, learning_rate=1e-2))
    mario(policy, suite(), TRAIN, DEV, config, run, "mario")
    assert sum(p.numel() for p in policy.model.parameters()) < 1.2 * parameters
    assert mean_diversity(policy, {"correctness": 0, "diversity": 0}) > before


def test_questions_without_right_rationales_are_refused(tmp_path):
    wrong = [dataclasses.replace(q, extra={"teacher_answers": ("no", "no")}) for q in TRAIN]
    with pytest.raises(UserError, match="no training question has a teacher rationale"):
        sft(tiny_policy("decoder"), wrong, DEV, SFT, Run.open(tmp_path, {}), "sft")


def test_of_many_teacher_rationales_the_first_are_taken(tmp_path):
    import json

    from rationalize.methods.common import load_method_splits
    from rationalize.sampling.writing import teacher_attempts

    row = {
        "id": "q", "question": "Why?", "choices": ["yes", "no"], "answer": "yes",
        "rationales": ["a", "b", "c"],
        "rationales_wrong": [{"rationale": w, "predicted": "no"} for w in "xyz"],
    }  # fmt: skip
    for split in ("train", "dev", "test"):
        own = {**row, "id": split, "question": f"{split}?"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(own) + "\n")
    for limit, right, every in ((0, "abc", "abcxyz"), (2, "ab", "abxy")):
        config = SftConfig(questions=str(tmp_path), teacher_limit=limit)
        train = load_method_splits(config)["train"]
        for which, expected in (("correct", right), ("all", every)):
            found = [a.rationale.rstrip(".") for a in teacher_attempts(train, which)]
            assert "".join(found) == expected
