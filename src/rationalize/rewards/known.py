"""Rewards by name before any model is loaded: what is wrong with the names is known at once."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from rationalize.rewards import RewardSuite, load_rewards
from rationalize.rewards.base import Reward


class _NotLoaded:
    """Stands for a model that a reward would read with."""

    weights_hash = ""
    device = SimpleNamespace(type="cpu")


def known_rewards(
    names: Sequence[str], *, answer_scorer: bool = True, verifier: bool = True,
    reward_model: bool = True, judge: bool = True,
) -> list[Reward]:  # fmt: skip
    """The rewards of these names, which cannot score yet.

    Raises what `load_rewards` and `RewardSuite` raise of unknown and equal names, of functions that
    are not there, and of rewards whose scorer is not said to be there.
    """
    model: Any = _NotLoaded()
    rewards = load_rewards(
        list(dict.fromkeys(names)), answer_scorer=model if answer_scorer else None,
        verifier=model if verifier else None, reward_model=model if reward_model else None,
        base=model, judge=model if judge else None,
    )  # fmt: skip
    RewardSuite(rewards)
    return rewards
