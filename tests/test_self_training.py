"""STaR, RFT and iterative DPO: what they learn from, what they keep, and that they survive."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
from tiny import weights
from toys import GOOD, attempt, experiment, question, told_apart

from rationalize import train
from rationalize.attempt_files import save_attempts
from rationalize.errors import UsageError, UserError
from rationalize.methods import METHODS
from rationalize.methods.base import Learned, NothingToLearn
from rationalize.methods.coalition.config import CandidateConfig, CoalitionConfig
from rationalize.methods.iterative_dpo import IterativeDpoConfig, iterative_dpo, pairs_of
from rationalize.methods.launch import tokens_of
from rationalize.methods.own_attempts import RejectConfig, WriteConfig
from rationalize.methods.self_training import (
    RftConfig,
    SelectConfig,
    StarConfig,
    seed_sft,
    seed_stage_name,
    self_training,
    steps_in,
)
from rationalize.methods.settings import RunConfig
from rationalize.methods.sft import StartConfig
from rationalize.methods.train_scorers.ranking import rank_attempts
from rationalize.methods.train_scorers.reward_model import RewardModelConfig
from rationalize.models.policy import load_policy
from rationalize.questions import load_splits
from rationalize.rewards import Reward, RewardSuite
from rationalize.rewards.correctness import correctness
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig
from rationalize.training.selection import last_of

FIT = FitConfig(learning_rate=3e-3, batch_size=8)
SHORT = SamplingConfig(n=4, max_new_tokens=24)
STAR = {
    "rounds": 2, "first_steps": 10, "fit": dataclasses.replace(FIT, learning_rate=3e-4),
    "write": WriteConfig(hints="failed", shots=0, sampling=SHORT),
}  # fmt: skip
DPO = {
    "rounds": 2, "sft": StartConfig(epochs=0), "sampling": SHORT,
    "select": RejectConfig(dedupe="none"), "fit": dataclasses.replace(FIT, learning_rate=3e-4),
}  # fmt: skip


@pytest.fixture
def run_settings(half_right):
    """A run on a base model that answers half of the questions rightly."""
    model, questions = half_right
    return {"model": model, "questions": questions, "precision": "float32"}


def experiment_on(path, model, questions, **facts):
    """An experiment on the questions of a folder."""
    splits, tuning = load_splits(questions), facts.pop("tuning", "full")
    return experiment(
        path, splits["train"], splits["dev"], policy=load_policy(model),
        config=RunConfig(model=model, questions=questions, precision="float32", tuning=tuning),
        evaluation=SamplingConfig(temperature=0.0, max_new_tokens=24), **facts,
    )  # fmt: skip


# STaR and RFT


def test_stars_step_budget():
    assert [steps_in(r, 99, StarConfig()) for r in range(8)] == [40, 48, 57, 69, 82, 99, 119, 143]
    assert steps_in(1, 16, RftConfig(epochs=2, growth=1.5, fit=FIT)) == 6
    assert [steps_in(r, 99, StarConfig(growth=0.2)) for r in range(4)] == [40, 8, 1, 1]


def test_replies_are_judged_at_the_length_at_which_they_are_written():
    long = SamplingConfig(max_new_tokens=400)
    for config, tokens in ((StarConfig, 96), (RftConfig, 256)):
        assert tokens_of(config()) == tokens
        assert tokens_of(config(write=WriteConfig(sampling=long))) == 400
    assert tokens_of(IterativeDpoConfig()) == 256
    assert tokens_of(IterativeDpoConfig(sampling=long)) == 400
    assert tokens_of(CoalitionConfig(candidates=CandidateConfig(sampling=long))) == 400


def test_no_round_is_no_method():
    for config in (StarConfig, RftConfig, IterativeDpoConfig):
        with pytest.raises(UsageError, match="rounds is 0"):
            config(rounds=0)


@pytest.mark.parametrize(("method", "hints"), [("star", "failed"), ("rft", "off")])
def test_star_and_rft_end_to_end(method, hints, run_settings, tmp_path):
    settings = STAR | {"write": WriteConfig(hints=hints, shots=0, sampling=SHORT)}
    if method == "rft":
        settings["select"] = SelectConfig(dedupe="none", positives=0)
    train(method, tmp_path / "run", evaluations=1, **run_settings, **settings)
    run = Run.read(tmp_path / "run")
    lines = [m for m in run.metrics() if m["stage"].endswith("/coverage")]
    assert len(lines) == 2
    assert all(0 < line["pass_rate"] < 1 for line in lines)
    kept = run.read_json(f"{method}-rounds.json")
    assert kept["dev_accuracy"][kept["kept"]] == max(kept["dev_accuracy"].values())
    results = run.read_json("results.json")
    assert METHODS[method].label in results["methods"]
    [learned] = results["trained"]
    assert (learned["stages"], learned["rewards"]) == ([method], ["correctness"])


def test_who_starts_from_seed_rationales_need_not_learn_them_again(
    tiny_model, mostly_yes, tmp_path
):
    """One run: the row of the seed SFT, RFT that starts from it, and RFT that does both."""
    config = RftConfig(
        seed_rationales=12, seed_epochs=40.0, first_steps=8, evaluations=1, fit=FIT,
        write=WriteConfig(sampling=SHORT), select=SelectConfig(dedupe="none", positives=2),
    )  # fmt: skip
    exp = experiment_on(tmp_path / "run", tiny_model, mostly_yes)
    seeded = seed_sft(exp, exp.load_policy(), config, exp.stage("any"))
    assert seeded.trained == {}  # the teacher is no reward
    from_it = dataclasses.replace(exp, start=dataclasses.replace(seeded, policy=None))
    policy = exp.load_policy(seeded.weights)
    one = self_training(from_it, policy, config, exp.stage("one"))
    two = self_training(exp, exp.load_policy(), config, exp.stage("two"))
    stages = list(exp.run.read_json("stages.json"))
    assert stages == [seeded.weights.name, "one-round0", "two-round0"]
    assert len(one.store) == len(two.store) == 24 * 4
    prompts = {a.prompt for a in [*one.store, *two.store]}
    assert all(prompt.count("Explain, then answer.") == 1 for prompt in prompts)  # not few-shot


class Lesson(NamedTuple):
    """What a stage imitated, and the weights before and after it."""

    texts: list
    steps: int
    before: str
    after: str


def scripted_rounds(tmp_path, monkeypatch, model, accuracies=(0.5, 0.6, 0.7), **changes):
    """Rounds at two questions whose attempts say in which round they were written, and whose
    development accuracy is given: the lesson of each stage, the policy, and what is left.
    """
    questions = [question(i, rationales=("a b c d e f.",)) for i in range(2)]
    lessons, accuracy = {}, iter(accuracies)

    def written(exp, policy, config, stage, part, *, round=0, split="train", **_):
        return [
            attempt(q, f"in round {round} it is {words}", answer, split=split)
            for q in exp.splits[split]
            for words, answer in (("as they say", "yes"), ("so again", "yes"), ("unclear", "no"))
        ]

    def imitate(exp, policy, texts, config, stage, *, steps):
        before = weights(policy)

        def learn():
            with torch.no_grad():
                policy.model.get_input_embeddings().weight[3] += 1 + len(lessons)
            score = 1.0 if stage.name.startswith("warm-up") else next(accuracy)
            return {"scores": {str(steps): score}, "step": steps}

        stage.policy(policy, learn)
        lessons[stage.name] = Lesson(list(texts), steps, before, weights(policy))

    monkeypatch.setattr("rationalize.methods.self_training.own_attempts", written)
    monkeypatch.setattr("rationalize.methods.self_training.imitate", imitate)
    run_config = RunConfig(model=model, precision="float32")
    exp = experiment(tmp_path / "run", questions, questions[:1], config=run_config)
    select = SelectConfig(dedupe="none", positives=0)
    values = {"rounds": 3, "first_steps": 10, "growth": 2.0, "select": select, "fit": FIT}
    policy = exp.load_policy()
    learned = self_training(exp, policy, RftConfig(**values | changes), exp.stage("rft"))
    return lessons, policy, learned


def said_in_rounds(lesson):
    """Of each round in which a text was written, how many of them are imitated."""
    starts = [reply.split(" it is")[0] for _, reply in lesson.texts]
    return {start: starts.count(start) for start in starts if start.startswith("in round")}


def test_each_round_imitates_its_own_right_attempts_or_all_so_far(
    tiny_model, tmp_path, monkeypatch
):
    for accumulate in (False, True):
        place = tmp_path / str(accumulate)
        lessons, _, learned = scripted_rounds(place, monkeypatch, tiny_model, accumulate=accumulate)
        assert len(learned.store) == 3 * 2 * 3
        for round in range(3):
            rounds = range(round + 1) if accumulate else [round]
            expected = {f"in round {r}": 4 for r in rounds}
            assert said_in_rounds(lessons[f"rft-round{round}"]) == expected


def test_a_cap_keeps_the_newest_of_all_rounds_attempts(tiny_model, tmp_path, monkeypatch):
    capped = SelectConfig(dedupe="none", positives=3)
    lessons, _, _ = scripted_rounds(
        tmp_path, monkeypatch, tiny_model, accumulate=True, select=capped
    )
    for round in (1, 2):
        expected = {f"in round {round}": 4, f"in round {round - 1}": 2}
        assert said_in_rounds(lessons[f"rft-round{round}"]) == expected


def test_each_round_learns_its_steps_and_the_seeds_from_the_base_model(
    tiny_model, tmp_path, monkeypatch
):
    lessons, _, _ = scripted_rounds(tmp_path, monkeypatch, tiny_model, seed_rationales=2)
    seeded, *rounds = lessons.values()
    assert [reply for _, reply in seeded.texts] == ["a b c d e f. So the answer is (A)."] * 2
    for lesson in rounds:
        assert lesson.before == seeded.before != seeded.after
        assert lesson.texts[-2:] == seeded.texts
        assert len(lesson.texts) == 4 + 2
    assert [lesson.steps for lesson in rounds] == [10, 20, 40]


@pytest.mark.parametrize(("accuracies", "best"), [((0.5, 0.9, 0.7), 1), ((0.5, 0.6, 0.7), 2)])
def test_the_best_round_is_left(accuracies, best, tiny_model, tmp_path, monkeypatch):
    lessons, policy, learned = scripted_rounds(tmp_path, monkeypatch, tiny_model, accuracies)
    assert learned.weights.name == f"rft-round{best}"
    assert weights(policy) == lessons[f"rft-round{best}"].after
    assert len({lesson.after for lesson in lessons.values()}) == 3


def test_a_stage_of_seed_rationales_has_the_name_of_earlier_versions(tmp_path):
    """The checksum of what they depend on: `("warm_up", "warm_up_epochs", "fit", "seed")`."""
    exp = experiment(tmp_path / "run", [])
    assert seed_stage_name(exp.config, RftConfig(seed_rationales=6)) == "warm-up-2786d0a8"


def test_a_writer_that_is_never_right_ends_with_figures_and_advice(
    tiny_model, mostly_yes, tmp_path
):
    write = WriteConfig(shots=0, sampling=SamplingConfig(n=2, max_new_tokens=4))
    with pytest.raises(UserError) as error:
        train("rft", tmp_path / "run", model=tiny_model, questions=mostly_yes, write=write, fit=FIT)
    for said in (
        "48 attempts at 24 questions: 0.0% right, 100.0% without an answer", "Kept 0",
        "no attempt can be learned from", "seed_rationales",
    ):  # fmt: skip
        assert said in str(error.value)


def test_a_writer_that_never_answers_is_found_out_before_the_bill(tiny_model, half_right, tmp_path):
    write = WriteConfig(shots=0, sampling=SamplingConfig(n=2, max_new_tokens=4))
    values = {"model": tiny_model, "questions": half_right[1], "write": write, "fit": FIT}
    with pytest.raises(NothingToLearn, match=r"12 development questions(.|\n)*seed_rationales"):
        train("rft", tmp_path / "run", **values)
    assert not Run.read(tmp_path / "run").attempts(split="train")


# Iterative DPO


def pairs(attempts, questions, **changes):
    learned, held_out = pairs_of(attempts, questions, IterativeDpoConfig(**changes), 0)
    return learned + held_out


def test_nothing_wrong_is_ever_chosen():
    q = question(0)
    attempts = [attempt(q, GOOD, "no"), attempt(q, "quite another way to put the same", None)]
    assert pairs(attempts, [q], levels=3) == []
    attempts.append(attempt(q, "that is how they say it goes", "yes"))
    found = pairs(attempts, [q], levels=3)
    assert len(found) == 2
    assert all("(A)" in pair.chosen for pair in found)


def test_what_is_held_out_is_held_out_of_every_round():
    questions, attempts = told_apart(40)
    config = IterativeDpoConfig(held_out=0.1)
    _, before = pairs_of(attempts, questions, config, 0)
    fewer = [a for a in attempts if a.question_id != questions[3].id]  # no pair there any more
    learned, after = pairs_of(fewer, questions, config, 0)
    assert {p.prompt for p in after} <= {p.prompt for p in before}
    assert not {p.prompt for p in learned} & {p.prompt for p in before}


def test_pairs_that_teach_nothing_take_no_place_under_the_cap():
    q = question(0)
    attempts = [attempt(q, f"{word} one is what they say", "yes") for word in "ab"]
    attempts += [attempt(q, f"{word} two is what they say", "no") for word in "cdef"]
    attempts += [attempt(q, f"{word} three is what they say", None) for word in "ghij"]
    found = pairs(attempts, [q], levels=3, pairs=10, select=RejectConfig(dedupe="none"))
    assert len(found) == 10  # of 16, beside 16 wrong over unparsed


def test_dpo_pairs_are_the_reward_models():
    questions, attempts = told_apart(3)
    by_id = {q.id: q for q in questions}
    found = pairs(attempts, questions)
    ranked = rank_attempts(attempts, by_id, RejectConfig(), RewardModelConfig(), 0)
    assert len(found) == sum(len(r.pairs) for r in ranked) == 6
    for pair in found:
        assert pair.prompt.endswith("Explain, then answer.")
        assert ("(A)" in pair.chosen, "(B)" in pair.rejected) == (True, True)


def test_iterative_dpo_end_to_end(run_settings, tmp_path):
    train("dpo", tmp_path / "run", **run_settings, **DPO | {"select": RejectConfig()})
    run = Run.read(tmp_path / "run")
    assert run.done("dpo") is not None
    [first, *_] = run.metrics("dpo-round0")
    assert first["dpo"] == pytest.approx(0.693147, abs=1e-5)


def scripted(scores):
    """A reward that is the next of these numbers each time that it is asked."""
    turns = iter(scores)

    def score(completions, **_):
        return [next(turns)] * len(completions)

    return Reward("script", score, cacheable=False)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    ("scores", "best"), [((0.5, 0.9, 0.1), "dpo-round0"), ((0.5, 0.5, 0.1), "dpo-start")]
)
def test_dpo_keeps_what_did_best_and_of_equals_the_earlier(
    half_right, scores, best, tuning, tmp_path
):
    suite = RewardSuite([correctness(), scripted(scores)])
    exp = experiment_on(tmp_path / "run", *half_right, suite=suite, tuning=tuning)
    config = IterativeDpoConfig(
        rounds=2, select_by="script", sampling=SamplingConfig(n=4, max_new_tokens=24),
        select=RejectConfig(dedupe="none"), fit=dataclasses.replace(FIT, learning_rate=1e-4),
    )  # fmt: skip
    iterative_dpo(exp, exp.load_policy(), config, exp.stage("dpo"))
    first, last, kept = (
        load_policy(tmp_path / "run/policies" / name).model.state_dict()
        for name in (best, "dpo-round1", "dpo")
    )
    assert all(torch.equal(kept[name], first[name]) for name in kept)
    assert not all(torch.equal(kept[name], last[name]) for name in kept)
    ended = load_policy(last_of(exp.stage("dpo"))).model.state_dict()  # where training ended
    assert all(torch.equal(ended[name], last[name]) for name in last)


def test_dpo_learns_first_from_attempts_that_are_there(half_right, tmp_path):
    exp = experiment_on(tmp_path / "run", *half_right)
    asked = exp.train[:4]
    attempts = [
        attempt(q, f"{words} it is as they say", answer, i)
        for q in asked
        for i, (words, answer) in enumerate([("clearly", "yes"), ("no clue", "no")])
    ]
    policy = exp.load_policy()
    start = Learned(policy, tmp_path, attempts=attempts)
    config = IterativeDpoConfig(
        rounds=2, held_out=0.25, pairs=1, fit=FIT, select=RejectConfig(dedupe="none"),
        sampling=dataclasses.replace(SHORT, n=2),
    )  # fmt: skip
    iterative_dpo(dataclasses.replace(exp, start=start), policy, config, exp.stage("dpo"))
    facts = exp.run.done("dpo-round0")
    assert (facts["pairs"], facts["held_out_pairs"]) == (3, 1)
    assert 0 <= facts["held_out_pair_accuracy"] <= 1
    written = exp.run.attempts(split="train")  # nothing in round 0
    assert {a.round for a in written} == {1}
    assert len(written) == 24 * 2
    named = dataclasses.replace(config, rounds=1, attempts=str(tmp_path / "stored.jsonl"))
    save_attempts(attempts, tmp_path / "stored.jsonl")
    iterative_dpo(exp, exp.load_policy(), named, exp.stage("named"))
    assert exp.run.done("named-round0")["pairs"] == 3
    silent = dataclasses.replace(start, attempts=attempts[:1])
    with pytest.raises(NothingToLearn, match="none of 1 attempts"):
        iterative_dpo(dataclasses.replace(exp, start=silent), policy, config, exp.stage("other"))
    _, aside = pairs_of(attempts, exp.train, config, exp.seed)
    held_out = [a for a in attempts if a.prompt in {pair.prompt for pair in aside}]
    start = dataclasses.replace(start, attempts=held_out)
    with pytest.raises(NothingToLearn, match="no question but held-out ones has a right"):
        iterative_dpo(dataclasses.replace(exp, start=start), policy, config, exp.stage("third"))


class Killed(Exception):
    pass


@pytest.mark.parametrize(("method", "settings"), [("star", STAR), ("dpo", DPO)])
def test_killed_again_and_again_they_end_the_same(
    method, settings, run_settings, tmp_path, monkeypatch
):
    def start(name):  # with a checkpoint after every step
        train(method, tmp_path / name, checkpoint_every=0.0, **run_settings, **settings)

    start("whole")
    real, steps = torch.optim.AdamW.step, {"n": 0}

    def step(*args, **options):
        steps["n"] += 1
        if steps["n"] % 6 == 0:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        for _ in range(60):
            try:
                start("killed")
                break
            except Killed:
                pass
    assert steps["n"] > 18
    file = "model/model.safetensors"
    assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
