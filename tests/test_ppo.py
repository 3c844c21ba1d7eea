"""PPO on tasks whose optimum is known, and what must hold of it."""

import dataclasses

import pytest
import torch
from tiny import tiny_policy, weights
from toys import experiment

from rationalize.errors import UsageError
from rationalize.methods.ppo import PpoConfig, PpoRowConfig, end_before, minibatch, ppo, score
from rationalize.models.forward import Row
from rationalize.models.heads import attached, new_head
from rationalize.records import Question
from rationalize.rewards import Reward, RewardSuite
from rationalize.rewards.correctness import correctness
from rationalize.runs import Run, Stage
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts
from rationalize.training.loop import HeadFitConfig
from rationalize.training.objectives import RolloutTag
from rationalize.training.objectives import ppo as objective
from rationalize.training.rollouts import Rollout, load_rollouts, to_learn

QUESTIONS = [Question(id=w, question=f"{w}?", answer="yes", choices=("yes", "no")) for w in "uvw"]
FIT = HeadFitConfig(
    learning_rate=5e-3, batch_size=24, schedule="constant", max_grad_norm=0.5, micro_tokens=200
)
PPO = PpoRowConfig(
    mode="rm", unparsed_penalty=0.0, updates=12, prompts=3, epochs=2, beta=0.0, stop_kl=1e9,
    epoch_kl=1e9, evaluate_every=100, select_by="reward_model", fit=FIT,
    sampling=SamplingConfig(n=16, max_new_tokens=1),
)  # fmt: skip


def first_letter(completions, **_):
    """A bandit: one arm pays."""
    return [float(c.startswith("T")) for c in completions]


def two_letters(completions, **_):
    """One first token pays half, and the end after it the other half."""
    return [0.5 * c.startswith("T") + 0.5 * (c == "Th") for c in completions]


def suite(reward):
    return RewardSuite([correctness(), Reward("reward_model", reward)])


def learn(path, reward, config=PPO, kind="decoder", tuning="full", **facts):
    policy = tiny_policy(kind, tuning=tuning)
    exp = experiment(
        path / "run", QUESTIONS, QUESTIONS, suite=suite(reward),
        evaluation=SamplingConfig(temperature=0.0, max_new_tokens=2), **facts,
    )  # fmt: skip
    ppo(exp, policy, policy.become_reference(), config, exp.stage("ppo"))
    return policy, exp.run


def mean_reward(policy, reward, tokens=1):
    sampling = SamplingConfig(n=64, max_new_tokens=tokens)
    attempts = write_attempts(Sampler(policy), QUESTIONS, sampling, Provenance("dev", 9))
    return sum(reward([a.completion for a in attempts])) / len(attempts)


@pytest.mark.parametrize(
    ("kind", "tuning"), [("decoder", "full"), ("t5", "full"), ("decoder", "lora")]
)
def test_a_bandits_best_arm_is_found(kind, tuning, tmp_path):
    before = mean_reward(tiny_policy(kind), first_letter)
    config = dataclasses.replace(PPO, updates=16)
    policy, run = learn(tmp_path, first_letter, config, kind=kind, tuning=tuning)
    assert before < 0.2
    assert mean_reward(policy, first_letter) > 0.9
    scores = [line["score"] for line in run.metrics("ppo/rollouts")]
    assert scores[-1] > scores[0] + 0.5


def test_a_task_of_two_tokens_is_solved(tmp_path):
    config = dataclasses.replace(PPO, updates=28, sampling=SamplingConfig(n=16, max_new_tokens=2))
    policy, _ = learn(tmp_path, two_letters, config)
    assert mean_reward(policy, two_letters, tokens=2) > 0.9


def test_the_first_minibatch_has_ratio_one(tmp_path):
    config = dataclasses.replace(
        PPO, updates=1, sampling=SamplingConfig(n=16, max_new_tokens=5), beta=0.05
    )
    _, run = learn(tmp_path, two_letters, config)
    first, second, *_ = run.metrics("ppo")
    assert first["ratio"] == 1.0
    assert first["approx_kl"] == 0.0
    assert first["clipfrac"] == 0.0
    assert second["approx_kl"] > 0.0  # the first has moved the policy
    [line] = run.metrics("ppo/rollouts")
    assert line["kl"] == pytest.approx(0.0, abs=1e-6)
    for rollout in load_rollouts(run.path / "rollouts/ppo-update0.safetensors"):
        torch.testing.assert_close(rollout.logprob_T, rollout.reference_T)
        assert len(rollout.row.response_ids) == len(rollout.value_T)


def test_a_large_beta_leaves_the_policy(tmp_path):
    moved = {}
    for beta in (0.0, 30.0):
        slow = dataclasses.replace(FIT, learning_rate=1e-3)
        config = dataclasses.replace(PPO, beta=beta, updates=10, fit=slow)
        _, run = learn(tmp_path / str(beta), first_letter, config)
        moved[beta] = run.metrics("ppo/rollouts")[-1]["kl"]
    assert moved[0.0] > 0.5
    assert moved[30.0] < 0.25 * moved[0.0]


def test_it_stops_when_it_is_too_far_from_the_reference(tmp_path):
    config = dataclasses.replace(PPO, stop_kl=0.3, evaluate_every=1)
    _, run = learn(tmp_path, first_letter, config)
    ended = run.read_json("ppo-ended.json")
    assert "nats a reply" in ended["reason"]
    assert len(run.metrics("ppo/rollouts")) == ended["before_update"] < config.updates
    learned = [line for line in run.metrics("ppo") if line["weight"]]
    assert len(learned) == ended["before_update"] * config.minibatches * config.epochs


def test_where_it_stops_is_a_candidate_too(tmp_path):
    config = dataclasses.replace(PPO, stop_kl=0.3, evaluate_every=10)
    _, run = learn(tmp_path, first_letter, config)
    reached = run.read_json("ppo-ended.json")["before_update"]
    steps = reached * config.minibatches * config.epochs
    assert str(steps) in run.done("ppo")["scores"]


def test_mode_z_does_not_look_at_a_reward_model(tmp_path):
    lines = [("reward_model", up) for up in (0.1, 0.2, 0.3, 0.4)]
    lines += [("accuracy", down) for down in (0.4, 0.3, 0.2, 0.1)]
    stage = Stage(Run.open(tmp_path / "run", {}), "ppo")
    for i, (name, mean) in enumerate(lines):
        stage.log("rounds", i, [{"reward": name, "mean": mean, "round": 0}])
    config = dataclasses.replace(PPO, patience=3)
    assert not end_before(stage, 4, config.in_mode("z"))
    assert not end_before(stage, 4, dataclasses.replace(PPO, patience=0))
    ended = end_before(stage, 4, config)
    assert "over-optimised" in ended["reason"]
    stage.log("rounds", 9, [{"reward": "accuracy", "mean": 0.9, "round": 4}])
    assert end_before(stage, 5, config) == ended  # another start does not decide anew


def test_every_token_of_a_right_reply_is_pushed_up_at_first():
    """With values of 0, lambda leaves early tokens little of the score; less its mean, its sign."""
    long = torch.zeros(48)
    rollouts = [Rollout(Row((5,), (6,) * 48), long, long, long) for _ in range(4)]
    worth = [1.0, 0.0, 1.0, 0.0]
    rows, _ = to_learn(
        rollouts, [w - 0.5 for w in worth], beta=0.0, gamma=1.0, lam=0.95, min_advantage_std=0.1
    )
    for row, right in zip(rows, worth, strict=True):
        assert ((row.tag.advantage > 0) == bool(right)).all()


def test_writers_and_rounds_of_one_run_do_not_draw_alike():
    sampler, sampling = Sampler(tiny_policy()), SamplingConfig(max_new_tokens=8, n=4)
    one, same, other, later = (
        [
            a.completion
            for a in write_attempts(
                sampler, QUESTIONS, sampling, Provenance("train", 0, round=round, stream=stream)
            )
        ]
        for stream, round in (("ppo", 0), ("ppo", 0), ("redraws", 0), ("ppo", 1))
    )
    assert one == same
    assert len({tuple(own) for own in (one, other, later)}) == 3


def test_further_epochs_are_dropped_when_one_moved_too_far(tmp_path):
    config = dataclasses.replace(PPO, updates=3, epochs=4, epoch_kl=1e-4)
    _, run = learn(tmp_path, first_letter, config)
    learned = [line["step"] for line in run.metrics("ppo") if line["weight"]]
    assert 0 in learned
    assert len(learned) < 3 * config.minibatches * 4


def test_the_kl_weight_follows_its_target(tmp_path):
    config = dataclasses.replace(PPO, beta=0.2, kl_target=1e-3, updates=4)
    _, run = learn(tmp_path, first_letter, config)
    betas = [line["beta"] for line in run.metrics("ppo/rollouts")]
    assert betas[0] == 0.2
    assert betas[1] == pytest.approx(0.2 * (1 - 0.1 * 0.2))  # at first there is no KL
    assert betas[-1] > betas[-2]


def test_the_start_is_kept_where_nothing_is_better(tmp_path):
    config = dataclasses.replace(PPO, updates=3)
    policy, run = learn(tmp_path, lambda completions, **_: [0.0] * len(completions), config)
    assert run.done("ppo")["step"] == 0
    assert weights(policy) == weights(tiny_policy())


class Killed(Exception):
    pass


RESUMED = dataclasses.replace(PPO, updates=4, evaluate_every=2, kl_target=0.5, beta=0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run without a kill ends in."""
    return learn(tmp_path_factory.mktemp("whole"), first_letter, RESUMED)


@pytest.mark.parametrize("at", [0, 3, 6, 10])
def test_a_killed_run_ends_in_the_same_bits(at, whole, tmp_path, monkeypatch):
    policy, run = whole
    real, steps = torch.optim.AdamW.step, iter(range(at))

    def step(*args, **options):
        if next(steps, None) is None:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Killed):
            learn(tmp_path, first_letter, RESUMED, checkpoint_every=0.0)
    again, other = learn(tmp_path, first_letter, RESUMED, checkpoint_every=0.0)
    assert weights(again) == weights(policy)
    for stage in ("ppo", "ppo/rollouts", "ppo/rounds"):
        assert other.metrics(stage) == run.metrics(stage)


def test_the_value_head_moves_the_policy_only_if_it_may():
    policy = tiny_policy()
    value_head = new_head(policy, seed=1)
    zeros, ones = torch.zeros(3), torch.ones(3)
    row = Row((5, 6), (7, 8, 9), tag=RolloutTag(zeros, zeros, zeros, ones))  # no advantage
    for detached in (True, False):
        with attached(policy, value_head):
            out = objective(
                value_head, clip=0.2, value_clip=9.0, value_weight=1.0, detach_value=detached
            )(policy, [row])
            policy.model.zero_grad()
            out.total.backward()
            assert value_head.weight.grad.abs().sum() > 0
            grads = [p.grad for n, p in policy.model.named_parameters() if "scalar" not in n]
            moved = sum(g.abs().sum().item() for g in grads if g is not None)
        assert (moved == 0) is detached


def test_the_value_loss_counts_by_its_weight():
    policy = tiny_policy()
    value_head = new_head(policy, seed=1)
    zeros, ones = torch.zeros(3), torch.ones(3)
    row = Row((5, 6), (7, 8, 9), tag=RolloutTag(zeros, zeros, ones, ones))
    heavy, light = (
        objective(value_head, clip=0.2, value_clip=9.0, value_weight=w, detach_value=True)(
            policy, [row]
        )
        for w in (0.5, 0.1)
    )
    assert heavy.metrics["value_loss"] > 0.0
    difference = (heavy.total - light.total).item()
    assert difference == pytest.approx(0.4 * heavy.metrics["value_loss"], rel=1e-4)


def test_replies_are_worth_what_they_score_above_the_mean(tmp_path, monkeypatch):
    given = []

    def recorded(rollouts, scores, **options):
        given.append(scores)
        return to_learn(rollouts, scores, **options)

    monkeypatch.setattr("rationalize.methods.ppo.to_learn", recorded)
    learn(tmp_path, first_letter, dataclasses.replace(PPO, updates=1, epochs=1))
    [scores] = given
    assert max(scores) - min(scores) == 1.0
    assert sum(scores) == pytest.approx(0.0, abs=1e-6)


def test_each_update_asks_the_next_questions(tmp_path):
    config = dataclasses.replace(
        PPO, updates=3, epochs=1, prompts=1, sampling=SamplingConfig(n=1, max_new_tokens=1)
    )
    _, run = learn(tmp_path, first_letter, config)
    asked = [a.question_id for i in range(3) for a in run.read_shard(f"ppo-update{i}")]
    assert sorted(asked) == [q.id for q in QUESTIONS]


def test_minibatches_cover_every_reply_once_an_epoch():
    config = dataclasses.replace(PPO, fit=dataclasses.replace(FIT, batch_size=10))
    n = config.prompts * config.sampling.n
    for epoch in range(2):
        parts = [minibatch(n, epoch, k, 0, config, 0) for k in range(config.minibatches)]
        assert sorted(i for part in parts for i in part) == list(range(n))
        assert max(map(len, parts)) <= 10
    first = minibatch(n, 0, 0, 0, config, 0)
    others = {"epoch": (1, 0, 0), "update": (0, 1, 0), "seed": (0, 0, 1)}
    for what, (epoch, update, seed) in others.items():
        assert minibatch(n, epoch, 0, update, config, seed) != first, what


@pytest.mark.parametrize(
    ("mode", "parsed", "worth"), [("rm", True, 0.8), ("z", True, 1.0), ("rm+z", True, 1.8),
                                  ("rm", False, -0.2), ("z", False, -1.0), ("rm+z", False, -0.2)]
)  # fmt: skip
def test_the_score_of_each_mode(mode, parsed, worth):
    [attempt] = write_attempts(
        Sampler(tiny_policy()),
        QUESTIONS[:1],
        SamplingConfig(max_new_tokens=1),
        Provenance("dev", 0),
    )
    rewards = {"correctness": float(parsed), "reward_model": 0.8}
    attempt = dataclasses.replace(attempt, parsed=parsed, rewards=rewards)
    assert score(attempt, PpoConfig().in_mode(mode)) == pytest.approx(worth)


def test_sampling_that_biases_the_ratio_is_refused():
    with pytest.raises(UsageError, match="temperature 1"):
        PpoConfig(sampling=SamplingConfig(temperature=0.7))
    with pytest.raises(UsageError, match="at least 1"):
        PpoConfig(updates=0)
