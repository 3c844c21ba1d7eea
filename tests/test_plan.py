"""What a plan says a run will do is what the run does; what it prices by is measured or figures."""

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

from rationalize import train
from rationalize.cli import main
from rationalize.errors import UsageError
from rationalize.evaluation.baselines import MAJORITY
from rationalize.methods import DEMOS, METHODS, method_named
from rationalize.methods.launch import checked, settings_of
from rationalize.methods.ppo import PpoConfig
from rationalize.methods.self_motivated import SelfMotivatedConfig
from rationalize.methods.self_training import RftConfig
from rationalize.methods.settings import RunConfig
from rationalize.methods.work.parts import MODELS, Learns, Reads, Stores, Writes
from rationalize.methods.work.scene import Lengths
from rationalize.planning.calibrate import calibrate
from rationalize.planning.machines import machine_named, roofline
from rationalize.planning.memory import Holders, disk_bytes, peak_bytes
from rationalize.planning.plan import duration, group_of
from rationalize.planning.runs import scene_of, work_of
from rationalize.planning.speeds import Measured, Sizes, Speeds
from rationalize.questions import load_questions
from rationalize.runs import Run
from rationalize.runs.clock import TIMES, timed
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.loop import ControlFitConfig, FitConfig, HeadFitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8)
SHORT = SamplingConfig(max_new_tokens=8, n=2)
SHORT_OF_FOUR = replace(SHORT, n=4)


def planned(name, right=0.5, **values):
    """The work of a method's settings."""
    what = DEMOS[name] if name in DEMOS and "methods" in values else method_named(name)
    known = checked(settings_of(what)(**values))
    at = scene_of(known, "full", Lengths(), right)
    return list(work_of(what, name, known, at)), at


def counted(work):
    """Steps, and replies that a run stores, by the lines of a plan."""
    steps, replies = Counter(), Counter()
    for one in work:
        if isinstance(one, Learns):
            steps[group_of(one.stage)] += one.steps
        elif isinstance(one, Writes) and "/" not in one.stage and one.stage != MODELS:  # not stored
            replies[group_of(one.stage)] += one.replies
    return dict(steps), {k: v for k, v in replies.items() if v}


def done(folder):
    run, steps, replies = Run.read(folder), Counter(), Counter()
    for line in run.metrics():
        steps[group_of(line["stage"])] += "loss" in line
    for shard in run.read_json("attempts/manifest.json"):
        if "last-policy" in shard:  # only where an earlier one was kept
            continue
        written = [a for a in run.read_shard(shard) if a.writer not in ("teacher", MAJORITY)]
        replies[group_of(shard)] += len(written)
    return {k: v for k, v in steps.items() if v}, {k: v for k, v in replies.items() if v}


def test_mario_does_what_its_plan_says(half_right, tmp_path):
    model, questions = half_right
    settings = {
        "model": model, "questions": questions, "rewards": ("correctness", "diversity"),
        "steps": 4, "sample_interval": 2, "prompts": 6, "token_questions": 3, "bins": 2,
        "fit": ControlFitConfig(learning_rate=1e-4, batch_size=4), "sampling": SHORT,
        "precision": "float32", "evaluation_tokens": 8,
    }  # fmt: skip
    train("mario", tmp_path / "run", **settings)
    assert counted(planned("mario", **settings)[0]) == done(tmp_path / "run")


def test_self_motivated_learning_does_what_its_plan_says(half_right, tmp_path):
    model, questions = half_right
    sampling = replace(SHORT, max_new_tokens=40)
    ppo = PpoConfig(
        updates=2, prompts=4, epochs=1, evaluate_every=1, dev_draws=3, sampling=sampling,
        fit=HeadFitConfig(learning_rate=1e-5, batch_size=4, schedule="constant"),
    )  # fmt: skip
    config = SelfMotivatedConfig(
        rft=RftConfig(seed_rationales=8, seed_epochs=1.0, evaluations=1, fit=FIT,
                      write=replace(RftConfig().write, sampling=sampling)),
        redraw=sampling, ppo=ppo, modes=("z",),
    )  # fmt: skip
    settings = {**{k: getattr(config, k) for k in ("rft", "redraw", "ppo", "modes")},
                "model": model, "questions": questions, "precision": "float32",
                "evaluation_tokens": 40}  # fmt: skip
    train("self-motivated", tmp_path / "run", **settings)
    steps, replies = done(tmp_path / "run")
    expected_steps, expected = counted(planned("self-motivated", **settings)[0])
    assert replies == expected
    learned = steps.pop("round0-sft"), expected_steps.pop("round0-sft")
    assert steps == expected_steps
    assert 0 < min(learned) <= max(learned) <= 3 * 24 * 2 / 8 + 3  # by how many were right


def test_mario_reads_the_teachers_attempts_and_for_each_token_its_own_reward():
    settings = {"questions": "builtin:train=40,dev=6", "prompts": 10, "token_questions": 6,
                "bins": 3, "steps": 4, "sample_interval": 4}  # fmt: skip
    work, at = planned("mario", **settings)
    rows = Counter()
    for one in work:
        if isinstance(one, Reads):
            rows[one.stage, one.reader] += one.rows
    teacher = len(teacher_attempts(at.train, "correct"))
    assert rows["mario-round0", "fluency"] == 10 + teacher
    # under the best tokens, and for each reward under its two others
    assert rows["obedience/mario-1", "statements"] == (1 + 2) * 6 * at.folds
    assert rows["obedience/mario-1", "fluency"] == 0


@pytest.mark.parametrize(("pairs", "together"), [(0, 4), (1, 2), (3, 4)])
def test_replies_of_all_pairs_share_their_question(pairs, together):
    settings = {"questions": "builtin:train=40,dev=6", "pairs": pairs, "sampling": SHORT_OF_FOUR}
    work, _ = planned("dpo", **settings)
    read = [one for one in work if isinstance(one, Reads) and one.reader == "logprobs"]
    assert {one.together for one in read} == {together}


def test_a_demo_learns_its_seed_rationales_once():
    what = DEMOS["self-motivated"]
    known = checked(settings_of(what)())
    at = scene_of(known, "full", Lengths(), 0.5)
    learned = [one for one in work_of(what, what.method, known, at) if isinstance(one, Learns)]
    of_seeds = [one for one in learned if group_of(one.stage) == "seed SFT"]
    assert [one.steps for one in of_seeds] == [3 * 160 / 8]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_states_its_work(name, mostly_yes, tiny_model):
    work, _ = planned(name, model=tiny_model, questions=mostly_yes)
    assert any(isinstance(one, Learns) and one.steps > 0 for one in work)
    assert any(isinstance(one, Writes) for one in work)
    evaluated = [one for one in work if isinstance(one, Writes) and one.stage.startswith("final-")]
    assert evaluated
    for one in work:
        if not isinstance(one, Stores):
            assert one.tokens > 0
            assert one.prompt > 0
    more, _ = planned(name, model=tiny_model, questions=mostly_yes, evaluation_tokens=500)
    assert sum(w.limit for w in more if isinstance(w, Writes)) > 0


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_states_its_work(name):
    what = DEMOS[name]
    known = checked(settings_of(what)())
    work = list(work_of(what, what.method, known, scene_of(known, "full", Lengths(), 0.5)))
    groups = {group_of(one.stage) for one in work}
    assert {"direct", "evaluation"} <= groups
    assert sum(one.steps for one in work if isinstance(one, Learns)) > 50


EVERY_LOSS = [
    Learns("x", loss, 3, 4, 12, 6, learner, together)
    for loss, learner, together in (
        ("nll", "policy", 1), ("nll", "scorer", 1), ("nll", "adapter", 1), ("dpo", "adapter", 2),
        ("dpo", "policy", 2), ("rank", "policy", 4), ("grpo", "policy", 1), ("ppo", "policy", 1),
        ("statements", "scorer", 1), ("choice", "adapter", 1), ("quark", "policy", 1),
    )
]  # fmt: skip
EVERY_READER = [
    Reads("x", reader, 5, 12, 4)
    for reader in ("choices", "statements", "fluency", "logprobs", "rank")
]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_calibration_measures_all_kinds_of_work_once(tuning, tiny_model, mostly_yes):
    losses = EVERY_LOSS if tuning == "full" else EVERY_LOSS[-3:]
    work = [Writes("x", 6, 2, 12, 6, 8, top_p=0.9), *losses, *EVERY_READER]
    config = RunConfig(model=tiny_model, tuning=tuning, precision="float32")
    questions = load_questions(mostly_yes, "train")
    known = calibrate(config, questions, work)
    assert not known.speeds.lacks(work)
    assert all(known.speeds.seconds(one) > 0 for one in work)
    assert known.sizes.parameters == pytest.approx(30_000, rel=0.5)
    assert calibrate(config, questions, work, known) is known
    assert Measured.from_dict(json.loads(json.dumps(known.as_dict()))) == known


def test_prices_by_hand():
    speeds = Speeds(
        prefill=0.01, step=0.1, row=0.02, rows=3, sampler=1.0,
        learn={"nll/policy": (0.5, 2.0)}, read={"choices": 0.25}, load=3.0, store=5.0,
    )  # fmt: skip
    # 4 replies of 10 tokens after prompts of 40, 20 at most, in 2 batches
    assert speeds.seconds(Writes("x", 2, 2, 40, 10, 20)) == pytest.approx(
        1.0 + 2 * 40 * 0.01 + 2 * 20 * 0.1 + 40 * 0.02
    )
    assert speeds.seconds(Learns("x", "nll", 3, 2, 4, 6)) == pytest.approx(60 * 0.5 + 3 * 2.0)
    assert speeds.seconds(Reads("x", "choices", 3, 4, 6)) == pytest.approx(30 * 0.25)
    stored = Stores("x", kept=2, passing=1, loads=1, half=True)
    assert speeds.seconds(stored) == pytest.approx(3.0 + 5.0 * 2)
    assert (
        speeds.lacks([Reads("x", "rank", 1, 1, 1), Writes("x", 1, 1, 1, 1, 1)])[0].reader == "rank"
    )


def test_memory_and_disk_by_hand(mostly_yes, tiny_model):
    _, at = planned("sft", model=tiny_model, questions=mostly_yes)
    sizes = Sizes("m", parameters=100, head=20, layers=2, cache=8, process=1000, activations=3)
    learning = Learns("x", "nll", 1, 2, 10, 5)
    # the base: 2 bytes and 2 more for the embedding; the learner: 16; a pass of 30 tokens
    assert peak_bytes(sizes, Holders(), [learning], at) == 1000 + 240 + 1600 + 90
    quark = replace(learning, loss="quark")  # a reference, and two folds of half the layers
    assert peak_bytes(sizes, Holders(scorers=2), [quark], at) == 2930 + 200 + 2 * 80
    assert disk_bytes(sizes, [Stores("x", kept=2), Stores("y", kept=1, half=True)]) == 1000


def test_machines():
    assert machine_named("h100x8").count == 8
    assert machine_named("rtx4090").count == 1
    given = machine_named("bf16=100,bandwidth=2,memory=24")
    assert (given.peak, given.bandwidth, given.memory) == (100e12, 2e12, 24e9)
    for name in ("h1000", "bf16=1", "bf16=1,bandwidth=2,memory=x", "h100x0",
                 "bf16=1.2.3,bandwidth=1,memory=1", "bf16=0,bandwidth=1,memory=1",
                 "bf16=1e3,bandwidth=3.35,memory=80", "bf16=1_000,bandwidth=3.35,memory=80",
                 "bf16=990,bandwidth=3350GB/s,memory=80", "xbf16=1,bandwidth=1,memory=1",
                 "bf16=1,bf16=2,bandwidth=1,memory=1", "bf16=1 bandwidth=1 memory=1"):  # fmt: skip
        with pytest.raises(UsageError, match="--on"):
            machine_named(name)


def test_a_roofline_follows_the_figures():
    sizes = Sizes("m", parameters=7_000_000_000, head=500_000_000, layers=32, cache=131_072)
    work = [Learns("x", "nll", 100, 8, 150, 50), Writes("x", 100, 8, 100, 200, 256)]
    slow, fast = (
        roofline(machine_named(f"bf16={peak},bandwidth=2,memory=80"), Measured(sizes=sizes), work,
                 full=True).speeds
        for peak in (100, 200)
    )  # fmt: skip
    # 6 operations a parameter and token, at 35 % of 100 TFLOP/s
    tokens = work[0].tokens
    expected = 6 * (6.5e9 + 0.25 * 0.5e9) * tokens / (0.35 * 100e12)
    moments = 100 * (28 * 7e9 / (0.6 * 2e12) + 3 * 0.4e-3 * 32)
    assert slow.seconds(work[0]) == pytest.approx(expected + moments)
    assert fast.seconds(work[0]) == pytest.approx(expected / 2 + moments)


def test_several_accelerators_share_the_work_out():
    sizes = Sizes("m", parameters=8_000_000_000, head=500_000_000, layers=32, cache=131_072)
    work = [
        Learns("x", "nll", 100, 64, 150, 50), Writes("x", 2048, 4, 100, 200, 256),
        Reads("x", "choices", 100, 100, 20), Stores("x", loads=2),
    ]  # fmt: skip
    one, eight, many = (
        roofline(machine_named(f"h100{n}"), Measured(sizes=sizes), work, full=True).speeds
        for n in ("", "x8", "x64")
    )
    (token, step), (_, with_exchange) = one.learn["nll/policy"], eight.learn["nll/policy"]
    # gradients in float32 are sent and received, less a process's eighth, at 60 % of 450 GB/s
    assert with_exchange - step == pytest.approx(2 * 32e9 * 7 / 8 / (0.6 * 450e9))
    assert eight.seconds(work[0]) == pytest.approx(100 * (8 * 200 * token + with_exchange))
    # 2048 questions are 32 shards: four a process, and of 64 processes half have nothing to do
    assert eight.seconds(work[1]) == pytest.approx(one.seconds(replace(work[1], questions=256)))
    assert many.seconds(work[1]) == pytest.approx(one.seconds(replace(work[1], questions=64)))
    assert eight.seconds(work[2]) == pytest.approx(0.64 * one.seconds(work[2]))
    assert eight.seconds(work[3]) == one.seconds(work[3])


def test_the_command_plans_and_measures_once(tiny_model, mostly_yes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    argv = ["plan", "sft", "--model", tiny_model, "--questions", mostly_yes]
    assert main(argv) == 0
    first = capsys.readouterr()
    assert "calibrating on" in first.err
    assert "24 train, 6 dev, 6 test" in first.out
    assert "memory: about" in first.out
    assert main([*argv, "--json"]) == 0
    again = capsys.readouterr()
    assert "calibrating" not in again.err
    plan = json.loads(again.out)
    assert plan["total"]["steps"] == 5 + 1  # two passes over 18 rows that are right, by 8
    assert sum(line["seconds"] for line in plan["stages"]) == plan["total"]["seconds"]
    # a dry run says the same minutes, and measures nothing
    assert main(["train", "sft", *argv[2:], "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "measured on this machine" in dry
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--on", "h100x8"]) == 0
    assert "8 of them share the work out" in capsys.readouterr().out
    assert main([*argv, "--right", "2"]) == 2
    # the flags of a run that a plan does not depend on
    flags = ["--out", str(tmp_path / "out"), "--overwrite", "--world-size-may-change"]
    capsys.readouterr()
    assert main([*argv, *flags]) == 0
    assert "memory: about" in capsys.readouterr().out
    assert main([*argv, *flags, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_without_a_measurement(
    tiny_model, mostly_yes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    argv = ["train", "rft", "--model", tiny_model, "--questions", mostly_yes, "--dry-run"]
    assert main(argv) == 0
    assert "`rationalize plan` with these arguments" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []


def test_too_few_questions_for_a_scorer_are_refused_by_the_plan_too(tiny_model, tmp_path, capsys):
    for split in ("train", "dev", "test"):
        row = {
            "id": split,
            "question": f"What is {split}?",
            "answer": "iron",
            "rationales": ["It is heavy."],
        }
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    argv = ["train", "mario", "--model", tiny_model, "--questions", str(tmp_path)]
    assert main([*argv, "--dry-run"]) == 1
    assert "is left for fold" in capsys.readouterr().err


def test_times_of_parts_add_up(tmp_path):
    with timed(tmp_path, "outer"), timed(tmp_path, "inner"):
        sum(range(300_000))
    with pytest.raises(ValueError, match="killed"), timed(tmp_path, "broken"):
        raise ValueError("killed")
    inner, outer = [json.loads(line) for line in (tmp_path / TIMES).read_text().splitlines()]
    assert (inner["part"], outer["part"]) == ("inner", "outer")
    assert inner["cpu_seconds"] > outer["cpu_seconds"] >= 0  # without what is inside it
    assert outer["peak_MiB"] > 10


def test_lines_and_words():
    parts = (
        "mario-0-round2", "obedience/mario-0-12", "final-SFT-test-0", "round0-variant-1-writes",
        "variant-1-tuned", "scorers/answer/fold0", "seed0-redraws", "warm-up-2786d0a8-dev12",
    )  # fmt: skip
    assert [group_of(part) for part in parts] == [
        "mario-0", "mario-0", "evaluation", "round0", "variant-1", "scorers", "seed0", "seed SFT",
    ]  # fmt: skip
    assert [duration(s) for s in (None, 5.2, 100, 4000, 400_000)] == [
        "?", "5 s", "1.7 min", "1.1 h", "4.6 days",
    ]  # fmt: skip
