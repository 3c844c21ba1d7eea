"""Fixtures that several files share."""

import dataclasses
import json

import pytest
from tiny import tiny_policy

from rationalize.methods.sft import SftConfig, sft
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.training.loop import FitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8, precision="float32")


@pytest.fixture(scope="session")
def half_right(tmp_path_factory):
    """A base model that answers yes or no at random, and questions whose answer is yes."""

    def rows(name, n, answer):
        return [
            Question(id=f"{name}{i}", question=f"{name} {i}?", answer=answer(i),
                     choices=("yes", "no"), rationales=("a b c d e f.",))
            for i in range(n)
        ]  # fmt: skip

    folder = tmp_path_factory.mktemp("half-right")
    policy = tiny_policy()
    names = ("ab", "ta", "dr", "se", "ev", "es")
    taught = [q for n in names for a in ("yes", "no") for q in rows(n, 14, lambda i, a=a: a)]
    config = SftConfig(epochs=15, evaluations=1, fit=FIT)
    sft(policy, taught, taught[:1], config, Run.open(folder / "run", {}), "sft")
    policy.save(folder / "model")
    (folder / "questions").mkdir()
    for split, n in (("train", 24), ("dev", 12), ("test", 12)):
        own = [dataclasses.asdict(q) for q in rows(split[:2], n, lambda i: "yes")]
        lines = [json.dumps({k: v for k, v in q.items() if v}) + "\n" for q in own]
        (folder / f"questions/{split}.jsonl").write_text("".join(lines))
    return str(folder / "model"), str(folder / "questions")
