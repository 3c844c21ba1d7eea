"""Rewards: texts in, a score per attempt out. One file per reward; `REWARDS` lists them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rationalize.errors import UsageError, UserError
from rationalize.rewards.adapters import to_trl, user_reward
from rationalize.rewards.answer_leak import answer_leak
from rationalize.rewards.base import BadReward, Reward
from rationalize.rewards.cache import ScoreCache
from rationalize.rewards.consistency import consistency, consistency_discrete
from rationalize.rewards.correctness import correctness
from rationalize.rewards.diversity import diversity
from rationalize.rewards.fluency import fluency
from rationalize.rewards.following import negation_drop, removal_drop, truncation_drop
from rationalize.rewards.information_gain import information_gain
from rationalize.rewards.judge import Ratings, judge
from rationalize.rewards.length import length
from rationalize.rewards.option_copying import option_copying
from rationalize.rewards.plausibility import StatementProbabilities, plausibility
from rationalize.rewards.reader import AnswerProbabilities
from rationalize.rewards.repetition import repetition
from rationalize.rewards.reward_model import ReplyScores, reward_model
from rationalize.rewards.simulatability import prediction_leak, simulatability
from rationalize.rewards.suite import RewardSuite

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

__all__ = [
    "COMPANIONS", "DIAGNOSTICS", "READS_ANSWERS", "REWARDS", "BadReward", "Reward", "RewardSuite",
    "ScoreCache", "Scorers", "load_rewards", "to_trl",
]  # fmt: skip


@dataclass(frozen=True)
class Scorers:
    """The models that some rewards ask."""

    answer_scorer: AnswerProbabilities | None = None
    verifier: StatementProbabilities | None = None
    reward_model: ReplyScores | None = None
    base: Policy | None = None
    judge: Ratings | None = None


READS_ANSWERS: dict[str, Callable[[AnswerProbabilities], Reward]] = {
    "consistency": consistency,
    "consistency_discrete": consistency_discrete,
    "information_gain": information_gain,
    "simulatability": simulatability,
    "truncation_drop": truncation_drop,
    "removal_drop": removal_drop,
    "negation_drop": negation_drop,
}
"""The rewards that need an answer scorer."""


def _with_answer_scorer(name: str) -> Callable[[Scorers], Reward]:
    return lambda s: READS_ANSWERS[name](_needed(s.answer_scorer, name, "answer_scorer"))


REWARDS: dict[str, Callable[[Scorers], Reward]] = {
    "correctness": lambda s: correctness(),
    "diversity": lambda s: diversity(),
    **{name: _with_answer_scorer(name) for name in READS_ANSWERS},
    "plausibility": lambda s: plausibility(_needed(s.verifier, "plausibility", "verifier")),
    "reward_model": lambda s: reward_model(_needed(s.reward_model, "reward_model", "reward_model")),
    "judge": lambda s: judge(_needed(s.judge, "judge", "judge")),
    "length": lambda s: length(),
    "option_copying": lambda s: option_copying(),
    "answer_leak": lambda s: answer_leak(),
    "prediction_leak": lambda s: prediction_leak(),
    "repetition": lambda s: repetition(),
    "fluency": lambda s: fluency(_needed(s.base, "fluency", "base")),
}
"""Name -> how to make the reward from the scorers."""

DIAGNOSTICS = ("length", "option_copying", "answer_leak", "repetition", "fluency")
"""Shown next to the rewards in every run, never trained on."""

COMPANIONS = {"simulatability": ("prediction_leak",)}
"""Reward -> rewards that are loaded with it, since its scores are read next to theirs."""

_SOURCES = {
    "answer_scorer": "an answer scorer: train one with `rationalize train answer-scorer` and name "
    "its folder, --answer-scorer DIR",
    "verifier": "a verifier: train one with `rationalize train verifier` and name its folder, "
    "--verifier DIR, or `--verifier vera`",
    "reward_model": "a reward model: train one with `rationalize train reward-model` and name its "
    "folder, --reward-model DIR",
    "judge": "a model behind a server, --judge-model NAME@URL; to train on it, name one as a "
    "reward of your own (docs/study.md)",
    "base": "the untouched base model",
}


def load_rewards(
    names: Sequence[str], *, answer_scorer: AnswerProbabilities | None = None,
    verifier: StatementProbabilities | None = None, reward_model: ReplyScores | None = None,
    base: Policy | None = None, judge: Ratings | None = None,
) -> list[Reward]:  # fmt: skip
    """Rewards by name, or `module:function` for your own.

    Raises `UsageError` for an unknown name, and `UserError` if a reward's scorer is missing.

    >>> [r.name for r in load_rewards(["diversity", "length"])]
    ['diversity', 'length']
    """
    scorers = Scorers(answer_scorer, verifier, reward_model, base, judge)
    return [_load(name, scorers) for name in names]


def _load(name: str, scorers: Scorers) -> Reward:
    if name in REWARDS:
        return REWARDS[name](scorers)
    if ":" in name:
        return user_reward(name)
    near = difflib.get_close_matches(name, REWARDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(
        f"unknown reward {name!r}: {hint}expected one of {', '.join(REWARDS)}, or module:function"
    )


def _needed(scorer, reward: str, source: str):
    if scorer is None:
        python = f"`load_rewards({source}=..)`"
        raise UserError(f"the reward {reward!r} needs {_SOURCES[source]} (in Python {python})")
    return scorer
