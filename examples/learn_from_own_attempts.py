"""Self-motivated Learning from Python: own attempts, a reward model, PPO.

    python examples/learn_from_own_attempts.py [runs/self]

Teaches the embedded model on built-in questions. A second start with the same folder resumes.
"""

import sys
from pathlib import Path

from rationalize import (
    PpoConfig,
    RewardModel,
    RewardModelConfig,
    RftConfig,
    SamplingConfig,
    WriteConfig,
    load_questions,
    train,
)
from rationalize.training.loop import HeadFitConfig

QUESTIONS = "builtin:train=120,dev=24,test=80,unseen=0"
SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=48, n=4)
SETTINGS = {
    # the embedded model needs some seed rationales
    "rft": RftConfig(seed_rationales=40, write=WriteConfig(sampling=SAMPLING)),
    "redraw": SAMPLING,
    "rm": RewardModelConfig(fit=HeadFitConfig(learning_rate=1e-4, batch_size=8)),
    "ppo": PpoConfig(updates=5, prompts=12, sampling=SAMPLING,
                     fit=HeadFitConfig(learning_rate=1e-5, batch_size=16)),
    "modes": ("z", "rm+z"),
}  # fmt: skip


def compare_two_rationales(run: Path, questions: str) -> None:
    """What the run's reward model makes of a right and of a wrong reply."""
    question = load_questions(questions, "test")[0]
    other = next(c for c in question.choices if c != question.answer)
    model = RewardModel.load(run / "scorers/round0-reward-model")
    scores = model.scores(
        [question] * 2, ["It follows from the question."] * 2, [question.answer, other]
    )
    print(question.question, dict(zip(("right", "wrong"), scores, strict=True)))


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/self")
    train("self-motivated", out, questions=QUESTIONS, **SETTINGS)
    if (out / "scorers/round0-reward-model/reward_model.json").exists():
        compare_two_rationales(out, QUESTIONS)
