"""Control tokens: names, ids, rows."""

import pytest
import torch

from rationalize.errors import UserError
from rationalize.models.control import ControlTokens
from tests.tiny import tiny_policy

BINS = {"consistency": 5, "correctness": 2}


def test_prefix_is_in_the_order_of_the_bins():
    controls = ControlTokens(BINS, first_id=100)
    assert controls.prefix({"correctness": 1, "consistency": 0}) == [100, 106]
    assert controls.prefix({"correctness": 0}) == [105]
    assert controls.prefix({}) == []
    assert controls.ids() == list(range(100, 107))
    assert controls.names()[0] == "<|consistency:0|>"
    assert controls.worst({"consistency": 0, "correctness": 0}) == {
        "consistency": 4,
        "correctness": 1,
    }


def test_the_worst_bin_is_the_worst_that_was_trained():
    controls = ControlTokens(BINS, lowest={"consistency": 2})
    assert controls.worst({"consistency": 0, "correctness": 0}) == {
        "consistency": 2,
        "correctness": 1,
    }


def test_copies_make_a_longer_prefix():
    controls = ControlTokens(BINS, copies=3, first_id=100)
    assert controls.prefix({"consistency": 1, "correctness": 0}) == [103, 104, 105, 115, 116, 117]
    assert len(controls.ids()) == len(set(controls.names())) == 21


@pytest.mark.parametrize("chosen", [{"consistency": 5}, {"brevity": 0}, {"correctness": -1}])
def test_unknown_controls_are_refused(chosen):
    with pytest.raises(UserError, match=r"consistency=0\.\.4, correctness=0\.\.1"):
        ControlTokens(BINS).prefix(chosen)


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_rows_are_added_behind_the_words(kind):
    """T5 has rows that no token uses: the first are taken and filled anew, none is removed."""
    policy = tiny_policy(kind)
    before = policy.model.get_input_embeddings().weight.detach().clone()
    policy.add_controls({"correctness": 2})
    after = policy.model.get_input_embeddings().weight
    assert policy.controls.ids() == [300, 301]
    assert policy.tokenizer.convert_tokens_to_ids(policy.controls.names()) == [300, 301]
    assert len(after) == (304 if kind == "t5" else 302)
    assert torch.equal(after[:300], before[:300])
    if kind == "t5":
        assert not torch.equal(after[300:302], before[300:302])
        assert torch.equal(after[302:], before[302:])
    assert (
        policy.model.get_output_embeddings().weight is after
        or not policy.model.config.tie_word_embeddings
    )
    ids = policy.tokenizer("a<|correctness:1|>b")["input_ids"]
    assert 301 in ids
    assert policy.decode(ids) == "ab"


def test_statistics_are_those_of_the_words():
    policy = tiny_policy("decoder")
    policy.add_controls({"correctness": 2, "diversity": 5}, copies=300)
    weight = policy.model.get_input_embeddings().weight.detach()
    words, rows = weight[:300], weight[300:]
    assert torch.allclose(rows.mean(0), words.mean(0), atol=0.05)
    assert torch.allclose(rows.std(0), words.std(0), rtol=0.15)


def test_rows_depend_on_the_seed_alone():
    rows = []
    for seed in (0, 0, 1):
        policy = tiny_policy("decoder")
        policy.add_controls(BINS, seed=seed)
        rows.append(policy.control_rows())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_words_place_a_bin_near_its_meaning():
    policy = tiny_policy("decoder")
    policy.add_controls({"diversity": 5}, copies=2, init="words")
    rows = policy.control_rows()
    words = policy.model.get_input_embeddings().weight.detach()
    for b, level in enumerate(("best", "good", "fair", "poor", "worst")):
        meaning = words[policy.tokenizer(f"{level} diversity")["input_ids"]].mean(0)
        for copy in (0, 1):
            assert (rows[2 * b + copy] - meaning).norm() < 0.2 * words.std(0).norm()
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_rows_can_be_moved_further(tuning):
    policy = tiny_policy("decoder", tuning=tuning)
    policy.add_controls(BINS)
    before = policy.control_rows()
    with torch.no_grad():
        policy._own_rows().add_(1.0)
    policy.extrapolate_control_rows(before, 3.0)
    assert torch.allclose(policy.control_rows(), before + 3.0)


def test_controls_can_be_kept_but_not_changed():
    policy = tiny_policy("decoder")
    policy.add_controls(BINS)
    rows = policy.control_rows()
    policy.add_controls(BINS, seed=5)
    assert torch.equal(policy.control_rows(), rows)
    with pytest.raises(UserError, match="start from a model without them"):
        policy.add_controls({"diversity": 5})
