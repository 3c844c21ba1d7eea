"""Two questions, attempts at them, and scorers that say what a test tells them."""

from __future__ import annotations

from rationalize.records import Attempt, Question
from rationalize.rewards import Reward, RewardSuite

QUESTION = Question("q1", "Which is heavier?", "steel", ("wood", "steel"))
FREE = Question("q2", "What is 2 + 2?", "4")


def attempt(rationale: str, question: Question = QUESTION, prediction: str | None = "steel"):
    return Attempt(
        id=f"a/{rationale}", question_id=question.id, mode="rationale_answer", prompt="p",
        completion=rationale, rationale=rationale, prediction=prediction, gold=question.answer,
        parsed=prediction is not None, finish="stop", writer="policy", model="m", round=0, step=0,
        split="train", seed=0, n_tokens=1,
    )  # fmt: skip


def scores(reward: Reward, *attempts: Attempt, questions=(QUESTION, FREE)) -> list[float | None]:
    scored = RewardSuite([reward]).score(attempts, {q.id: q for q in questions})
    return [a.rewards[reward.name] for a in scored]


class FakeAnswerScorer:
    """Probabilities by the rationale's text; 0.5 each, or a utility of 0.5, without one."""

    weights_hash = "fake"

    def __init__(self, given):
        self.given = given
        self.calls = 0

    def probabilities(self, questions, rationales):
        self.calls += 1
        return [
            self.given[r] if r is not None else ([0.4, 0.6] if q.choices else [0.5])
            for q, r in zip(questions, rationales, strict=True)
        ]


class FakeVerifier:
    weights_hash = "fake"
    reads_question = False

    def probabilities(self, statements, question_ids):
        assert all(s == s.strip() and s for s in statements)
        return [0.9 if "true" in s else 0.1 for s in statements]
