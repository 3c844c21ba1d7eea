"""The demo of Self-motivated Learning on a tiny model: every row, and a page that shows it."""

import dataclasses
import json

import pytest
import torch
from tiny import tiny_folder, weights
from toys import attempt, experiment, question, told_apart

from rationalize import demo
from rationalize.errors import UsageError
from rationalize.evaluation.compare import read_run
from rationalize.methods.base import Learned, NothingToLearn
from rationalize.methods.demos.self_motivated import PPO_ROWS, RELEARN, SelfMotivatedDemoConfig
from rationalize.methods.experiment import Row, Table, complete_last
from rationalize.methods.own_attempts import SelectConfig, WriteConfig
from rationalize.methods.relearn import (
    RelearnConfig,
    best_by_score,
    in_turns,
    relearn,
    texts_of,
)
from rationalize.methods.self_training import RftConfig
from rationalize.methods.settings import RunConfig
from rationalize.methods.sft import StartConfig
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig, HeadFitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8)
HEAD_FIT = HeadFitConfig(learning_rate=3e-3, batch_size=8)


def small(config, **changes):
    return dataclasses.replace(config, **changes)


def test_every_row_is_on_the_page(half_right, tmp_path):
    model, questions = half_right
    d = SelfMotivatedDemoConfig()
    sampling = SamplingConfig(n=4, max_new_tokens=24)
    slow = small(FIT, learning_rate=1e-4)
    settings = {
        "model": model, "questions": questions, "precision": "float32", "evaluation_tokens": 24,
        "methods": ("star", "dpo", "grpo", *RELEARN, *(f"ppo-{mode}" for mode in PPO_ROWS)),
        "shots": 1, "resample": 2,
        "direct": StartConfig(epochs=1.0, fit=FIT), "redraw": sampling,
        "rft": small(d.rft, seed_rationales=2, seed_epochs=1, epochs=1, fit=slow,
                     write=WriteConfig(sampling=sampling)),
        "rm": small(d.rm, gate=0.0, gate_masked=0.0, fit=HEAD_FIT),
        "ppo": small(d.ppo, updates=1, prompts=4, fit=HEAD_FIT,
                     sampling=SamplingConfig(n=2, max_new_tokens=8)),
        "star": small(d.star, rounds=1, seed_rationales=2, seed_epochs=1, first_steps=8, fit=slow,
                      write=small(d.star.write, sampling=sampling)),
        "dpo": small(d.dpo, fit=FIT, levels=3),
        "grpo": small(d.grpo, updates=1, prompts=4, fit=FIT,
                      sampling=SamplingConfig(n=2, max_new_tokens=8)),
    }  # fmt: skip
    demo("self-motivated", tmp_path / "run", **settings)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {
        "SFT on 2 seed rationales", "RFT (M_sft)", "RFT, majority of 4",
        "RFT, best of 4 by reward model", "STaR", "iterative DPO", "PPO, z", "PPO, rm",
        "PPO, rm+z", "GRPO", *(label for label, _ in RELEARN.values()),
    } <= set(results["methods"])  # fmt: skip
    for name in ("iterative DPO", "GRPO", *PPO_ROWS.values()):  # what was kept, and the last one
        folder = tmp_path / "run/policies"
        stage = {"iterative DPO": "dpo-0", "GRPO": "grpo-0"}.get(name)
        stage = stage or f"ppo-{name.removeprefix('PPO, ').replace('+', '-')}-seed0"
        assert (f"{name}, last policy" in results["methods"]) is (folder / f"{stage}-last").is_dir()
    [line] = results["held_out"]
    assert line["method"] == "dpo-0-round0"
    assert line["held_out_pairs"] + line["pairs"] > 0
    for name, row in results["methods"].items():
        measured = row["splits"]["test"]["metrics"]
        writes = name not in ("majority answer", "direct fine-tune")
        assert ("reward_model" in measured) is writes, name
    assert {row["k"] for row in results["votes"]} == {1, 2, 4}
    found = read_run(tmp_path / "run").attempts
    assert len({a.id for a in found["RFT, majority of 4"]["test"][0]}) == 12  # for `compare`
    assert results["rollouts"]
    assert {row["method"] for row in results["trained"]} >= {"RFT (M_sft)", "STaR", "PPO, z"}
    for stage in {s for row in results["trained"] for s in row["stages"]}:
        own = [r for r in results["rounds"] if r["method"] == stage and r["reward"] == "accuracy"]
        assert len(own) >= 2  # before and after: what a verdict needs
    assert results["coverage"]
    assert all(n > 0 for n in results["meta"]["tokens_written"].values())
    page = (tmp_path / "run/report.html").read_text()
    for title in (
        "Reinforcement learning, update by update",
        "Choosing among attempts",
        "Own attempts",
    ):
        assert title in page
    demo("self-motivated", tmp_path / "run", **settings)  # says that it is done


def test_where_nothing_is_right_the_baselines_stand_alone(tmp_path, capsys):
    (tmp_path / "questions").mkdir()
    for split, n in (("train", 6), ("dev", 2), ("test", 2)):
        rows = [
            {"id": f"{split}{i}", "question": f"{split} {i}?", "answer": "yes",
             "choices": ["yes", "no"], "rationales": [f"it is so {i} as they say."]}
            for i in range(n)
        ]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "questions" / f"{split}.jsonl").write_text(text)
    short = SamplingConfig(max_new_tokens=6, n=2)
    settings = {
        "model": str(tiny_folder("decoder", tmp_path / "tiny")),
        "questions": str(tmp_path / "questions"), "precision": "float32", "evaluation_tokens": 6,
        "methods": ("ppo-z",), "votes": 0, "shots": 1, "redraw": short,
        "direct": StartConfig(epochs=0.5, fit=FIT),
        "rft": RftConfig(write=WriteConfig(shots=0, sampling=short), fit=FIT),
    }  # fmt: skip
    demo("self-motivated", tmp_path / "run", **settings)
    assert "RFT (M_sft) is left out" in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "base, few-shot" in results["methods"]


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected some of star"):
        SelfMotivatedDemoConfig(methods=("ppo",))
    no_seeds = small(SelfMotivatedDemoConfig().rft, seed_rationales=0)
    with pytest.raises(UsageError, match=r"set rft\.seed_rationales"):
        SelfMotivatedDemoConfig(methods=("seeds",), rft=no_seeds)


def test_a_seed_that_kept_its_last_policy_counts_in_both_rows(tmp_path):
    q = question(0)
    kept, last = ([attempt(q, words, "yes")] for words in ("what was kept", "where it ended"))
    methods = {"X": {"test": {0: kept, 1: kept}}, "X, last policy": {"test": {1: last}}}
    table = Table(methods)
    complete_last(experiment(tmp_path / "run", [q]), [Row("X", "m", None, "s")], table)
    assert table.methods["X, last policy"]["test"][1] == last
    [as_last] = table.methods["X, last policy"]["test"][0]
    assert (as_last.writer, as_last.rationale) == ("X, last policy", "what was kept")


# What RFT is compared with


def test_the_control_is_as_many_attempts_of_as_many_questions_right_or_wrong():
    questions, attempts = told_apart(6)
    some = in_turns(attempts, 8, 0)
    asked = [a.question_id for a in some]
    assert len(some) == 8
    assert set(asked[:6]) == {q.id for q in questions}  # one of each before a second one
    assert {a.prediction for a in in_turns(attempts, 18, 0)} == {"yes", "no"}
    assert in_turns(attempts, 8, 0) == some != in_turns(attempts, 8, 1)


class ByLength:
    """A reward model that likes long rationales."""

    def scores(self, questions, rationales, predictions):
        return [float(len(r)) for r in rationales]


def learned_by(learns, tmp_path, seeds=0, **facts):
    """The texts that a row imitates, of attempts written by the base model and M_sft."""
    questions, written = told_apart(4)
    questions = [dataclasses.replace(q, rationales=("Ice is hard.",)) for q in questions]
    redrawn = [
        dataclasses.replace(a, id=f"again/{a.id}", rationale=f"once more {a.rationale}")
        for a in written
    ]
    exp = experiment(tmp_path / learns, questions)
    start = Learned(None, tmp_path, attempts=redrawn, store=[*written, *redrawn], **facts)
    rft = small(
        SelfMotivatedDemoConfig().rft, select=SelectConfig(positives=1), seed_rationales=seeds
    )
    return texts_of(exp, RelearnConfig(rft, learns), start)


def test_each_row_imitates_what_it_says(tmp_path):
    more = [reply for _, reply in learned_by("more", tmp_path)]
    assert len(more) == 8  # twice RFT's cap, of four questions
    assert all("So the answer is (A)." in reply for reply in more)
    assert all(reply.startswith("once more") for reply in more)  # M_sft's own come first
    loose = [reply for _, reply in learned_by("unfiltered", tmp_path)]
    assert len(loose) == 4  # as many as RFT kept
    assert not any(reply.startswith("once more") for reply in loose)
    wrong = [reply for _, reply in learned_by("wrong", tmp_path)]
    assert len(wrong) == 4
    assert all("So the answer is (B)." in reply for reply in wrong)
    assert not any(reply.startswith("once more") for reply in wrong)
    taught = [learned_by("seeds", tmp_path, 2), learned_by("wrong", tmp_path, 2)[4:]]
    assert taught[0] == taught[1]  # RFT learns the seeds too
    assert [reply for _, reply in taught[0]] == ["Ice is hard. So the answer is (A)."] * 2
    with pytest.raises(NothingToLearn, match="the gate"):
        learned_by("best", tmp_path, closed="the gate is closed")


def test_the_best_is_chosen_among_all_right_attempts(tmp_path, monkeypatch):
    """Not among the first ones under RFT's cap, nor the base model's alone."""
    monkeypatch.setattr(
        "rationalize.methods.relearn.load_reward_model", lambda exp, folder: ByLength()
    )
    best = [reply for _, reply in learned_by("best", tmp_path, reward_model=tmp_path)]
    assert len(best) == 4
    assert all(reply.startswith("once more a clear stone") for reply in best)


def test_each_row_starts_from_the_base_model_and_learns_for_as_long_as_rft(
    tiny_model, tmp_path, monkeypatch
):
    questions, written = told_apart(4)
    run_config = RunConfig(model=tiny_model, precision="float32")
    exp = experiment(tmp_path / "run", questions, config=run_config)
    m_sft = exp.stage("m-sft")
    m_sft.once(lambda: {"scores": {"4": 0.7, "8": 0.6}, "step": 4})
    policy, lessons = exp.load_policy(), []
    base = weights(policy)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[3] += 1  # it is M_sft

    def imitate(exp, policy, texts, config, stage, *, steps):
        lessons.append((weights(policy), steps))
        stage.once(lambda: {"scores": {"8": 0.5}, "step": 8})

    monkeypatch.setattr("rationalize.methods.relearn.imitate", imitate)
    exp = small(exp, start=Learned(policy, m_sft.folder, store=written))
    relearn(exp, policy, RelearnConfig(learns="more"), exp.stage("more"))
    assert lessons == [(base, 8)]


def test_the_best_is_one_right_attempt_a_question():
    questions, attempts = told_apart(4)
    right = [a for a in attempts if a.prediction == "yes"]
    best = best_by_score(right, ByLength().scores([], [a.rationale for a in right], []))
    assert [a.question_id for a in best] == [q.id for q in questions]
    assert all("clear" in a.rationale for a in best)  # longer than `an ice stone`
