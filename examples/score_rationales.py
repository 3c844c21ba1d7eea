"""Score rationales that you have, by built-in rewards and by one of your own. Needs no model.

    python examples/score_rationales.py [rationales.jsonl]

A row holds a question, its choices and answer, and a rationale with the prediction it led to.
"""

import json
import sys
from pathlib import Path

from rationalize import score_rows

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


def main(rows: list[dict]) -> list[dict[str, float | None]]:
    rewards = ["correctness", "diversity", "option_copying", "my_rewards:brevity"]
    scored = score_rows(rows, rewards)
    for row in scored:
        print(row["rationale"])
        shown = {name: "-" if s is None else f"{s:.2f}" for name, s in row["rewards"].items()}
        print("   ", ", ".join(f"{name} {score}" for name, score in shown.items()))
    return [row["rewards"] for row in scored]


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text().splitlines() if len(sys.argv) > 1 else []
    main([json.loads(line) for line in lines] or ROWS)
