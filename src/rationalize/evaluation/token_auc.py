"""Can a policy tell good replies from bad ones by its control tokens? Forward passes alone.

Greedy obedience (`obedience.py`) writes new replies and sees only what changes the most likely
word. Here stored replies are read: log p(reply | best token) - log p(reply | worst token), with
all other rewards under their best token, should be higher where the reply's own score is higher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rationalize.bootstrap import percentiles, resample_counts
from rationalize.evaluation.metrics import Metric, score_column
from rationalize.records import Attempt, Question
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import response_logprobs

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


def token_auc(
    policy: Policy, attempts: Sequence[Attempt], questions: Mapping[str, Question], *,
    bins: Mapping[str, Sequence[int]], metrics: Mapping[str, Metric], config: FitConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row per reward: `auc` over all pairs of attempts and `within` over those at one question,
    each with a 95 % interval over questions; .5 is chance.

    `bins` lists the trained bins of each reward, best first; `metrics` gives each reward's score.
    """
    # the log-probability of every reply: under all best tokens, and with one of them worst
    maker, best = RowMaker(policy), dict.fromkeys(bins, 0)
    asked = {None: best} | {r: {**best, r: filled[-1]} for r, filled in bins.items() if filled[-1]}
    rows = [maker.attempt(a, control) for control in asked.values() for a in attempts]
    logprobs = response_logprobs(policy, rows, config)
    by_control = dict(zip(asked, np.array(logprobs).reshape(len(asked), -1), strict=True))
    groups = [a.question_id for a in attempts]
    found = []
    for reward in bins:
        if reward not in by_control:
            continue  # one bin only: there is no other token to compare with
        scores_N = score_column(metrics[reward], attempts, questions)
        found.append({
            "reward": reward, "attempts": len(attempts), "questions": len(set(groups)),
            **concordance(scores_N, by_control[None] - by_control[reward], groups),
        })  # fmt: skip
    return found


def concordance(
    scores_N: Sequence[float] | np.ndarray, predicted_N: Sequence[float] | np.ndarray,
    groups_N: Sequence[str], *, samples: int = 2000, seed: int = 0,
) -> dict[str, dict[str, float] | None]:  # fmt: skip
    """Share of the pairs with different scores that a prediction orders as they are (ties count
    half): the AUC where scores have two values, Harrell's C where they have more.

    `auc` over all pairs, `within` over the pairs of one group; each with the interval of resampled
    groups, None without such a pair.

    >>> concordance([1, 0, 1, 0], [0.4, 0.1, 0.3, 0.2], ["a", "a", "b", "b"])["auc"]["mean"]
    1.0
    """
    scores, predicted = np.asarray(scores_N, float), np.asarray(predicted_N, float)
    names, group_N = np.unique(list(groups_N), return_inverse=True)
    # pairs (i better than j), and how far each is ordered right, summed by the groups of i and j
    better = scores[:, None] > scores[None, :]
    right = np.where(better, 0.5 * (1 + np.sign(predicted[:, None] - predicted[None, :])), 0.0)
    member = np.eye(len(names))[group_N]  # (N, groups)
    pairs_GG, right_GG = member.T @ better @ member, member.T @ right @ member
    counts = resample_counts(len(names), samples, seed).astype(float)  # (samples, groups)

    def row(pairs: np.ndarray, ok: np.ndarray, resampled: Any) -> dict[str, float] | None:
        if not pairs.sum():
            return None
        all_pairs, all_right = resampled(pairs), resampled(ok)
        some = all_pairs > 0
        low, high = percentiles(all_right[some] / all_pairs[some])
        mean = float(ok.sum() / pairs.sum())
        return {"mean": mean, "low": low, "high": high, "pairs": float(pairs.sum())}

    return {
        "auc": row(pairs_GG, right_GG, lambda m: ((counts @ m) * counts).sum(1)),
        "within": row(np.diag(pairs_GG), np.diag(right_GG), lambda m: counts @ m),
    }
