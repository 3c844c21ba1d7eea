"""Rollout servers with fresh weights: what is loaded, checked, asked and refused."""

from __future__ import annotations

import dataclasses
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from rollout_server import serving, wait
from tiny import tiny_folder, tiny_policy

from rationalize.errors import UsageError, UserError
from rationalize.models.variants import Variants
from rationalize.models.versions import write_whole
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.freshness import Reading, fault, says_something
from rationalize.sampling.local import Sampler
from rationalize.sampling.replies import ReplyCache
from rationalize.sampling.rollout_servers import Place, RolloutServers, ask_kinds
from rationalize.sampling.rollouts import RolloutSampler

PROMPTS = ["Which is heavier?", "Which is smoother?", "Who eats an apple?"]
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=6)
DRAWN = SamplingConfig(max_new_tokens=4, n=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder("decoder", tmp_path_factory.mktemp("model") / "m")


def moved(policy, by=0.05, seed=0):
    """The policy after a step of learning, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return policy


def sampler(policy, folder, tmp_path, *servers, **options):
    place = Place.of(None, tmp_path / "served")
    urls = ",".join(server.url for server in servers)
    known = RolloutServers(urls, place, "run", folder, sleep=wait, **options)
    return RolloutSampler(policy, known, ReplyCache(tmp_path / "replies"))


def ask(writer, config=GREEDY, **options):
    return writer.sample(PROMPTS, config, seeds=range(len(PROMPTS)), **options)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_servers_write_what_the_policy_would_after_every_step(kind, tuning, folder, tmp_path):
    policy = tiny_policy(tuning=tuning)
    with serving(folder, kind) as a, serving(folder, kind) as b:
        writer = sampler(policy, folder, tmp_path, a, b)
        for step in range(3):
            moved(policy, seed=step)
            assert ask(writer) == ask(Sampler(policy, shadow=False))
        whole = a.orders.count("/collective_rpc") + a.orders.count("/update_weights_from_disk")
        assert whole == (3 if tuning == "full" else 0)
        assert len(a.adapters) == len(b.adapters) == (1 if tuning == "lora" else 0)
        assert not a.paused
        both = [len(server.bodies) for server in (a, b)]
    assert sum(both) == 9
    assert min(both) >= 3  # the prompts are spread
    assert len(list((tmp_path / "served").glob("*/*"))) == (1 if tuning == "lora" else 0)


def test_stale_weights_are_found_out_and_other_servers_go_on(folder, tmp_path, caplog):
    policy = tiny_policy()
    with serving(folder) as a, serving(folder) as b:
        writer = sampler(policy, folder, tmp_path, a, b)
        ask(writer)
        a.faults.add("stale")
        before = len(a.bodies)
        # less than what bfloat16 rounds: only the movement shows it
        assert ask(moved(policy, 0.001) and writer) == ask(Sampler(policy, shadow=False))
        assert len(a.bodies) == before
        assert "left out" in caplog.text
        assert re.search("have moved by -?0% of what ours have", caplog.text)
        b.faults.add("stale")
        moved(policy, 0.001, seed=1)
        with pytest.raises(UserError, match="no rollout server has the policy's weights"):
            ask(writer)
        a.faults.clear()
        assert ask(writer) == ask(Sampler(policy, shadow=False))
        assert "is back, with fresh weights" in caplog.text


@pytest.mark.parametrize(
    ("fault", "tuning", "found"),
    [
        ("half", "full", "a part of"),
        ("ignored", "lora", "its log-probabilities"),
        ("renamed", "full", "answered as the model 'another', but m was asked"),
        ("misread", "full", "a text that its token ids do not stand for"),
        ("no ids", "full", "gave no ids of the tokens that it drew"),
    ],
)
def test_what_is_not_right_is_refused_by_name(fault, tuning, found, folder, tmp_path):
    policy = tiny_policy(tuning=tuning)
    with serving(folder) as server:
        writer = sampler(policy, folder, tmp_path, server)
        ask(writer)
        server.faults.add(fault)
        moved(policy, 0.01)
        with pytest.raises(UserError, match=found):
            ask(writer)


def test_a_busy_server_is_asked_again(folder, tmp_path):
    policy = moved(tiny_policy())
    with serving(folder, busy=5) as server:
        writer = sampler(policy, folder, tmp_path, server)
        assert ask(writer) == ask(Sampler(policy, shadow=False))
        server.faults.add("never ready")
        with pytest.raises(UserError, match=r"answered 503 \('loading'\)"):
            ask(moved(policy) and writer)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_server_that_dies_is_left_out_and_back_with_fresh_weights(
    tuning, folder, tmp_path, caplog
):
    policy = moved(tiny_policy(tuning=tuning))
    with serving(folder) as a:
        with serving(folder, dies_at=1) as b:
            writer = sampler(policy, folder, tmp_path, a, b)
            assert ask(writer) == ask(Sampler(policy, shadow=False))
            assert len(a.bodies) == 3
            port = b.server_address[1]
        assert ask(moved(policy) and writer) == ask(Sampler(policy, shadow=False))
        assert re.search("left out: .*nothing listens there", caplog.text)
        assert len(a.bodies) == 6
        with serving(folder, port=port) as b:  # started anew: it has the weights of the start
            assert ask(moved(policy) and writer) == ask(Sampler(policy, shadow=False))
            assert b.bodies


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_server_started_anew_between_calls_is_noticed(tuning, folder, tmp_path):
    policy = moved(tiny_policy(tuning=tuning))
    with serving(folder) as server:
        writer = sampler(policy, folder, tmp_path, server)
        ask(writer)
        port = server.server_address[1]
    with serving(folder, port=port) as server:
        assert ask(writer, DRAWN)
        assert server.orders  # the same version was loaded again


def test_weights_that_change_while_replies_are_written_spoil_them(folder, tmp_path):
    policy = tiny_policy()
    with serving(folder) as server:
        writer = sampler(policy, folder, tmp_path, server)
        expected = ask(writer)
        generate, calls = server.generate, []

        def changed(*args):
            calls.append(args)
            if len(calls) == 2:
                for parameter in server.model.parameters():
                    parameter.data.mul_(0.5)
            return generate(*args)

        server.generate = changed
        assert ask(sampler(policy, folder, tmp_path / "other", server)) == expected
        assert len(calls) == 6  # the first three are not used


def test_a_kill_leaves_no_reply_of_a_server_that_changed_meanwhile(folder, tmp_path):
    policy = moved(tiny_policy(), 0.3)
    killed = tmp_path / "killed"
    with serving(folder) as server:
        writer = sampler(policy, folder, tmp_path, server)
        generate, calls = server.generate, []

        def started_anew(*args):
            calls.append(args)
            if len(calls) == 2:
                server.load_whole(folder)
            return generate(*args)

        def progress(done, *_):
            if done == len(PROMPTS) and not killed.exists():  # what a kill leaves here
                shutil.copytree(tmp_path / "replies", killed / "replies")

        server.generate = started_anew
        expected = ask(writer, progress=progress)
        assert len(calls) == 6
        assert ask(sampler(policy, folder, killed, server)) == expected
        assert len(calls) == 9
    assert expected == ask(Sampler(policy, shadow=False))


def test_replies_are_paid_for_once_for_each_version(folder, tmp_path):
    policy = moved(tiny_policy())
    with serving(folder) as server:
        first = ask(sampler(policy, folder, tmp_path, server), DRAWN)
        assert len(server.bodies) == 6
        assert len({body["seed"] for body in server.bodies}) == 6
        # a second start: the same weights, other servers
        with serving(folder) as another:
            assert ask(sampler(policy, folder, tmp_path, another), DRAWN) == first
            assert not another.asked
            more = ask(
                sampler(policy, folder, tmp_path, another), dataclasses.replace(DRAWN, n=3)
            )  # fmt: skip
            assert [group[:2] for group in more] == first
            assert len(another.bodies) == 3
            ask(sampler(moved(policy), folder, tmp_path, another), DRAWN)
            assert len(another.bodies) == 9


def test_a_merged_adapter_needs_its_base_on_the_servers(folder, tmp_path):
    policy = moved(tiny_policy(tuning="lora"))
    policy.merge()
    moved(policy)
    expected = ask(Sampler(policy, shadow=False))
    with serving(folder) as server:
        assert ask(sampler(policy, folder, tmp_path, server)) == expected
        assert server.orders.count("/collective_rpc") == 1
    with serving(folder, dev=False) as server:
        with pytest.raises(UserError, match="VLLM_SERVER_DEV_MODE=1\nor start it with the") as told:
            ask(sampler(policy, folder, tmp_path / "b", server))
        start = Path(str(told.value).rpartition(" in ")[2])
    # a server that is started anew between two versions has the weights below no more
    with serving(folder) as server:
        writer = sampler(policy, folder, tmp_path / "c", server)
        ask(writer)
        port = server.server_address[1]
    with serving(folder, port=port) as server:
        assert ask(moved(policy, 0.001) and writer) == ask(Sampler(policy, shadow=False))
        assert server.orders.count("/collective_rpc") == 1
    moved(policy, -0.001)
    with serving(start, dev=False) as server:
        assert ask(sampler(policy, folder, tmp_path / "b", server)) == expected
        assert server.orders.count("/v1/load_lora_adapter") == 1


def test_what_an_adapter_is_merged_into_between_two_calls_is_served(folder, tmp_path):
    policy = tiny_policy(tuning="lora")
    with serving(folder) as server:
        writer = sampler(policy, folder, tmp_path, server)
        ask(writer)
        moved(policy, 0.3).save(tmp_path / "stage")  # merges into the same memory
        assert ask(writer) == ask(Sampler(policy, shadow=False))
        assert server.orders.count("/collective_rpc") == 1


def test_variants_are_served_by_their_adapters(folder, tmp_path):
    variants = Variants.of(tiny_policy(), folder, ["one", "two"], seed=1)
    with serving(folder) as server:
        servers, replies = sampler(None, folder, tmp_path, server), ReplyCache(tmp_path / "r")
        for seed, name in enumerate(["one", "two", "one"]):
            with variants.active(name) as policy:
                writer = RolloutSampler(moved(policy, seed=seed), servers._servers, replies)
                assert ask(writer) == ask(Sampler(policy, shadow=False))
        assert server.orders.count("/collective_rpc") == 0


def test_control_tokens_need_rows(folder, tmp_path):
    policy = tiny_policy()
    policy.add_controls({"diversity": 2}, seed=1)
    moved(policy)
    controls = [{"diversity": 0}, {"diversity": 1}, None]
    expected = ask(Sampler(policy, shadow=False), controls=controls)
    with serving(folder) as server:
        with pytest.raises(UserError, match="no rows for the control tokens") as told:
            ask(sampler(policy, folder, tmp_path, server), controls=controls)
        start = Path(re.search(r"the model in (\S+)\. Start", str(told.value))[1])
    with serving(start) as server:
        writer = sampler(moved(policy), folder, tmp_path, server)
        assert ask(writer, controls=controls) == ask(
            Sampler(policy, shadow=False), controls=controls
        )
    assert expected
    with serving(start) as server:
        lora = tiny_policy(tuning="lora")
        lora.add_controls({"diversity": 2}, seed=1)
        with pytest.raises(UsageError, match="control tokens with tuning=lora"):
            ask(sampler(lora, folder, tmp_path, server))


def test_a_reply_ends_where_a_local_one_does(folder, tmp_path):
    policy = moved(tiny_policy(chat=True), 0.3)
    config = SamplingConfig(temperature=0.0, max_new_tokens=12)
    text = policy.decode(Sampler(policy, shadow=False).sample_ids(["x"], config, seeds=[0])[0][0])
    stop = text[3:5]
    for chat in (True, False):
        policy = moved(tiny_policy(chat=chat), 0.3)
        told = tiny_folder("decoder", tmp_path / f"m{chat}", chat=chat)
        with serving(told) as server:
            writer = sampler(policy, told, tmp_path / str(chat), server)
            found = writer.sample(["x", "y"], config, seeds=[0, 0], stop=stop)
        assert found == Sampler(policy, shadow=False).sample(
            ["x", "y"], config, seeds=[0, 0], stop=stop
        )


def test_servers_of_other_kinds_and_none_are_refused(folder):
    reads_once = pytest.raises(UserError, match=r"llama\.cpp's server, which reads weights")
    with serving(folder, "llama.cpp") as server, reads_once:
        ask_kinds(server.url)
    with serving(folder, "unknown") as server, pytest.raises(UserError, match="unknown kind"):
        ask_kinds(server.url)
    one_kind = pytest.raises(UsageError, match="one kind")
    with serving(folder) as server, serving(folder, "sglang") as b, one_kind:
        ask_kinds(f"{b.url},{server.url}")
    with pytest.raises(UserError, match="no server answers"):
        ask_kinds(server.url)
    with pytest.raises(UsageError, match="--rollouts: found 'ftp://h'"):
        ask_kinds("ftp://h")


def test_what_servers_do_not_do_is_refused(folder, tmp_path):
    with serving(folder) as server:
        for config in (
            dataclasses.replace(GREEDY, beams=2), dataclasses.replace(GREEDY, weights="int8"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=r"--rollouts: sampling\.(beams|weights) is"):
                ask(sampler(tiny_policy(), folder, tmp_path, server), config)
        with pytest.raises(UsageError, match="encoder-decoder"):
            ask(sampler(tiny_policy("t5"), folder, tmp_path, server))
        assert not server.asked


def test_movement_tells_fresh_weights_from_stale_ones():
    noise, step = (torch.randn(200, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    ours = torch.full((200,), -2.0)
    before = Reading(ours, ours + 0.02 * noise)
    now = ours + 0.03 * step
    assert not fault(Reading(now, now + 0.02 * noise.roll(7)), before)
    assert "moved by 0%" in fault(Reading(now, before.theirs), before)
    assert "have moved by" in fault(Reading(now, ours + 0.01 * step + 0.02 * noise), before)
    assert "nats a token" in fault(Reading(ours, ours + 0.2), None)
    assert "not finite" in fault(Reading(ours, ours * torch.nan), None)
    # too small a step says nothing: the reading before it is kept
    assert not says_something(Reading(ours + 1e-4 * step, before.theirs), before)
    assert not fault(Reading(ours + 1e-4 * step, before.theirs), before)


def test_weights_pass_through_the_runs_folder_whatever_its_name(tmp_path):
    served = tmp_path / "lr=1e-3" / "served"
    assert Place.of(None, served) == Place(served, str(served))
    assert Place.of(f"{tmp_path}=/there/", served) == Place(tmp_path, "/there")


def test_one_of_several_processes_writes_weights_without_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    thread = threading.Thread(target=write_whole, args=(tiny_policy(), tmp_path / "m"))
    thread.start()
    thread.join(60)
    assert (tmp_path / "m" / "config.json").exists()
