"""Rollout servers with fresh weights: what is loaded, checked, asked and refused."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from rollout_server import serving, wait
from tiny import tiny_folder, tiny_policy

from rationalize.errors import UsageError, UserError
from rationalize.sampling.config import SamplingConfig
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
