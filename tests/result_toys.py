"""Twelve questions, and attempts of methods that answer some of them wrongly."""

from dataclasses import dataclass

from rationalize.records import Attempt, Question


@dataclass(frozen=True)
class Spec:
    name: str
    range: tuple[float, float]


REWARDS = [Spec("consistency", (-1, 1)), Spec("correctness", (0, 1)), Spec("diversity", (0, 1))]
QUESTIONS = {
    f"q{i}": Question(
        f"q{i}", f"Which is number {i}?", "yx"[i % 3 == 0], ("x", "y"), kind="ab"[i % 2]
    )
    for i in range(12)
}


def attempts_of(method, wrong=(), *, split="test", seed=0, consistency=0.2, questions=QUESTIONS):
    """One attempt per question; those whose number is in `wrong` answer wrongly."""
    attempts = []
    for i, q in enumerate(questions.values()):
        prediction = next(c for c in q.choices if (c == q.answer) != (i in wrong))
        base = Attempt(
            id=f"{split}/{method}/{seed}/{q.id}",
            question_id=q.id,
            mode="rationale_answer",
            prompt=q.question,
            completion="",
            rationale=f"Because of {i}.",
            prediction=prediction,
            gold=q.answer,
            parsed=True,
            finish="stop",
            writer=method,
            model="m",
            round=0,
            step=0,
            split=split,
            seed=seed,
            n_tokens=4,
        )
        scores = {
            "consistency": consistency,
            "correctness": float(i not in wrong),
            "diversity": 1.0,
        }
        attempts.append(base.scored(scores))
    return attempts
