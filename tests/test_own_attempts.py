"""Own attempts: how they are written, sorted and learned from."""

from dataclasses import replace

import pytest
from tiny import tiny_policy
from toys import GOOD, Q, attempt, experiment, question

from rationalize.errors import UsageError, UserError
from rationalize.methods.base import NothingToLearn
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
    check_writer,
    coverage,
    fault,
    learned_text,
    own_attempts,
    rankable,
    sort_attempts,
)
from rationalize.models.policy import load_policy
from rationalize.models.reward_model import reply
from rationalize.questions.demonstrations import BUILT_IN, demonstrations, form_of
from rationalize.runs import Run, Stage
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import nll

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


def test_nothing_after_a_free_form_answer_is_learned_or_scored():
    sums = question(3, answer="24", choices=None)
    told = attempt(sums, GOOD, "24 because 12 * 2 = 24 and 2 packs")
    assert learned_text(told, sums)[1] == f"{GOOD}. So the answer is 24."
    assert reply(sums, GOOD, told.prediction, "reply") == f"{GOOD}. So the answer is 24."
    found = sort_attempts([told], {sums.id: sums}, SelectConfig())
    assert found.positives == [told]


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


def test_words_are_counted_where_there_are_no_spaces_too():
    said = attempt(Q, "冰面比草地光滑得多，所以雪橇在冰上滑得更远。", "yes")
    assert fault(said, Q, SelectConfig()) is None
    assert fault(replace(said, rationale="冰面光滑。"), Q, SelectConfig()) == "too short"


def test_a_reply_that_was_cut_before_its_first_word_is_not_ranked():
    empty = replace(attempt(Q, "", None), completion=" \n", finish="length")
    said = attempt(Q, GOOD, "yes")
    assert rankable([empty, said], {Q.id: Q}, SelectConfig()) == [said]


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


def test_how_the_writer_does_is_said_and_one_that_never_answers_stops_the_run(tmp_path, capsys):
    questions = [question(i) for i in range(8)]
    rft = Stage(Run.open(tmp_path, {}), "rft")
    silent = [attempt(q, GOOD, None) for q in questions]
    with pytest.raises(
        NothingToLearn, match=r"0\.0% of 8 development questions; 100\.0% of(.|\n)*seed_rationales"
    ):
        check_writer(silent, questions, rft, "off")
    check_writer(silent, questions, rft, "failed")  # a hint may help
    check_writer(silent[:7], questions, rft, "off")  # too few to say
    capsys.readouterr()
    check_writer([*silent[:7], attempt(questions[7], GOOD, "yes")], questions, rft, "off")
    assert "12.5% of 8 development questions; 87.5%" in capsys.readouterr().err
    check_writer([], questions, rft, "off")


def test_what_is_ranked_has_no_fault_and_no_double():
    attempts = [
        attempt(Q, GOOD, "yes"), attempt(Q, GOOD + " .", "yes", 1), attempt(Q, GOOD, "no"),
        attempt(Q, "short", "yes"), attempt(Q, GOOD + " again", "no", finish="length"),
        attempt(Q, GOOD, None), attempt(Q, "another good way to say it", "yes", hinted=True),
    ]  # fmt: skip
    kept = rankable(attempts, {Q.id: Q}, SelectConfig())
    assert [a.rationale for a in kept] == [GOOD] * 3
    assert [a.prediction for a in kept] == ["yes", "no", None]


def test_what_is_learned_has_neither_demonstrations_nor_hint():
    given = attempt(Q, GOOD, "yes", prompt="Hint: the answer is (A).", hinted=True)
    prompt, text = learned_text(given, Q)
    assert "Hint" not in prompt
    assert prompt.endswith("Explain, then answer.")
    assert text == f"{GOOD}. So the answer is (A)."


# Writing


def test_few_shot_prompts_hints_and_provenance(tmp_path):
    exp = experiment(tmp_path / "run", [question(0), question(1, answer="12", choices=None)])
    config = WriteConfig(
        shots=2, hints="failed", sampling=SamplingConfig(n=2, max_new_tokens=6, temperature=0.7)
    )
    attempts = own_attempts(exp, tiny_policy(), config, exp.stage("a"), "writes", few_shot=True)
    assert {a.writer for a in attempts} == {"a-writes", "a-writes-hinted"}
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
    # read back: nobody writes
    assert own_attempts(exp, None, config, exp.stage("a"), "writes", few_shot=True) == attempts


def test_what_gives_no_signal_is_asked_again(tmp_path):
    """Always wrong: for imitation; always right too: for pairs. The draws are new ones."""
    asked = [question(0), question(1, question="What is it then?")]
    sampling = SamplingConfig(n=2, max_new_tokens=6)
    config = WriteConfig(resample=3, sampling=sampling)
    exp = experiment(tmp_path / "run", asked)
    attempts = own_attempts(exp, tiny_policy(), config, exp.stage("a"), "writes")
    assert [a.writer for a in attempts] == ["a-writes"] * 4 + ["a-writes-again"] * 6
    assert len({a.id for a in attempts}) == len({a.completion for a in attempts}) == 10
    first = own_attempts(exp, tiny_policy(), WriteConfig(sampling=sampling), exp.stage("b"), "w")
    assert len(first) == 4  # 0: nothing is asked again
    with pytest.raises(UsageError, match="greedy"):
        WriteConfig(resample=2, sampling=SamplingConfig(temperature=0.0))


@pytest.mark.parametrize("for_pairs", [False, True])
def test_only_for_pairs_is_what_is_always_right_asked_again(for_pairs, half_right, tmp_path):
    model, _ = half_right
    policy = load_policy(model)
    exp = experiment(
        tmp_path / "run", [question(0, answer="yes"), question(0, id="n", answer="no")]
    )
    greedy = SamplingConfig(temperature=0.01, max_new_tokens=24)
    config = WriteConfig(resample=1, sampling=greedy)
    attempts = own_attempts(exp, policy, config, exp.stage("a"), "writes", for_pairs=for_pairs)
    right = [
        a.question_id for a in attempts if a.rewards["correctness"] and "again" not in a.writer
    ]
    asked_again = [a.question_id for a in attempts if "again" in a.writer]
    assert len(right) == 1  # it says the same to both
    assert (right[0] in asked_again) is for_pairs
    assert len(asked_again) == (2 if for_pairs else 1)


def test_development_questions_of_other_forms_are_not_asked(tmp_path):
    dev = [question(7), question(8, answer="12", choices=None)]
    exp = experiment(tmp_path / "run", [question(0)], dev)
    config = WriteConfig(sampling=SamplingConfig(max_new_tokens=2))
    attempts = own_attempts(exp, tiny_policy(), config, exp.stage("a"), "dev", split="dev")
    assert [(a.question_id, a.split) for a in attempts] == [("q7", "dev")]


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
    exp = experiment(tmp_path / "run", train)
    attempts = own_attempts(exp, tiny_policy(), config, exp.stage("a"), "writes", few_shot=True)
    assert [a.question_id for a in attempts] == ["q2"]


def test_a_question_is_shown_once_and_is_not_asked_under_another_name(tmp_path):
    train = [question(i, rationales=(GOOD,)) for i in range(3)]
    twin = question(0, id="twin", rationales=("and another way to say it",))
    shown = demonstrations("train", [*train, twin], 4, [train[0], twin, *train[1:]])
    assert [q.id for q in shown["yes/no"]] == ["q0", "q1", "q2"]
    config = WriteConfig(shots=2, demos="train", sampling=SamplingConfig(max_new_tokens=2))
    exp = experiment(tmp_path / "run", [*train, twin])
    attempts = own_attempts(exp, tiny_policy(), config, exp.stage("a"), "writes", few_shot=True)
    assert [a.question_id for a in attempts] == ["q2"]


def test_a_chat_stops_after_its_answer(tmp_path):
    """A shown question's blank line ends a reply once it has an answer, not before."""
    policy = tiny_policy(chat=True)
    assert policy.chat
    said = "It is dense.\n\nSo the answer is (A).\n\nAnother question. So the answer is (B)."
    row = RowMaker(policy).text("Why?", said)  # learned by heart
    learn = FitConfig(learning_rate=3e-3, batch_size=1)
    stage = Stage(Run.open(tmp_path, {}), "heart")
    fit(policy, nll, lambda step: [row], learn, stage, steps=60)
    sampler, n = Sampler(policy), len(row.response_ids) - 1
    config = SamplingConfig(temperature=0.0, max_new_tokens=n)
    [[stopped]] = sampler.sample(["Why?"], config, seeds=[0], stop="\n\n")
    assert stopped.text == "It is dense.\n\nSo the answer is (A)."
    assert stopped.finish == "stop"
    assert stopped.n_tokens < n
    [[free]] = sampler.sample(["Why?"], config, seeds=[0])
    assert (free.text, free.finish) == (said, "length")


@pytest.mark.parametrize("beams", [1, 2])
def test_a_base_model_stops_before_a_question_of_its_own(beams):
    sampler = Sampler(tiny_policy())
    config = SamplingConfig(temperature=0.0, max_new_tokens=12, beams=beams)
    [[free]] = sampler.sample(["Why?"], config, seeds=[0])
    letter = next(c for c in free.text[2:] if c.isascii() and c.isalnum())
    [[cut]] = sampler.sample(["Why?"], config, seeds=[0], stop=letter)
    assert cut.finish == "stop"
    assert cut.text == free.text.partition(letter)[0].rstrip()
    if beams == 1:  # a search ends by itself
        assert cut.n_tokens < free.n_tokens
        assert cut.ids == free.ids[: cut.n_tokens]
