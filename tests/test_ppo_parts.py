"""Rank losses, token rewards, GAE and PPO's losses, against numbers worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rationalize.methods.ppo import over_optimised
from rationalize.training.losses import (
    bradley_terry,
    listwise,
    pointwise,
    ppo_policy_loss,
    ppo_value_loss,
)
from rationalize.training.rollouts import explained_variance, gae, token_rewards, whiten

POSITIVE, NEGATIVE = (1.2, 0.4, -0.1), (0.3, -0.5)
SCORES = torch.tensor([*POSITIVE, *NEGATIVE], dtype=torch.float64)
PAIRS = [(i, j) for i in range(3) for j in (3, 4)]


@pytest.mark.parametrize(
    ("margin", "loss"), [(0, 0.693147), (1, 0.313262), (2, 0.126928), (-1, 1.313262)]
)
def test_bradley_terry_by_margin(margin, loss):
    scores = torch.tensor([float(margin), 0.0])
    assert bradley_terry(scores, [(0, 1)]).item() == pytest.approx(loss, abs=1e-6)


def test_pair_losses_and_their_mean():
    one = [bradley_terry(SCORES, [pair]).item() for pair in PAIRS]
    expected = [0.341154, 0.167786, 0.644397, 0.341154, 0.913015, 0.513015]
    assert one == pytest.approx(expected, abs=1e-6)
    assert bradley_terry(SCORES, PAIRS).item() == pytest.approx(0.486753, abs=1e-6)
    assert sum(SCORES[i] > SCORES[j] for i, j in PAIRS) == 5


def test_listwise_per_positive_and_mean():
    one = [listwise(SCORES, [(i, 3), (i, 4)]).item() for i in range(3)]
    assert one == pytest.approx([0.463264, 0.837856, 1.151251], abs=1e-6)
    assert listwise(SCORES, PAIRS).item() == pytest.approx(0.817457, abs=1e-6)


def test_pointwise_is_the_mean_cross_entropy():
    loss = pointwise(torch.tensor([1.0, -2.0]), [True, True]).item()
    assert loss == pytest.approx((0.313262 + 2.126928) / 2, abs=1e-6)


def test_centring():
    plain, centred = (bradley_terry(SCORES, [(0, 3)], centre=c).item() for c in (0.0, 0.01))
    assert centred - plain == pytest.approx(0.01 * 1.5**2)


@given(st.permutations(range(5)))
def test_rank_losses_do_not_depend_on_the_order(order):
    place = {old: new for new, old in enumerate(order)}
    moved = [(place[i], place[j]) for i, j in PAIRS]
    for loss in (bradley_terry, listwise):
        assert loss(SCORES[list(order)], moved).item() == pytest.approx(loss(SCORES, PAIRS).item())


@pytest.mark.parametrize("loss", [bradley_terry, listwise])
def test_a_constant_on_all_scores_changes_no_gradient(loss):
    gradients = []
    for shift in (0.0, 3.0):
        scores = (SCORES + shift).requires_grad_()
        loss(scores, PAIRS).backward()
        gradients.append(scores.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_a_question_without_pairs_has_no_loss():
    with pytest.raises(ValueError, match="without pairs"):
        bradley_terry(SCORES, [])


REWARDS = torch.tensor([-0.01, 0.0, 1.825])


def test_token_rewards():
    logprob, reference = torch.tensor([-1.0, -0.5, -2.0]), torch.tensor([-1.2, -0.5, -1.5])
    rewards = token_rewards(logprob, reference, 0.8 + 1.0, 0.05)
    torch.testing.assert_close(rewards, REWARDS)
    assert rewards.sum().item() == pytest.approx(1.815)


def test_gae():
    advantages, returns = gae(REWARDS, torch.tensor([0.5, 0.6, 0.9]), gamma=1.0, lam=0.95)
    torch.testing.assert_close(
        advantages, torch.tensor([1.2098, 1.1787, 0.9250]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(returns, torch.tensor([1.7098, 1.7788, 1.8250]), atol=1e-4, rtol=0)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_gae_equals_the_sum_that_defines_it(pairs, gamma, lam):
    rewards, values = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)
    )
    ahead = torch.cat([values[1:], torch.zeros(1, dtype=torch.float64)])
    delta = rewards + gamma * ahead - values
    expected = [
        sum((gamma * lam) ** (k - t) * delta[k].item() for k in range(t, len(pairs)))
        for t in range(len(pairs))
    ]
    advantages, returns = gae(rewards, values, gamma=gamma, lam=lam)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(returns, advantages + values)


def test_whitening_is_over_all_parts_together():
    parts = whiten([torch.tensor([1.0, 2.0]), torch.tensor([9.0])])
    joined = torch.cat(parts)
    assert joined.mean().item() == pytest.approx(0, abs=1e-6)
    assert joined.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert whiten([torch.tensor([2.0, 2.0])])[0].tolist() == [0.0, 0.0]
    small = torch.tensor([0.01, -0.01])
    torch.testing.assert_close(whiten([small], min_std=0.1)[0], small * 10)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"), [(1.3, 1, -1.2), (1.3, -1, 1.3), (0.7, 1, -0.7), (0.7, -1, 0.8)]
)
def test_ppo_policy_loss(ratio, advantage, loss):
    new = torch.tensor([ratio]).log()
    ours, our_ratio = ppo_policy_loss(new, torch.zeros(1), torch.tensor([float(advantage)]), 0.2)
    assert ours.item() == pytest.approx(loss)
    assert our_ratio.item() == pytest.approx(ratio)


def test_a_clipped_ratio_has_no_gradient():
    new = torch.tensor([1.3, 0.7, 1.3, 0.7]).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    ppo_policy_loss(new, torch.zeros(4), advantages, 0.2)[0].sum().backward()
    assert new.grad.tolist() == pytest.approx([0.0, 0.0, 1.3, -0.7])


def test_value_loss_takes_the_worse_of_both():
    values, old, returns = torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 0.0])
    losses = ppo_value_loss(values, old, returns, 0.2)
    assert losses.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.1**2])


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 2.0), returns) == 0.0
    assert explained_variance(returns, torch.ones(3)) == 0.0


def test_over_optimisation_alarm():
    assert over_optimised([0, 1, 2, 3], [0.5, 0.4, 0.3, 0.2], 3)
    assert not over_optimised([0, 1, 2], [0.5, 0.4, 0.3], 3)  # not long enough
    assert not over_optimised([0, 1, 2, 3], [0.5, 0.4, 0.45, 0.2], 3)
    assert not over_optimised([0, 1, 0.5, 3], [0.5, 0.4, 0.3, 0.2], 3)
    assert over_optimised([9, 0, 1, 2, 3], [0.9, 0.5, 0.4, 0.3, 0.2], 3)
