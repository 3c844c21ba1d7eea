"""PPO's rollout buffer: the token ids that were drawn, with their log-probabilities under policy
and reference and the value head's estimates.

Ids are kept, not text: a text does not say which tokens were drawn. Log-probabilities are of the
training forward pass, at temperature 1 and over the whole vocabulary, in the very passes that the
first epoch makes, so that its ratios are exactly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Linear

from rationalize.files import replacing
from rationalize.models.forward import (
    Row,
    collate,
    head,
    hidden_at_response,
    micro_batches,
    token_logprobs,
)
from rationalize.models.heads import head_values
from rationalize.training.loop import FitConfig, precision
from rationalize.training.losses import token_nll
from rationalize.training.objectives import RolloutTag

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

Reference = Callable[[], AbstractContextManager["Policy"]]


@dataclass(frozen=True)
class Rollout:
    """One reply as it was written."""

    row: Row
    logprob_T: Tensor
    reference_T: Tensor
    value_T: Tensor

    @property
    def kl(self) -> float:
        """`log pi - log pi_ref` of the whole reply, in nats: the KL, sampled once."""
        return float((self.logprob_T - self.reference_T).sum())


@torch.no_grad()
def measure(
    policy: Policy, value_head: Linear, reference: Reference, batches: Sequence[Sequence[Row]],
    config: FitConfig,
) -> list[Rollout]:  # fmt: skip
    """The rows of all `batches` (the first epoch's) as rollouts, in the order of these."""
    found: list[Rollout] = []
    for rows in batches:
        numbered = [replace(row, tag=i) for i, row in enumerate(rows)]
        own: dict[int, Rollout] = {}
        for passed in micro_batches(numbered, config.micro_tokens):
            with precision(config, policy.device):
                batch = collate(passed, policy)
                hidden_Nd = hidden_at_response(policy, batch)
                logprob_N = -token_nll(head(policy, hidden_Nd), batch.targets)
                values_N = head_values(value_head, hidden_Nd)
            with reference() as frozen, precision(config, policy.device):
                references = token_logprobs(frozen, passed)
            sizes = [len(row.response_ids) for row in passed]
            for row, logprob, value, other in zip(
                passed, logprob_N.split(sizes), values_N.split(sizes), references, strict=True
            ):
                own[row.tag] = Rollout(
                    replace(row, tag=None), logprob.cpu(), other.cpu(), value.cpu()
                )
        found += [own[i] for i in range(len(rows))]
    return found


def to_learn(
    rollouts: Sequence[Rollout], scores: Sequence[float], *, beta: float, gamma: float, lam: float,
    min_advantage_std: float,
) -> tuple[list[Row], Tensor]:  # fmt: skip
    """Rows tagged with whitened advantages and with returns, and all returns (N,) end to end."""
    advantages, returns = [], []
    for rollout, score in zip(rollouts, scores, strict=True):
        rewards_T = token_rewards(rollout.logprob_T, rollout.reference_T, score, beta)
        own, total = gae(rewards_T, rollout.value_T, gamma=gamma, lam=lam)
        advantages.append(own)
        returns.append(total)
    rows = [
        replace(r.row, tag=RolloutTag(r.logprob_T, r.value_T, advantage, total))
        for r, advantage, total in zip(
            rollouts, whiten(advantages, min_advantage_std), returns, strict=True
        )
    ]
    return rows, torch.cat(returns)


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


def whiten(parts: Sequence[Tensor], min_std: float = 1e-8) -> list[Tensor]:
    """All parts shifted and scaled to mean 0 and deviation 1 over all their tokens together; a
    deviation below `min_std` is taken for `min_std`, so that noise is not blown up to a lesson.
    """
    joined = torch.cat(list(parts))
    mean, spread = joined.mean(), joined.std(correction=0)
    return [(part - mean) / spread.clamp(min=min_std) for part in parts]


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """`1 - Var(G - V) / Var(G)`: 1 is a perfect value head, 0 one that knows the mean alone."""
    variance = returns_N.var(correction=0)
    if variance == 0:
        return 0.0
    return float(1 - (returns_N - values_N).var(correction=0) / variance)


def save_rollouts(rollouts: Sequence[Rollout], path: Path) -> None:
    """In one atomic step."""
    ids = {"prompt_ids": "prompt", "response_ids": "response"}
    tensors = {
        f"{name}/{what}": torch.tensor(values)
        for field, name in ids.items()
        for what, values in (
            ("ids", [i for r in rollouts for i in getattr(r.row, field)]),
            ("sizes", [len(getattr(r.row, field)) for r in rollouts]),
        )
    }
    for field in ("logprob_T", "reference_T", "value_T"):
        tensors[field] = torch.cat([getattr(r, field) for r in rollouts])
    with replacing(path) as fresh:
        save_file(tensors, fresh)


def load_rollouts(path: Path) -> list[Rollout]:
    tensors = load_file(path)
    prompts, responses = (
        tensors[f"{name}/ids"].split(tensors[f"{name}/sizes"].tolist())
        for name in ("prompt", "response")
    )
    sizes = tensors["response/sizes"].tolist()
    columns = [tensors[f].split(sizes) for f in ("logprob_T", "reference_T", "value_T")]
    return [
        Rollout(Row(tuple(prompt.tolist()), tuple(response.tolist())), *own)
        for prompt, response, *own in zip(prompts, responses, *columns, strict=True)
    ]
