"""Prefix trees: their layout by hand, and hidden states equal to those of single sequences."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPTNeoConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    Qwen2Config,
)

from rationalize.models.forward import (
    Row,
    collate,
    hidden_at_response,
    micro_batches,
    plain_model,
    takes_trees,
)
from rationalize.models.precision import frozen_copy
from rationalize.models.trees import ancestry, build_batch_trees, build_prefix_trees
from tests.tiny import tiny_policy

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), max_size=9)


def test_trees_share_every_prefix_and_stay_small():
    rows = [
        (*prefix, *r, *c)
        for prefix in ((1, 2, 3), (1, 2, 4))
        for r in ((5,), (6, 7))
        for c in ((8, 1), (8, 2))
    ]
    [tree] = build_prefix_trees(rows, 100)
    # 1 2 | 3 : 5 8 1 2, 6 7 8 1 2 | 4 : the same
    assert len(tree) == 2 + 2 * (1 + 4 + 5)
    small = build_prefix_trees(rows, 8)
    assert sum(len(t.paths) for t in small) == len(rows)
    assert all(len(t) <= 8 for t in small)
    assert [len(t.paths) for t in build_prefix_trees(rows, 0)] == [1] * len(rows)


def test_what_a_node_sees_by_hand():
    sees, depth = ancestry(build_prefix_trees([(1, 2, 3), (1, 2, 4, 5)], 9))
    assert depth.tolist() == [[0, 1, 2, 2, 3]]
    assert sees[0, 0].astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]
    ]  # fmt: skip


@given(SEQUENCES, st.integers(0, 20))
def test_every_sequence_is_a_path_and_sees_itself_alone(sequences, limit):
    for trees in (build_prefix_trees(sequences, limit), build_batch_trees(sequences, limit)):
        assert sorted(i for tree in trees for i in tree.members) == list(range(len(sequences)))
        for tree in trees:
            assert len(tree) <= max(limit, max(map(len, sequences)))
            sees, depth = ancestry([tree])
            for path, i in zip(tree.paths, tree.members, strict=True):
                assert tuple(tree.tokens[node] for node in path) == sequences[i]
                for n, node in enumerate(path):
                    assert depth[0, node] == n
                    assert sees[0, 0, node].nonzero()[0].tolist() == sorted(path[: n + 1])


@given(SEQUENCES.filter(len), st.integers(0, 20))
def test_one_pass_is_never_padded_beyond_the_sequences_alone(sequences, limit):
    trees = build_batch_trees(sequences, limit)
    padded = len(trees) * max(map(len, trees))
    assert padded <= len(sequences) * max(map(len, sequences))


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
    assert policy.takes_trees == (kind == "decoder")
    weights = policy.model.get_input_embeddings().weight
    together = hidden_at_response(policy, collate(rows, policy))
    alone = torch.cat([hidden_at_response(policy, collate([row], policy)) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)
    seed = torch.randn(alone.shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.autograd.grad((h * seed).sum(), weights)[0] for h in (together, alone))
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.parametrize("how", ["lora", "half", "autocast"])
def test_adapters_and_half_precision_share_too(how):
    policy = tiny_policy("decoder", tuning="lora" if how == "lora" else "full")
    if how == "half":
        policy.model = frozen_copy(plain_model(policy), torch.bfloat16)
    rows = rows_of(policy)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how != "lora"):
        together = hidden_at_response(policy, collate(rows, policy)).float()
        alone = [hidden_at_response(policy, collate([row], policy)).float() for row in rows]
    gaps = (together - torch.cat(alone)).norm(dim=1) / torch.cat(alone).norm(dim=1)
    assert gaps.max() < (1e-4 if how == "lora" else 0.05)


def test_a_shared_prompt_is_read_once():
    policy = tiny_policy("decoder")
    read = []
    policy.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: read.append(args[0].numel())
    )
    first, _, second = rows_of(policy)
    hidden_at_response(policy, collate([first, second, first, second], policy))
    [tree] = build_prefix_trees(
        [(*r.prompt_ids, *r.response_ids[:-1]) for r in (first, second)], 999
    )
    assert read == [len(tree)]
    assert len(tree) < len(first.prompt_ids) + first.length + second.length - 2


FAMILIES = [
    MistralConfig(sliding_window=40, vocab_size=300),
    Qwen2Config(vocab_size=300),
    Phi3Config(vocab_size=300, pad_token_id=0),
    Gemma2Config(vocab_size=300, head_dim=8, sliding_window=40),
    GPTNeoConfig(
        vocab_size=300, window_size=40, num_layers=2, attention_types=[[["global", "local"], 1]]
    ),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda c: c.model_type)
@pytest.mark.parametrize("long", [False, True])
def test_families_share_within_their_window(config, long):
    policy = tiny_policy("decoder")
    config = copy.deepcopy(config)
    for name, value in {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }.items():  # fmt: skip
        setattr(config, name, value)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    torch.manual_seed(0)
    policy.model = AutoModelForCausalLM.from_config(config).eval()
    policy.takes_trees = takes_trees(policy)
    assert policy.takes_trees
    rows = [*rows_of(policy), *rows_of(policy)]
    assert max(row.length for row in rows) <= 40
    if long:  # one row beyond the window keeps it, whatever the others share
        rows.append(Row(tuple(range(5, 65)), (7, 8, 9)))
    together = hidden_at_response(policy, collate(rows, policy))
    alone = torch.cat([hidden_at_response(policy, collate([row], policy)) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        MptConfig(vocab_size=300, d_model=32, n_layers=2, n_heads=4),  # positions follow no mask
        BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4),  # refuses such a mask
    ],
    ids=lambda c: c.model_type,
)
def test_a_model_that_takes_no_mask_gets_no_tree(config):
    policy = tiny_policy("decoder")
    torch.manual_seed(0)
    policy.model = AutoModelForCausalLM.from_config(config).eval()
    policy.takes_trees = takes_trees(policy)
    assert not policy.takes_trees
    rows = rows_of(policy)
    assert torch.isfinite(hidden_at_response(policy, collate(rows, policy))).all()


def test_rows_of_one_prompt_pass_together():
    a, b, c = (Row((1, 2, 3), (4,) * n) for n in (9, 2, 1))
    other = Row((5, 6, 7), (4,) * 5)
    assert micro_batches([c, other, a, b], 36) == [[c, a, b], [other]]
