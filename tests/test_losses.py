import math

import pytest
import torch

from rationalize.models.likelihood import token_nll
from rationalize.training.losses import quark_loss


def plain(logits, reference, targets, beta, alpha, direction):
    """Quark's loss (docs/methods/mario.md), term by term, for autograd."""
    log_p = torch.log_softmax(logits, -1)
    log_q = torch.log_softmax(reference, -1)
    nll = -log_p.gather(1, targets[:, None]).sum()
    if direction == "reverse":
        kl = (log_p.exp() * (log_p - log_q)).sum()
    else:
        kl = (log_q.exp() * (log_q - log_p)).sum()
    entropy = -(log_p.exp() * log_p).sum()
    return nll + beta * kl - alpha * entropy


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize(("beta", "alpha"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.06), (0.5, 0.3)])
def test_loss_and_gradient_equal_the_plain_form(direction, beta, alpha):
    g = torch.Generator().manual_seed(0)
    n, v = 150, 37  # more positions than one chunk
    logits = torch.randn(n, v, generator=g, dtype=torch.float32, requires_grad=True)
    reference = torch.randn(n, v, generator=g)
    targets = torch.randint(v, (n,), generator=g)
    total, nll, kl, entropy = quark_loss(
        logits, reference, targets, beta=beta, alpha=alpha, direction=direction
    )
    (3 * total).backward()
    ours = logits.grad.clone()
    logits.grad = None
    expected = plain(logits, reference, targets, beta, alpha, direction)
    (3 * expected).backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(ours, logits.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(total, nll.sum() + beta * kl.sum() - alpha * entropy.sum())


def test_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2), target 0
    logits = torch.tensor([[math.log(3.0), 0.0]])
    reference = torch.zeros(1, 2)
    target = torch.tensor([0])
    _, nll, kl, _ = quark_loss(logits, reference, target, beta=1.0)
    assert nll.item() == pytest.approx(math.log(4 / 3))
    assert kl.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    _, _, forward_kl, entropy = quark_loss(
        logits, reference, target, beta=1.0, alpha=1.0, direction="forward"
    )
    assert forward_kl.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert entropy.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_kl_direction_is_the_released_one():
    # KLDivLoss(log_softmax(ref), softmax(policy)) is KL(policy || ref)
    g = torch.Generator().manual_seed(1)
    logits, reference = torch.randn(5, 11, generator=g), torch.randn(5, 11, generator=g)
    released = torch.nn.functional.kl_div(
        torch.log_softmax(reference, -1), torch.softmax(logits, -1), reduction="none"
    ).sum(-1)
    _, _, kl, _ = quark_loss(logits, reference, torch.zeros(5, dtype=torch.long), beta=1.0)
    torch.testing.assert_close(kl, released)


def test_kl_to_itself_is_zero_and_has_no_gradient():
    logits = torch.randn(4, 9, requires_grad=True)
    targets = torch.zeros(4, dtype=torch.long)
    total, nll, kl, _ = quark_loss(logits, logits.detach(), targets, beta=10.0)
    torch.testing.assert_close(kl, torch.zeros(4))
    (with_kl,) = torch.autograd.grad(total, logits)
    (without,) = torch.autograd.grad(token_nll(logits, targets)[0].sum(), logits)
    torch.testing.assert_close(with_kl, without)
    torch.testing.assert_close(nll, token_nll(logits, targets)[0])


def test_terms_that_are_off_are_not_computed():
    logits = torch.randn(3, 5)
    total, nll, kl, entropy = quark_loss(logits, None, torch.zeros(3, dtype=torch.long), beta=0.0)
    assert kl.abs().sum() == 0
    assert entropy.abs().sum() == 0
    torch.testing.assert_close(total, nll.sum())


def test_what_does_not_fit_is_refused():
    logits = torch.randn(3, 5)
    targets = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="reference"):
        quark_loss(logits, None, targets, beta=0.1)
    with pytest.raises(ValueError, match="shape"):
        quark_loss(logits, torch.randn(3, 6), targets, beta=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leaf", [True, False])
def test_nll_and_entropy_equal_the_plain_form(dtype, leaf):
    g = torch.Generator().manual_seed(2)
    n, v = 150, 37  # more positions than one chunk
    start = torch.randn(n, v, generator=g).to(dtype).requires_grad_()
    logits = start if leaf else start * 1.0
    targets, weights = torch.randint(v, (n,), generator=g), torch.randn(n, generator=g)
    log_p = torch.log_softmax(start.float(), -1)
    plain_N = -log_p.gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((weights * plain_N).sum(), start)
    nll_N, entropy_N = token_nll(logits, targets, entropy=True)
    torch.testing.assert_close(nll_N, plain_N)
    torch.testing.assert_close(entropy_N, -(log_p.exp() * log_p).sum(-1))
    (found,) = torch.autograd.grad((weights * nll_N).sum(), start)
    torch.testing.assert_close(found, expected)
    assert token_nll(start, targets)[1].abs().sum() == 0


def test_nll_keeps_the_callers_tensor_and_takes_a_models():
    targets = torch.zeros(3, dtype=torch.long)
    leaf = torch.randn(3, 5, requires_grad=True)
    before = leaf.detach().clone()
    token_nll(leaf, targets)[0].sum().backward()
    assert torch.equal(leaf, before)
    whole = torch.randn(3, 6, requires_grad=True) * 1.0
    kept = whole.detach().clone()
    token_nll(whole[:, :5], targets)[0].sum().backward()
    assert torch.equal(whole, kept)  # a view of something that others may read
    logits = leaf * 1.0
    token_nll(logits, targets)[0].sum().backward()
    torch.testing.assert_close(2 * logits.detach(), leaf.grad)


def test_quark_takes_the_memory_of_the_reference_where_it_may():
    g = torch.Generator().manual_seed(3)
    reference, targets = torch.randn(9, 7, generator=g), torch.randint(7, (9,), generator=g)
    found = []
    for overwrite in (False, True):
        logits = torch.ones(9, 7, requires_grad=True)
        other = reference.clone()
        total, *_ = quark_loss(logits, other, targets, beta=0.3, overwrite=overwrite)
        total.backward()
        found.append(logits.grad)
        assert torch.equal(other, reference) != overwrite
    assert torch.equal(*found)
