"""The sampler against transformers' `generate` and against exact probabilities."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rationalize.errors import UserError
from rationalize.models.forward import Row, collate, hidden_at_response, padded
from rationalize.models.logits import head
from rationalize.sampling.draw import _CANDIDATES, draw, uniforms
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import response_logprobs
from tests.tiny import tiny_policy

PROMPTS = [
    "Which falls faster?",
    "Ice or grass?",
    "Tom has four apples and eats one of them. How many?",
    "x",
]
KINDS = ("decoder", "t5")


def generated(policy, prompts, **options):
    """Replies of transformers' own loop, EOS included, padding dropped."""
    ids = [policy.encode_prompt(p) for p in prompts]
    tokens, mask = padded([i[::-1] for i in ids], policy)
    out = policy.model.generate(input_ids=tokens.flip(-1), attention_mask=mask.flip(-1), **options)
    replies = []
    for row in out[:, 1 if policy.is_encoder_decoder else tokens.shape[1] :].tolist():
        end = row.index(policy.eos_id) + 1 if policy.eos_id in row else len(row)
        replies.append(row[:end])
    return replies


def sampled(sampler, prompts, config, **options):
    """Token ids, flat over prompts and samples."""
    ids_PG = sampler.sample_ids(prompts, config, seeds=range(len(prompts)), **options)
    return [ids for ids_G in ids_PG for ids in ids_G]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate_in_float32(kind):
    policy = tiny_policy(kind, seed=3)
    ours = sampled(
        Sampler(policy, shadow=False), PROMPTS, SamplingConfig(temperature=0.0, max_new_tokens=40)
    )
    assert ours == generated(policy, PROMPTS, do_sample=False, max_new_tokens=40)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.3, 5, 1.0), (1.0, 20, 0.8), (1.0, 0, 0.999)],
)
def test_first_token_has_the_exact_distribution(temperature, top_k, top_p):
    """Chi-square of 4,000 first tokens against the probabilities of transformers' warpers."""
    policy = tiny_policy("decoder", seed=1)
    config = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=1, n=4000
    )
    tokens = [ids[0] for ids in sampled(Sampler(policy, shadow=False), PROMPTS[:1], config)]
    row = Row(tuple(policy.encode_prompt(PROMPTS[0])), (1,))
    with torch.no_grad():
        logits = head(policy, hidden_at_response(policy, collate([row], policy)))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    p = torch.softmax(warpers(torch.tensor([[0]]), logits), -1)[0].double().numpy()
    counts = np.bincount(tokens, minlength=len(p))
    assert counts[p == 0].sum() == 0
    assert _chi_square_z(counts, p) < 4


def _chi_square_z(counts, p):
    """Deviations above its mean of the chi-square statistic, rare tokens pooled."""
    expected = p * counts.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    chi2 = ((observed - expected) ** 2 / expected).sum()
    return (chi2 - (len(expected) - 1)) / np.sqrt(2 * max(1, len(expected) - 1))


def test_lengths_and_tokens_agree_with_generate():
    """Whole replies: mean length and token frequencies of 2,000 against 2,000 by transformers."""
    policy = tiny_policy("decoder", seed=5)
    config = SamplingConfig(top_p=0.9, max_new_tokens=12, n=2000)
    ours = sampled(Sampler(policy, shadow=False), PROMPTS[:1], config)
    torch.manual_seed(0)
    theirs = generated(
        policy,
        PROMPTS[:1],
        do_sample=True,
        top_p=0.9,
        top_k=0,
        max_new_tokens=12,
        num_return_sequences=2000,
    )
    a, b = np.array([len(i) for i in ours]), np.array([len(i) for i in theirs])
    assert abs(a.mean() - b.mean()) < 4 * np.sqrt(a.var() / len(a) + b.var() / len(b)) + 1e-9
    a, b = (
        np.bincount(np.concatenate(x), minlength=policy.n_vocab) / sum(map(len, x))
        for x in (ours, theirs)
    )
    assert np.abs(a - b).sum() < 0.12


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
def test_every_candidate_tier_draws_as_the_full_sort_does(spread, top_p):
    rng = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(50, 4 * _CANDIDATES[-1], generator=rng)
    uniform = torch.rand(50, generator=rng, dtype=torch.double)
    p, ids = logits.softmax(-1).sort(-1, descending=True)
    p = torch.where(p.cumsum(-1) - p < top_p, p, 0.0).double()
    ranks = (p.cumsum(-1) < uniform[:, None] * p.sum(-1, keepdim=True)).sum(-1)
    assert (
        draw(logits, SamplingConfig(top_p=top_p), uniform).tolist()
        == ids.gather(1, ranks[:, None])[:, 0].tolist()
    )


def test_a_sample_does_not_depend_on_its_batch():
    policy = tiny_policy("decoder")
    config = SamplingConfig(top_p=0.9, max_new_tokens=20, n=3)
    together = Sampler(policy, shadow=False).sample(PROMPTS, config, seeds=[7, 8, 9, 10])
    small = Sampler(policy, shadow=False, batch_tokens=1)
    assert small.sample(PROMPTS, config, seeds=[7, 8, 9, 10]) == together
    assert small.sample(PROMPTS[::-1], config, seeds=[10, 9, 8, 7]) == together[::-1]
    assert small.sample(PROMPTS[:1], config, seeds=[7])[0] == together[0]
    assert small.sample(PROMPTS[:1], config, seeds=[8])[0] != together[0]
    assert len({c.text for c in together[0]}) > 1
    assert {c.finish for c_G in together for c in c_G} == {
        "stop",
        "length",
    }  # some left the batch early


def test_many_samples_of_one_prompt_are_written_in_parts():
    rows = []

    class Watched(Sampler):
        def _write(self, writer, queries, config, n, *more):
            rows.append(len(queries) * n)
            return super()._write(writer, queries, config, n, *more)

    policy, config = tiny_policy(), SamplingConfig(n=600, max_new_tokens=3)
    found = Watched(policy, shadow=False).sample(PROMPTS[:2], config, seeds=[7, 8])
    assert rows == [200] * 6
    few = dataclasses.replace(config, n=250)
    assert Sampler(policy, shadow=False).sample(PROMPTS[:2], few, seeds=[7, 8]) == [
        replies[:250] for replies in found
    ]
    rows.clear()
    Watched(policy, shadow=False, batch_tokens=100).sample(PROMPTS[:1], config, seeds=[7])
    assert max(rows) * config.max_new_tokens <= 100


def test_uniforms_depend_on_seed_and_sample_alone():
    u = uniforms([(1, 0), (1, 1), (2, 0), (1, 0)], 5)
    assert torch.equal(u[0], u[3])
    assert len({row[0].item() for row in u}) == 3
    assert torch.equal(uniforms([(1, 1)], 3)[0], u[1, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_are_never_written(kind):
    policy = tiny_policy(kind)
    policy.add_controls({"correctness": 2, "diversity": 5})
    with torch.no_grad():
        policy._own_rows().mul_(20)  # the tied output layer would now write little else
    config = SamplingConfig(max_new_tokens=10, n=50)
    for ids in sampled(Sampler(policy), PROMPTS, config, controls=[{"diversity": 0}] * 4):
        assert max(ids) < policy.n_vocab


@pytest.mark.parametrize("kind", KINDS)
def test_controls_are_read(kind):
    policy = tiny_policy(kind)
    policy.add_controls({"correctness": 2, "diversity": 5})
    config = SamplingConfig(temperature=0.0, max_new_tokens=8)
    sampler = Sampler(policy, shadow=False)
    plain, best, mixed = (
        sampled(sampler, PROMPTS[:3], config, controls=c)
        for c in (
            None,
            [{"diversity": 0, "correctness": 1}] * 3,
            [{"diversity": 0, "correctness": 1}, None, {"diversity": 4}],
        )
    )
    assert plain != best
    assert mixed[0] == best[0]
    assert mixed[1] == plain[1]
    with pytest.raises(UserError, match="no control token for brevity"):
        sampled(sampler, PROMPTS[:1], config, controls=[{"brevity": 0}])
    with pytest.raises(ValueError, match="no control tokens"):
        sampled(Sampler(tiny_policy(kind)), PROMPTS[:1], config, controls=[{"diversity": 0}])


@pytest.mark.parametrize("kind", KINDS)
def test_guidance(kind):
    """w = 0 is plain decoding; w > 0 decodes from best + w (best - worst)."""
    policy = tiny_policy(kind)
    policy.add_controls({"diversity": 5})
    controls = [{"diversity": 0}] * 2
    config = SamplingConfig(max_new_tokens=10, n=3)
    plain = sampled(Sampler(policy, shadow=False), PROMPTS[:2], config, controls=controls)
    assert (
        sampled(Sampler(policy, shadow=False, guidance=0.0), PROMPTS[:2], config, controls=controls)
        == plain
    )
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=6)
    guided = sampled(
        Sampler(policy, shadow=False, guidance=2.0), PROMPTS[:2], greedy, controls=controls
    )
    for prompt, ids in zip(PROMPTS, guided, strict=False):
        best, worst = (_logprobs(policy, prompt, ids, b) for b in (0, 4))
        assert (best + 2.0 * (best - worst)).argmax(-1).tolist() == ids


def _logprobs(policy, prompt, ids, b):
    row = Row(
        tuple(policy.encode_prompt(prompt)),
        tuple(ids),
        tuple(policy.controls.prefix({"diversity": b})),
    )
    with torch.no_grad():
        return torch.log_softmax(
            head(policy, hidden_at_response(policy, collate([row], policy))), -1
        )


def test_completions_say_how_they_ended():
    policy = tiny_policy("decoder", seed=5)
    calls = []
    config = SamplingConfig(max_new_tokens=30, n=20)
    out = Sampler(policy).sample(
        PROMPTS, config, seeds=range(4), progress=lambda *a: calls.append(a)
    )
    completions = [c for c_G in out for c in c_G]
    assert {c.finish for c in completions} == {"stop", "length"}
    assert all(c.n_tokens == 30 for c in completions if c.finish == "length")
    assert calls[-1] == (80, 80, sum(c.n_tokens for c in completions))
    assert [len(c) for c in out] == [20] * 4
    assert Sampler(policy).sample([], config, seeds=[]) == []


def test_shadow_follows_the_weights_on_refresh():
    policy = tiny_policy("decoder")
    sampler = Sampler(policy)
    config = SamplingConfig(temperature=0.0, max_new_tokens=5)
    before = sampler.sample(PROMPTS, config, seeds=range(4))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    sampler.refresh()
    assert sampler.sample(PROMPTS, config, seeds=range(4)) != before
    assert policy.dtype == torch.float32


def test_a_common_opening_is_read_once_and_changes_nothing():
    from rationalize.models.streams import common_length

    assert common_length([(1, 2, 3, 4), (1, 2, 5), (1, 2, 3, 9)]) == 2
    assert common_length([(1, 2), (1, 2)]) == 1
    policy = tiny_policy("decoder")
    opening = "Ice is smoother than grass, so the sled slides farther there. " * 3
    prompts = [opening + t for t in ("Tom has four apples.", "Explain, then answer.", "Is it so?")]
    config = SamplingConfig(temperature=0.0, max_new_tokens=12)
    sampler = Sampler(policy, shadow=False)
    together = sampler.sample(prompts, config, seeds=[0, 1, 2])
    alone = [sampler.sample([p], config, seeds=[0])[0] for p in prompts]  # none to share with
    assert together == alone


@pytest.mark.parametrize("kind", KINDS)
def test_beams_are_likelier_than_greedy_whatever_the_batch(kind):
    policy = tiny_policy(kind, seed=3)
    sampler = Sampler(policy, shadow=False)
    greedy = sampled(sampler, PROMPTS, SamplingConfig(temperature=0.0, max_new_tokens=8))
    searched = SamplingConfig(beams=4, n=2, max_new_tokens=8)
    best = sampler.sample_ids(PROMPTS, searched, seeds=[0] * len(PROMPTS))
    assert [len(own) for own in best] == [2] * len(PROMPTS)
    assert all(first != second for first, second in best)
    gains = []
    for prompt, one, [first, second] in zip(PROMPTS, greedy, best, strict=True):
        alone = sampler.sample_ids([prompt], searched, seeds=[7])
        assert alone == [[first, second]]
        rows = [Row(tuple(policy.encode_prompt(prompt)), tuple(i)) for i in (one, first, second)]
        logprobs = response_logprobs(policy, rows, FitConfig())
        means = [p / len(r.response_ids) for p, r in zip(logprobs, rows, strict=True)]
        assert means[1] >= means[2] - 1e-4  # transformers ranks by the mean over tokens
        gains.append(means[1] - means[0])
    assert sum(gains) > 0  # a single search may lose the greedy reply


@pytest.mark.parametrize("kind", KINDS)
def test_beams_read_control_tokens_and_never_write_one(kind):
    policy = tiny_policy(kind)
    policy.add_controls({"diversity": 2})
    with torch.no_grad():  # control tokens as likely as they can be
        policy.model.get_output_embeddings().weight[policy.n_vocab :] *= 50
    sampler = Sampler(policy, shadow=False)
    searched = SamplingConfig(beams=3, max_new_tokens=6)
    controls = [{"diversity": 0}, {"diversity": 1}]
    [[best], [worst]] = sampler.sample_ids(
        [PROMPTS[0]] * 2, searched, seeds=[0, 0], controls=controls
    )
    assert max(best + worst) < policy.n_vocab
    with pytest.raises(ValueError, match="not guided"):
        Sampler(policy, guidance=1.0).sample(["x"], searched, seeds=[0])
    with pytest.raises(UserError, match="at most `beams`"):
        SamplingConfig(beams=2, n=3)
