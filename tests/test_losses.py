import math

import pytest
import torch

from rationalize.training.losses import quark_loss, token_nll


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
    (without,) = torch.autograd.grad(token_nll(logits, targets).sum(), logits)
    torch.testing.assert_close(with_kl, without)
    torch.testing.assert_close(nll, token_nll(logits, targets))


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
