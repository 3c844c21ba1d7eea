"""Demonstrations: right, of the question's form, and never the question itself."""

from __future__ import annotations

import json
from dataclasses import replace

from rationalize.answers import parse_reply
from rationalize.cli import main
from rationalize.methods.experiment import solved_examples
from rationalize.questions import builtin_questions
from rationalize.questions.demonstrations import (
    BUILT_IN,
    Demonstrations,
    demonstrations,
    form_of,
    training_demonstrations,
)
from rationalize.records import Question
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.teacher import solved
from rationalize.templates import target_text
from tests.tiny import tiny_policy

SNOW = Question(
    "q1", "Which melts?", "snow", ("rock", "snow"), rationales=("Rock it is.", "Snow is cold."),
    extra={"teacher_answers": ("rock", "snow")},
)  # fmt: skip
NUMBER = Question("q2", "3 + 4?", "7", rationales=("Seven.",))


def test_the_rationale_that_is_shown_led_to_the_answer():
    assert solved(SNOW).rationales == ("Snow is cold.",)
    assert solved(replace(SNOW, extra={"teacher_answers": ("rock", "rock")})) is None
    assert solved(replace(SNOW, rationales=(), extra={})) is None
    wrong = {"rationales_wrong": [{"rationale": "Rock.", "predicted": "rock"}]}
    assert solved(replace(SNOW, rationales=(), extra=wrong)) is None
    for shown in (
        demonstrations("train", [SNOW], 1, [SNOW])["choice"],
        training_demonstrations([SNOW], 1).before(replace(SNOW, question="Which sinks?")),
        solved_examples([SNOW], 1).before(replace(SNOW, question="Which sinks?")),
    ):
        assert [q.rationales for q in shown] == [("Snow is cold.",)]


def test_no_built_in_question_is_shown_with_a_rationale_for_another_answer():
    train = builtin_questions(train=60, dev=0, test=0, unseen=0)["train"]
    by_id = {q.id: q for q in train}
    for demo in training_demonstrations(train, 60).candidates:
        if demo.id in by_id:
            q = by_id[demo.id]
            answers = dict(zip(q.rationales, q.extra["teacher_answers"], strict=True))
            assert answers[demo.rationales[0]] == demo.answer
        assert parse_reply(target_text("rationale_answer", demo), demo.choices).prediction


def test_demonstrations_have_the_questions_form_and_are_not_the_question():
    shown = training_demonstrations([SNOW, NUMBER, replace(NUMBER, id="q3", question="1 + 1?")], 2)
    assert [q.id for q in shown.before(replace(NUMBER, id="x", question="2?"))] == ["q2", "q3"]
    assert [q.id for q in shown.before(NUMBER)] == ["q3"]
    assert [q.id for q in shown.before(replace(NUMBER, id="twin"))] == ["q3"]
    yes = Question("y", "Is it?", "yes", ("yes", "no"))
    assert {form_of(q) for q in shown.before(yes)} == {"yes/no"}  # none is solved: built-in
    assert Demonstrations(BUILT_IN, 2).before(Question("t", "Who?", "Kim")) == []
    assert not Demonstrations(BUILT_IN, 0)


def test_each_prompt_has_its_own():
    demos = training_demonstrations([SNOW, NUMBER, replace(NUMBER, id="q3", question="1 + 1?")], 2)
    asked = [SNOW, NUMBER, replace(SNOW, id="q4", question="Which sinks?", rationales=())]
    attempts = write_attempts(
        FakeSampler(), asked, SamplingConfig(), Provenance("train", 0), PromptOptions(demos=demos)
    )
    assert [a.prompt.count("So the answer is") for a in attempts] == [0, 1, 1]
    assert "1 + 1?" in attempts[1].prompt
    assert "Which melts?" in attempts[2].prompt


class FakeSampler:
    name = "fake"

    def fits(self, prompt, config, control=None):
        return True

    def sample(self, prompts, config, **options):
        from rationalize.records import Completion

        return [[Completion("So the answer is 7.", "stop", 1)] for _ in prompts]


def test_sample_and_evaluate_show_solved_questions(tmp_path):
    tiny_policy().save(tmp_path / "tiny")
    (tmp_path / "set").mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            {"id": f"{split}{i}", "question": f"{split} {i} or?", "choices": ["rock", "snow"],
             "answer": "snow", "rationales": [f"Cold {split} {i}."]}
            for i in range(4)
        ]  # fmt: skip
        file = tmp_path / "set" / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        "--model",
        str(tmp_path / "tiny"),
        "--questions",
        str(tmp_path / "set"),
        "--shots",
        "2",
    ]
    flags += ["--max-new-tokens", "2"]
    out = tmp_path / "a.jsonl"
    assert main(["sample", *flags, "--out", str(out)]) == 0
    attempts = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(attempts) == 4
    for attempt in attempts:
        own = attempt["question_id"].removeprefix("train")
        assert f"Cold train {own}." not in attempt["prompt"]
        assert attempt["prompt"].count("So the answer is (B).") == 2
    run = tmp_path / "run"
    assert main(["evaluate", *flags, "--rewards", "correctness", "--out", str(run)]) == 0
    from rationalize.runs import Run

    prompts = [a.prompt for a in Run.read(run).read_shard("final-test-0")]
    assert all("Cold train 0." in p and "Cold train 1." in p for p in prompts)


def test_sample_shows_built_in_questions_where_none_is_solved(tmp_path, capsys):
    tiny_policy().save(tmp_path / "tiny")
    file = tmp_path / "bare.jsonl"
    bare = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in bare))
    out = tmp_path / "a.jsonl"
    flags = ["sample", "--model", str(tmp_path / "tiny"), "--questions", str(file), "--shots", "2"]
    assert main([*flags, "--max-new-tokens", "2", "--out", str(out)]) == 0
    for line in out.read_text().splitlines():
        assert "Mara picked 14 plums" in json.loads(line)["prompt"]
    one = {**bare[0], "question": "What is 9 + 1?", "answer": "10", "rationales": ["9 + 1 = 10."]}
    file.write_text(file.read_text() + json.dumps(one) + "\n")
    assert main([*flags, "--out", str(tmp_path / "b.jsonl")]) == 1
    assert "found 1 train questions with a rationale, expected 2" in capsys.readouterr().err
