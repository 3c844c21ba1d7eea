"""The trained scorers: Vera's loss by hand, statements, folds, and a verifier that learns."""

import dataclasses
import json
import math
import random

import pytest
import torch

from rationalize.errors import UserError
from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers import answer_scorer, verifier
from rationalize.methods.train_scorers.answer_scorer import (
    AnswerScorerConfig,
    gold_text,
    train_answer_scorer,
)
from rationalize.methods.train_scorers.crossfit import cross_fit, fold_parts, folds_of
from rationalize.methods.train_scorers.verifier import (
    StatementTag,
    VerifierConfig,
    _prepare,
    choice_groups,
    corruptions,
    rationale_groups,
    sound,
    spliced,
    statement_loss,
    swapped,
    train_verifier,
    vera_loss,
)
from rationalize.models.choices import ChoiceScorer
from rationalize.models.forward import Row
from rationalize.models.scorers import (
    AnswerScorer,
    Verifier,
    VerifierFold,
    label_ids,
    load_verifier,
    statement_prompt,
)
from rationalize.questions.builtin import builtin_questions
from rationalize.records import Question
from rationalize.rewards import load_rewards
from rationalize.training.loop import FitConfig
from tests.tiny import tiny_folder, tiny_policy

QUESTION = Question(
    "q1", "Which is heavier?", "steel", ("wood", "steel"), rationales=("Steel is.",)
)
QUESTIONS = builtin_questions(train=40, dev=4, test=0, unseen=0, seed=1)


def test_loss_by_hand():
    def minus_log_sigmoid(z):
        return math.log(1 + math.exp(-z))

    # group 0: true 1.0, false -0.5 and 2.0; group 1: true 0.3, false 0.0
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, 0.0])
    groups = torch.tensor([0, 0, 0, 1, 1])
    true = torch.tensor([True, False, False, True, False])
    binary = (
        minus_log_sigmoid(1.0)
        + (minus_log_sigmoid(0.5) + minus_log_sigmoid(-2.0)) / 2
        + minus_log_sigmoid(0.3)
        + minus_log_sigmoid(0.0)
    )
    choice = math.log(math.e + math.exp(-0.5) + math.exp(2.0)) - 1.0
    choice += math.log(math.exp(0.3) + 1.0) - 0.3
    for weight in (0.0, 1.0, 0.5):
        found = vera_loss(logits, groups, true, weight)
        expected = [binary + weight * choice, binary, choice]
        assert [f.item() for f in found] == pytest.approx(expected, rel=1e-5)


def test_loss_in_its_limits():
    sure = torch.tensor([40.0, -40.0])
    total, _, _ = vera_loss(sure, torch.tensor([0, 0]), torch.tensor([True, False]), 1.0)
    assert total.item() == pytest.approx(0.0, abs=1e-6)
    # no true statement: nothing to choose, the binary part alone
    total, _, choice = vera_loss(torch.zeros(2), torch.tensor([3, 3]), torch.zeros(2).bool(), 1.0)
    assert (total.item(), choice.item()) == pytest.approx((math.log(2), 0.0))
    z = torch.zeros(3, requires_grad=True)
    vera_loss(z, torch.zeros(3), torch.tensor([True, False, False]), 0.0)[0].backward()
    assert z.grad.tolist() == pytest.approx([-0.5, 0.25, 0.25])


def test_what_is_learned_is_the_logit_that_judges():
    policy, statements = tiny_policy(), ["Steel sinks.", "Wood sinks."]
    yes, _ = label_ids(policy)
    prompts = [tuple(policy.encode_prompt(statement_prompt(text))) for text in statements]
    rows = [
        Row(prompt, (yes,), tag=StatementTag(0, true))
        for prompt, true in zip(prompts, (True, False), strict=True)
    ]

    def told_apart():
        true, false = VerifierFold(ChoiceScorer(policy)).logits(statements)
        return true - false

    before = told_apart()
    statement_loss(policy, 1.0)(policy, rows).total.backward()
    with torch.no_grad():
        for p in policy.model.parameters():
            p -= 1e-3 * (p.grad if p.grad is not None else 0)
    assert told_apart() > before + 0.1


def test_statements_of_a_question():
    [group] = choice_groups([QUESTION], negatives=3, share=1.0, seed=0)
    assert [(s.text, s.true) for s in group] == [
        ("Which is heavier? steel", True),
        ("Which is heavier? wood", False),
    ]
    assert choice_groups([QUESTION], 3, share=0.0, seed=0) == []


def test_every_group_has_one_true_statement_and_distinct_texts():
    groups = rationale_groups(QUESTIONS["train"], negatives=3, seed=0)
    groups += choice_groups(QUESTIONS["train"], 3, 1.0, 0)
    assert len(groups) > 60
    for group in groups:
        assert [s.true for s in group] == [True] + [False] * (len(group) - 1)
        assert len({s.text for s in group}) == len(group) > 1
    assert groups[0] == rationale_groups(QUESTIONS["train"], negatives=3, seed=0)[0]


def test_a_rationale_that_misled_the_teacher_heads_no_group():
    question = Question(
        "q", "?", "steel", ("wood", "steel"), rationales=("Steel sinks.", "Wood sinks."),
        extra={"teacher_answers": ("steel", "wood")},
    )  # fmt: skip
    [group] = rationale_groups([question], negatives=9, seed=0)
    assert group[0].text == "Steel sinks."
    assert "Wood sinks." in [s.text for s in group[1:]]


def test_corruptions():
    rng = random.Random(0)
    assert (
        swapped("Steel is dense. So it is steel.", QUESTION, rng)
        == "Steel is dense. So it is wood."
    )
    assert swapped("It is dense.", QUESTION, rng) == "It is dense."
    assert spliced("a b c d", "e f g h") == "a b g h"
    made = corruptions("Steel is dense.", QUESTION, ["Wood is."], "Ice melts fast.", rng)
    assert "Steel is not dense." in made
    assert "wood is dense." in made
    assert "Wood is." in made
    assert "It could be wood, or steel." in made
    assert any(text in made for text in (" ".join(["Steel is dense."] * n) for n in (2, 3)))
    assert "Steel is dense." not in made


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run of a scorer: its base model, in float32."""
    return run_of(tiny_folder("decoder", tmp_path_factory.mktemp("base")))


def run_of(model):
    return RunConfig(model=str(model), precision="float32")


FIT = FitConfig(learning_rate=3e-3, batch_size=12)


def test_a_fold_learns_most_of_its_half_and_is_calibrated_on_the_rest(base, tmp_path):
    train, parts = QUESTIONS["train"], []

    def learn(run, name, learned, held_out):
        parts.append([{q.id for q in part} for part in (learned, held_out)])
        return {"model": name}

    cross_fit(base, VerifierConfig(fit=FIT), tmp_path, "verifier", learn, train)
    facts = json.loads((tmp_path / "scorer.json").read_text())
    for fold, (learned, held_out) in enumerate(parts):
        assert learned | held_out == {id for id, seen in facts["seen"].items() if seen == fold}
        assert not learned & held_out
        assert 0 < len(held_out) < 0.4 * len(learned)  # a fifth of them all
    assert [f["model"] for f in facts["folds"]] == ["fold0", "fold1"]
    assert facts["seen"] == folds_of(train, 2)


def test_a_folds_temperature_is_of_questions_that_it_has_not_learned(base, tmp_path, monkeypatch):
    train, learned, held_out = QUESTIONS["train"], [], []

    def calibrate(*given):
        held_out.append(next(v for v in given if isinstance(v, list)))
        return {}

    for scorer in (answer_scorer, verifier):
        monkeypatch.setattr(
            scorer, "train_model", lambda *given: learned.append(given[-1].keywords["questions"])
        )
        monkeypatch.setattr(scorer, "_calibrate", calibrate)
    config = VerifierConfig(fit=FIT)
    train_verifier(base, config, tmp_path / "verifier", train)
    train_answer_scorer(base, AnswerScorerConfig(fit=FIT), tmp_path / "answers", train)
    parts = fold_parts(train, config, 0, "verifier")
    assert learned == [part for part, _ in parts] * 2
    statements = [rationale_groups(part, config.negatives, 0) for _, part in parts]
    assert held_out == [*statements, *(part for _, part in parts)]


def test_a_verifier_learns_and_judges_across_folds(base, tmp_path):
    train = QUESTIONS["train"]
    config = VerifierConfig(epochs=4, frozen_layers=0.0, fit=FIT)
    train_verifier(base, config, tmp_path, train)
    facts = json.loads((tmp_path / "scorer.json").read_text())
    assert set(facts["seen"]) == {q.id for q in train}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["stage"] == "fold0"]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    verifier = load_verifier(tmp_path)
    assert isinstance(verifier, Verifier)
    statement = "Steel sinks."
    seen, unseen = verifier.probabilities([statement] * 2, [train[0].id, "elsewhere"])
    own, other = (Verifier([f]).probabilities([statement], [None])[0] for f in verifier.folds)
    assert unseen == pytest.approx((own + other) / 2)
    assert seen == pytest.approx([other, own][facts["seen"][train[0].id]])
    old = {**facts, "seen": sorted(facts["seen"])}  # as it was stored before
    (tmp_path / "old").mkdir()
    for fold in facts["folds"]:
        (tmp_path / "old" / fold["model"]).symlink_to(tmp_path / fold["model"])
    (tmp_path / "old/scorer.json").write_text(json.dumps(old))
    assert load_verifier(tmp_path / "old").seen == facts["seen"]
    written = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    train_verifier(base, config, tmp_path, train)  # done: nothing is trained again
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="trained verifier; expected one made by"):
        AnswerScorer.load(tmp_path)


@pytest.mark.parametrize("separate", [False, True])
def test_an_answer_scorer_is_trained_saved_and_loaded(base, tmp_path, separate):
    texts = "released" if separate else "choices"
    config = AnswerScorerConfig(
        epochs=1, separate=separate, texts=texts, frozen_layers=0.5, fit=FIT
    )
    train_answer_scorer(base, config, tmp_path, QUESTIONS["train"])
    scorer = AnswerScorer.load(tmp_path)
    assert (scorer.texts, len(scorer.folds)) == (texts, 2)
    assert (scorer.folds[0].answer is scorer.folds[0].answer_from_rationale) != separate
    assert all(set(f.temperature) == {"answer", "answer_from_rationale"} for f in scorer.folds)
    dev = QUESTIONS["dev"]
    for p in scorer.probabilities(dev, [None, "It is.", "So.", None]):
        assert sum(p) == pytest.approx(1.0)
    again = AnswerScorer.load(tmp_path)
    assert again.weights_hash == scorer.weights_hash


def test_a_group_that_a_batch_holds_twice_counts_twice(base):
    config = VerifierConfig(fit=FitConfig(batch_size=18), choice_statements=0.0)
    _, batch_at, _ = _prepare(base.load_policy(), QUESTIONS["train"][:4], config, seed=0)
    sizes = {len({row.tag[0] for row in batch_at(step)}) for step in range(6)}
    assert len(sizes) == 1  # groups a batch, though passes end within some


def test_no_rationales_is_said_plainly(base, tmp_path):
    bare = [Question(f"q{i}", f"{i}?", "a", ("a", "b")) for i in range(8)]
    with pytest.raises(UserError, match="no training question has a teacher rationale"):
        train_answer_scorer(base, AnswerScorerConfig(fit=FIT), tmp_path / "a", bare)
    with pytest.raises(UserError, match=r"left for fold . of the verifier"):
        train_verifier(base, VerifierConfig(fit=FIT), tmp_path / "v", bare[:1])


def test_gold_text_in_both_formats():
    assert gold_text("modes", QUESTION) == "(B)"
    assert gold_text("choices", QUESTION) == "steel"
    assert gold_text("released", Question("q", "?", "No", ("Yes", "No"))) == "no"
    assert gold_text("modes", Question("q", "2 + 2?", "4")) == "4"


def test_a_rationale_that_led_to_the_answer_may_still_be_false():
    rationales = (
        "Steel sinks, wood floats, so it is steel.", "It is steel, it is steel, it is steel.",
        "We read that wood sinks, so wood.",
    )  # fmt: skip
    question = dataclasses.replace(QUESTION, rationales=rationales, extra={})
    assert (question.answer, "wood" in question.choices) == ("steel", True)
    groups = rationale_groups([question], negatives=9, seed=0)
    assert [s.text for g in groups for s in g if s.true] == [rationales[0]]


def test_a_rationale_that_compares_choices_is_not_taught_as_false():
    """The choice that it names last is not what it concludes; "no" is no answer there."""
    compares, other = "Steel is denser than wood.", "Steel is dense, so it is wood."
    ends = "So it is steel, which sinks. Wood floats."
    asked = [dataclasses.replace(QUESTION, rationales=(compares, other, ends), extra={})]
    gills = "A whale has lungs and no gills, so it must come up for air."
    asked.append(Question("w", "Can it drown?", "yes", ("yes", "no"), rationales=(gills,)))
    for seed in range(20):
        said = [s for g in rationale_groups(asked, negatives=9, seed=seed) for s in g]
        assert {s.text for s in said if s.true} == {compares, ends, gills}
        assert not {compares, ends, gills} & {s.text for s in said if not s.true}


def test_statements_with_their_question(tmp_path):
    questions = [
        dataclasses.replace(q, rationales=q.rationales[:1], extra={})
        for q in QUESTIONS["train"]
        if sound(q.rationales[0], q)
    ]
    groups = rationale_groups(questions, negatives=9, seed=0, with_question=True)
    alone = rationale_groups(questions, negatives=9, seed=0)
    others = {r for q in questions for r in q.rationales}
    for question, group, plain in zip(questions, groups, alone, strict=True):
        assert all(s.text.startswith(question.question) for s in group)
        assert [s.true for s in group] == [True] + [False] * (len(group) - 1)
        ends = {s.text.removeprefix(question.question).strip() for s in group}
        assert ends - {s.text for s in plain} <= others  # another question's rationale is new
    assert sum(len(g) for g in groups) > sum(len(g) for g in alone)

    config = VerifierConfig(
        statement="question", folds=1, fit=FitConfig(learning_rate=1e-3, batch_size=12)
    )
    run_config = run_of(tiny_folder("decoder", tmp_path / "model"))
    train_verifier(run_config, config, tmp_path / "run", questions[:6])
    verifier = Verifier.load(tmp_path / "run")
    [reward] = load_rewards(["plausibility"], verifier=verifier)
    columns = {
        "question": ["Which?", "What?"],
        "context": [None, "Here."],
        "question_id": ["a", "b"],
    }
    found = reward(prompts=["", ""], completions=["", ""], rationale=["so", " so "], **columns)
    assert found == verifier.probabilities(["Which? so", "Here. What? so"], [None, None])
    plain = Verifier(verifier.folds, verifier.seen)
    assert verifier.reads_question
    assert plain.weights_hash != verifier.weights_hash  # scores of the two never share a key
