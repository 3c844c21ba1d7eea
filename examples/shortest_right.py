"""The method that docs/extending.md builds: learn the shortest of one's own right rationales."""

from dataclasses import dataclass

from rationalize import (
    Experiment,
    FitConfig,
    Method,
    Policy,
    SamplingConfig,
    Stage,
    write_attempts,
)
from rationalize.methods.sft import SftConfig, imitate, steps_for
from rationalize.sampling.writing import Provenance


@dataclass(frozen=True)
class ShortestRightConfig:
    """Learn the shortest right rationale of each question."""

    rounds: int = 2
    """How often the policy writes and learns."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64, n=4)
    """How rationales are written."""
    learning: SftConfig = SftConfig(epochs=2.0, fit=FitConfig(learning_rate=5e-5))
    """How a round's rationales are learned."""


def learn_shortest(
    exp: Experiment, policy: Policy, config: ShortestRightConfig, stage: Stage
) -> Policy:
    questions = {q.id: q for q in exp.train}
    for round in range(config.rounds):
        # 1. write: `n` attempts per question, scored by every reward, stored in the run
        def write(round: int = round) -> list:
            source = Provenance("train", exp.seed, writer=stage.name, round=round)
            attempts = write_attempts(exp.sampler(policy), exp.train, config.sampling, source)
            return exp.suite.score(attempts, questions)

        attempts = stage.attempts(f"round{round}", write)

        # 2. keep: of each question's right attempts the shortest
        shortest = {}
        for attempt in sorted(attempts, key=lambda a: -a.n_tokens):
            if attempt.rewards["correctness"] and attempt.finish == "stop":
                shortest[attempt.question_id] = (attempt.prompt, attempt.completion)

        # 3. learn: SFT on these; development accuracy chooses the step
        texts, part = list(shortest.values()), stage.sub(f"round{round}")
        imitate(exp, policy, texts, config.learning, part, steps=steps_for(texts, config.learning))
    return policy


shortest_right = Method(
    learn_shortest, ShortestRightConfig, label="shortest right", start="sft",
    about="imitate the shortest of one's own right rationales",
)  # fmt: skip
