"""The controller: labels, weights, what it is measured against; how different variants are."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import tiny_policy

from rationalize.commands.chain import word_diff
from rationalize.evaluation.clones import bleu, clone_rows
from rationalize.methods.coalition import controller
from rationalize.methods.coalition.candidates import (
    by_source,
    texts_of,
    utilities_of,
    utility_text,
)
from rationalize.methods.coalition.config import (
    CandidateConfig,
    CoalitionConfig,
    ControllerConfig,
    refines,
)
from rationalize.methods.coalition.controller import (
    Example,
    controller_examples,
    measure,
    split_by_question,
    told_utilities,
    train_controller,
    weighted_choice,
    written_as_answered,
)
from rationalize.methods.coalition.inference import Coalition
from rationalize.models.controller import choice_logits, choose, controller_row, letter_ids
from rationalize.records import Attempt, Question
from rationalize.report.coalition import as_text, variants
from rationalize.runs import Run, Stage
from rationalize.sampling.config import SamplingConfig
from rationalize.training.loop import FitConfig

QUESTIONS = [
    Question(f"q{i}", f"{'ice' if i % 2 else 'sand'} number {i}?", "yes", ("yes", "no"))
    for i in range(40)
]


def attempt(id, writer, utility, refines=None, rationale="r"):
    return Attempt(
        id=id, question_id="q0", mode="rationale", prompt="p", completion=rationale,
        rationale=rationale, prediction=None, gold="yes", parsed=False, finish="stop",
        writer=writer, model="m", round=0, step=0, split="train", seed=0, n_tokens=1,
        rewards={"utility": utility}, refines=refines,
    )  # fmt: skip


@pytest.mark.parametrize("learns", ["best", "utility"])
def test_it_learns_who_is_better_at_what(tmp_path, learns):
    """Variant A is better at even questions, B at odd ones: held-out choices follow."""
    policy = tiny_policy("decoder")
    examples = [Example(q, None, (0.2, 0.8) if i % 2 else (0.9, 0.1))
                for i, q in enumerate(QUESTIONS)]  # fmt: skip
    fast = FitConfig(learning_rate=3e-3, batch_size=8)
    config = ControllerConfig(learns=learns, epochs=30.0, fit=fast)
    stage = Stage(Run.open(tmp_path, {}), "controller")
    own = train_controller(policy, examples, config, stage, 0)["write"]
    assert own["n"] == 8
    assert own["controller_accuracy"] > 0.9
    assert own["oracle_accuracy"] == 1.0
    assert own["majority_accuracy"] < 0.9
    assert own["controller_utility"] == pytest.approx(own["oracle_utility"], abs=0.1)


def test_noise_alone_is_not_worth_refining(tmp_path):
    """Keeping is worth .5; two refiners .4 each, give or take .3: one of them is often best."""
    noise = np.random.default_rng(0).choice([-0.3, 0.3], size=(len(QUESTIONS), 2))
    examples = [Example(q, "r", (0.4 + a, 0.4 + b, 0.5)) for q, (a, b) in zip(QUESTIONS, noise)]
    assert np.mean([e.label == 2 for e in examples]) < 0.4
    config = ControllerConfig(
        learns="utility", epochs=4.0, fit=FitConfig(learning_rate=3e-3, batch_size=8)
    )
    policy, stage = tiny_policy("decoder"), Stage(Run.open(tmp_path, {}), "controller")
    own = train_controller(policy, examples, config, stage, 0)["refine"]
    assert own["controller_utility"] == pytest.approx(0.5)


def test_it_learns_from_texts_like_those_that_it_will_choose_among():
    drawn, greedy = CoalitionConfig(draws=2), SamplingConfig(temperature=0.0, max_new_tokens=48)
    assert written_as_answered(drawn, greedy) == (drawn, 2)
    config, draws = written_as_answered(CoalitionConfig(draws=1), greedy)
    assert (config.candidates.sampling, draws) == (greedy, 1)
    assert texts_of(greedy, writers=1, least=1) == 1  # a second one would be the same
    assert texts_of(drawn.candidates.sampling, writers=1, least=1) == 2


def test_examples_hold_every_option_and_keeping():
    written = [attempt("a", "v1", 0.6), attempt("b", "v2", 0.4)]
    refined = [
        attempt("a>1", "v1", 0.5, refines="a"), attempt("a>2", "v2", 0.9, refines="a"),
        attempt("b>1", "v1", 0.3, refines="b"),  # v2 did not refine b: it is no option
    ]  # fmt: skip
    candidates = by_source({"q0": 0.5}, [*written, *refined])
    write, refine, other = controller_examples(candidates, QUESTIONS[:1], ["v1", "v2"])
    assert (other.allowed, other.label) == ((True, False, True), 2)
    assert other.gain == pytest.approx(0.1)
    assert (write.rationale, write.utilities, write.label) == (None, (0.6, 0.4), 0)
    assert (refine.utilities, refine.label) == ((0.5, 0.9, 0.6), 1)
    assert refine.gain == pytest.approx(0.3)


def untrained(tmp_path, monkeypatch, examples, **changes):
    """What `train_controller` measures, and the rows of its first batch; nothing is learned."""
    rows = []
    monkeypatch.setattr(
        controller, "fit", lambda policy, loss, batch_at, *_, **__: rows.extend(batch_at(0))
    )
    config = ControllerConfig(fit=FitConfig(batch_size=2), **changes)
    stage = Stage(Run.open(tmp_path, {}), "controller")
    return train_controller(tiny_policy("decoder"), examples, config, stage, 0), rows


def test_a_choice_weighs_what_it_gains_and_a_tie_is_not_learned(tmp_path, monkeypatch):
    utilities = [(0.8, 0.2), (0.3, 0.5), (0.4, 0.4)]
    examples = [Example(q, None, u) for q, u in zip(QUESTIONS, utilities, strict=False)]
    facts, rows = untrained(tmp_path, monkeypatch, examples, held_out=0.0)
    assert (facts["learned_from"], facts["ties"]) == (2, 1)
    assert {row.tag[0]: row.tag[2] for row in rows} == pytest.approx({0: 1.5, 1: 0.5})  # mean 1


def test_the_majority_is_that_of_the_choices_learned_from(tmp_path, monkeypatch):
    _, held = split_by_question([Example(q, None, (0.1, 0.2)) for q in QUESTIONS[:10]], 0.2, 0)
    aside = {e.question.id for e in held}
    examples = [Example(q, None, (0.1, 0.9) if q.id in aside else (0.9, 0.1))
                for q in QUESTIONS[:10]]  # fmt: skip
    facts, _ = untrained(tmp_path, monkeypatch, examples, held_out=0.2)
    assert (facts["write"]["n"], facts["write"]["majority_accuracy"]) == (2, 0.0)


def test_no_question_is_learned_from_and_measured_on():
    examples = [Example(q, r, (0.1, 0.2)) for q in QUESTIONS for r in (None, "x")]
    learn, held = split_by_question(examples, 0.2, 0)
    assert len(held) == 16
    assert not {e.question.id for e in learn} & {e.question.id for e in held}


def test_questions_that_ask_the_same_are_on_one_side():
    questions = [replace(q, id=f"{q.id}-{k}") for q in QUESTIONS[:10] for k in range(3)]
    learn, held = split_by_question([Example(q, None, (0.1, 0.2)) for q in questions], 0.2, 0)
    assert (len(learn), len(held)) == (24, 6)
    assert not {e.question.question for e in learn} & {e.question.question for e in held}


def test_choices_are_probabilities_whatever_the_batch():
    policy = tiny_policy("t5")
    rationales = [None, "short", "a longer rationale than that"]
    found = choose(policy, QUESTIONS[:3], rationales, 3)
    alone = [choose(policy, [q], [r], 3)[0] for q, r in zip(QUESTIONS, rationales, strict=False)]
    assert np.allclose(found, alone, atol=1e-3)
    assert np.allclose(np.sum(found, axis=1), 1.0)
    assert len(set(letter_ids(policy, 5))) == 5


def test_measures_without_anything_learned():
    facts = measure(tiny_policy("decoder"), [Example(QUESTIONS[0], None, (0.5, 0.5))], [])
    assert facts["controller_accuracy"] == facts["random_accuracy"] == 1.0  # a tie: all are right


def test_an_option_that_is_not_to_be_had_is_never_picked_nor_learned():
    nan = float("nan")
    example = Example(QUESTIONS[0], "r", (nan, 0.2, 0.6))
    policy = tiny_policy("decoder")
    facts = measure(policy, [example], [0, 0, 1])  # the most frequent label cannot be had
    assert facts["majority_utility"] == 0.2
    assert facts["random_utility"] == pytest.approx(0.4)
    assert facts["oracle_accuracy"] == 1.0
    assert facts["controller_utility"] in (0.2, 0.6)
    rows = [controller_row(policy, example.question, "r", (2, (own, True, True), 1.0))
            for own in (False, True)]  # fmt: skip
    masked, full = (weighted_choice(policy, [row]).total.item() for row in rows)
    logits = choice_logits(policy, rows[:1], 3)[0].double()
    assert masked == pytest.approx((logits[1:].logsumexp(0) - logits[2]).item(), rel=1e-4)
    assert full == pytest.approx((logits.logsumexp(0) - logits[2]).item(), rel=1e-4)


def test_told_utilities_are_fitted_to_options_that_are_to_be_had():
    nan, policy = float("nan"), tiny_policy("decoder")
    tags = [(nan, 0.2, 0.6), (0.5, 0.1)]  # two options: who writes
    rows = [controller_row(policy, QUESTIONS[i], "r", tag) for i, tag in enumerate(tags)]
    out = told_utilities(policy, rows)
    logits = choice_logits(policy, rows, 3).double()
    expected = 0.0
    for of_row, tag in zip(logits.tolist(), tags, strict=True):
        gaps = [x - u for x, u in zip(of_row, tag, strict=False) if u == u]
        expected += float(np.var(gaps))
    assert out.total.item() == pytest.approx(expected, rel=1e-4)
    out.total.backward()
    gradients = [p.grad for p in policy.model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_who_refines():
    assert [refines("a", w, who) for who in ("both", "self", "cross", "none") for w in "ab"] == [
        True, True, True, False, False, True, False, False,
    ]  # fmt: skip
    assert CandidateConfig().refiners == "both"


def test_a_bare_answer_is_worth_no_more_than_none():
    question = Question("q", "Which floats?", "oil", ("oil", "iron"))
    assert utility_text("So it is the oil.", question, "penalty") is None
    assert utility_text("So it is the oil.", question, "none") == "So it is the oil."
    assert utility_text("Oil is light, so oil.", question, "mask") == "___ is light, so ___."
    assert utility_text("Oil is light.", question, "penalty") == "Oil is light."


def test_a_bare_answer_gets_the_reference_to_the_last_digit():
    """Scored in another batch it could pass the strict filter by rounding."""

    class Rounds:
        def utilities(self, questions, rationales):
            assert None not in rationales
            return [0.7] * len(questions)

    question = Question("q0", "Which floats?", "oil", ("oil", "iron"))
    own = [attempt("a", "v1", 0.0, rationale="B."), attempt("b", "v1", 0.0, rationale="It swims.")]
    found = utilities_of(own, [question], Rounds(), "penalty", {"q0": 0.5})
    assert [a.rewards["utility"] for a in found] == [0.5, 0.7]


def who_refines(refiners, who, names=("v1", "v2", "v3"), seeds=60):
    coalition = Coalition(None, list(names), refiners)
    own = [attempt("a", "v1", 0.0)]
    return {coalition.refiners_of(QUESTIONS[:1], own, seed, who)[0] for seed in range(seeds)}


def test_chance_has_the_options_of_the_controller():
    assert who_refines("both", "random") == {"v1", "v2", "v3", "keep"}
    assert who_refines("cross", "random") == {"v2", "v3", "keep"}
    assert who_refines("self", "random") == {"v1", "keep"}
    assert who_refines("both", "self") == {"v1"}
    assert who_refines("both", "keep") == who_refines("none", "random") == {"keep"}


def test_the_controller_picks_among_those_who_may():
    policy = tiny_policy("decoder")
    coalition = Coalition(SimpleNamespace(active=lambda name: nullcontext(policy)), ["v1", "v2"])
    names = ["v1", "v2", "keep"]
    asked, read = QUESTIONS[:6], ["so"] * 6
    best = [names[int(np.argmax(p))] for p in choose(policy, asked, read, 3)]
    assert coalition._chosen(asked, read, names, [names] * 6) == best
    others = [[n for n in names if n != own] for own in best]
    second = coalition._chosen(asked, read, names, others)
    assert all(own in may for own, may in zip(second, others, strict=True))


def test_bleu():
    assert bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100)
    # 4 of 5 words, 3 of 4 pairs, 2 of 3, 1 of 2; lengths equal
    assert bleu(["a b c d x"], ["a b c d e"]) == pytest.approx(
        100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    )
    assert bleu(["a b"], ["a b c d"]) == pytest.approx(100 * np.exp(-1))
    assert bleu([""], ["a"]) == 0.0
    # no match at all: half a match of each order
    assert bleu(["x y z w"], ["a b c d"]) == pytest.approx(100 * (0.5**4 / 24) ** 0.25)


def test_clones_are_seen():
    same = {"v1": {"q": "ice is cold"}, "v2": {"q": "ice is cold"}}
    answers = {"v1": {"q": "yes"}, "v2": {"q": "no"}}
    [row] = clone_rows(same, answers, {("v1", "v2"): 0.25})
    assert (row["identical"], row["disagreement"], row["kl"]) == (1.0, 1.0, [0.25, None])
    assert row["bleu"] == pytest.approx(100)
    assert "v1 and v2" in as_text(variants([{"when": "tuned", **row}]))


def test_word_diff():
    assert word_diff("a b c", "a b c") == "a b c"
    assert word_diff("a b", "a x y") == "a [-b-] {+x y+}"
    assert word_diff("", "new") == "{+new+}"
