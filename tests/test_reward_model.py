"""The reward model: its rank, its split, its gate, and that it survives."""

import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import tiny_policy
from toys import GOOD, attempt, question, told_apart

from rationalize.attempt_files import save_attempts
from rationalize.errors import UsageError, UserError
from rationalize.methods.base import NothingToLearn
from rationalize.methods.own_attempts import RejectConfig
from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers import reward_model
from rationalize.methods.train_scorers.ranking import (
    pair_accuracy,
    rank_attempts,
    ranked_rows,
    split_questions,
)
from rationalize.methods.train_scorers.reward_model import (
    AttemptsConfig,
    RankData,
    RewardModelConfig,
    attempts_at,
    describe,
    gate_reason,
    learn_rank,
    train_reward_model,
)
from rationalize.models.heads import answer_end, load_head, new_head, reply_states
from rationalize.models.logits import token_logprobs
from rationalize.models.reward_model import (
    RewardModel,
    read_facts,
    reply,
    reward_row,
    save_facts,
)
from rationalize.rewards import RewardSuite, load_rewards
from rationalize.runs import Run, Stage
from rationalize.signals.probes import cross_fitted_margins
from rationalize.training.loop import HeadFitConfig
from rationalize.training.objectives import rank

FIT = HeadFitConfig(learning_rate=3e-3, batch_size=8)
RM = RewardModelConfig(epochs=8, held_out=0.25, fit=FIT)


def learned_rm(tmp_path, config=RM, attempts=None, kind="decoder", name="rm"):
    questions, right_and_wrong = told_apart()
    run = Run.open(tmp_path / name, {})
    data = RankData(attempts or right_and_wrong, questions)
    folder = run.path / "model"
    return learn_rank(tiny_policy(kind), data, config, Stage(run, "rm"), folder), folder


def ranked(attempts, questions, config=RM):
    return rank_attempts(attempts, {q.id: q for q in questions}, RejectConfig(), config, 0)


@pytest.mark.parametrize("kind", ["decoder", "t5"])
@pytest.mark.parametrize("loss", ["pairwise", "listwise", "pointwise"])
def test_a_rank_is_learned_on_held_out_questions(kind, loss, tmp_path):
    facts, _ = learned_rm(tmp_path, dataclasses.replace(RM, loss=loss), kind=kind)
    assert facts["pair_accuracy"] > 0.9
    assert facts["pair_accuracy_masked"] > 0.9
    assert facts["questions"] + facts["held_out_questions"] == 40
    assert gate_reason(facts, RM, told_apart()[0]) is None


@pytest.mark.parametrize("score", ["end", "answer", "mean", "dpo"])
def test_every_score_learns_the_rank_and_is_loaded_as_it_was(score, tmp_path):
    facts, folder = learned_rm(tmp_path, dataclasses.replace(RM, score=score))
    assert (facts["score"], facts["tried"]) == (score, {})
    assert facts["pair_accuracy"] > 0.9
    questions, attempts = told_apart()
    loaded = RewardModel.load(folder)
    assert loaded.score == score
    assert pair_accuracy(loaded, ranked(attempts, questions), "reply") > 0.9


def test_the_likelihood_needs_no_learning(tmp_path):
    """It is the mean log-probability of a token, and no weight moves."""
    policy, (questions, attempts) = tiny_policy("decoder"), told_apart(8)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    run = Run.open(tmp_path, {})
    config = dataclasses.replace(RM, score="likelihood")
    learn_rank(policy, RankData(attempts, questions), config, Stage(run, "rm"), run.path / "m")
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())
    said = reply(questions[0], "a clear stone", "yes", "reply")
    [logprob_T] = token_logprobs(policy, [reward_row(policy, questions[0], said)])
    model = RewardModel(lambda: nullcontext(policy), None, score="likelihood")
    assert model.raw(questions[:1], [said]) == pytest.approx(
        [logprob_T.mean().item()], abs=0.02
    )  # bfloat16


def test_v_stars_verifier_scores_by_the_log_probability_of_the_whole_reply():
    policy, q = tiny_policy("decoder"), question(0)
    said = reply(q, "a clear stone", "yes", "reply")
    [logprob_T] = token_logprobs(policy, [reward_row(policy, q, said)])
    model = RewardModel(lambda: nullcontext(policy), None, score="dpo")
    assert model.raw([q], [said]) == pytest.approx([logprob_T.sum().item()], rel=0.02)  # bfloat16


def test_a_replys_states_are_those_after_its_own_tokens():
    """The prompt's last state, which predicts the first of them, is not one."""
    policy, q = tiny_policy("decoder"), question(0)
    row = reward_row(policy, q, "a clear stone")
    with torch.no_grad():
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        states_Td = policy.model.model(input_ids=ids).last_hidden_state[0, len(row.prompt_ids) :]
        mean, end = reply_states(policy, [row], ["mean", "end"])
    assert len(states_Td) == len(row.response_ids)
    torch.testing.assert_close(mean[0], states_Td.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(end[0], states_Td[-1], rtol=1e-4, atol=1e-5)


def test_held_out_questions_choose_and_teach_nothing_and_are_what_the_gate_is_measured_on(
    tmp_path, monkeypatch
):
    asked = {"try_scores": [], "_learn": [], "pair_rates": []}

    def spied(name, real):
        def call(scorer, ranked, *rest):
            asked[name].append({one.question.id for one in ranked})
            return real(scorer, ranked, *rest)

        return call

    for name in asked:
        monkeypatch.setattr(reward_model, name, spied(name, getattr(reward_model, name)))
    learned_rm(tmp_path, dataclasses.replace(RM, epochs=0.1))
    questions, attempts = told_apart()
    parts = split_questions(ranked(attempts, questions), RM.held_out, 0)
    learned, held_out = ({one.question.id for one in part} for part in parts)
    assert asked["try_scores"] == asked["_learn"] == [learned]
    assert asked["pair_rates"] == [held_out, held_out]  # with and without the answer sentence


def test_hinted_attempts_are_not_what_scores_are_scaled_over(tmp_path):
    questions, attempts = told_apart(8)
    hinted = [attempt(q, "as they told me it is", "yes", 3, hinted=True) for q in questions]
    config = dataclasses.replace(RM, score="likelihood")
    without, among = (
        learned_rm(tmp_path, config, [*attempts, *more], name=f"rm{len(more)}")[0]
        for more in ([], hinted)
    )
    assert (among["mean"], among["std"]) == (without["mean"], without["std"])


def test_what_scores_is_chosen_on_other_questions_and_said(tmp_path, capsys):
    facts, _ = learned_rm(tmp_path, dataclasses.replace(RM, epochs=1))
    accuracy = {score: tried["pair_accuracy"] for score, tried in facts["tried"].items()}
    assert set(accuracy) == {"end", "answer", "mean", "likelihood"}
    heads = [accuracy[score] for score in ("end", "answer", "mean")]
    assert accuracy[facts["score"]] == max(heads) > 0.9  # never M_sft's own likelihood
    assert f"by {facts['score']}" in capsys.readouterr().err
    assert f"reward model by {facts['score']}:" in describe(facts)


def test_a_state_without_a_difference_is_not_chosen():
    """Random features order half of other questions' pairs, informative ones nearly all."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=(4, 16)) for _ in range(60)]
    told = [d + np.eye(16)[3] * 3 for d in noise]
    rates = [
        np.mean(np.concatenate(cross_fitted_margins(differences)) > 0)
        for differences in (noise, told)
    ]
    assert abs(rates[0] - 0.5) < 0.15
    assert rates[1] > 0.95
    with pytest.raises(ValueError, match="1 questions; expected 2"):
        cross_fitted_margins(noise[:1])


@pytest.mark.parametrize(
    ("text", "ends"),
    [("It is so. So the answer is (A).", "(A"), ("It is 5. So the answer is 24.", "24"),
     ("It says nothing.", "nothing.")],
)  # fmt: skip
def test_the_answers_end_is_found_in_the_tokens(text, ends):
    policy = tiny_policy("decoder")
    ids = policy.encode_response(text)
    read = policy.decode(ids[: answer_end(policy, ids)])
    assert read.endswith(ends)


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
    model = RewardModel.load(folder)
    assert pair_accuracy(model, ranked(attempts, questions, config), "rationale") < 0.1


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
    assert "without the answer sentence" in gate_reason(
        {**facts, "pair_accuracy_masked": 0.5}, RM, told_apart()[0]
    )


def test_without_choices_the_answer_sentence_may_tell(tmp_path):
    facts = {"held_out_questions": 30, "pair_accuracy": 0.7, "pair_accuracy_masked": 0.5}
    questions, _ = told_apart()
    assert "without the answer sentence" in gate_reason(facts, RM, questions)
    open_ended = [dataclasses.replace(q, choices=()) for q in questions]
    assert gate_reason(facts, RM, open_ended) is None
    assert gate_reason({**facts, "pair_accuracy": 0.6}, RM, open_ended) is not None


def test_the_gate_asks_about_what_the_model_reads(tmp_path):
    """The rationale says nothing and is all that is read: the answer must not open the gate."""
    _, attempts = told_apart()
    alike = [
        dataclasses.replace(a, rationale=f"words number {k} here of it")
        for k, a in enumerate(attempts)
    ]
    config = dataclasses.replace(RM, reads="rationale", epochs=2)
    facts, _ = learned_rm(tmp_path, config, alike)
    assert facts["pair_accuracy"] == facts["pair_accuracy_masked"]
    assert gate_reason(facts, config, told_apart()[0]) is not None


def test_the_gate_says_how_sure_it_is(tmp_path):
    facts, _ = learned_rm(tmp_path, dataclasses.replace(RM, epochs=1))
    low, mean, high = (facts[f"pair_accuracy{end}"] for end in ("_low", "", "_high"))
    assert 0 <= low <= mean <= high <= 1
    assert 0 <= facts["pair_accuracy_learned"] <= 1
    assert f"[{low:.3f}, {high:.3f}]" in describe(facts)
    assert f"{facts['pair_accuracy_learned']:.3f}; held-out" in describe(facts)
    few = {**facts, "held_out_questions": 4, "pair_accuracy": 1.0, "pair_accuracy_masked": 1.0}
    assert "4 held-out questions, expected 5 at least" in gate_reason(few, RM, told_apart()[0])
    assert (
        gate_reason(few, dataclasses.replace(RM, gate=0.0, gate_masked=0.0), told_apart()[0])
        is None
    )
    assert gate_reason({**few, "held_out_questions": 5}, RM, told_apart()[0]) is None


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


def test_reward_models_of_the_same_weights_share_no_cached_scores(tmp_path):
    q = question(0)
    attempts = [attempt(q, "it is so and so", "yes")]
    facts = [
        {"score": "likelihood", "reads": "reply", "mean": -5.0, "std": 1.0},
        {"score": "likelihood", "reads": "reply", "mean": -4.0, "std": 1.0},
        {"score": "likelihood", "reads": "rationale", "mean": -5.0, "std": 1.0},
        {"score": "dpo", "reads": "reply", "mean": -5.0, "std": 1.0},
    ]
    found = []
    for i, one in enumerate(facts):
        tiny_policy().save(tmp_path / str(i))
        save_facts(tmp_path / str(i), **one)
        rewards = load_rewards(["reward_model"], reward_model=RewardModel.load(tmp_path / str(i)))
        [scored] = RewardSuite(rewards, tmp_path / "cache").score(attempts, {q.id: q})
        assert scored.rewards == RewardSuite(rewards).score(attempts, {q.id: q})[0].rewards
        found.append(scored.rewards["reward_model"])
    assert len(set(found)) == 4


@pytest.mark.parametrize("facts", [{}, {"adapter_on": "../sft"}])
def test_a_backbone_with_code_of_its_own_is_asked_for_with_it(facts, tmp_path):
    backbone = tmp_path / ("sft" if facts else "rm")
    backbone.mkdir()
    mine = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    (backbone / "config.json").write_text(json.dumps(mine))
    (backbone / "configuration_mine.py").write_text("raise NameError('its own code ran')")
    (tmp_path / "rm").mkdir(exist_ok=True)
    save_facts(tmp_path / "rm", mean=0.0, std=1.0, reads="reply", **facts)
    with pytest.raises(NameError, match="its own code ran"):
        RewardModel.load(tmp_path / "rm", trust_remote_code=True)
    with pytest.raises(UserError, match="trust_remote_code"):
        RewardModel.load(tmp_path / "rm", trust_remote_code=False)


def test_the_order_of_attempts_changes_nothing():
    questions, attempts = told_apart(8)
    one, other = (ranked(group, questions) for group in (attempts, attempts[::-1]))

    def pairs(ranked):
        return {
            (r.question.id, r.attempts[i].id, r.attempts[j].id) for r in ranked for i, j in r.pairs
        }

    assert pairs(one) == pairs(other)


def test_the_split_is_by_question():
    questions, attempts = told_apart(20)
    learned, held = split_questions(ranked(attempts, questions), 0.1, 0)
    assert (len(held), len(learned)) == (2, 18)
    assert not {r.question.id for r in learned} & {r.question.id for r in held}


def test_the_split_keeps_together_what_asks_the_same():
    questions, attempts = told_apart(20)
    alike = [dataclasses.replace(q, question=f"{i // 4}?") for i, q in enumerate(questions)]
    parts = split_questions(ranked(attempts, alike), 0.2, 0)
    learned, held = ({one.question.question for one in part} for part in parts)
    assert [len(part) for part in parts] == [16, 4]
    assert not learned & held


def test_hinted_attempts_and_questions_on_one_level_are_never_ranked():
    questions = [question(0), question(1)]
    attempts = [
        attempt(questions[0], GOOD, "yes", hinted=True), attempt(questions[0], GOOD, "no"),
        attempt(questions[1], GOOD, "yes"), attempt(questions[1], GOOD + " !", "yes"),
    ]  # fmt: skip
    assert ranked(attempts, questions) == []


def test_luck_is_weighed_out():
    q = question(0)
    attempts = [attempt(q, f"{GOOD} {i}", p) for i, p in enumerate(["yes", "yes", "yes", "no"])]
    config = dataclasses.replace(RM, chance_correction=True)
    [one] = ranked(attempts, [q], config)
    assert one.weight == pytest.approx(0.5)
    assert ranked(attempts[1:2] + attempts[3:], [q], config) == []
    same = [attempt(q, GOOD, "yes", i) for i in range(3)]  # that they are equal makes no luck
    [one] = ranked([*same, attempts[3]], [q], config)
    assert (one.weight, len(one.attempts)) == (pytest.approx(0.5), 2)


@pytest.mark.parametrize("kind", ["pairwise", "listwise", "pointwise"])
def test_a_question_counts_by_its_weight(kind):
    questions, attempts = told_apart(1)
    [one] = ranked(attempts, questions)
    policy = tiny_policy()
    loss = rank(new_head(policy, seed=1), kind=kind)
    whole, half = (
        loss(policy, ranked_rows(policy, one._replace(weight=weight), "reply")).total.item()
        for weight in (1.0, 0.5)
    )
    assert half == pytest.approx(whole / 2)
    assert whole > 0.01


def test_a_prediction_of_ones_own_is_read_as_the_choice_that_it_names(tmp_path):
    questions, attempts = told_apart(2)
    one, splits = attempts[0], {"train": questions}
    letter = "(A)" if one.prediction == questions[0].choices[0] else "(B)"
    save_attempts([dataclasses.replace(one, prediction=letter)], tmp_path / "a.jsonl")
    assert [a.prediction for a in attempts_at(tmp_path / "a.jsonl", splits)] == [one.prediction]
    save_attempts([dataclasses.replace(one, prediction="nobody")], tmp_path / "b.jsonl")
    with pytest.raises(UserError, match="predicts 'nobody'; expected one of the choices"):
        attempts_at(tmp_path / "b.jsonl", splits)
    pq.write_table(pa.table({"question_id": ["q"], "completion": ["So."]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c.parquet: .*expected attempts, with every field"):
        attempts_at(tmp_path / "c.parquet", splits)


def test_attempts_come_from_a_run_and_what_is_left_out_is_counted(tmp_path, capsys):
    questions, attempts = told_apart(4)
    splits = {"train": questions[:2], "dev": questions[2:3]}  # nobody knows the last one
    run = Run.open(tmp_path / "run", {})
    run.append(attempts, "a")
    for place in (run.path, run.path / "attempts", run.path / "attempts/a.parquet"):
        assert len(attempts_at(place, splits)) == 6
        said = " ".join(capsys.readouterr().err.split())
        assert "6 of 12 attempts are at training questions" in said
        assert "left out: 3 at dev questions; 3 match no question" in said
    with pytest.raises(UserError, match=r"0 of 12 attempts(.|\n)*12 match no question"):
        attempts_at(run.path, {"train": [question(99)]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="0 of 0 attempts"):
        attempts_at(tmp_path / "empty", splits)


def test_nothing_to_learn_from_is_said_before_the_model_is_loaded(tmp_path):
    (tmp_path / "empty").mkdir()
    run_config = RunConfig(
        model=str(tmp_path / "none"), questions="builtin:train=4,dev=2,test=2,unseen=0"
    )
    source = AttemptsConfig(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="Expected attempts at training questions"):
        train_reward_model(run_config, RM, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_whether_the_gate_is_open(tiny_model, mostly_yes, tmp_path, capsys):
    run_config = RunConfig(model=tiny_model, questions=mostly_yes, precision="float32")
    train = run_config.load_splits()["train"]
    said = [
        attempt(q, f"{words} of {q.id} as it is", answer, i)
        for q in train
        for i, (words, answer) in enumerate([("a clear stone", "yes"), ("no clue", "no")])
    ]
    Run.open(tmp_path / "run", {}).append(said, "a")
    source = AttemptsConfig(str(tmp_path / "run"))
    for gate, told in ((0.0, "gate: open"), (1.1, "gate: closed, held-out pair accuracy is")):
        config = dataclasses.replace(RM, epochs=1, gate=gate, gate_masked=0.0)
        train_reward_model(run_config, config, source, tmp_path / f"rm{gate}")
        assert told in capsys.readouterr().out
    assert RewardModel.load(tmp_path / "rm0.0").scores(train[:1], ["a stone"], ["yes"])


def test_too_few_questions_with_signal_are_refused(tmp_path):
    q = question(0)
    data = RankData([attempt(q, GOOD, "yes"), attempt(q, GOOD, "no")], [q])
    stage = Stage(Run.open(tmp_path / "run", {}), "rm")
    with pytest.raises(NothingToLearn, match="teach no rank"):
        learn_rank(tiny_policy(), data, RM, stage, tmp_path / "m")


def test_the_head_has_a_rate_of_its_own(tmp_path):
    """AdamW's first step moves every weight by its rate."""
    questions, attempts = told_apart(8)
    policy = tiny_policy("decoder")
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    fast = HeadFitConfig(
        learning_rate=1e-6, head_rate=1e-2, warmup=0.0, schedule="constant", batch_size=32
    )
    config = dataclasses.replace(RM, score="end", epochs=1, fit=fast)
    run = Run.open(tmp_path, {})
    head_before = new_head(policy, seed=0)
    data = RankData(attempts, questions)
    learn_rank(policy, data, config, Stage(run, "rm"), run.path / "model")
    moved = max((p - before[n]).abs().max().item() for n, p in policy.model.named_parameters())
    assert 0 < moved < 1.1e-6
    head = load_head(policy, run.path / "model")
    assert (head.weight - head_before.weight).abs().max().item() == pytest.approx(1e-2, rel=0.01)


def test_a_coalitions_reference_is_no_reply_that_was_never_seen():
    policy = tiny_policy()
    head = torch.nn.Linear(policy.model.config.hidden_size, 1)
    model = RewardModel(lambda: nullcontext(policy), head, mean=0.3, std=2.0)
    questions = [question(i) for i in range(3)]
    utilities = model.utilities(questions, [None, "It is as they say.", None])
    assert utilities[::2] == [0.0, 0.0]  # the mean of the attempts that scores were scaled over
    [reply] = model.scores(questions[1:2], ["It is as they say."], [questions[1].answer])
    assert utilities[1] == pytest.approx(reply, abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "pointwise"}, {"reads": "rationale"}, {"centre": 0.1}, {"chance_correction": True}],
)
def test_what_dpo_would_ignore_is_refused_for_its_verifier(changes):
    RewardModelConfig(**changes)
    with pytest.raises(UsageError, match=rf"{next(iter(changes))} is .*score=dpo learns by DPO"):
        RewardModelConfig(score="dpo", **changes)
