"""A reward of your own: `my_rewards:brevity` on the command line and in configurations.

cd examples && rationalize check-rewards my_rewards:brevity
"""

from rationalize.rewards import Reward


def to_the_point(completions, rationale, **columns):
    """1 for 6 to 16 words, less for fewer or more; None, undefined, without a rationale."""
    counts = [len(text.split()) for text in rationale]
    return [max(0.0, min(1.0, n / 6, (40 - n) / 24)) if n else None for n in counts]


brevity = Reward(
    "brevity", to_the_point, range=(0.0, 1.0), should_drop=frozenset({"one_word", "repetition"})
)
