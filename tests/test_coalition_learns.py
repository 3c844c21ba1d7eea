"""COALITION end to end on tiny models: a held-out utility that rises; killed anywhere, it ends the
same.
"""

import dataclasses
import json

import pytest
from tiny import tiny_folder

from rationalize.methods.candidates import CandidateConfig
from rationalize.methods.coalition import train_coalition
from rationalize.methods.instruction import InstructionConfig
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.sampling.coalition import Coalition
from rationalize.sampling.local import SamplingConfig
from tests.test_coalition import FIT, config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder("decoder", tmp_path_factory.mktemp("tiny"), chat=True)


class Liking:
    """A judge that likes one kind of rationale."""

    def utilities(self, questions, rationales):
        return [0.5 if r is None else 0.9 if "a b c" in r else 0.1 for r in rationales]


def toy_file(path):
    words = ("ice", "sand", "wood", "stone", "grass", "glass", "clay", "mud", "wool", "silk")
    for split, own in (("train", words[:8]), ("dev", words[8:]), ("test", words[8:])):
        rows = [
            {
                "id": f"{split}-{w}", "question": f"{w}, {split}?", "choices": ["yes", "no"],
                "answer": "yes", "rationales": ["a b c d e f.", "so so so so so so."],
            }
            for w in own
        ]  # fmt: skip
        (path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("copies", [False, True])
def test_held_out_utility_rises(model, tmp_path, monkeypatch, copies):
    """Two kinds of rationale are imitated; preference by utility leaves the useful one."""
    from rationalize.methods import coalition as method

    monkeypatch.setattr(method, "judge_of", lambda *_: Liking())
    folder = tmp_path / "toy"
    folder.mkdir()
    toy_file(folder)
    fast = dataclasses.replace(FIT, learning_rate=3e-3)
    sampling = SamplingConfig(max_new_tokens=24, n=4)
    taught = config(
        model, questions=str(folder), copies=copies, controller_share=0.25, epochs=6.0,
        candidates=CandidateConfig(sampling=sampling), nll_weight=0.2, variant_fit=fast,
        instruction=InstructionConfig(epochs=60.0, imperfect=sampling, fit=fast), select=False,
    )  # fmt: skip
    mean = {}
    for rounds in (0, 1):
        out = tmp_path / f"run{rounds}"
        train_coalition(dataclasses.replace(taught, rounds=rounds), out)
        loaded = Coalition.load(out / "coalition")
        questions = [Question(f"q{i}", "silk, test?", "yes", ("yes", "no")) for i in range(40)]
        chains = loaded.chains(questions, SamplingConfig(max_new_tokens=24), who="random")
        mean[rounds] = sum(Liking().utilities([], [c.rationale for c in chains])) / len(chains)
    assert mean[0] < 0.8
    assert mean[1] > mean[0] + 0.05


class Killed(Exception):
    """What stands for a kill."""


def kill_now_and_then(patch):
    """Kill within training, and before or after shards are stored and stages marked as finished:
    each at its first time alone, so that a next start comes further. Returns where.
    """
    from rationalize.training import loop

    killed = []

    def patched(owner, name, every, turns):
        real, seen = getattr(owner, name), []

        def call(*args, **facts):
            what = args[-1] if owner is Run else len(seen)  # a shard, a stage; each save is new
            new = what not in seen
            seen.extend([what] * new)
            when = turns.get(len(seen) % every) if new else None
            if when != "before":
                real(*args, **facts)
            if when:
                killed.append((name, when))
                raise Killed

        patch.setattr(owner, name, call)

    patched(loop, "_save", 15, {0: "after"})
    patched(Run, "append", 8, {3: "before", 7: "after"})
    patched(Run, "finish", 4, {1: "before", 0: "after"})
    return killed


def test_killed_anywhere_a_run_ends_the_same(model, tmp_path, monkeypatch):
    """Killed between and within stages, in two rounds: the coalition has the same bits."""
    whole = config(
        model, fit=dataclasses.replace(FIT, checkpoint_every=0.0), rounds=2,
        questions="builtin:train=16,dev=2,test=4,unseen=0",
    )  # fmt: skip
    train_coalition(whole, tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed = kill_now_and_then(patch)
        for _ in range(60):
            try:
                train_coalition(whole, tmp_path / "killed")
                break
            except Killed:
                assert (tmp_path / "killed" / "config.yaml").exists()
    assert set(killed) == {
        ("_save", "after"), ("append", "before"), ("append", "after"), ("finish", "before"),
        ("finish", "after"),
    }  # fmt: skip
    assert len(killed) >= 10
    for name in ("variant-1", "variant-2", "controller"):
        file = f"coalition/{name}/{name}/adapter_model.safetensors"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    once, often = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed")
    )
    assert often["rounds"] == once["rounds"]
    assert often["methods"] == once["methods"]
    for file in ("rounds.json", "stages.json", "leak-round1.json", "clones-round1.json"):
        assert (tmp_path / "killed" / file).read_text() == (tmp_path / "whole" / file).read_text()
