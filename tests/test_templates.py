"""The question comes first, in every mode, and what a target says is what the parser reads."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rationalize.answers import parse_reply
from rationalize.records import Question
from rationalize.templates import MODES, listed_choices, prompt_text, question_text, target_text

QUESTION = Question(
    id="q",
    question="Which is colder?",
    answer="ice",
    choices=("tea", "ice"),
    context="It is winter.",
    rationales=("Ice is frozen.", "Tea is hot."),
)
NEEDS_RATIONALE = ("refine", "answer_from_rationale")


def prompts(question):
    return {
        mode: prompt_text(mode, question, "Because." if mode in NEEDS_RATIONALE else None)
        for mode in MODES
    }


def test_a_question_is_its_context_its_text_and_its_lettered_choices():
    assert question_text(QUESTION) == "It is winter.\nWhich is colder?\n(A) tea (B) ice"


def test_a_free_form_question_shows_no_choices():
    assert question_text(Question(id="q", question="How many?", answer="3")) == "How many?"


@given(
    choices=st.lists(st.text("aB() \n").map(str.strip).filter(len), min_size=2, max_size=26),
    context=st.sampled_from([None, "One.\n\nTwo."]),
)
@example(choices=["B"] * 26, context=None)
def test_the_choices_of_a_prompt_are_read_back(choices, context):
    """Unless a blank line or a letter in brackets is part of a choice."""
    demo = Question(id="d", question="2 + 2?", answer="4", choices=("4", "5"), rationales=("Add.",))
    free = Question(id="f", question="How many?", answer="3", context=context)
    assert listed_choices(prompt_text("rationale_answer", free, demos=[demo])) is None
    question = Question(**{**vars(free), "choices": tuple(choices)})
    prompt = prompt_text("rationale_answer", question, demos=[demo])
    if not any(mark in " ".join(choices) for mark in ("\n\n", "(B)")):
        assert listed_choices(prompt) == question.choices


def test_every_mode_begins_with_the_question():
    for prompt in prompts(QUESTION).values():
        assert prompt.startswith(question_text(QUESTION) + "\n")


def test_modes_with_a_rationale_share_the_prefix_that_ends_with_it():
    shared = question_text(QUESTION) + "\nExplanation: Because.\n"
    for mode in NEEDS_RATIONALE:
        assert prompts(QUESTION)[mode].startswith(shared)


def test_modes_are_told_apart():
    assert len(set(prompts(QUESTION).values())) == len(MODES)


def test_the_prompt_never_shows_the_answer_or_a_rationale_unasked():
    other = Question(
        **{**vars(QUESTION), "answer": "tea", "rationales": ("x",), "extra": {"answer": "tea"}}
    )
    assert prompts(QUESTION) == prompts(other)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("rationale_answer", "Ice is frozen. So the answer is (B)."),
        ("rationale", "Ice is frozen."),
        ("refine", "Ice is frozen."),
        ("answer", "(B)"),
        ("answer_from_rationale", "(B)"),
    ],
)
def test_targets(mode, expected):
    assert target_text(mode, QUESTION) == expected


def test_a_target_takes_the_rationale_that_it_is_given():
    target = target_text("rationale_answer", QUESTION, "Tea is hot.")
    assert target == "Tea is hot. So the answer is (B)."


def test_the_default_target_is_the_first_rationale_that_led_to_the_answer():
    taught = Question(
        id="t", question="2 + 2?", answer="4", rationales=("Two twos.", "Add."),
        extra={"teacher_answers": ("22", "4")},
    )  # fmt: skip
    assert target_text("rationale_answer", taught) == "Add. So the answer is 4."
    assert "Two twos" not in prompt_text("refine", QUESTION, "So.", demos=[taught])
    wrong = Question(**{**vars(taught), "extra": {"teacher_answers": ("22", "5")}})
    with pytest.raises(ValueError, match="has no rationale that led to its answer"):
        target_text("rationale", wrong)


def test_demonstrations_come_before_the_question_and_show_their_answer():
    demo = Question(id="d", question="2 + 2?", answer="4", rationales=("Add.",))
    prompt = prompt_text("rationale_answer", QUESTION, demos=[demo, demo])
    shown, again, asked = prompt.split("\n\n")
    assert shown == again == "2 + 2?\nExplain, then answer.\nAdd. So the answer is 4."
    assert asked == prompt_text("rationale_answer", QUESTION)


@pytest.mark.parametrize(
    ("mode", "rationale", "message"),
    [
        ("refine", None, "needs a"),
        ("answer_from_rationale", None, "needs a"),
        ("answer", "Because.", "takes no"),
        ("think", None, "expected one of rationale_answer"),
    ],
)
def test_wrong_use_is_refused(mode, rationale, message):
    with pytest.raises(ValueError, match=message):
        prompt_text(mode, QUESTION, rationale)


@pytest.mark.parametrize("mode", ["rationale_answer", "rationale", "refine"])
def test_a_question_without_rationale_is_no_target(mode):
    with pytest.raises(ValueError, match="has no rationale"):
        target_text(mode, Question(id="q", question="How many?", answer="3"))


def test_a_demonstration_without_rationale_is_refused():
    bare = Question(id="d", question="How many?", answer="3")
    with pytest.raises(ValueError, match="'d' has no rationale"):
        prompt_text("answer_from_rationale", QUESTION, "Because.", demos=[bare])


@given(st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True), st.data())
def test_the_target_is_read_back_as_the_gold_answer(choices, data):
    answer = data.draw(st.sampled_from(choices))
    question = Question(id="q", question="?", answer=answer, choices=tuple(choices))
    target = target_text("rationale_answer", question, "Because.")
    assert parse_reply(target, question.choices).prediction == answer
