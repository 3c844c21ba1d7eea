"""MaRio with a reward of your own beside correctness, each with control tokens of its own.

    python examples/mario_with_my_reward.py [runs/brevity]

Trains the embedded model on built-in questions, to `report.html` and `model/` in the run's folder.
A second start with the same folder resumes.
"""

import sys
from pathlib import Path

from rationalize import SamplingConfig, train
from rationalize.training.loop import ControlFitConfig

SETTINGS = {
    "questions": "builtin:train=200,dev=50,test=100",
    "rewards": ("correctness", "my_rewards:brevity"),
    "bins": 3,
    "steps": 96,
    "sample_interval": 32,
    "fit": ControlFitConfig(learning_rate=1e-4, control_factor=20.0),
    "sampling": SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=48),
}


if __name__ == "__main__":
    train("mario", Path(sys.argv[1] if len(sys.argv) > 1 else "runs/brevity"), **SETTINGS)
