"""The rollout buffer of PPO and GRPO, and what PPO's update learns from: token rewards, advantages,
returns.

    rho_t = -beta (log pi(y_t) - log pi_ref(y_t)), plus the reply's score S at its last token
    A_t   = sum_k (gamma lambda)^k delta_{t+k},   delta_t = rho_t + gamma V_{t+1} - V_t
    G_t   = A_t + V_t

A is generalised advantage estimation (arXiv 1506.02438, equation 16). The choice of rewards is
ours (docs/methods/self-motivated.md, stage E).

A rollout stores token ids, not text, because a text does not determine which tokens were drawn.
Log-probabilities come from the training forward pass, at temperature 1 over the whole vocabulary,
in the same micro-batches as the first epoch, so that an update starts at ratios of exactly 1.

Axes: `T` tokens of one reply, `N` response tokens of a batch, `d` the hidden size.
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

from rationalize.errors import UsageError
from rationalize.files import replacing
from rationalize.models.forward import Row, collate, hidden_at_response
from rationalize.models.heads import head_values
from rationalize.models.likelihood import token_nll
from rationalize.models.logits import head, token_logprobs
from rationalize.processes import by_first, gather, wait_for, world
from rationalize.sampling.config import SamplingConfig
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import RolloutTag

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

Reference = Callable[[], AbstractContextManager["Policy"]]


@dataclass(frozen=True)
class Rollout:
    """One reply with the numbers of its tokens, taken when it was written; all of shape (T,), or
    (0,) where there was no reference or no value head.
    """

    row: Row
    logprob_T: Tensor
    reference_T: Tensor
    value_T: Tensor

    @property
    def kl(self) -> float:
        """`log pi - log pi_ref` of the whole reply in nats: a one-sample estimate of the KL."""
        return float((self.logprob_T - self.reference_T).sum())


@torch.no_grad()
def measure(
    policy: Policy, value_head: Linear | None, reference: Reference | None, rows: Sequence[Row],
    parts: Sequence[Sequence[int]], config: FitConfig,
) -> list[Rollout]:  # fmt: skip
    """The rows as rollouts, in their order.

    `parts` are the minibatches of the first epoch, as indices of rows, each once. Columns of what
    is None are empty.
    """
    rollout_of: dict[int, Rollout] = {}
    place = world()
    for part in parts:
        numbered = [replace(rows[i], tag=i) for i in part]
        # policy and value head exactly as the loss computes them, then the reference; of several
        # processes each reads the passes that it will learn from
        for passed in config.passes(numbered, policy.device)[place.rank :: place.size]:
            sizes = [len(row.response_ids) for row in passed]
            values: Sequence[Tensor] = [torch.empty(0)] * len(passed)
            references = values
            with policy.autocast():
                batch = collate(passed, policy)
                hidden_Nd = hidden_at_response(policy, batch)
                logprob_N = -token_nll(head(policy, hidden_Nd), batch.targets)[0]
                if value_head is not None:
                    values = head_values(value_head, hidden_Nd).split(sizes)
            if reference is not None:
                with reference() as frozen, policy.autocast():
                    references = token_logprobs(frozen, passed)
            # cut (N,) into one (T,) per reply, as the references come
            for row, logprob_T, value_T, reference_T in zip(
                passed, logprob_N.split(sizes), values, references, strict=True
            ):
                rollout_of[row.tag] = Rollout(
                    rows[row.tag], logprob_T.cpu(), reference_T.cpu(), value_T.cpu()
                )
    rollout_of = {i: r for of_process in gather(rollout_of) for i, r in of_process.items()}
    return [rollout_of[i] for i in range(len(rows))]


def check_whole(sampling: SamplingConfig, method: str) -> None:
    """Raise `UsageError` for sampling that leaves tokens out or reweighs them."""
    found = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.beams)
    if found != (1.0, 1.0, 0, 1) or sampling.weights != "auto":
        raise UsageError(
            f"{method}: sampling must be at temperature 1 without top_p, top_k, beams and int8 "
            "weights, since the ratio is between whole distributions; found temperature "
            f"{sampling.temperature}, top_p {sampling.top_p}, top_k {sampling.top_k}, beams "
            f"{sampling.beams}, weights {sampling.weights}"
        )


def to_learn(
    rollouts: Sequence[Rollout], scores: Sequence[float], *, beta: float, gamma: float, lam: float,
    min_advantage_std: float,
) -> tuple[list[Row], Tensor]:  # fmt: skip
    """Rows tagged with whitened advantages and returns, and all returns (N,) in one tensor.

    `scores` holds one S per rollout.
    """
    advantages, returns = [], []  # per rollout (T,)
    for rollout, score in zip(rollouts, scores, strict=True):
        rewards_T = token_rewards(rollout.logprob_T, rollout.reference_T, score, beta)
        advantage_T, return_T = gae(rewards_T, rollout.value_T, gamma=gamma, lam=lam)
        advantages.append(advantage_T)
        returns.append(return_T)
    # advantages are whitened over all rollouts; returns are not, since the value head fits them
    rows = [
        replace(r.row, tag=RolloutTag(r.logprob_T, r.value_T, advantage_T, return_T))
        for r, advantage_T, return_T in zip(
            rollouts, whiten(advantages, min_advantage_std), returns, strict=True
        )
    ]
    return rows, torch.cat(returns)


def token_rewards(logprob_T: Tensor, reference_T: Tensor, score: float, beta: float) -> Tensor:
    """Rewards of one reply, (T,): the KL penalty at each token, the score at the last."""
    rewards_T = -beta * (logprob_T - reference_T)
    rewards_T[-1] += score
    return rewards_T


def gae(
    rewards_T: Tensor, values_T: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one reply, both (T,); the value after its last token is 0."""
    advantages_T = torch.empty_like(rewards_T)
    next_advantage, next_value = torch.zeros(()), torch.zeros(())
    # backwards: A_t = delta_t + gamma lambda A_{t+1}
    for t in reversed(range(len(rewards_T))):
        delta = rewards_T[t] + gamma * next_value - values_T[t]
        next_advantage = delta + gamma * lam * next_advantage
        advantages_T[t], next_value = next_advantage, values_T[t]
    return advantages_T, advantages_T + values_T


def whiten(parts: Sequence[Tensor], min_std: float = 1e-8) -> list[Tensor]:
    """Parts scaled to mean 0 and standard deviation 1 over all their tokens together.

    A deviation below `min_std` counts as `min_std`, so that noise is not amplified.
    """
    joined_N = torch.cat(list(parts))
    mean, std = joined_N.mean(), joined_N.std(correction=0)
    return [(part - mean) / std.clamp(min=min_std) for part in parts]


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """`1 - Var(G - V) / Var(G)`: 1 for a perfect value head, 0 for one that knows only the mean.

    0 if all returns are equal.
    """
    variance = returns_N.var(correction=0)
    if variance == 0:
        return 0.0
    return float(1 - (returns_N - values_N).var(correction=0) / variance)


def save_rollouts(rollouts: Sequence[Rollout], path: Path) -> None:
    """Write one safetensors file, atomically; the first of several processes writes it."""
    # ragged id lists become one flat tensor each, with the sizes to cut it again
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

    def write() -> None:
        with replacing(path) as fresh:
            save_file(tensors, fresh)

    by_first(write)
    wait_for(path)


def load_rollouts(path: Path) -> list[Rollout]:
    """The rollouts that `save_rollouts` wrote."""
    tensors = load_file(path)
    prompts, responses = (
        tensors[f"{name}/ids"].split(tensors[f"{name}/sizes"].tolist())
        for name in ("prompt", "response")
    )
    sizes = tensors["response/sizes"].tolist()
    columns = [
        column.split(sizes) if len(column := tensors[f]) else [column] * len(sizes)
        for f in ("logprob_T", "reference_T", "value_T")
    ]
    return [
        Rollout(Row(tuple(prompt.tolist()), tuple(response.tolist())), *per_token)
        for prompt, response, *per_token in zip(prompts, responses, *columns, strict=True)
    ]
