"""Decode steps of our own: the same states, draws and replies as transformers' forward pass."""

import logging
from dataclasses import replace

import pytest
import torch

from rationalize.errors import UsageError, UserError
from rationalize.models import probe as probing
from rationalize.models.decode import OwnStream, read_opening
from rationalize.models.logits import head
from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers
from rationalize.models.probe import takes_own_steps
from rationalize.models.shadows import decode_weights, forget_shadows
from rationalize.models.streams import Query, open_stream
from rationalize.sampling.draw import _inverse_cdf, likeliest
from rationalize.sampling.local import Sampler, SamplingConfig
from tests.families import build
from tests.tiny import tiny_policy

PROMPTS = ["Which falls faster?", "Ice or grass?", "Tom has four apples and eats one of them."]
DRAWN = SamplingConfig(top_p=0.9, max_new_tokens=20, n=5)
needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="int8 needs a processor with VNNI"
)


def replies(policy, config=DRAWN, prompts=PROMPTS, **options):
    sampler = Sampler(policy, shadow=False, **options)
    return sampler.sample_ids(prompts, config, seeds=range(len(prompts)))


def disturb(policy):
    """Change what learns, as learning does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p += 0.05 * torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize(
    ("family", "own"),
    [("qwen2", True), ("qwen3", True), ("granite", True), ("gemma", False)],
)
def test_families_are_told_by_what_they_compute(family, own, tmp_path):
    build(family, tmp_path / family)
    policy = load_policy(tmp_path / family, device="cpu", numbers=Numbers("float32"))
    assert policy.own_steps == own
    if own:
        assert replies(policy) == replies(replace(policy, own_steps=False))


def test_modules_of_llama_that_compute_something_else_are_not_trusted(caplog):
    policy = tiny_policy("decoder")
    assert policy.own_steps
    [first, *_] = policy.model.model.layers
    first.register_forward_hook(lambda module, args, output: output * 1.1)
    with caplog.at_level(logging.WARNING, probing.__name__):
        assert not takes_own_steps(policy)
    assert "decoded by the model's own code" in caplog.text


@torch.inference_mode()
@pytest.mark.parametrize("shared", [0, 6])
def test_states_stay_those_of_transformers(shared):
    """Rows are repeated, dropped and reordered on the way, with and without an opening."""
    policy = tiny_policy("decoder", seed=2)
    ids = [tuple(range(3, 9)) + tail for tail in [(20, 21, 22), (30,), (40, 41, 42, 43)]]
    queries = [Query(i, ()) for i in ids]
    weights = decode_weights(policy, "as_is")
    opening = read_opening(weights, ids[0][:shared]) if shared else None
    ours, theirs = OwnStream(weights, queries, opening), open_stream(policy, queries, 100)
    changes = {0: [0, 0, 0, 1, 1, 2, 2, 2], 20: [7, 1, 3, 0], 70: [1, 2]}
    for step in range(80):
        if step in changes:
            ours.select(torch.tensor(changes[step]))
            theirs.select(torch.tensor(changes[step]))
        torch.testing.assert_close(ours.hidden, theirs.hidden, atol=1e-4, rtol=1e-4)
        tokens = (7 * torch.arange(len(ours.hidden)) + step) % 90
        ours.step(tokens)
        theirs.step(tokens)
    torch.testing.assert_close(weights.head(ours.hidden), head(policy, theirs.hidden))


def test_an_opening_is_read_once_for_all_batches():
    policy = tiny_policy("decoder", seed=4)
    opening = "Ice is smoother than grass, so the sled slides farther there. " * 3
    prompts = [opening + prompt for prompt in PROMPTS]
    together = replies(policy, prompts=prompts)
    assert together == replies(policy, prompts=prompts, batch_tokens=1)
    assert together == replies(replace(policy, own_steps=False), prompts=prompts)


@pytest.mark.parametrize("controls", [False, True])
def test_an_adapter_is_merged_for_writing(controls):
    policy = tiny_policy("decoder", tuning="lora")
    if controls:
        policy.add_controls({"diversity": 2})
    before = replies(policy)
    disturb(policy)
    adapted = replies(policy)
    assert adapted != before
    assert adapted == replies(replace(policy, own_steps=False))
    with policy.reference() as reference:
        assert replies(reference) == before
    assert replies(policy) == adapted


def test_a_shadow_is_shared_until_the_weights_change():
    policy = tiny_policy("decoder")
    first = decode_weights(policy, "bfloat16")
    assert decode_weights(policy, "bfloat16") is first
    assert decode_weights(tiny_policy("decoder"), "bfloat16") is not first
    first = decode_weights(policy, "bfloat16")
    disturb(policy)
    second = decode_weights(policy, "bfloat16")
    assert second is not first
    forget_shadows()
    assert decode_weights(policy, "bfloat16") is not second


@needs_vnni
def test_int8_is_near_and_does_not_depend_on_the_batch():
    policy = tiny_policy("decoder", seed=3)
    config = replace(DRAWN, weights="int8")
    assert config.as_dict()["weights"] == "int8"
    assert "weights" not in DRAWN.as_dict()
    together = replies(policy, config)
    assert together == replies(policy, config, batch_tokens=1)
    with torch.inference_mode():
        ids = [Query(tuple(policy.encode_prompt(p)), ()) for p in PROMPTS]
        logprobs = [
            torch.log_softmax(w.head(OwnStream(w, ids).hidden).float(), -1)
            for w in (decode_weights(policy, kept) for kept in ("as_is", "int8"))
        ]
    divergence = (logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1)
    assert divergence.max() < 0.02


def test_int8_is_refused_where_it_cannot_be():
    with pytest.raises(UserError, match="like Llama and Qwen"):
        replies(tiny_policy("t5"), replace(DRAWN, weights="int8"))
    with pytest.raises(UsageError, match="auto where beams are searched"):
        SamplingConfig(beams=2, weights="int8")


@pytest.mark.parametrize("vocabulary", [300, 12_800, 12_837])
def test_the_likeliest_are_those_of_a_full_search(vocabulary):
    logits = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(0))
    logits[0, -1] = logits[1, 0] = 9.0
    for count in (c for c in (1, 20, 64, 200, 1024) if c < vocabulary):
        values, ids = likeliest(logits, count)
        assert torch.equal(values, logits.topk(count).values)
        assert torch.equal(logits.gather(1, ids), values)


def test_a_draw_over_a_vocabulary_is_exact():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(200, 5_000, generator=generator)
    weights[:, 1000:4000] = 0.0
    uniform = torch.rand(200, generator=generator, dtype=torch.double)
    uniform[0], uniform[1] = 0.0, 1.0 - 1e-16
    cumulative = weights.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    assert torch.equal(_inverse_cdf(weights, uniform), expected[:, 0].clamp(max=4999))
