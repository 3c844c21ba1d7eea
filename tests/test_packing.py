"""Rows of one prompt in one sequence: the layout by hand, the states of rows of their own."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, Phi3Config, Qwen2Config

from rationalize.models import forward
from rationalize.models.forward import Row, collate, find_sharing, hidden_at_response, micro_batches
from rationalize.models.packing import branch_mask, pack
from tests.tiny import tiny_policy

IDS = st.lists(st.integers(0, 9), max_size=4).map(tuple)
ROWS = st.lists(
    st.tuples(st.sampled_from([(1, 2), (3,), (1, 2, 3)]), IDS, IDS.filter(len)), max_size=8
)


def test_the_layout_by_hand():
    packed = pack([(1, 2), (7,), (1, 2)], [(), (), (9,)], [(3, 4), (5,), (6, 5, 4)], longest=99)
    assert packed.ids == [[1, 2, 3, 9, 6, 5], [7]]
    assert packed.positions == [[0, 1, 2, 2, 3, 4], [0]]
    assert packed.branches == [[0, 0, 1, 2, 2, 2], [0]]
    assert packed.sequence_of == [0, 0, 1, 0, 0, 0]
    assert packed.place == [1, 2, 0, 3, 4, 5]
    seen = branch_mask(packed.branches, torch.float32)[0, 0] == 0
    assert seen.tolist()[2] == [True, True, True, False, False, False]
    assert seen.tolist()[4] == [True, True, False, True, True, False]


@given(ROWS, st.integers(0, 12))
def test_every_token_follows_its_own_prompt_controls_and_reply(rows, longest):
    prompts, controls, responses = zip(*rows, strict=True) if rows else ((), (), ())
    packed = pack(prompts, controls, responses, longest=longest)
    n = 0
    for prompt, control, response in rows:
        whole = (*prompt, *control, *response)
        for t in range(len(response)):
            s, at = packed.sequence_of[n], packed.place[n]
            ids, branches = packed.ids[s], packed.branches[s]
            seen = [i for i in range(at + 1) if branches[i] in (0, branches[at])]
            assert tuple(ids[i] for i in seen) == whole[: len(prompt) + len(control) + t]
            assert [packed.positions[s][i] for i in seen] == list(range(len(seen)))
            n += 1
    assert n == len(packed.place) == len(packed.sequence_of)
    if longest == 0:
        assert len(packed.ids) == len(rows)
    assert all(b[-1] <= 1 or len(b) <= longest for b in packed.branches)


def rows_of(policy, **controls):
    prefix = tuple(policy.controls.prefix(controls)) if controls else ()
    return [
        Row(tuple(policy.encode_prompt(q)), tuple(policy.encode_response(r)), prefix)
        for q, r in (("Why?", "The stone."), ("Ice or tea?", "Ice."), ("Why?", "It is (B), so."))
    ]


@pytest.mark.parametrize("kind", ["decoder", "t5"])
@pytest.mark.parametrize("controls", [{}, {"diversity": 1}])
def test_states_and_gradients_are_those_of_rows_of_their_own(kind, controls):
    policy = tiny_policy(kind)
    if controls:
        policy.add_controls({"diversity": 2})
    rows = rows_of(policy, **controls)
    assert policy.shares_prompts == (kind == "decoder")
    weights = policy.model.get_input_embeddings().weight
    together = hidden_at_response(policy, collate(rows, policy))
    alone = torch.cat([hidden_at_response(policy, collate([row], policy)) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)
    seed = torch.randn_like(alone)
    gradients = [torch.autograd.grad((h * seed).sum(), weights)[0] for h in (together, alone)]
    assert torch.allclose(*gradients, atol=1e-4)


def test_a_shared_prompt_is_read_once():
    policy = tiny_policy("decoder")
    read = []
    policy.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: read.append(args[0].numel())
    )
    rows = [row for row in rows_of(policy) for _ in range(2)]
    rows = [row for row in rows if row.prompt_ids == rows[0].prompt_ids]
    hidden_at_response(policy, collate(rows, policy))
    prompt = len(rows[0].prompt_ids)
    assert read == [prompt + sum(len(row.response_ids) - 1 for row in rows)]


FAMILIES = [
    MistralConfig(sliding_window=40, vocab_size=300),
    Qwen2Config(vocab_size=300),
    Phi3Config(vocab_size=300, pad_token_id=0),
    Gemma2Config(vocab_size=300, head_dim=8, sliding_window=40),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda c: c.model_type)
def test_families_share(config):
    policy = tiny_policy("decoder")
    for name, value in {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }.items():  # fmt: skip
        setattr(config, name, value)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    torch.manual_seed(0)
    policy.model = AutoModelForCausalLM.from_config(config).eval()
    find_sharing(policy)
    assert policy.shares_prompts
    rows = [*rows_of(policy), *rows_of(policy)]
    assert max(row.length for row in rows) <= 40
    together = hidden_at_response(policy, collate(rows, policy))
    alone = torch.cat([hidden_at_response(policy, collate([row], policy)) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)


def test_a_model_that_takes_no_mask_does_not_share(monkeypatch):
    policy = tiny_policy("decoder")
    causal = forward.branch_mask

    def unheeded(branches, dtype):  # every branch sees those before it
        return causal([[0] * len(own) for own in branches], dtype)

    monkeypatch.setattr(forward, "branch_mask", unheeded)
    find_sharing(policy)
    assert not policy.shares_prompts

    def refuses(*args):
        raise ValueError("no mask of four dimensions")

    monkeypatch.setattr(forward, "branch_mask", refuses)
    find_sharing(policy)
    assert not policy.shares_prompts
    rows = rows_of(policy)
    assert torch.isfinite(hidden_at_response(policy, collate(rows, policy))).all()


def test_rows_of_one_prompt_pass_together():
    a, b, c = (Row((1, 2, 3), (4,) * n) for n in (9, 2, 1))
    other = Row((5, 6, 7), (4,) * 5)
    passes = micro_batches([c, other, a, b], 36)
    assert [[dataclasses.astuple(r) for r in p] for p in passes] == [
        [dataclasses.astuple(r) for r in (c, a, b)], [dataclasses.astuple(other)],
    ]  # fmt: skip
