"""Score rationales that you have, by built-in rewards and by one of your own. Needs no model.

    python examples/score_rationales.py [rationales.jsonl]

A row holds a question, its choices and answer, and a rationale with the prediction it led to.
"""

import json
import sys
import tempfile
from pathlib import Path

from my_rewards import brevity

from rationalize import RewardSuite, load_rewards
from rationalize.commands.rationale_file import RationaleFile

QUESTION = {
    "question": "Which sinks in water?",
    "choices": ["brick", "cork"],
    "answer": "brick",
}
ROWS = [
    {**QUESTION, "rationale": "A brick is denser than water.", "prediction": "brick"},
    {**QUESTION, "rationale": "It is what it is, and it is what it is.", "prediction": "brick"},
    {**QUESTION, "rationale": "Cork is heavy.", "prediction": "cork"},
]


def main(file: Path) -> list[dict[str, float | None]]:
    rationales = list(RationaleFile(file, columns={}))
    questions = {r.question.id: r.question for r in rationales}
    suite = RewardSuite([*load_rewards(["correctness", "diversity", "option_copying"]), brevity])
    scored = suite.score([r.attempt for r in rationales], questions)
    for attempt in scored:
        print(attempt.rationale)
        shown = {name: "-" if s is None else f"{s:.2f}" for name, s in attempt.rewards.items()}
        print("   ", ", ".join(f"{name} {score}" for name, score in shown.items()))
    return [dict(attempt.rewards) for attempt in scored]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rationales.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
            main(file)
