"""Preference pairs, their partition, the loss that learns from them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_policy

from rationalize.methods.pair_accuracy import log_held_out
from rationalize.models.forward import Row
from rationalize.rewards.mentions import bare_answer, masked
from rationalize.runs import Run, Stage
from rationalize.signals.draws import apportion
from rationalize.signals.pairs import Preference, partition, prefer
from rationalize.signals.ranks import rates_in_order
from rationalize.training.loop import FitConfig
from rationalize.training.losses import dpo_loss
from rationalize.training.objectives import PairTag, dpo, response_logprobs
from rationalize.training.preference import PairTexts, learn_pairs


def test_the_papers_vectors():
    assert prefer([0.72, 0.69], 0.70, ["a", "b"]) == Preference(0, 1)
    assert prefer([0.69, 0.72], 0.70, ["a", "b"]) == Preference(1, 0)
    assert prefer([0.72, 0.69], 0.73, ["a", "b"]) == "below the reference"
    assert prefer([0.72, 0.72], 0.70, ["a", "b"]) == "tie"
    assert prefer([0.72, 0.72], 0.70, ["a", "b"], filtered=False) == Preference(0, 1)
    assert prefer([0.5, 0.4], 0.9, ["a", "b"], filtered=False) == Preference(0, 1)
    assert prefer([0.72, 0.69], 0.70, ["a", "a"]) == "identical"
    assert prefer([0.70, 0.69], 0.70, ["a", "b"]) == "below the reference"  # strict


def test_a_margin_is_asked_of_the_reference_and_of_the_worst():
    assert prefer([0.75, 0.5], 0.6, ["a", "b"], margin=0.125) == Preference(0, 1)
    assert prefer([0.75, 0.5], 0.65, ["a", "b"], margin=0.125) == "below the reference"
    assert prefer([0.75, 0.7], 0.5, ["a", "b"], margin=0.125) == "tie"
    assert prefer([0.75, 0.7], 0.5, ["a", "b"], margin=0.125, filtered=False) == Preference(0, 1)


def test_of_many_the_best_and_the_worst():
    assert prefer([0.3, 0.9, 0.1, 0.5], 0.2, list("abcd")) == Preference(1, 2)
    with pytest.raises(ValueError, match="at least 2"):
        prefer([0.3], 0.2, ["a"])
    with pytest.raises(ValueError, match="NaN"):
        prefer([0.3, math.nan], 0.2, ["a", "b"])


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from("xyz")), min_size=2),
    st.sampled_from([0.0, 0.1, 0.25]),
)
def test_a_filtered_pair_is_what_it_says(candidates, reference):
    utilities, texts = zip(*candidates, strict=True)
    pair = prefer(utilities, reference, texts)
    if isinstance(pair, Preference):
        assert utilities[pair.chosen] == max(utilities) > reference
        assert utilities[pair.rejected] == min(utilities) < utilities[pair.chosen]
        assert texts[pair.chosen] != texts[pair.rejected]


def test_partition_of_gsm8k():
    parts = partition(7473, 4)
    assert [p.stop for p in parts] == [1868, 3736, 5604, 7473]
    assert [len(p) for p in parts] == [1868, 1868, 1868, 1869]
    assert [i for p in partition(10, 3) for i in p] == list(range(10))


def test_apportion():
    assert apportion({"a": 1.0, "b": 1.0}, 4) == {"a": 2, "b": 2}
    assert apportion({"a": 0.98, "b": 0.01, "c": 0.01}, 5) == {"a": 3, "b": 1, "c": 1}
    assert apportion({"a": 0.6, "b": 0.0}, 3) == {"a": 3}
    with pytest.raises(ValueError, match="one for each"):
        apportion({"a": 1, "b": 1}, 1)


def test_dpo_vectors():
    zero = torch.zeros(1)
    loss, margin = dpo_loss(zero, zero, 0.1)
    assert (loss.item(), margin.item()) == (pytest.approx(math.log(2)), 0.0)
    loss, margin = dpo_loss(torch.tensor([-3.0 + 5.0]), torch.tensor([-6.0 + 5.0]), 0.1)
    assert margin.item() == pytest.approx(0.3)
    assert loss.item() == pytest.approx(0.554355, abs=1e-6)


def rows_of(policy, *, reference=(0.0, 0.0, 0.0, 0.0)):
    texts = [("Why?", "It is dense."), ("Why?", "No."), ("How?", "So."), ("How?", "Because it is.")]
    return [
        Row(
            tuple(policy.encode_prompt(p)), tuple(policy.encode_response(r)),
            tag=PairTag(i // 2, i % 2 == 0, logp, "generation" if i < 2 else "refinement"),
        )
        for i, ((p, r), logp) in enumerate(zip(texts, reference, strict=True))
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_at_the_reference_the_loss_is_ln_2(kind):
    policy = tiny_policy(kind)
    config = FitConfig(micro_tokens=16)
    reference = response_logprobs(policy, rows_of(policy), config)
    out = dpo(beta=0.3)(policy, rows_of(policy, reference=reference))
    assert out.weight == 2
    assert out.total.item() / 2 == pytest.approx(math.log(2), abs=1e-5)
    assert out.metrics["logp_chosen"] == pytest.approx(reference[0] + reference[2], abs=1e-4)
    assert out.metrics["pairs/generation"] == out.metrics["pairs/refinement"] == 1
    out.total.backward()  # the chosen become likelier, the rejected less likely
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.grad is not None:
                p -= 1e-3 * p.grad
    after = response_logprobs(policy, rows_of(policy), config)
    assert after[0] - after[1] > reference[0] - reference[1]
    assert after[2] - after[3] > reference[2] - reference[3]


def test_nll_term_is_per_token_of_the_chosen():
    policy = tiny_policy("decoder")
    rows = rows_of(policy)
    plain, with_nll = dpo(beta=0.1)(policy, rows), dpo(beta=0.1, nll_weight=0.5)(policy, rows)
    config = FitConfig()
    logprobs = response_logprobs(policy, rows, config)
    expected = -0.5 * sum(logprobs[i] / len(rows[i].response_ids) for i in (0, 2))
    assert (with_nll.total - plain.total).item() == pytest.approx(expected, abs=1e-4)


def test_a_normalized_margin_counts_log_ratios_per_token():
    policy = tiny_policy("decoder")
    reference = [-4.0, -9.0, -2.0, -30.0]
    rows, config = rows_of(policy, reference=reference), FitConfig()
    logprobs = response_logprobs(policy, rows, config)
    per_token = [
        (now - then) / len(row.response_ids)
        for row, now, then in zip(rows, logprobs, reference, strict=True)
    ]
    margins = [2 * (per_token[i] - per_token[i + 1]) for i in (0, 2)]
    out = dpo(beta=2, length_normalized=True)(policy, rows)
    assert out.metrics["margin"] == pytest.approx(sum(margins), abs=1e-4)
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins)
    assert out.total.item() == pytest.approx(expected, abs=1e-4)


def test_equal_rows_have_equal_logprobs_whatever_their_tags():
    policy, config = tiny_policy("decoder"), FitConfig()
    rows = rows_of(policy)
    twice = [*rows, *(replace(row, tag=None) for row in reversed(rows))]
    logprobs = response_logprobs(policy, twice, config)
    assert logprobs == [*response_logprobs(policy, rows, config), *logprobs[len(rows) - 1 :: -1]]


def test_half_a_pair_is_refused():
    policy = tiny_policy("decoder")
    with pytest.raises(ValueError, match="one chosen and one rejected"):
        dpo(beta=0.1)(policy, rows_of(policy)[:3])


def test_masked_and_bare_answers():
    choices = ("the heavy cart", "the light cart")
    assert masked("It is (A), the heavy cart.", choices) == "It is ___, ___."
    assert masked("Theheavy cart", choices) == "Theheavy cart"
    assert bare_answer("", choices)
    assert bare_answer("So the answer is (B).", choices)
    for text in ("The answer is B.", "b", "Option B is correct.", "So it's light cart.",
                 "Answer: light cart"):  # fmt: skip
        assert bare_answer(text, choices), text
    assert not bare_answer("C is the cart that wins.", choices)
    assert bare_answer("It must be the light cart, the light cart.", choices)
    assert not bare_answer("Less weight means less force, so it is the light cart.", choices)


def test_learned_preferences_are_measured_on_other_questions(tmp_path):
    """Right replies say one thing and wrong ones another: the order carries over."""
    policy = tiny_policy("decoder")
    pairs = [PairTexts(f"Is {i} it?", f"a clear stone {i}", f"no clue {i}") for i in range(24)]
    stage = Stage(Run.open(tmp_path / "run", {}), "dpo")
    fit = FitConfig(learning_rate=3e-3, batch_size=16)
    margins = learn_pairs(
        policy, pairs[:18], fit, beta=0.1, nll_weight=0.0, epochs=3, stage=stage, seed=0,
        held_out=pairs[18:],
    )  # fmt: skip
    assert {line["weight"] for line in stage.metrics()} == {8}  # 16 rows
    assert len(margins) == 6
    facts = log_held_out(stage, pairs[18:], margins, learned=18)
    assert (facts["pairs"], facts["held_out_pairs"]) == (18, 6)
    assert facts["held_out_pair_accuracy"] > 0.9
    assert facts["held_out_pair_accuracy_low"] <= facts["held_out_pair_accuracy"]
    [line] = stage.metrics("held_out")
    assert line["held_out_pair_accuracy"] == facts["held_out_pair_accuracy"]


def test_without_pairs_aside_nothing_is_claimed(tmp_path):
    stage = Stage(Run.open(tmp_path / "run", {}), "dpo")
    assert log_held_out(stage, [], [], learned=3) == {"pairs": 3, "held_out_pairs": 0}


def test_an_untouched_policy_orders_half_of_the_pairs():
    assert rates_in_order(["a", "a", "b"], [0.0, 0.0, -1.0]) == [0.5, 0.0]
