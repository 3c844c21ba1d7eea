"""Questions and attempts made by hand, for tests that need no model to write them."""

from __future__ import annotations

import json

from rationalize.answers import reply_text
from rationalize.methods.base import Experiment
from rationalize.methods.settings import RunConfig
from rationalize.records import Attempt, Question
from rationalize.rewards import RewardSuite, load_rewards
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig


def question(i, **changes):
    facts = {"id": f"q{i}", "question": f"Is {i} it?", "answer": "yes", "choices": ("yes", "no")}
    return Question(**{**facts, **changes})


def attempt(q, rationale, prediction, i=0, **changes):
    completion = reply_text(rationale, prediction, q.choices) if prediction else rationale
    facts = {
        "id": f"{q.id}/{i}/{rationale}/{prediction}", "question_id": q.id, "prompt": "few-shot",
        "mode": "rationale_answer", "completion": completion, "rationale": rationale,
        "prediction": prediction, "gold": q.answer, "parsed": prediction is not None,
        "finish": "stop", "writer": "w", "model": "m", "round": 0, "step": 0, "split": "train",
        "seed": 0, "n_tokens": 3,
    }  # fmt: skip
    return Attempt(**{**facts, **changes})


Q = question(0)
GOOD = "it is just as they say here"


def told_apart(n=40):
    """Right attempts say one thing, wrong ones another: a rank that can be learned."""
    questions = [question(i) for i in range(n)]
    attempts = []
    for i, q in enumerate(questions):
        for j, (words, right) in enumerate(
            [("a clear stone", True), ("no clue at all", False), ("an ice stone", True)]
        ):
            attempts.append(attempt(q, f"{words} of {i}", "yes" if right else "no", j))
    return questions, attempts


def reference(i, model="gpt3", *, predicted="yes", correct=True, rationale="it is so", name="a"):
    return {"id": f"{name}{i}", "model": model, "rationale": rationale, "predicted": predicted,
            "correct": correct}  # fmt: skip


def write_set(folder, rows, name="a", n=4, train=True):
    """Questions whose answer is yes, and reference rationales; no file of them where None."""
    folder = folder / name
    folder.mkdir(parents=True)
    for split in ("train", "test") if train else ("test",):
        lines = [
            {"id": f"{name}{i}" if split == "test" else f"{name}-train{i}",
             "question": f"Is {name} {i} of {split} it?", "choices": ["yes", "no"],
             "answer": "yes"}
            for i in range(n)
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(q) + "\n" for q in lines))
    if rows is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "reference_rationales.jsonl").write_text(text)
    return folder


def experiment(path, train, dev=(), rewards=("correctness", "diversity"), *, policy=None, **facts):
    """An experiment in a run at `path`: `facts` are fields of `Experiment` (`suite`, `evaluation`,
    `config`), and `checkpoint_every` of the run.
    """
    stored = {"checkpoint_every": facts.pop("checkpoint_every", 120.0)}
    facts.setdefault("config", RunConfig(precision="float32"))
    facts.setdefault("suite", RewardSuite(load_rewards(rewards)))
    facts.setdefault("evaluation", SamplingConfig(temperature=0.0, max_new_tokens=40))
    splits = {"train": list(train), "dev": list(dev)}
    return Experiment(Run.open(path, stored), splits=splits, base=policy, **facts)
