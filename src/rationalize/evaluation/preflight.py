"""Checks on a small sample before a run: can tokens condition on these rewards, do replies parse,
how many questions carry a signal?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.evaluation.diagnostics import NARROW_CEILING, TOO_NARROW, spread
from rationalize.evaluation.tables import aligned
from rationalize.records import Attempt
from rationalize.rewards.suite import RewardSuite
from rationalize.signals.variance import intraclass_correlation


def preflight(
    attempts: Sequence[Attempt], suite: RewardSuite, bins: Mapping[str, int]
) -> dict[str, Any]:
    """Facts of a small sample of scored attempts, several per question.

    Per reward: mean, spread over `bins[reward]` bins with its verdict, `signal`, the share of
    questions whose attempts differ by 5 % of the reward's range at least, and `icc`, the share of
    the variance that lies between questions. A question whose attempts all score the same teaches
    nothing about the reward, and where `icc` is near 1 a bin says which question it is.
    """
    by_question = {a.question_id for a in attempts}
    rewards = {}
    for name, k in bins.items():
        reward = suite[name]
        scores = [a.rewards[name] for a in attempts]
        pool = spread(scores, k, reward.range, reward.levels)
        given = [pool.worst if s is None else s for s in scores]
        by_group: dict[str, list[float]] = {}
        for attempt, score in zip(attempts, given, strict=True):
            by_group.setdefault(attempt.question_id, []).append(score)
        apart = [max(group) - min(group) for group in by_group.values()]
        differ = sum(gap > 0 and gap >= NARROW_CEILING * pool.width for gap in apart)
        icc = intraclass_correlation(given, [a.question_id for a in attempts])
        rewards[name] = {
            "mean": sum(given) / len(given),
            "bins_filled": pool.filled, "bins": k, "fullest": pool.fullest,
            "ceiling": pool.ceiling, "signal": differ / len(by_question),
            "icc": icc, "verdict": pool.verdict,
        }  # fmt: skip
    return {
        "attempts": len(attempts), "questions": len(by_question),
        "parse_rate": sum(a.parsed for a in attempts) / len(attempts),
        "cut": sum(a.finish == "length" for a in attempts) / len(attempts),
        "rewards": rewards,
    }  # fmt: skip


def format_preflight(facts: Mapping[str, Any]) -> str:
    """The facts as a table for the terminal, with what to do where a verdict is bad."""
    lines = [
        f"preflight on {facts['questions']} questions, {facts['attempts']} attempts: "
        f"{facts['parse_rate']:.0%} parsed, {facts['cut']:.0%} cut at the length limit"
    ]
    rows = [["reward", "mean", "bins", "fullest", "best-worst", "signal", "icc", "verdict"]]
    rows += [
        [name, f"{r['mean']:.3f}", f"{r['bins_filled']}/{r['bins']}", f"{r['fullest']:.0%}",
         f"{r['ceiling']:.3f}", f"{r['signal']:.0%}",
         "-" if r.get("icc") is None else f"{r['icc']:.2f}", r["verdict"]]
        for name, r in facts["rewards"].items()
    ]  # fmt: skip
    lines.append(aligned(rows, 1))
    if any(r["verdict"] == TOO_NARROW for r in facts["rewards"].values()):
        lines.append(
            "A token for a reward that hardly varies teaches nothing: sample at a higher "
            "temperature, add other writers, or drop it."
        )
    if facts["parse_rate"] < 0.8:
        lines.append(
            "Many replies end without an answer: raise max_new_tokens, or train SFT longer."
        )
    return "\n".join(lines)
