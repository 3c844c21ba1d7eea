"""Ask a trained model one question under the best and under the worst bin of each of its rewards.

    python examples/ask_under_bins.py runs/brevity

`runs/brevity` is any run of MaRio, or its `model/`; bin 0 is best.
"""

import sys

from rationalize import (
    Policy,
    PromptOptions,
    Provenance,
    Question,
    Sampler,
    SamplingConfig,
    load_policy,
    write_attempts,
)

QUESTION = Question(
    id="asked",
    question="The brick is heavier than the cork. Which of them is lighter?",
    choices=("brick", "cork"),
    answer="cork",
)


def main(policy: Policy) -> dict[str, str]:
    """Prefix -> reply. All rewards at their best, then each in turn at its worst."""
    bins = policy.controls.bins if policy.controls else {}
    best = dict.fromkeys(bins, 0)
    prefixes = [best, *({**best, reward: k - 1} for reward, k in bins.items())]
    sampler, greedy = Sampler(policy), SamplingConfig(temperature=0.0, max_new_tokens=64)
    replies = {}
    for control in prefixes:
        [attempt] = write_attempts(
            sampler, [QUESTION], greedy, Provenance("asked", seed=0), PromptOptions(control=control)
        )
        shown = ", ".join(f"{reward}={b}" for reward, b in control.items()) or "no control tokens"
        replies[shown] = attempt.completion
        print(f"{shown}\n    {attempt.rationale} -> {attempt.prediction}")
    return replies


if __name__ == "__main__":
    main(load_policy(sys.argv[1]))
