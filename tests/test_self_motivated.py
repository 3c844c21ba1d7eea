"""Own attempts, their sorting, the reward model, and the whole of Self-motivated Learning."""

import dataclasses
import json

import pytest
import torch
from tiny import tiny_folder, tiny_policy

from rationalize.answers import reply_text
from rationalize.errors import UsageError, UserError
from rationalize.methods.expert_iteration import (
    RftConfig,
    StarConfig,
    steps_in,
    train_rft,
    train_star,
)
from rationalize.methods.iterative_dpo import IterativeDpoConfig, pairs_of, train_iterative_dpo
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
    coverage,
    fault,
    learned_text,
    own_attempts,
    report_coverage,
    sort_attempts,
)
from rationalize.methods.ppo import PpoConfig
from rationalize.methods.reward_model import (
    RewardModelConfig,
    gate_reason,
    learn_rank,
    pair_accuracy,
    rank_attempts,
    split_questions,
)
from rationalize.methods.self_motivated import SelfMotivatedConfig, train_self_motivated
from rationalize.models.policy import load_policy
from rationalize.models.reward_model import RewardModel, read_facts
from rationalize.questions import load_questions
from rationalize.questions.demonstrations import BUILT_IN, demonstrations, form_of
from rationalize.records import Attempt, Question
from rationalize.rewards import load_rewards
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import write_attempts
from rationalize.training.loop import FitConfig

FIT = FitConfig(learning_rate=3e-3, batch_size=8, precision="float32", checkpoint_every=0.0)


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


# Sorting


def test_attempts_go_into_their_buckets():
    attempts = [
        attempt(Q, GOOD, "yes"),
        attempt(Q, GOOD + " .", "yes"),  # says the same
        attempt(Q, "quite another way to put the same", "yes"),
        attempt(Q, GOOD, "no"),
        attempt(Q, GOOD, None),
        attempt(Q, "short", "yes"),
        attempt(Q, GOOD, "yes", finish="length"),
        attempt(Q, GOOD, "yes", hinted=True),
        attempt(Q, GOOD, "no", hinted=True),
    ]
    found = sort_attempts(attempts, {Q.id: Q}, SelectConfig())
    assert [a.rationale for a in found.positives] == [GOOD, "quite another way to put the same"]
    assert [a.prediction for a in found.negatives] == ["no"]
    assert len(found.unparsed) == 1
    assert not found.hinted  # the question was solved without
    assert found.rejected == {
        "says the same": 1, "too short": 1, "cut at the length limit": 1,
        "solved without the hint": 1, "wrong despite the hint": 1,
    }  # fmt: skip
    kept = len(found.positives) + len(found.negatives) + len(found.unparsed) + len(found.hinted)
    assert kept + sum(found.rejected.values()) == len(attempts)


def test_a_hinted_attempt_is_kept_where_no_other_was_right():
    other = question(1)
    attempts = [attempt(other, GOOD, "no"), attempt(other, GOOD, "yes", hinted=True)]
    found = sort_attempts(attempts, {other.id: other}, SelectConfig())
    assert [a.hinted for a in found.hinted] == [True]
    assert not found.positives
    assert coverage(attempts, [other]).solved == 0.0  # a hint solves nothing


def test_the_cap_is_per_question():
    attempts = [
        attempt(Q, f"{w} so it is what they say", "yes") for w in ("a b c", "d e f", "g h i")
    ]
    found = sort_attempts(attempts, {Q.id: Q}, SelectConfig(positives=2))
    assert len(found.positives) == 2
    assert found.rejected["over the cap"] == 1


@pytest.mark.parametrize(
    ("rationale", "why"),
    [("Is 0 it?", "too short"), ("three plus four makes 3 + 4 = 8", "a false equation")],
)
def test_faults(rationale, why):
    assert fault(attempt(Q, rationale, "yes"), Q, SelectConfig(true_equations=True)) == why


def test_repeating_the_question_is_a_fault():
    long = question(2, question="Is this the one that they all meant?")
    assert (
        fault(attempt(long, long.question, "yes"), long, SelectConfig()) == "repeats the question"
    )
    going_on = attempt(long, GOOD + " Explain, then answer. " + GOOD, "yes")
    assert fault(going_on, long, SelectConfig()) == "goes on with another question"


def test_coverage():
    questions = [question(i) for i in range(3)]
    attempts = [
        *(attempt(questions[0], GOOD, p, i) for i, p in enumerate(["yes", "yes"])),
        *(attempt(questions[1], GOOD, p, i) for i, p in enumerate(["yes", "no"])),
        *(attempt(questions[2], GOOD, p, i) for i, p in enumerate([None, "no"])),
    ]
    found = coverage(attempts, questions)
    assert (found.questions, found.attempts) == (3, 6)
    assert found.pass_rate == pytest.approx(0.5)
    assert found.solved == pytest.approx(2 / 3)
    assert found.with_signal == pytest.approx(1 / 3)
    assert found.expected_signal == pytest.approx(0.5)
    assert found.unparsed == pytest.approx(1 / 6)


def test_an_empty_positive_set_ends_with_figures_and_advice(tmp_path):
    attempts = [attempt(Q, GOOD, "no")]
    found = sort_attempts(attempts, {Q.id: Q}, SelectConfig())
    with pytest.raises(UserError, match=r"1 attempts at 1 questions: 0\.0% right(.|\n)*warm_up"):
        report_coverage(attempts, [Q], found, Run.open(tmp_path / "run", {}), "rft")


def test_what_is_learned_has_neither_demonstrations_nor_hint():
    given = attempt(Q, GOOD, "yes", prompt="Hint: the answer is (A).", hinted=True)
    prompt, text = learned_text(given, Q)
    assert "Hint" not in prompt
    assert prompt.endswith("Explain, then answer.")
    assert text == f"{GOOD}. So the answer is (A)."


# Writing


def test_few_shot_prompts_hints_and_provenance(tmp_path):
    questions = [question(0), question(1, answer="12", choices=None)]
    run = Run.open(tmp_path / "run", {})
    config = WriteConfig(
        shots=2, hints="failed", sampling=SamplingConfig(n=2, max_new_tokens=6, temperature=0.7)
    )
    attempts = own_attempts(
        Sampler(tiny_policy()), questions, config, run, "a", round=0, seed=0, few_shot=True
    )
    free = [a for a in attempts if not a.hinted]
    assert [a.question_id for a in free] == ["q0", "q0", "q1", "q1"]
    assert "whale" in free[0].prompt  # a demonstration of its form
    assert "plums" in free[2].prompt
    assert "Hint" not in free[0].prompt
    hinted = [a for a in attempts if a.hinted]
    assert len(hinted) == 4  # a tiny random model solves nothing
    assert hinted[0].prompt.endswith("Hint: the answer is (A).\nExplain, then answer.")
    assert hinted[0].prompt.count("Hint:") == 3  # demonstrations are told theirs too
    assert all(a.rewards["correctness"] == 0.0 for a in attempts)
    assert len({a.id for a in attempts}) == len(attempts)
    assert (
        own_attempts(None, questions, config, run, "a", round=0, seed=0, few_shot=True) == attempts
    )


def test_demonstrations():
    assert {form_of(q) for q in BUILT_IN} == {"number", "choice", "yes/no"}
    assert all(q.answer in (q.choices or (q.answer,)) for q in BUILT_IN)
    train = [question(i, rationales=(GOOD,)) for i in range(3)]
    shown = demonstrations("train", train, 2, train)
    assert [q.id for q in shown["yes/no"]] == ["q0", "q1"]
    with pytest.raises(UserError, match="no demonstration"):
        demonstrations("builtin", [question(0, answer="because", choices=None)], 2, [])
    with pytest.raises(UserError, match="no such file"):
        demonstrations("none.jsonl", train, 2, [])


def test_a_question_that_is_shown_solved_is_not_asked(tmp_path):
    train = [question(i, rationales=(GOOD,)) for i in range(3)]
    config = WriteConfig(shots=2, demos="train", sampling=SamplingConfig(max_new_tokens=2))
    attempts = own_attempts(
        Sampler(tiny_policy()), train, config, Run.open(tmp_path / "r", {}), "a", round=0, seed=0,
        few_shot=True, train=train,
    )  # fmt: skip
    assert [a.question_id for a in attempts] == ["q2"]


def test_a_base_model_stops_before_a_question_of_its_own():
    from rationalize.models.policy import Policy

    policy = tiny_policy()
    sampler = Sampler(policy)
    free = sampler.sample(["Why?"], SamplingConfig(max_new_tokens=12), seeds=[0])[0][0]
    letter = next(c for c in free.text[2:] if not c.isspace() and free.text.count(c) >= 1)
    cut = sampler.sample(["Why?"], SamplingConfig(max_new_tokens=12), seeds=[0], stop=letter)[0][0]
    assert isinstance(policy, Policy)
    assert cut.finish == "stop"
    assert cut.text == free.text.partition(letter)[0].rstrip()
    assert cut.n_tokens < free.n_tokens
    assert cut.ids == free.ids[: cut.n_tokens]


# The reward model


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


RM = RewardModelConfig(epochs=12, held_out=0.25, fit=dataclasses.replace(FIT, batch_size=8))


def learned_rm(tmp_path, config=RM, attempts=None, kind="decoder", name="rm"):
    questions, own = told_apart()
    policy = tiny_policy(kind)
    run = Run.open(tmp_path / name, {})
    facts = learn_rank(
        policy, attempts or own, questions, config, run, "rm", run.path / "model", policy.save
    )
    return facts, run.path / "model"


@pytest.mark.parametrize("kind", ["decoder", "t5"])
@pytest.mark.parametrize("loss", ["pairwise", "listwise", "pointwise"])
def test_a_rank_is_learned_on_held_out_questions(kind, loss, tmp_path):
    facts, _ = learned_rm(tmp_path, dataclasses.replace(RM, loss=loss), kind=kind)
    assert facts["pair_accuracy"] > 0.9
    assert facts["pair_accuracy_masked"] > 0.9
    assert facts["questions"] + facts["held_out_questions"] == 40
    assert gate_reason(facts, RM) is None


def test_swapped_labels_swap_the_accuracy(tmp_path):
    questions, attempts = told_apart()
    other = {"yes": "no", "no": "yes"}
    swapped = [
        attempt(next(q for q in questions if q.id == a.question_id), a.rationale,
                other[a.prediction], k)
        for k, a in enumerate(attempts)
    ]  # fmt: skip
    config = dataclasses.replace(RM, reads="rationale")
    _, folder = learned_rm(tmp_path, config, swapped)
    ranked = rank_attempts(attempts, {q.id: q for q in questions}, config)
    assert pair_accuracy(RewardModel.load(folder), ranked, "rationale") < 0.1


def test_an_answer_memoriser_is_found_out(tmp_path):
    """The rationale says nothing, so that only the answer sentence tells."""
    _, attempts = told_apart()
    alike = [
        dataclasses.replace(a, rationale=f"words number {k} here of it")
        for k, a in enumerate(attempts)
    ]
    facts, _ = learned_rm(tmp_path, RM, alike)
    assert facts["pair_accuracy"] > 0.9
    assert facts["pair_accuracy_masked"] < 0.75
    assert "without the answer sentence" in gate_reason({**facts, "pair_accuracy_masked": 0.5}, RM)


def test_it_survives_save_and_load_and_is_a_reward(tmp_path):
    questions, attempts = told_apart()
    _, folder = learned_rm(tmp_path)
    model = RewardModel.load(folder)
    own = [q for q in questions for _ in range(3)]
    scores = model.scores(own, [a.rationale for a in attempts], [a.prediction for a in attempts])
    assert torch.tensor(scores).mean().item() == pytest.approx(0, abs=0.05)
    assert torch.tensor(scores).std(correction=0).item() == pytest.approx(1, abs=0.05)
    [reward] = load_rewards(["reward_model"], reward_model=model)
    columns = {
        "rationale": [a.rationale for a in attempts],
        "prediction": [a.prediction for a in attempts],
        "question": [q.question for q in own], "choices": [q.choices for q in own],
        "gold": [None] * len(own), "context": [None] * len(own),
        "question_id": [q.id for q in own],
    }  # fmt: skip
    assert reward(["?"] * len(own), ["!"] * len(own), **columns) == pytest.approx(scores)
    assert reward.scorer_hash == read_facts(folder)["weights_hash"] != ""
    with pytest.raises(UserError, match="expected the folder of a reward model"):
        RewardModel.load(tmp_path)


def test_the_order_of_attempts_changes_nothing(tmp_path):
    questions, attempts = told_apart(8)
    by_id = {q.id: q for q in questions}
    one, other = (rank_attempts(own, by_id, RM) for own in (attempts, attempts[::-1]))

    def pairs(ranked):
        return {
            (r.question.id, r.attempts[i].id, r.attempts[j].id) for r in ranked for i, j in r.pairs
        }

    assert pairs(one) == pairs(other)


def test_the_split_is_by_question():
    questions, attempts = told_apart(20)
    ranked = rank_attempts(attempts, {q.id: q for q in questions}, RM)
    learned, held = split_questions(ranked, 0.1, 0)
    assert (len(held), len(learned)) == (2, 18)
    assert not {r.question.id for r in learned} & {r.question.id for r in held}


def test_hinted_attempts_and_questions_on_one_level_are_never_ranked():
    questions = [question(0), question(1)]
    attempts = [
        attempt(questions[0], GOOD, "yes", hinted=True), attempt(questions[0], GOOD, "no"),
        attempt(questions[1], GOOD, "yes"), attempt(questions[1], GOOD + " !", "yes"),
    ]  # fmt: skip
    assert rank_attempts(attempts, {q.id: q for q in questions}, RM) == []


def test_luck_is_weighed_out():
    q = question(0)
    attempts = [attempt(q, f"{GOOD} {i}", p) for i, p in enumerate(["yes", "yes", "yes", "no"])]
    config = dataclasses.replace(RM, chance_correction=True)
    [one] = rank_attempts(attempts, {q.id: q}, config)
    assert one.weight == pytest.approx(0.5)
    assert rank_attempts(attempts[1:2] + attempts[3:], {q.id: q}, config) == []


def test_too_few_questions_with_signal_are_refused(tmp_path):
    q = question(0)
    with pytest.raises(UserError, match="teach no rank"):
        learn_rank(
            tiny_policy(), [attempt(q, GOOD, "yes"), attempt(q, GOOD, "no")], [q], RM,
            Run.open(tmp_path / "run", {}), "rm", tmp_path / "m", lambda _: None,
        )  # fmt: skip


# Neighbours


def test_stars_step_budget():
    assert [steps_in(r, 99, StarConfig()) for r in range(8)] == [40, 48, 57, 69, 82, 99, 119, 143]
    assert steps_in(1, 16, RftConfig(epochs=2, growth=1.5, fit=FIT)) == 6


def test_dpo_pairs_are_the_reward_models():
    questions, attempts = told_apart(3)
    by_id = {q.id: q for q in questions}
    pairs = pairs_of(attempts, by_id, IterativeDpoConfig())
    assert len(pairs) == sum(len(r.pairs) for r in rank_attempts(attempts, by_id, RM)) == 6
    for pair in pairs:
        assert pair.prompt.endswith("Explain, then answer.")
        assert ("(A)" in pair.chosen, "(B)" in pair.rejected) == (True, True)


# The whole


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("decoder", tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The answer is mostly "yes", which the warm-up's few rationales do not say."""
    folder = tmp_path_factory.mktemp("questions")
    rows = {
        split: [
            {
                "id": f"{split}{i}", "question": f"{split[:2]} {i}?", "answer": "yes",
                "choices": ["yes", "no"], "rationales": ["a b c d e f."],
            }
            for i in range(n)
        ]
        for split, n in (("train", 24), ("dev", 6), ("test", 6))
    }  # fmt: skip
    for split, own in rows.items():
        if split == "train":
            for row in own[:12:2]:
                row["answer"] = "no"
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in own))
    return str(folder)


def settings(model, questions, **changes):
    write = WriteConfig(sampling=SamplingConfig(n=8, max_new_tokens=24))
    kept = RftConfig(
        write=write, warm_up=12, warm_up_epochs=40, epochs=6, evaluations=1, fit=FIT,
        select=SelectConfig(dedupe="exact", positives=0),
    )  # fmt: skip
    ppo = PpoConfig(
        updates=4, prompts=6, epochs=2, evaluate_every=2, stop_kl=1e9, epoch_kl=1e9, beta=0.01,
        fit=dataclasses.replace(FIT, learning_rate=1e-3, batch_size=16, schedule="constant"),
        sampling=SamplingConfig(n=4, max_new_tokens=24),
    )  # fmt: skip
    config = SelfMotivatedConfig(
        model=model, questions=questions, kept=kept, ppo=ppo, modes=("z",),
        redraw=WriteConfig(shots=0, sampling=SamplingConfig(n=4, max_new_tokens=24)),
        rm=dataclasses.replace(RM, epochs=2, gate=0.0, gate_masked=0.0),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_stage_and_mode_on_a_tiny_model(model, questions, tuning, tmp_path):
    config = settings(model, questions, modes=("z", "rm", "rm+z"), tuning=tuning)
    if tuning == "lora":  # an adapter takes larger steps
        fit = dataclasses.replace(FIT, learning_rate=2e-2)
        config = dataclasses.replace(config, kept=dataclasses.replace(config.kept, fit=fit))
    train_self_motivated(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    for stage in ("round0-sft-round0", "ppo-z-round0", "ppo-rm-round0", "ppo-rm-z-round0"):
        assert run.done(stage) is not None, stage
    gate = run.read_json("round0-gate.json")
    assert gate["open"]
    assert 0 <= gate["pair_accuracy_masked"] <= 1
    assert (tmp_path / "run/model/config.json").exists()
    with pytest.raises(UsageError, match="expected some of rm, z"):
        dataclasses.replace(config, modes=("x",))


def test_a_closed_gate_stops_the_reward_models_arms_alone(model, questions, tmp_path, capsys):
    config = settings(model, questions, modes=("z", "rm"), rm=dataclasses.replace(RM, gate=1.1))
    train_self_motivated(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.done("ppo-z-round0") is not None
    assert run.done("ppo-rm-round0") is None
    assert "below the gate of 1.1" in run.read_json("round0-gate.json")["reason"]
    assert "PPO with rm is left out" in capsys.readouterr().err
    only = settings(model, questions, modes=("rm",), rm=dataclasses.replace(RM, gate=1.1))
    train_self_motivated(only, tmp_path / "only")
    assert (tmp_path / "only/results.json").exists()  # the command ends well


def test_mode_z_loads_no_reward_model(model, questions, tmp_path, monkeypatch):
    from rationalize.methods import self_motivated

    monkeypatch.setattr(self_motivated.RewardModel, "load", lambda *_: pytest.fail("loaded"))
    train_self_motivated(settings(model, questions), tmp_path / "run")
    assert not (tmp_path / "run/scorers").exists()


@pytest.mark.parametrize(
    ("train", "config", "name"),
    [(train_star, StarConfig, "STaR"), (train_rft, RftConfig, "RFT")],
)  # fmt: skip
def test_star_and_rft_end_to_end(train, config, name, model, questions, tmp_path):
    write = WriteConfig(hints="failed" if name == "STaR" else "off",
                        sampling=SamplingConfig(n=4, max_new_tokens=24))  # fmt: skip
    own = config(
        model=model, questions=questions, write=write, warm_up=12, warm_up_epochs=40, rounds=2,
        first_steps=60, evaluations=1, fit=FIT, select=SelectConfig(dedupe="none", positives=0),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    train(own, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    lines = [m for m in run.metrics() if m["stage"].endswith("/coverage")]
    assert len(lines) == 2
    assert all(0 < line["pass_rate"] < 1 for line in lines)
    kept = run.read_json(f"{name.lower()}-rounds.json")
    assert kept["dev_accuracy"][kept["kept"]] == max(kept["dev_accuracy"].values())
    assert name in run.read_json("results.json")["methods"]


def test_iterative_dpo_end_to_end(model, questions, tmp_path):
    config = IterativeDpoConfig(
        model=model, questions=questions, rounds=2, sft_epochs=60.0, sft_fit=FIT,
        write=WriteConfig(sampling=SamplingConfig(n=8, max_new_tokens=24)),
        fit=dataclasses.replace(FIT, learning_rate=3e-4),
        evaluation_sampling=SamplingConfig(temperature=0.0, max_new_tokens=24),
    )  # fmt: skip
    train_iterative_dpo(config, tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.done("dpo") is not None
    [first, *_] = run.metrics("dpo-round0")
    assert first["dpo"] == pytest.approx(0.693147, abs=1e-5)


def sampled_accuracy(folder, questions):
    test = load_questions(questions, "test")
    attempts = write_attempts(
        Sampler(load_policy(folder)), test, SamplingConfig(n=32, max_new_tokens=24), split="test",
        seed=3,
    )  # fmt: skip
    return sum(a.prediction == "yes" for a in attempts) / len(attempts)


def test_held_out_accuracy_rises_over_sft(half_right, tmp_path):
    model, questions = half_right
    config = settings(model, questions)
    slow = dataclasses.replace(FIT, learning_rate=1e-4)
    write = dataclasses.replace(config.kept.write, shots=0)
    kept = dataclasses.replace(config.kept, warm_up=0, epochs=1, fit=slow, write=write)
    ppo = dataclasses.replace(config.ppo, updates=8, prompts=12, evaluate_every=4)
    train_self_motivated(dataclasses.replace(config, ppo=ppo, kept=kept), tmp_path / "run")
    base = sampled_accuracy(model, questions)
    sft = sampled_accuracy(tmp_path / "run/policies/round0-sft-round0", questions)
    learned = sampled_accuracy(tmp_path / "run/policies/ppo-z-round0", questions)
    assert 0.2 < base < 0.8
    assert sft < 0.9
    assert learned > sft + 0.05


def test_killed_anywhere_a_run_ends_the_same(model, questions, tmp_path, monkeypatch):
    """Killed between and within stages: the same weights, the same reward model."""
    from rationalize.training import loop

    config = settings(model, questions, modes=("rm+z",))
    short = dataclasses.replace(config.kept, warm_up_epochs=20, epochs=3)
    config = dataclasses.replace(config, kept=short)
    train_self_motivated(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    real, calls = loop._save, {"n": 0}

    def save(*args):
        real(*args)
        calls["n"] += 1
        if calls["n"] % 11 == 0:
            raise Killed

    monkeypatch.setattr(loop, "_save", save)
    for _ in range(40):
        try:
            train_self_motivated(config, tmp_path / "killed")
            break
        except Killed:
            pass
    assert calls["n"] > 33
    for file in (
        "policies/round0-sft-round0/model.safetensors",
        "scorers/round0-reward-model/scalar_head.safetensors",
        "policies/ppo-rm-z-round0/model.safetensors",
    ):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
