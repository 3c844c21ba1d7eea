"""Each method on a toy task: a held-out number improves, and a killed run ends in the same bits."""

import dataclasses
import json

import pytest
import torch
from tiny import tiny_folder, tiny_policy, weights
from toys import experiment

from rationalize import train
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.obedience import obedience, token_metrics
from rationalize.methods import METHODS
from rationalize.methods.base import evaluate_on_dev
from rationalize.methods.filt_acc import FiltAccConfig, filt_acc
from rationalize.methods.mario import mario
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.settings import RunConfig
from rationalize.methods.sft import SftConfig, StartConfig, sft, steps_for
from rationalize.records import Question
from rationalize.rewards import RewardSuite, load_rewards
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, teacher_attempts, write_attempts
from rationalize.training.loop import ControlFitConfig, FitConfig

WORDS = ("ice", "sand", "wood", "stone", "grass", "glass", "clay", "mud", "wool", "silk")
FIT = FitConfig(learning_rate=3e-3, batch_size=16)
SFT = SftConfig(epochs=100, evaluations=1, fit=FIT)
SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=40)
MARIO = MarioConfig(
    rewards=("correctness", "diversity"), bins=2, steps=40, sample_interval=20, token_questions=0,
    select_by="diversity", sampling=SAMPLING,
    fit=ControlFitConfig(learning_rate=3e-3, batch_size=16, control_factor=3.0),
)  # fmt: skip
FILTER = FiltAccConfig(steps=40, sample_interval=20, fit=FIT, sampling=SAMPLING)


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


def toy_experiment(path, train=TRAIN, **facts):
    return experiment(path, train, DEV, **facts)


EPOCHS = {"decoder": 100, "t5": 200}


@pytest.fixture(scope="module")
def sft_folder(tmp_path_factory):
    """An SFT model of each kind, trained once."""
    made = {}

    def folder(kind):
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            policy = tiny_policy(kind)
            exp = toy_experiment(path / "run")
            sft(exp, policy, dataclasses.replace(SFT, epochs=EPOCHS[kind]), exp.stage("sft"))
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
    exp = toy_experiment(tmp_path / "mario")
    mario(exp, policy, MARIO, exp.stage("mario"))
    assert mean_diversity(policy, {"correctness": 0, "diversity": 0}) > before + 0.05
    rows = obedience(
        Sampler(policy),
        suite(),
        DEV,
        SamplingConfig(max_new_tokens=40, n=16),
        Provenance("dev", 3),
        bins={"diversity": [0, 1], "correctness": [0]},
        metrics=token_metrics(suite(), ["diversity", "correctness"]),
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
    exp = toy_experiment(tmp_path / "run")
    filt_acc(exp, policy, config, exp.stage("filt"))
    assert reward(1) > before + 0.05


def test_a_question_asked_twice_gets_two_draws(tmp_path):
    policy = tiny_policy("decoder")
    sampling = SamplingConfig(max_new_tokens=20)
    once, twice = write_attempts(Sampler(policy), [DEV[0], DEV[0]], sampling, Provenance("dev", 0))
    assert once.id != twice.id
    assert once.completion != twice.completion


def test_additive_selects_only_what_was_trained_under_every_token(sft_folder, tmp_path):
    policy = taught("decoder", sft_folder)
    exp = toy_experiment(tmp_path / "mario")
    config = dataclasses.replace(MARIO, variant="additive", steps=40, sample_interval=20)
    mario(exp, policy, config, exp.stage("mario"))
    assert exp.stage("mario").done["step"] == 40  # at 20 only one of the two tokens was trained
    written = [line["written"] for line in exp.stage("mario").metrics("pool")]
    assert written == [24, 8]  # the teacher's two samples a question enter once


def test_a_checkpoint_is_selected_as_it_will_be_asked(sft_folder, tmp_path, monkeypatch):
    guided = {}

    def recorded(*args, step, asked=None, **options):
        guided[step] = asked.guidance if asked else 0.0
        return evaluate_on_dev(*args, step=step, asked=asked, **options)

    monkeypatch.setattr("rationalize.methods.mario.evaluate_on_dev", recorded)
    exp = toy_experiment(tmp_path / "mario")
    config = dataclasses.replace(MARIO, guidance=1.0, steps=2, sample_interval=1)
    mario(exp, taught("decoder", sft_folder), config, exp.stage("mario"))
    assert guided == {0: 0.0, 1: 1.0, 2: 1.0}


def test_a_user_reward_and_a_filter_beside_the_rewards(sft_folder, tmp_path, monkeypatch):
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
    exp = toy_experiment(tmp_path / "mario", suite=rewards)
    stage = exp.stage("mario")
    mario(exp, policy, config, stage)
    assert {r["reward"] for r in stage.metrics("bins")} == {"correctness", "brief"}
    # a filter selects what is learned from, so its reward is not held out
    learned_from = METHODS["mario"].learned_from(config)
    assert learned_from == ("correctness", "mine:brief", "diversity")
    assert stage.metrics("pool")[0]["written"] == 24


@pytest.mark.parametrize(
    "wrong",
    [
        {"select_by": "repetition"},
        {"entries": (0,)},
        {"entries": (1, 2)},
        {"variant": "additive", "entries": (0, 60)},
    ],
)
def test_wrong_settings_are_refused_before_anything_is_paid_for(wrong):
    with pytest.raises(UsageError, match="mario"):
        dataclasses.replace(MARIO, **wrong)


def test_passes_that_stand_for_steps_are_as_many_steps():
    fit = FitConfig(batch_size=8)
    for rows in range(50, 400):
        config = SftConfig(epochs=600 * 8 / rows, fit=fit)
        assert steps_for([("", "")] * rows, config) == 600


def test_an_answer_alone_has_room_for_the_longest_gold_one(tmp_path):
    policy, short = tiny_policy(), Question("a", "Which?", "yes", ("yes", "no"))
    long = Question("b", "What?", "the stone is heavier than the leaf, which falls slowly")
    for n, (questions, expected) in enumerate(
        [([short], 8), ([short, long], len(policy.encode_response(long.answer)))]
    ):
        exp = experiment(tmp_path / str(n), questions, policy=policy)
        assert exp.sampling("answer").max_new_tokens == expected


def test_a_kill_while_the_end_is_written_loses_nothing(tmp_path):
    def start():
        train(
            "mario", out, model=str(tiny_folder("decoder", tmp_path / "tiny")),
            rewards=("correctness", "diversity"), steps=4, sample_interval=2, bins=2,
            questions="builtin:train=12,dev=4,test=4,unseen=4", select_by="diversity",
            sft=StartConfig(epochs=0.5, fit=FIT), fit=MARIO.fit, token_questions=0,
            sampling=SamplingConfig(max_new_tokens=8), precision="float32", checkpoint_every=0.0,
        )  # fmt: skip

    out = tmp_path / "run"
    (out / "report.html").mkdir(parents=True)  # the page cannot be written
    with pytest.raises(OSError, match=r"report\.html"):
        start()
    (out / "report.html").rmdir()
    learned = Run.read(out).metrics("mario")
    start()
    assert Run.read(out).metrics("mario") == learned  # nothing was learned again
    assert (out / "results.json").exists()
    assert (out / "report.html").is_file()
    assert (out / "model" / "README.md").exists()


class Killed(Exception):
    pass


def killing(monkeypatch, at):
    """Raise in the middle of optimiser step `at`, as a kill would stop it."""
    real, seen = torch.optim.AdamW.step, {"n": 0}

    def step(self, *args, **options):
        if seen["n"] == at:
            raise Killed
        seen["n"] += 1
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


RESUMED = dataclasses.replace(MARIO, beta=0.05, steps=24, sample_interval=12, token_questions=1)


@pytest.mark.parametrize(("kind", "kills"), [("decoder", (0, 9, 14)), ("t5", (21,))])
def test_a_killed_mario_run_ends_in_the_same_bits(kind, kills, sft_folder, tmp_path, monkeypatch):
    def learn(name):
        policy = taught(kind, sft_folder)
        exp = toy_experiment(tmp_path / name, checkpoint_every=0.0)
        mario(exp, policy, RESUMED, exp.stage("mario"))
        return weights(policy), exp.stage("mario").metrics()

    whole = learn("whole")
    for at in kills:
        with monkeypatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                learn(f"killed{at}")
        assert learn(f"killed{at}") == whole


def test_lora_keeps_no_second_model_and_learns(tmp_path):
    policy = tiny_policy("decoder", tuning="lora")
    exp = toy_experiment(tmp_path / "run")
    fit = dataclasses.replace(FIT, learning_rate=1e-2)
    sft(exp, policy, dataclasses.replace(SFT, epochs=20, fit=fit), exp.stage("sft"))
    before = mean_diversity(policy, None)
    parameters = sum(p.numel() for p in policy.model.parameters())
    config = dataclasses.replace(MARIO, fit=dataclasses.replace(MARIO.fit, learning_rate=1e-2))
    mario(exp, policy, config, exp.stage("mario"))
    assert sum(p.numel() for p in policy.model.parameters()) < 1.2 * parameters
    assert mean_diversity(policy, {"correctness": 0, "diversity": 0}) > before


def test_questions_without_right_rationales_are_refused(tmp_path):
    wrong = [dataclasses.replace(q, extra={"teacher_answers": ("no", "no")}) for q in TRAIN]
    exp = toy_experiment(tmp_path, train=wrong)
    with pytest.raises(UserError, match="no training question has a teacher rationale"):
        sft(exp, tiny_policy("decoder"), SFT, exp.stage("sft"))


def test_of_many_teacher_rationales_the_first_are_taken(tmp_path):
    row = {
        "id": "q", "question": "Why?", "choices": ["yes", "no"], "answer": "yes",
        "rationales": ["a", "b", "c"],
        "rationales_wrong": [{"rationale": w, "predicted": "no"} for w in "xyz"],
    }  # fmt: skip
    for split in ("train", "dev", "test"):
        own = {**row, "id": split, "question": f"{split}?"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(own) + "\n")
    for limits, right, every in (({}, "abc", "abcxyz"), ({"rationales": 2}, "ab", "abxy")):
        splits = RunConfig(questions=str(tmp_path), limits=limits).load_splits()
        for which, expected in (("correct", right), ("all", every)):
            found = [a.rationale.rstrip(".") for a in teacher_attempts(splits["train"], which)]
            assert "".join(found) == expected
