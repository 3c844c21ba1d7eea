"""Methods whose attempts are written by rollout servers: they learn as they do without, go on after
a kill without paying twice, and refuse what servers cannot do before anything is trained.
"""

from __future__ import annotations

import dataclasses

import pytest
from rollout_server import serving
from tiny import tiny_folder, tiny_policy, weights
from toys import attempt, experiment, question

from rationalize.cli import main
from rationalize.errors import UserError
from rationalize.methods.base import Experiment
from rationalize.methods.grpo import GrpoConfig, grpo
from rationalize.methods.mario import mario
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.own_attempts import WriteConfig, own_attempts
from rationalize.methods.ppo import PpoRowConfig, ppo
from rationalize.methods.settings import RunConfig
from rationalize.rewards import Reward, RewardSuite
from rationalize.rewards.correctness import correctness
from rationalize.runs import Run, check_resumable
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.local import Sampler
from rationalize.training.loop import FitConfig, HeadFitConfig

TRAIN = [question(i, rationales=("They say so.",)) for i in range(3)]
FIT = FitConfig(
    learning_rate=5e-3, batch_size=24, schedule="constant", max_grad_norm=0.5, micro_tokens=400
)
GRPO = GrpoConfig(
    rewards=("first",), updates=3, prompts=3, beta=0.0, learn_cut=True, evaluate_every=100,
    select_by="first", fit=FIT, sampling=SamplingConfig(n=8, max_new_tokens=1),
)  # fmt: skip

FEW = dataclasses.replace(GRPO, sampling=SamplingConfig(n=4, max_new_tokens=1))


def first_letter(completions, **_):
    """A bandit: one arm pays."""
    return [float(c.startswith("T")) for c in completions]


SUITE = RewardSuite(
    [
        correctness(),
        Reward("first", first_letter, range=(0.0, 1.0)),
        Reward("reward_model", first_letter),
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder("decoder", tmp_path_factory.mktemp("model") / "m")


def on_servers(path, folder, *servers, **facts) -> Experiment:
    config = RunConfig(
        precision="float32", model=str(folder),
        rollouts=",".join(server.url for server in servers) or None,
    )  # fmt: skip
    facts = {"suite": SUITE, **facts}
    facts.setdefault("evaluation", SamplingConfig(temperature=0.0, max_new_tokens=2))
    return experiment(path, TRAIN, TRAIN, config=config, **facts)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_grpo_learns_from_what_servers_write(tuning, folder, tmp_path):
    policy = tiny_policy(tuning=tuning)
    with serving(folder) as a, serving(folder) as b:
        exp = on_servers(tmp_path / "run", folder, a, b)
        grpo(exp, policy, GRPO, exp.stage("g"))
        assert len(a.bodies) + len(b.bodies) == 3 * 24
        loads = a.orders.count("/collective_rpc"), a.orders.count("/v1/load_lora_adapter")
    first, *_, last = exp.run.metrics("g/rollouts")
    assert last["first"] > first["first"] + 0.2
    assert exp.run.metrics("g")[0]["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert loads == ((2, 0) if tuning == "full" else (0, 3))


def test_ppo_learns_from_the_tokens_that_servers_drew(folder, tmp_path):
    config = PpoRowConfig(
        mode="rm", unparsed_penalty=0.0, updates=3, prompts=3, epochs=2, beta=0.0, stop_kl=1e9,
        epoch_kl=1e9, evaluate_every=100, select_by="reward_model",
        fit=HeadFitConfig(**{**vars(FIT), "head_rate": 1e-3}),
        sampling=SamplingConfig(n=8, max_new_tokens=1),
    )  # fmt: skip
    policy = tiny_policy()
    with serving(folder, "sglang") as server:
        exp = on_servers(tmp_path / "run", folder, server)
        ppo(exp, policy, policy.become_reference(), config, exp.stage("ppo"))
        assert len(server.bodies) == 3 * 24
    first, *_, last = [line["score"] for line in exp.run.metrics("ppo/rollouts")]
    assert last > first + 0.3
    assert exp.run.metrics("ppo")[0]["ratio"] == 1.0


def test_a_killed_run_pays_for_no_reply_twice_and_ends_in_the_same_bits(folder, tmp_path):
    def learn(path, server, **facts):
        policy = tiny_policy()
        exp = on_servers(path, folder, server, checkpoint_every=0.0, **facts)
        grpo(exp, policy, FEW, exp.stage("g"))
        return weights(policy)

    class Killed(Exception):
        pass

    def dies(completions, **_):
        if len(scored) == 2:
            raise Killed
        scored.append(completions)
        return first_letter(completions)

    scored: list = []
    with serving(folder) as server:
        whole = learn(tmp_path / "a", server)
        once = len(server.bodies)
        suite = RewardSuite([correctness(), Reward("first", dies, range=(0.0, 1.0))])
        with pytest.raises(Killed):
            learn(tmp_path / "b", server, suite=suite)
        again = learn(tmp_path / "b", server)
        assert len(server.bodies) == 2 * once
    assert again == whole


def test_star_learns_from_what_a_policy_in_float32_would_write(folder, tmp_path):
    """Its attempts are greedy, so that a server writes what is written here."""
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=5)
    write = WriteConfig(shots=0, hints="all", sampling=sampling)
    with serving(folder) as server:
        exp = on_servers(tmp_path / "run", folder, server)
        attempts = own_attempts(exp, tiny_policy(), write, exp.stage("star"), "writes")
        assert len(server.bodies) == len(attempts) == 6
        own_attempts(exp, tiny_policy(), write, exp.stage("star"), "dev", split="dev")
        assert len(server.bodies) == 6  # an evaluation is written here
    expected = Sampler(tiny_policy(), shadow=False).sample(
        [a.prompt for a in attempts], sampling, seeds=[0] * 6
    )
    assert [a.completion for a in attempts] == [c.text for (c,) in expected]


def test_mario_explores_on_servers_that_know_its_tokens(folder, tmp_path):
    config = MarioConfig(
        rewards=("first",), bins=2, steps=4, sample_interval=2, select_by="first",
        token_questions=0, fit=dataclasses.replace(FIT, batch_size=4),
        sampling=SamplingConfig(n=2, max_new_tokens=2),
    )  # fmt: skip
    with serving(folder) as server:
        exp = on_servers(tmp_path / "run", folder, server)
        with pytest.raises(Exception, match="no rows for the control tokens") as told:
            mario(exp, tiny_policy(), config, exp.stage("mario"))
        start = str(told.value).rpartition("the model in ")[2].partition(". Start")[0]
    with serving(start) as server:
        exp = on_servers(tmp_path / "run", folder, server)
        policy = tiny_policy()
        mario(exp, policy, config, exp.stage("mario"))
        assert server.bodies
        first = policy.controls.first_id
        written = [body["prompt"][-1] == first for body in server.bodies]
        assert written == [False] * 6 + [True] * 6  # the start writes without tokens
        assert str(first) in server.bodies[0]["logit_bias"]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["grpo", "--sampling.weights", "int8"], "temperature 1 without"),
        (["filt-acc", "--sampling.weights", "int8"], "sampling.weights is int8; expected auto"),
        (["coalition", "--candidates.sampling.beams", "2"], "candidates.sampling.beams is 2"),
        (["mario", "--tuning", "lora"], "control tokens with tuning=lora"),
        (["filt-acc", "--tuning", "qlora"], "qlora"),
        (["filt-acc"], None),
    ],
)
def test_what_servers_cannot_do_is_refused_in_a_dry_run(flags, found, folder, tmp_path, capsys):
    with serving(folder) as server:
        status = main(
            ["train", *flags, "--model", str(folder), "--rollouts", server.url, "--dry-run",
             "--out", str(tmp_path / "run"), "--questions", "builtin:train=4,dev=4,test=4"]
        )  # fmt: skip
    told = capsys.readouterr()
    if found:
        assert (status in (1, 2), found in told.err) == (True, True), told.err
    else:
        assert status == 0
        assert f"rollouts: {server.url[:-3]}, vLLM 0.32.0, with m" in told.out + told.err
    assert not (tmp_path / "run").exists()


def test_servers_may_change_when_a_run_goes_on_but_not_whether_there_are_any(tmp_path):
    def check(**settings):
        check_resumable(tmp_path, {"rollouts": None, "rollout_folder": None, **settings})

    Run.open(tmp_path, {"rollouts": "http://a"}).append([attempt(TRAIN[0], "it is", "yes")], "x")
    check(rollouts="http://b,http://c", rollout_folder="/there")
    with pytest.raises(UserError, match="rollouts: 'http://a' in the run, None asked for"):
        check()
