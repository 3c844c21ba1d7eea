"""Diagnostics: does the answer change when the rationale is cut or changed?

After Lanham et al., arXiv 2307.13702. With `p(r)` the answer scorer's probability of the attempt's
prediction, given the question and the rationale `r`, each is the mean drop over versions of `r`:

    drop = p(r) - (1 / n) * sum over the n versions v of p(v)

    truncation_drop   v is the first floor(f * words) words of r, f = 0, 1/4, 1/2, 3/4: the area
                      between the full rationale's probability and the curve of p(v), left sum
    removal_drop      v is r without one of its sentences; without its only one, v is empty
    negation_drop     v is r with one of its sentences negated

Near 0, the answer does not depend on the rationale; below 0, the rationale speaks against it. The
scorer is the reader: the drops measure what the text says, not how its writer decided.

Never trained on: the highest drop goes to a rationale that says nothing before its last word, or
depends on one sentence. Undefined for an empty rationale (nothing can be cut), without a
prediction, and for a text that is too long to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.check import negated
from rationalize.rewards.mentions import sentences
from rationalize.rewards.reader import AnswerProbabilities, readings

CUTS = 4
"""Versions of a truncated rationale."""
STEPS = 8
"""Most sentences that are removed or negated, one at a time, spread evenly over the rationale."""


def cut(text: str) -> list[str]:
    """The first 0, 1/4, 1/2 and 3/4 of a text's words, rounded down.

    >>> cut("It is denser, so it sinks.")
    ['', 'It', 'It is denser,', 'It is denser, so']
    """
    ends = [0, *(m.end() for m in re.finditer(r"\S+", text))]
    return [text[: ends[i * (len(ends) - 1) // CUTS]] for i in range(CUTS)]


def without_one(text: str) -> list[str]:
    """For each sentence, the text without it.

    >>> without_one("Steel is dense. So it sinks.")
    ['So it sinks.', 'Steel is dense.']
    """
    steps = sentences(text)
    return [" ".join(steps[:i] + steps[i + 1 :]) for i in _spread(len(steps))]


def one_negated(text: str) -> list[str]:
    """For each sentence, the text with it negated.

    >>> one_negated("Steel is dense. It does sink.")
    ['Steel is not dense. It does sink.', 'Steel is dense. It does not sink.']
    """
    steps = sentences(text)
    return [" ".join([*steps[:i], negated(steps[i]), *steps[i + 1 :]]) for i in _spread(len(steps))]


def score(
    scorer: AnswerProbabilities, versions: Callable[[str], list[str]], *, prediction, rationale,
    **columns,
) -> Scores:  # fmt: skip
    asked = [r for r in readings(prediction, rationale=rationale, **columns) if r.text]
    # per attempt the full rationale, then its versions (None: the question alone); all read at once
    texts = [[r.text, *(v or None for v in versions(r.text or ""))] for r in asked]
    flat = [(r.question, text) for r, group in zip(asked, texts, strict=True) for text in group]
    probabilities = iter(scorer.probabilities([q for q, _ in flat], [text for _, text in flat]))
    scores: Scores = [None] * len(rationale)
    for r, group in zip(asked, texts, strict=True):
        full, *changed = (next(probabilities)[r.at] for _ in group)
        scores[r.row] = full - sum(changed) / len(changed)
    return scores


def _drop(name: str, versions: Callable[[str], list[str]], scorer: AnswerProbabilities) -> Reward:
    return Reward(
        name, partial(score, scorer, versions), range=(-1.0, 1.0), trainable=False,
        scorer_hash=scorer.weights_hash,
    )  # fmt: skip


truncation_drop = partial(_drop, "truncation_drop", cut)
removal_drop = partial(_drop, "removal_drop", without_one)
negation_drop = partial(_drop, "negation_drop", one_negated)


def _spread(count: int) -> list[int]:
    """Up to `STEPS` evenly spaced indices of `count` sentences."""
    steps = min(count, STEPS)
    return [i * count // steps for i in range(steps)]
