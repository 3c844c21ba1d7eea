"""Adversarial self-tests: corrupt good rationales in simple ways and see which rewards notice.

A reward that does not drop where it must, or that rises under an attack, can be increased without
better rationales. Every corrupted attempt still ends with the gold answer: only its rationale
differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rationalize.bootstrap import bootstrap_means, percentiles
from rationalize.errors import UserError
from rationalize.records import Attempt, Question
from rationalize.rewards.base import ATTACKS, Reward
from rationalize.rewards.suite import RewardSuite
from rationalize.templates import given_attempt

FEWEST_TESTED = 2
"""Questions: a rationale of another one is among the attacks."""
_RESAMPLES = 2000
_VERB = re.compile(
    r"\b(is|are|was|were|will|would|can|could|should|must|has|have|does|do|means)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class CheckRow:
    """What one attack did to one reward."""

    reward: str
    attack: str
    before: float | None
    """Mean score of the good rationales where both scores are defined (n = 0: of all)."""
    after: float | None
    """Mean score of the corrupted ones; None if the reward is undefined on all of them."""
    low: float
    """95 % bootstrap interval of the mean difference, after minus before."""
    high: float
    n: int
    moved: str
    """`drops` or `rises` if the interval excludes 0, else `stays`; `undefined` if n is 0, because
    no score is defined or no rationale changed.
    """
    expected: str
    """`drops`, `rises`, `no rise`, or `-` where nothing is expected."""
    ok: bool

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "suspicious"


def check_rewards(
    rewards: Sequence[Reward], questions: Sequence[Question], good_rationales: Sequence[str], *,
    seed: int = 0,
) -> list[CheckRow]:  # fmt: skip
    """One row per reward and attack, from one good rationale per question; of the questions whose
    rationale the attack changes.

    Raises `UserError` for fewer than two questions. The intervals are useful from about 30 on.
    """
    if len(questions) != len(good_rationales) or len(questions) < FEWEST_TESTED:
        raise UserError(
            f"check_rewards got {len(questions)} questions and {len(good_rationales)} good "
            "rationales; expected one rationale per question and at least two questions"
        )
    by_id = {q.id: q for q in questions}
    suite = RewardSuite(rewards)
    scored = suite.score(_attempts(questions, good_rationales), by_id)
    rows = []
    for attack in ATTACKS:
        corrupted = spoil(attack, questions, good_rationales, seed)
        rescored = suite.score(_attempts(questions, corrupted), by_id)
        # an attack may leave a text as it is: there are no options to a free-form question
        changed = [i for i, r in enumerate(good_rationales) if corrupted[i] != r]
        for reward in rewards:
            before = [scored[i].rewards[reward.name] for i in changed]
            after = [rescored[i].rewards[reward.name] for i in changed]
            rows.append(_compare(reward, attack, before, after, seed))
    order = {r.name: i for i, r in enumerate(rewards)}
    return sorted(rows, key=lambda row: order[row.reward])


def unmoved(rows: Sequence[CheckRow]) -> list[str]:
    """Rewards that scored every corrupted rationale as the good one: nothing is known of them."""
    moved = {row.reward for row in rows if row.n == 0 or row.low or row.high}
    return [name for name in dict.fromkeys(row.reward for row in rows) if name not in moved]


def spoil(
    attack: str, questions: Sequence[Question], rationales: Sequence[str], seed: int = 0
) -> list[str]:
    """The rationales under one attack of `ATTACKS`."""
    if attack == "other_question":
        return [rationales[_other(questions, i)] for i in range(len(questions))]
    if attack == "shuffled":
        rngs = [np.random.default_rng([seed, i]) for i in range(len(questions))]
        orders = [rng.permutation(r.split()) for r, rng in zip(rationales, rngs, strict=True)]
        return [" ".join(order.tolist()) for order in orders]
    corrupt = _CORRUPT[attack]
    return [corrupt(q, r) for q, r in zip(questions, rationales, strict=True)]


def negated(text: str) -> str:
    """A text that ends in the opposite, roughly: `not` is put after its last auxiliary verb.

    A `not` that already follows it is removed.

    >>> negated("Steel is heavy. So it is the cart.")
    'Steel is heavy. So it is not the cart.'
    """
    verbs = list(_VERB.finditer(text))
    if not verbs:
        return f"It is not true that {text}"
    last = verbs[-1]
    following = text[last.end() :]
    if re.match(r"\s+not\b", following):
        return text[: last.end()] + re.sub(r"^\s+not\b", "", following)
    if last.group().lower() == "means":
        return f"{text[: last.start()]}does not mean{following}"
    return f"{text[: last.end()]} not{following}"


def format_table(rows: Sequence[CheckRow]) -> str:
    """The rows as plain text."""
    header = ("reward", "attack", "before", "after", "difference (95 %)", "moved", "expected", "")
    lines = [header]
    for row in rows:
        difference = "" if row.n == 0 else f"{row.low:+.3f} .. {row.high:+.3f}"
        before, after = _number(row.before), _number(row.after)
        line = (row.reward, row.attack, before, after, difference, row.moved, row.expected)
        lines.append((*line, row.verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def all_options(question: Question, rationale: str) -> str:
    """A list of all choices; for a free-form question, the rationale unchanged."""
    if not question.choices:
        return rationale
    return f"It could be {', or '.join(question.choices)}."


_CORRUPT: dict[str, Callable[[Question, str], str]] = {
    "empty": lambda question, rationale: "",
    "one_word": lambda question, rationale: (rationale.split() or [""])[0],
    "repetition": lambda question, rationale: " ".join([rationale] * 3),
    "options": all_options,
    "gold": lambda question, rationale: f"The answer is {question.answer}.",
    "negation": lambda question, rationale: negated(rationale),
}


def _other(questions: Sequence[Question], index: int) -> int:
    """The next question with a different answer; without one, the next question."""
    count = len(questions)
    following = [(index + step) % count for step in range(1, count)]
    different = [i for i in following if questions[i].answer != questions[index].answer]
    return (different or following)[0]


def _attempts(questions: Sequence[Question], rationales: Sequence[str]) -> list[Attempt]:
    return [
        given_attempt(f"check/{q.id}", q, rationale, q.answer, writer="check", split="check")
        for q, rationale in zip(questions, rationales, strict=True)
    ]


def _compare(
    reward: Reward, attack: str, before: Sequence[float | None], after: Sequence[float | None],
    seed: int,
) -> CheckRow:  # fmt: skip
    expected = "no rise" if reward.trainable else "-"
    if not before:
        expected = "-"
    elif attack in reward.should_drop | reward.should_rise:
        expected = "drops" if attack in reward.should_drop else "rises"
    # paired by question, where both scores are defined
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if a is not None and b is not None]
    if not pairs:  # undefined counts as a drop
        known = [b for b in before if b is not None]
        mean = float(np.mean(known)) if known else None
        ok = expected != "rises"
        return CheckRow(reward.name, attack, mean, None, 0.0, 0.0, 0, "undefined", expected, ok)
    scores = np.array(pairs)  # (n, 2)
    mean_before, mean_after = scores.mean(0).tolist()
    low, high = percentiles(bootstrap_means(scores[:, 1] - scores[:, 0], _RESAMPLES, seed))
    moved = "drops" if high < 0 else "rises" if low > 0 else "stays"
    ok = {
        "-": True, "no rise": moved != "rises", "drops": moved == "drops",
        "rises": moved == "rises" or mean_after >= reward.range[1],  # the maximum cannot rise
    }[expected]  # fmt: skip
    return CheckRow(
        reward.name, attack, mean_before, mean_after, low, high, len(pairs), moved, expected, ok
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
