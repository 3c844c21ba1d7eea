"""GRPO and GDPO on tasks whose optimum is known, and what must hold of them."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from tiny import tiny_folder, tiny_policy, weights
from toys import attempt, experiment, question

from rationalize import train
from rationalize.errors import UsageError
from rationalize.methods import grpo as module
from rationalize.methods.base import Learned, questions_for, unsettled
from rationalize.methods.grpo import (
    GdpoConfig,
    GrpoConfig,
    advantages_of,
    grpo,
    named_as_loaded,
    scores_of,
    whole,
)
from rationalize.methods.sft import StartConfig
from rationalize.models.forward import Row
from rationalize.models.logits import token_logprobs
from rationalize.rewards import Reward, RewardSuite
from rationalize.rewards.correctness import correctness
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts
from rationalize.training.loop import FitConfig
from rationalize.training.losses import k3_kl
from rationalize.training.objectives import GroupTag
from rationalize.training.objectives import grpo as objective
from rationalize.training.rollouts import load_rollouts

TRAIN, HELD_OUT = [question(i) for i in range(3)], [question(i) for i in range(3, 6)]
FIT = FitConfig(
    learning_rate=5e-3, batch_size=48, schedule="constant", max_grad_norm=0.5, micro_tokens=400
)
GRPO, GDPO = (
    kind(
        rewards=("first", "second"), updates=8, prompts=3, beta=0.0, learn_cut=True,
        evaluate_every=100, select_by="first", fit=FIT,
        sampling=SamplingConfig(n=16, max_new_tokens=2),
    )
    for kind in (GrpoConfig, GdpoConfig)
)  # fmt: skip
TWO_STEPS = dataclasses.replace(FIT, batch_size=24)


def first_letter(completions, **_):
    """A bandit: one arm pays."""
    return [float(c.startswith("T")) for c in completions]


def second_letter(completions, **_):
    """Undefined where there is none."""
    return [float(c[1] in "he") if len(c) > 1 else None for c in completions]


SUITE = RewardSuite(
    [
        correctness(),
        Reward("first", first_letter, range=(0.0, 1.0)),
        Reward("second", second_letter, range=(0.0, 1.0)),
    ]
)


def learn(tmp_path, config, name="run", suite=SUITE, kind="decoder", tuning="full"):
    policy = tiny_policy(kind, tuning=tuning)
    exp = experiment(
        tmp_path / name, TRAIN, HELD_OUT, suite=suite, checkpoint_every=0.0,
        evaluation=SamplingConfig(temperature=0.0, max_new_tokens=2),
    )  # fmt: skip
    grpo(exp, policy, config, exp.stage("g"))
    return policy, exp.run


def held_out(policy, reward):
    """Mean reward of draws at questions that were not learned from."""
    sampling = SamplingConfig(n=64, max_new_tokens=2)
    attempts = write_attempts(Sampler(policy), HELD_OUT, sampling, Provenance("test", 9))
    return np.mean([score or 0.0 for score in reward([a.completion for a in attempts])])


@pytest.mark.parametrize(("config", "tuning"), [(GRPO, "full"), (GDPO, "lora")])
def test_a_held_out_reward_improves(config, tuning, tmp_path):
    before = held_out(tiny_policy(), first_letter)
    policy, run = learn(tmp_path, config, tuning=tuning)
    assert before < 0.2
    assert held_out(policy, first_letter) > 0.8
    first, *_, last = run.metrics("g/rollouts")
    assert last["first"] > first["first"] + 0.5
    assert run.done("g")["step"] == config.updates


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_the_first_step_of_an_update_has_ratio_one(kind, tmp_path):
    config = dataclasses.replace(GDPO, updates=2, beta=0.04, fit=TWO_STEPS)
    _, run = learn(tmp_path, config, kind=kind)
    steps = run.metrics("g")
    ones = [line["ratio"] == pytest.approx(1.0, abs=1e-6) for line in steps]
    assert ones == [True, False, True, False]
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert min(line["kl"] for line in steps[1:]) > 0.0
    assert all(line["weight"] == 24 for line in steps)
    first, second = run.metrics("g/rollouts")
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl"] != 0.0
    assert (first["questions"], first["written"], first["learned_from"]) == (3, 48, 48)


def test_what_a_reward_does_not_say_is_counted(tmp_path):
    config = dataclasses.replace(GDPO, updates=1, conditions={"second": {"first": 1.0}})
    _, run = learn(tmp_path, config)
    of = {line["reward"]: line for line in run.metrics("g/rewards")}
    completions = [a.completion for a in run.read_shard("g-update0")]
    scores = second_letter(completions)
    won = [s for s, met in zip(scores, first_letter(completions), strict=True) if s and not met]
    assert of["second"]["undefined"] == scores.count(None) > 0
    assert of["second"]["withheld"] == len(won) > 0
    assert of["first"]["withheld"] == of["first"]["undefined"] == 0
    assert of["second"]["without_spread"] == 3 - sum(
        any(met and s for s, met in zip(scores[i : i + 16], first_letter(completions[i : i + 16])))
        for i in (0, 16, 32)
    )


def test_cut_attempts_are_not_learned_from_unless_one_asks(tmp_path):
    config = dataclasses.replace(GRPO, updates=1, learn_cut=False)
    _, run = learn(tmp_path, config)
    (line,) = run.metrics("g/rollouts")
    assert line["learned_from"] == line["written"] - line["cut"] < line["written"]
    (step,) = run.metrics("g")
    assert step["weight"] == line["learned_from"]


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_where_all_attempts_are_worth_the_same_the_kl_alone_is_learned(beta, tmp_path, caplog):
    same = RewardSuite(
        [correctness(), Reward("first", lambda completions, **_: [0.5] * len(completions))]
    )
    config = dataclasses.replace(GRPO, rewards=("first",), updates=2, beta=beta)
    with caplog.at_level(logging.WARNING):
        policy, run = learn(tmp_path, config, suite=same)
    assert "no question has attempts of different worth" in caplog.text
    assert [line["without_signal"] for line in run.metrics("g/rollouts")] == [3, 3]
    learned = [line["learned_from"] for line in run.metrics("g/rollouts")]
    assert [line["weight"] for line in run.metrics("g")] == learned
    assert all(learned) == (beta > 0)
    assert run.done("g")["step"] == 0  # the start is a candidate, and kept among equals
    assert weights(policy) == weights(tiny_policy())


def test_what_is_learned_from_has_the_advantage_of_its_own_attempt(tmp_path, monkeypatch):
    """Though cut ones between them are left out; and it is that of the conditioned scores."""
    rows = []

    def recorded(**options):
        def loss(policy, batch):
            rows.extend(batch)
            return objective(**options)(policy, batch)

        return loss

    monkeypatch.setattr(module, "grpo_objective", recorded)
    config = dataclasses.replace(
        GDPO, updates=1, beta=0.04, learn_cut=False, conditions={"second": {"first": 1.0}},
        sampling=SamplingConfig(n=8, max_new_tokens=12),
    )  # fmt: skip
    _, run = learn(tmp_path, config)
    attempts = run.read_shard("g-update0")
    kept = whole(attempts, config)
    assert 3 < len(kept) < len(attempts)
    raw, scores = scores_of(attempts, config, SUITE)
    assert (raw["second"] != scores["second"]).any()
    advantages = advantages_of(scores, config).ravel()
    rollouts = load_rollouts(run.path / "rollouts/g-update0.safetensors")
    expected = {
        (r.row.prompt_ids, r.row.response_ids): advantages[i]
        for i, r in zip(kept, rollouts, strict=True)
    }
    assert len(rows) == len(kept)
    found = [row.tag.advantage for row in rows]
    assert found == pytest.approx([expected[row.prompt_ids, row.response_ids] for row in rows])


def test_the_reward_of_an_attempt_that_misses_its_condition_is_the_worst():
    suite = RewardSuite([correctness(), Reward("easy", first_letter, range=(-1.0, 1.0))])
    given = [{"correctness": 0.0, "easy": 0.8}, {"correctness": 1.0, "easy": 0.5}]
    attempts = [attempt(TRAIN[0], "so", "yes", i, rewards=own) for i, own in enumerate(given)]
    config = GrpoConfig(
        rewards=("easy", "correctness"), conditions={"easy": {"correctness": 1.0}},
        select_by="easy", sampling=SamplingConfig(n=2),
    )  # fmt: skip
    assert scores_of(attempts, config, suite)[1]["easy"].tolist() == [[-1.0, 0.5]]


@pytest.mark.parametrize("kind", [GRPO, GDPO])
def test_a_reward_of_weight_0_does_not_count(kind):
    scores = {"first": np.array([[0.0, 1.0, 0.5]]), "second": np.array([[1.0, 0.0, 0.2]])}
    weighted = dataclasses.replace(kind, weights={"second": 0.0})
    alone = advantages_of({"first": scores["first"]}, kind)
    np.testing.assert_allclose(advantages_of(scores, weighted), alone)


def test_each_update_asks_the_next_questions(tmp_path):
    config = dataclasses.replace(
        GRPO, updates=3, prompts=1, sampling=SamplingConfig(n=2, max_new_tokens=1)
    )
    _, run = learn(tmp_path, config)
    asked = [{a.question_id for a in run.read_shard(f"g-update{i}")} for i in range(3)]
    assert set.union(*asked) == {q.id for q in TRAIN}
    assert questions_for(TRAIN * 9, 5, 0, 0) != questions_for(TRAIN * 9, 5, 0, 1)  # by the seed


def test_draws_may_select_in_the_place_of_a_greedy_reply(tmp_path):
    few = {"updates": 1, "prompts": 1, "sampling": SamplingConfig(n=2, max_new_tokens=2)}
    for draws in (0, 40):
        config = dataclasses.replace(GRPO, dev_draws=draws, **few)
        _, run = learn(tmp_path, config, name=str(draws))
        attempts = run.read_shard("g-dev0")
        assert len(attempts) == max(1, draws) * len(HELD_OUT)
        assert (len({a.completion for a in attempts}) > len(HELD_OUT)) == bool(draws)
        mean = np.mean([a.rewards["first"] for a in attempts])
        [logged] = [r for r in run.metrics("g/rounds") if (r["step"], r["reward"]) == (0, "first")]
        assert logged["mean"] == pytest.approx(mean)
        assert logged["n"] == len(HELD_OUT)
    with pytest.raises(UsageError, match="dev_draws"):
        dataclasses.replace(GRPO, dev_draws=-1)


def test_what_the_start_settled_is_not_asked(tmp_path, capsys):
    def known(question, *worth):
        scores = [{"correctness": 1.0, "first": w, "second": 0.5} for w in worth]
        return [attempt(question, "so", "yes", i, rewards=r) for i, r in enumerate(scores)]

    drawn = [*known(TRAIN[0], 1.0, 1.0), *known(TRAIN[1], 1.0, 0.0), *known(TRAIN[2], 1.0)]
    one_alone = dataclasses.replace(drawn[-1], rewards={"correctness": 1.0})

    def left(attempts, rewards=("first", "second")):
        exp = experiment(tmp_path / str(len(list(tmp_path.iterdir()))), TRAIN, HELD_OUT)
        start = Learned(None, tmp_path, attempts=attempts)
        return unsettled(dataclasses.replace(exp, start=start), rewards, "g")

    assert left(drawn) == TRAIN[1:]  # one attempt settles nothing
    assert "g asks 2 of 3 questions" in capsys.readouterr().err
    assert left([*drawn, one_alone]) == TRAIN[1:]  # nor does what was not scored
    assert left(drawn, ["other"]) == left([]) == TRAIN
    assert left(drawn[:2], ["correctness"]) == TRAIN[1:]
    everything = [a for q in TRAIN for a in known(q, 0.0, 0.0)]
    assert left(everything) == TRAIN  # or nothing would be left


@pytest.mark.parametrize("average", ["attempts", "tokens"])
@pytest.mark.parametrize("kind", [GRPO, GDPO])
def test_without_a_kl_what_teaches_nothing_is_not_read(kind, average, tmp_path, monkeypatch):
    def but_one(prompts, completions, **_):
        return [p == prompts[0] or float(c.startswith("T")) for p, c in zip(prompts, completions)]

    suite = RewardSuite([correctness(), Reward("first", but_one, range=(0.0, 1.0))])
    config = dataclasses.replace(kind, rewards=("first",), updates=1, average=average)
    _, run = learn(tmp_path, config, suite=suite)
    monkeypatch.setattr(module, "learned_from", lambda attempts, _, config: whole(attempts, config))
    _, all_read = learn(tmp_path, config, suite=suite, name="all")
    (told,), (everything,) = run.metrics("g/rollouts"), all_read.metrics("g/rollouts")
    assert (told["without_signal"], told["learned_from"], everything["learned_from"]) == (1, 32, 48)
    (ours,), (theirs,) = run.metrics("g"), all_read.metrics("g")
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert ours["grad_norm"] > 0.0


class Killed(Exception):
    pass


@pytest.mark.parametrize(("config", "at"), [(GRPO, 3), (GDPO, 4)])
def test_a_killed_run_ends_in_the_same_bits(config, at, tmp_path, monkeypatch):
    config = dataclasses.replace(config, updates=3, evaluate_every=2, beta=0.1, fit=TWO_STEPS)
    whole, run = learn(tmp_path, config, name="whole")
    real, steps = torch.optim.AdamW.step, iter(range(at))

    def step(*args, **options):
        if next(steps, None) is None:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Killed):
            learn(tmp_path, config, name="killed")
    again, other = learn(tmp_path, config, name="killed")
    assert weights(again) == weights(whole)
    for stage in ("g", "g/rollouts", "g/rewards", "g/rounds"):
        assert other.metrics(stage) == run.metrics(stage)


def test_k3():
    found = k3_kl(torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -1.5, -1.0]))
    assert found.tolist() == pytest.approx([0.0, 0.106531, 0.718282], abs=1e-6)


def test_attempts_or_tokens_weigh_the_same():
    policy = tiny_policy()
    plain = [Row((5, 6), (7,)), Row((5, 6), (7, 8, 9))]
    with torch.no_grad():
        logprobs = token_logprobs(policy, plain)
    rows = [
        dataclasses.replace(row, tag=GroupTag(logprob_T, logprob_T - 0.5, advantage))
        for row, logprob_T, advantage in zip(plain, logprobs, (1.0, -2.0), strict=True)
    ]
    for average, weight, total, kl in (("attempts", 2, 1.0, 2.0), ("tokens", 4, 5.0, 4.0)):
        out = objective(clip=0.2, beta=0.3, average=average)(policy, rows)
        assert out.weight == weight
        assert out.metrics["kl"] == pytest.approx(kl * 0.106531, abs=1e-4)
        assert out.total.item() == pytest.approx(total + 0.3 * out.metrics["kl"], abs=1e-4)
        assert out.metrics["ratio"] == pytest.approx(weight)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sampling": SamplingConfig(top_p=0.9, n=4)}, "temperature 1"),
        ({"sampling": SamplingConfig(n=1)}, "sampling.n is 1"),
        ({"updates": 0}, "at least 1"),
        ({"rewards": ()}, "rewards is empty"),
        ({"weights": {"fluent": 1.0}}, r"name \['fluent'\]"),
        ({"weights": {"first": 0.0, "second": 0.0}}, "every reward has weight 0"),
        ({"conditions": {"first": {"correctness": 1.0}}}, "a reward of weight 0"),
        ({"conditions": {"first": {"second": float("nan")}}}, "finite thresholds"),
    ],
)
def test_what_cannot_be_is_refused(changes, told):
    with pytest.raises(UsageError, match=told):
        dataclasses.replace(GDPO, **changes)


def test_rewards_of_ones_own_are_called_as_they_are_loaded():
    suite = RewardSuite([correctness(), Reward("brevity", first_letter, source="my:brevity")])
    config = GrpoConfig(
        rewards=("my:brevity", "correctness"), weights={"my:brevity": 2.0}, select_by="my:brevity",
        conditions={"my:brevity": {"correctness": 1.0}},
    )  # fmt: skip
    named = named_as_loaded(config, suite)
    assert named.rewards == ("brevity", "correctness")
    assert named.weights == {"brevity": 2.0}
    assert named.conditions == {"brevity": {"correctness": 1.0}}
    assert named.select_by == "brevity"


def test_a_run_of_its_own(tmp_path):
    train(
        "gdpo", tmp_path / "run", model=str(tiny_folder("decoder", tmp_path / "tiny")),
        questions="builtin:train=8,dev=4,test=4", sft=StartConfig(epochs=0.0), updates=2,
        prompts=2, rewards=("correctness", "diversity"),
        conditions={"diversity": {"correctness": 1.0}}, fit=FIT, evaluation_tokens=8,
        learn_cut=True, sampling=SamplingConfig(n=2, max_new_tokens=8),
    )  # fmt: skip
    run = Run.read(tmp_path / "run")
    assert set(run.done("gdpo")["scores"]) == {"0", "2"}
    row = {"method": "GDPO", "stages": ["gdpo"], "rewards": ["correctness", "diversity"]}
    results = run.read_json("results.json")
    assert results["trained"] == [row]
    assert {r["method"] for r in results["rollouts"]} == {"gdpo"}
