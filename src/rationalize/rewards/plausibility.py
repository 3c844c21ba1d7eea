"""Plausibility: the probability that the rationale is a true statement, from a verifier.

As in MaRio (arXiv 2311.02805; docs/methods/mario.md, Rewards), the stripped rationale is scored as
one statement: no question, no answer, not sentence by sentence. (A verifier that was trained on
questions with rationales reads both.) An empty rationale scores 0; the released code asks the
verifier about it. Undefined for a rationale that is too long to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rationalize.rewards.base import LONGEST, Reward, Scores
from rationalize.templates import statement_text


class StatementProbabilities(Protocol):
    """The interface of a verifier: Vera, or one trained here (docs/methods/scorers.md)."""

    weights_hash: str
    reads_question: bool

    def probabilities(
        self, statements: Sequence[str], question_ids: Sequence[str | None]
    ) -> list[float]:
        """Per statement the probability that it is true. The ids pick the fold of a cross-fitted
        verifier that was not trained on the question.
        """


def score(
    verifier: StatementProbabilities, *, rationale, question, context, question_id, **_
) -> Scores:
    texts = [r.strip() for r in rationale]
    scores: Scores = [None if text else 0.0 for text in texts]
    if verifier.reads_question:
        texts = [
            text and statement_text(q, c, text)
            for q, c, text in zip(question, context, texts, strict=True)
        ]
    rows = [i for i, text in enumerate(texts) if 0 < len(text) <= LONGEST]
    probabilities = verifier.probabilities([texts[i] for i in rows], [question_id[i] for i in rows])
    for i, p in zip(rows, probabilities, strict=True):
        scores[i] = p
    return scores


def plausibility(verifier: StatementProbabilities) -> Reward:
    return Reward(
        "plausibility", partial(score, verifier), range=(0.0, 1.0),
        scorer_hash=verifier.weights_hash,
        should_drop=frozenset({"empty", "one_word", "options", "shuffled", "negation"}),
    )  # fmt: skip
