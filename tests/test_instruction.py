"""Multi-mode tuning: the rows of each mode, their shares, what stands in for missing rationales."""

import dataclasses
from collections import Counter

import pytest
from tiny import tiny_policy
from toys import attempt, experiment

from rationalize.errors import UsageError, UserError
from rationalize.methods.coalition.config import InstructionConfig
from rationalize.methods.coalition.tuning import instruct, mode_rows, with_rationales
from rationalize.methods.own_attempts import RejectConfig
from rationalize.models.forward import Row
from rationalize.questions.demonstrations import BUILT_IN
from rationalize.records import Question
from rationalize.sampling.local import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.signals.draws import apportion
from rationalize.training.batches import mixed_batch
from rationalize.training.loop import FitConfig

QUESTIONS = [
    Question(
        f"q{i}", f"{word}?", "yes", ("yes", "no"), rationales=("It is.", "It is not."),
        extra={"teacher_answers": ("yes", "no")},
    )
    for i, word in enumerate(("ice", "sand", "wood", "clay"))
]  # fmt: skip
CONFIG = InstructionConfig(
    epochs=4.0, imperfect=SamplingConfig(max_new_tokens=8),
    fit=FitConfig(learning_rate=1e-3, batch_size=8),
)  # fmt: skip


def text(policy, row: Row) -> tuple[str, str]:
    ids = [i for i in row.response_ids if i != policy.eos_id]
    return policy.tokenizer.decode(row.prompt_ids), policy.tokenizer.decode(ids)


def test_rows_of_each_mode_read_what_they_should():
    policy = tiny_policy("decoder")
    imperfect = [
        dataclasses.replace(a, rationale=own)
        for a, own in zip(teacher_attempts(QUESTIONS[:3]), ("Maybe.", "", "Or not."), strict=True)
    ]
    rows = mode_rows(policy, QUESTIONS, imperfect, "choices")
    assert {mode: len(own) for mode, own in rows.items()} == {
        "rationale": 4, "refine": 2, "answer_from_rationale": 4, "answer": 4,
    }  # fmt: skip
    prompt, written = text(policy, rows["refine"][0])
    assert "Maybe." in prompt
    assert "Correct and complete" in prompt
    assert written == "It is."  # the right rationale; the wrong one is nobody's target
    prompt, written = text(policy, rows["answer_from_rationale"][1])
    assert "Explanation: It is." in prompt
    assert written == "yes"
    assert "Explanation" not in text(policy, rows["answer"][0])[0]
    assert all(r.response_ids[-1] == policy.eos_id for own in rows.values() for r in own)


def test_batches_hold_the_shares():
    rows = {m: [Row((1,), (i,), tag=m) for i in range(5)] for m in ("rationale", "refine")}
    counts = apportion({"rationale": 0.75, "refine": 0.25}, 8)
    batch = mixed_batch(rows, counts, 3, 0)
    assert [r.tag for r in batch].count("rationale") == 6
    assert batch == mixed_batch(rows, counts, 3, 0)
    seen = {r for step in range(5) for r in mixed_batch(rows, counts, step, 0)}
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("shares", "batch_size", "message"),
    [
        ({"rationale": 1.0, "answr": 0.5}, 16, "unknown mode 'answr'; did you mean 'answer'"),
        ({"rationale": 1.0, "refine": -0.1}, 16, "refine has the share -0.1; expected at least 0"),
        ({"rationale": 0.0}, 16, "no mode but refine has a share"),
        ({"refine": 1.0}, 16, "no mode but refine has a share"),
        ({"rationale": 1.0, "refine": 1.0, "answer": 0.0}, 1, "is 1; expected at least 2"),
    ],
)
def test_shares_that_fill_no_batch_are_refused(shares, batch_size, message):
    fit = dataclasses.replace(CONFIG.fit, batch_size=batch_size)
    with pytest.raises(UsageError, match=message):
        InstructionConfig(shares=shares, fit=fit)


def test_shares_are_of_their_sum():
    assert InstructionConfig(shares={"rationale": 5.0, "refine": 3.0}).shares["refine"] == 3.0


def test_it_learns_every_mode(tmp_path, monkeypatch):
    orders, passes = Counter(), 0.0

    def recorded(rows, counts, step, order):
        nonlocal passes
        orders[order] += 1
        passes += counts["rationale"] / len(rows["rationale"])
        return mixed_batch(rows, counts, step, order)

    monkeypatch.setattr("rationalize.methods.coalition.tuning.mixed_batch", recorded)
    policy, again = tiny_policy("decoder"), tiny_policy("decoder")
    exp = experiment(tmp_path, QUESTIONS)
    stage, config = exp.stage("ift"), dataclasses.replace(CONFIG, epochs=60.0)
    imperfect = instruct(exp, policy, QUESTIONS, config, stage)
    assert {a.writer for a in imperfect} == {"warm-up"}
    assert stage.done["rows"]["refine"] > 0
    assert passes == pytest.approx(config.epochs, abs=1.0)  # over the rationales, by both stages
    assert sorted(orders.values()) == sorted(s.done["steps"] for s in (stage.sub("warm"), stage))
    losses = [line["loss"] for line in stage.metrics()]
    assert losses[-1] < 0.5 * stage.sub("warm").metrics()[0]["loss"]
    instruct(exp, again, QUESTIONS, config, stage)
    for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert a.equal(b)


def test_without_rationales_the_models_own_right_ones_are_taken(tmp_path, capsys):
    bare = [dataclasses.replace(q, rationales=(), extra={}) for q in QUESTIONS]
    policy = tiny_policy("decoder")

    def rationales_of(exp, attempts):
        stage = exp.stage("ift")
        stage.attempts("bootstrap", lambda: attempts)  # written by an earlier start
        taught = with_rationales(exp, policy, bare, CONFIG, stage, RejectConfig())
        return [q.rationales for q in taught]

    own = "It is as they all say."
    attempts = [attempt(q, own, "yes" if i < 2 else "no") for i, q in enumerate(bare)]
    twice = attempt(bare[0], f"{own} ", "yes", 1)
    cut = attempt(bare[1], "This one goes on for ever and", "yes", 1, finish="length")
    asks = attempt(bare[1], f"{own} So it is.\n\nExplain, then answer. And so on.", "yes", 2)
    short = attempt(bare[0], "It is.", "yes", 2)
    exp = experiment(tmp_path / "a", bare)
    assert rationales_of(exp, [*attempts, twice, cut, asks, short]) == [(own,), (own,), (), ()]
    said = capsys.readouterr().err
    assert "2 of 8 few-shot attempts" in said
    assert "1 says the same" in said
    assert "1 cut at the length limit" in said
    with pytest.raises(UserError, match="no rationale to learn from"):
        rationales_of(experiment(tmp_path / "b", bare), [])


def test_few_shot_attempts_are_written_once(tmp_path):
    bare = [dataclasses.replace(q, rationales=(), extra={}) for q in QUESTIONS]
    exp = experiment(tmp_path, bare)
    stage = exp.stage("ift")
    with pytest.raises(UserError, match="none of the 4 few-shot attempts can be learned from"):
        with_rationales(exp, tiny_policy("decoder"), bare, CONFIG, stage, RejectConfig())
    attempts = stage.stored("bootstrap")
    assert {a.writer for a in attempts} == {"few-shot"}
    assert all(a.prompt.count("So the answer is") == CONFIG.shots for a in attempts)


def test_few_shot_prompts_show_solved_questions_of_the_same_form(tmp_path):
    """The prompts as they are written: sums after sums, each demonstration with its own answer."""
    sums = [Question(f"s{i}", f"What is 2 + {i}?", str(2 + i)) for i in range(2)]
    exp = experiment(tmp_path, sums)
    stage = exp.stage("ift")
    with pytest.raises(UserError, match="no rationale to learn from"):
        with_rationales(exp, tiny_policy("decoder"), sums, CONFIG, stage, RejectConfig())
    prompts = [a.prompt for a in stage.stored("bootstrap")]
    shown = [q for q in BUILT_IN if q.choices is None][: CONFIG.shots]
    for prompt, asked in zip(prompts, sums, strict=True):
        assert "(A)" not in prompt
        assert prompt.rstrip().endswith(asked.question) or asked.question in prompt
        for demo in shown:
            assert f"{demo.rationales[0]} So the answer is {demo.answer}." in prompt
