"""Does the policy follow its control tokens? The mean reward under the token of each bin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.evaluation.metrics import Metric, per_question, reward_metric
from rationalize.records import Attempt, Question
from rationalize.rewards.suite import RewardSuite
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts

if TYPE_CHECKING:
    from rationalize.sampling.local import Sampler, SamplingConfig


def obedience(
    sampler: Sampler, suite: RewardSuite, questions: Sequence[Question], sampling: SamplingConfig,
    provenance: Provenance, *, bins: Mapping[str, Sequence[int]], metrics: Mapping[str, Metric],
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows with the mean reward under each bin's token, all other rewards at their best token.

    `bins` lists the trained bins of each reward, best first; in a row it counts them down to the
    last, the empty ones too. `metrics` gives each reward's score (`token_metrics`). Means are over
    questions, with a 95 % interval. The row of a reward's last bin also holds `gap`: best minus
    last, paired by question, with interval and p-value.
    """
    by_id = {q.id: q for q in questions}
    best = dict.fromkeys(bins, 0)
    # attempts by control tokens, because all rewards share the attempts under the best tokens
    written: dict[tuple[tuple[str, int], ...], list[Attempt]] = {}

    def reached(control: Mapping[str, int], reward: str) -> list[float]:
        key = tuple(control.items())
        if key not in written:
            attempts = write_attempts(
                sampler, questions, sampling, provenance,
                PromptOptions(control=control), label=f"obedience {reward}={control[reward]}",
            )  # fmt: skip
            # under the best tokens every reward is read, under another one its own alone
            read = metrics if control == best else [reward]
            written[key] = suite.only(*factors(suite, read)).score(attempts, by_id)
        return list(per_question(written[key], by_id, metrics[reward]).values())

    rows: list[dict[str, Any]] = []
    for reward, filled in bins.items():
        at_best = reached(best, reward)
        bounds = metrics[reward].bounds
        for b in filled:
            values = at_best if b == 0 else reached({**best, reward: b}, reward)
            interval = bootstrap_mean(values, bounds=bounds)
            row = {
                "reward": reward, "bin": b, "bins": filled[-1] + 1, "split": provenance.split,
                "round": provenance.round, "step": provenance.step,
                "mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n,
            }  # fmt: skip
            if b == filled[-1] and b:
                gap = paired_difference(at_best, values, bounds=bounds)
                row["gap"] = {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": gap.p}
            rows.append(row)
    return rows


def token_metrics(
    suite: RewardSuite, names: Iterable[str], factors: Sequence[str] = (), *, raw: bool = False
) -> dict[str, Metric]:
    """The score behind each control token: the reward of its name, or for `product` the product of
    the rewards `factors`.
    """
    return {
        n: product_metric(suite, factors, raw=raw) if n == "product" else reward_metric(suite[n])
        for n in names
    }


def factors(suite: RewardSuite, names: Iterable[str]) -> list[str]:
    """The rewards that tokens of these names stand for; `product` for all that are learned."""
    rewards = {r.name for r in suite.rewards}
    learned = [r.name for r in suite.trainable]
    return list(
        dict.fromkeys(n for name in names for n in ([name] if name in rewards else learned))
    )


def product_metric(suite: RewardSuite, rewards: Sequence[str], *, raw: bool = False) -> Metric:
    """The product of rewards, each mapped to [0, 1] by its range, or as it is with `raw`."""
    factors = [reward_metric(suite[name]) for name in rewards]

    def product(attempt: Attempt, question: Question) -> float:
        values = [m.value(attempt, question) for m in factors]
        return math.prod(v if raw else m.unit(v) for m, v in zip(factors, values, strict=True))

    return Metric("product", -1.0 if raw else 0.0, 1.0, "reward", product, 0.0)
