"""From a reward per reply to an advantage per token (self_motivated.md 2.E).

    rho_t = -beta (log pi(y_t) - log pi_ref(y_t)), and the reply's score at its last token
    A_t   = sum_k (gamma lambda)^k delta_{t+k},   delta_t = rho_t + gamma V_{t+1} - V_t
    G_t   = A_t + V_t

Generalised advantage estimation is arXiv 1506.02438.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_rewards(logprob_T: Tensor, reference_T: Tensor, score: float, beta: float) -> Tensor:
    """One reply's rewards, shape (T,): the KL penalty at each token, the score at the last."""
    rewards_T = -beta * (logprob_T - reference_T)
    rewards_T[-1] += score
    return rewards_T


def gae(
    rewards_T: Tensor, values_T: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one reply, both (T,); the value after its last token is 0."""
    advantages_T = torch.empty_like(rewards_T)
    following, after = torch.zeros(()), torch.zeros(())
    for t in reversed(range(len(rewards_T))):
        delta = rewards_T[t] + gamma * after - values_T[t]
        following = delta + gamma * lam * following
        advantages_T[t], after = following, values_T[t]
    return advantages_T, advantages_T + values_T


def whiten(parts: Sequence[Tensor], least: float = 1e-8) -> list[Tensor]:
    """All parts shifted and scaled to mean 0 and deviation 1 over all their tokens together; a
    deviation below `least` is taken for `least`, so that noise is not blown up to a lesson.
    """
    joined = torch.cat(list(parts))
    mean, spread = joined.mean(), joined.std(correction=0)
    return [(part - mean) / spread.clamp(min=least) for part in parts]


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """`1 - Var(G - V) / Var(G)`: 1 is a perfect value head, 0 one that knows the mean alone."""
    variance = returns_N.var(correction=0)
    if variance == 0:
        return 0.0
    return float(1 - (returns_N - values_N).var(correction=0) / variance)
