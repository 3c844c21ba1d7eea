"""Fixtures that several files share."""

import dataclasses
import gc
import json

import pytest
from hypothesis import settings
from tiny import tiny_folder, tiny_policy
from toys import experiment

from rationalize.methods.sft import SftConfig, sft
from rationalize.records import Question
from rationalize.training.loop import FitConfig

# a first example may pay for what later ones share: a process of math-verify's, an import
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_collection_finish():
    """Garbage collections skip what imports made: the end of each training makes a full one."""
    gc.freeze()


FIT = FitConfig(learning_rate=3e-3, batch_size=8)


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
    exp = experiment(folder / "run", taught, taught[:1], policy=policy)
    sft(exp, policy, config, exp.stage("sft"))
    policy.save(folder / "model")
    (folder / "questions").mkdir()
    for split, n in (("train", 24), ("dev", 12), ("test", 12)):
        own = [dataclasses.asdict(q) for q in rows(split[:2], n, lambda i: "yes")]
        lines = [json.dumps({k: v for k, v in q.items() if v}) + "\n" for q in own]
        (folder / f"questions/{split}.jsonl").write_text("".join(lines))
    return str(folder / "model"), str(folder / "questions")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a base model that knows nothing."""
    return str(tiny_folder("decoder", tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="session")
def mostly_yes(tmp_path_factory):
    """The answer is mostly "yes", which the first rationales, those of the seed SFT, do not say."""
    folder = tmp_path_factory.mktemp("questions")
    for split, n in (("train", 24), ("dev", 6), ("test", 6)):
        rows = [
            {
                "id": f"{split}{i}", "question": f"{split[:2]} {i}?", "answer": "yes",
                "choices": ["yes", "no"], "rationales": ["a b c d e f."],
            }
            for i in range(n)
        ]  # fmt: skip
        if split == "train":
            for row in rows[:12:2]:
                row["answer"] = "no"
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(folder)
