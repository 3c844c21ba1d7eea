"""Adversarial self-tests: spoil good rationales in plain ways and see which rewards notice.

A reward that does not fall where it must, or that rises under an attack, can be won without better
rationales. The gold answer stays at the end of every spoiled attempt, so that only the rationale
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
    """Mean score of the good rationales, over the questions where both scores are defined."""
    after: float | None
    """Mean score of the spoiled ones; None where the reward is undefined on all of them."""
    low: float
    """95 % bootstrap interval of the mean difference, after minus before."""
    high: float
    n: int
    moved: str
    """`drops`, `rises`, `stays` or `undefined`: where the interval excludes 0."""
    expected: str
    """`drops`, `rises`, `no rise`, or `-` where nothing is expected."""
    ok: bool

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "suspicious"


def check_rewards(
    rewards: Sequence[Reward],
    questions: Sequence[Question],
    good_rationales: Sequence[str],
    *,
    seed: int = 0,
) -> list[CheckRow]:
    """One row per reward and attack, from one good rationale per question; 30 or more say most."""
    if len(questions) != len(good_rationales) or len(questions) < 2:
        raise UserError(
            f"check_rewards got {len(questions)} questions and {len(good_rationales)} good "
            "rationales; expected one rationale per question and at least two questions"
        )
    by_id = {q.id: q for q in questions}
    suite = RewardSuite(rewards)
    good = suite.score(_attempts(questions, good_rationales), by_id)
    rows = []
    for attack in ATTACKS:
        spoiled = spoil(attack, questions, good_rationales, seed)
        bad = suite.score(_attempts(questions, spoiled), by_id)
        for reward in rewards:
            before = [a.rewards[reward.name] for a in good]
            after = [a.rewards[reward.name] for a in bad]
            rows.append(_compare(reward, attack, before, after, seed))
    order = {r.name: i for i, r in enumerate(rewards)}
    return sorted(rows, key=lambda row: order[row.reward])


def spoil(
    attack: str, questions: Sequence[Question], rationales: Sequence[str], seed: int = 0
) -> list[str]:
    """The rationales under one attack of `ATTACKS`."""
    rngs = [np.random.default_rng([seed, i]) for i in range(len(questions))]
    if attack == "other_question":
        return [rationales[_other(questions, i)] for i in range(len(questions))]
    if attack == "shuffled":
        return [_shuffled(r, rng) for r, rng in zip(rationales, rngs, strict=True)]
    plain = _PLAIN[attack]
    return [plain(q, r) for q, r in zip(questions, rationales, strict=True)]


def negated(text: str) -> str:
    """The opposite of a text's last sentence, or near enough: `not` after its last plain verb.

    >>> negated("Steel is heavy. So it is the cart.")
    'Steel is heavy. So it is not the cart.'
    """
    found = list(_VERB.finditer(text))
    if not found:
        return f"It is not true that {text}"
    last = found[-1]
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
        lines.append(
            (
                row.reward,
                row.attack,
                _number(row.before),
                _number(row.after),
                difference,
                row.moved,
                row.expected,
                row.verdict,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _one_word(question: Question, rationale: str) -> str:
    return (rationale.split() or [""])[0]


def all_options(question: Question, rationale: str) -> str:
    """All choices listed; a free-form question has none to list, and its rationale stays."""
    if not question.choices:
        return rationale
    return f"It could be {', or '.join(question.choices)}."


_PLAIN: dict[str, Callable[[Question, str], str]] = {
    "empty": lambda question, rationale: "",
    "one_word": _one_word,
    "repetition": lambda question, rationale: " ".join([rationale] * 3),
    "options": all_options,
    "gold": lambda question, rationale: f"The answer is {question.answer}.",
    "negation": lambda question, rationale: negated(rationale),
}


def _shuffled(text: str, rng: np.random.Generator) -> str:
    return " ".join(rng.permutation(text.split()).tolist())


def _other(questions: Sequence[Question], index: int) -> int:
    """The next question with another answer, or simply the next one."""
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
    reward: Reward,
    attack: str,
    before: Sequence[float | None],
    after: Sequence[float | None],
    seed: int,
) -> CheckRow:
    expected = _expectation(reward, attack)
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if a is not None and b is not None]
    if not pairs:  # undefined is as bad as a score can be
        known = [b for b in before if b is not None]
        mean = float(np.mean(known)) if known else None
        ok = expected != "rises"
        return CheckRow(reward.name, attack, mean, None, 0.0, 0.0, 0, "undefined", expected, ok)
    scores = np.array(pairs)  # (n, 2)
    mean_before, mean_after = scores.mean(0).tolist()
    low, high = percentiles(bootstrap_means(scores[:, 1] - scores[:, 0], _RESAMPLES, seed))
    moved = "drops" if high < 0 else "rises" if low > 0 else "stays"
    ok = {
        "-": True,
        "no rise": moved != "rises",
        "drops": moved == "drops",
        "rises": moved == "rises" or mean_after >= reward.range[1],  # it may stand there already
    }[expected]
    return CheckRow(
        reward.name, attack, mean_before, mean_after, low, high, len(pairs), moved, expected, ok
    )


def _expectation(reward: Reward, attack: str) -> str:
    if attack in reward.should_drop:
        return "drops"
    if attack in reward.should_rise:
        return "rises"
    return "no rise" if reward.trainable else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
