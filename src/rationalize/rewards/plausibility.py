"""Plausibility: does the rationale read as a true statement? (mario.md 4.1)

The rationale alone is scored, stripped, as one statement: no question, no answer, not sentence by
sentence. (A verifier that was trained on questions and rationales together reads both.) An empty
rationale states nothing: its plausibility is 0, where the released code lets the verifier guess.
One that is too long to read has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rationalize.rewards.base import LONGEST, Reward, Scores
from rationalize.templates import statement_text


class StatementProbabilities(Protocol):
    """What plausibility asks of a verifier: Vera, or the one trained offline."""

    weights_hash: str
    reads_question: bool

    def probabilities(
        self, statements: Sequence[str], question_ids: Sequence[str | None]
    ) -> list[float]:
        """Per statement the probability that it is true; no fold scores a question it has seen."""


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
    said = [i for i, text in enumerate(texts) if 0 < len(text) <= LONGEST]
    probabilities = verifier.probabilities([texts[i] for i in said], [question_id[i] for i in said])
    for i, p in zip(said, probabilities, strict=True):
        scores[i] = p
    return scores


def plausibility(verifier: StatementProbabilities) -> Reward:
    return Reward(
        "plausibility",
        partial(score, verifier),
        range=(0.0, 1.0),
        scorer_hash=verifier.weights_hash,
        should_drop=frozenset({"empty", "one_word", "options", "shuffled", "negation"}),
    )
