"""What counts as an answer: the reply's form, its parser, and matching."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.answers import (
    MARKER,
    Reply,
    answer_alone,
    answer_label,
    end_after_answer,
    has_marker,
    is_correct,
    normalise,
    number,
    parse_reply,
    read_answer,
    reply_text,
)

CHOICES = ("snow", "ice", "a")
texts = st.text()
unmarked = texts.filter(lambda t: not has_marker(t))
choice_lists = st.lists(st.text(min_size=1), min_size=2, max_size=26, unique=True).map(tuple)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (" (B).", "ice"),
        (" (B)", "ice"),
        (" (b).", "ice"),
        (": (B).", "ice"),
        (" (B) ice", "ice"),
        (" (B) snow", "ice"),  # the letter wins over the text beside it
        ("\n(B).\n\nQ: another", "ice"),
        (" ( B ).", "ice"),
        (" (B", "ice"),
        (" **(B)**.", "ice"),
        (" B.", "ice"),
        (" B) ice", "ice"),
        (" B, because", "ice"),
        (" ice.", "ice"),
        (" ICE", "ice"),
        (' "ice".', "ice"),
        (" (A).", "snow"),
        (" a.", "a"),  # a choice's text before a bare letter
        (" (D).", None),
        (" A nice one", None),
        (" snow or ice", None),
        (".", None),
        ("", None),
        ("\n", None),
    ],
)
def test_choices_are_read_by_letter_then_by_text(after, expected):
    assert parse_reply(f"Because. {MARKER}{after}", CHOICES).prediction == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (" 42.", "42"),
        (": 42", "42"),
        (" 3.5.", "3.5"),
        (" eelk\nmore", "eelk"),
        (" .", None),
        (" 12. Check: 12 * 2 = 24", "12"),
        (" $3.50. That is half.", "$3.50"),
        (" St. Louis. It is on a river.", "St. Louis"),
    ],
)
def test_free_form_answers_end_at_the_first_full_stop(after, expected):
    assert parse_reply(f"Because. {MARKER}{after}", None).prediction == expected


def test_the_label_of_a_choice_wins_over_a_choice_that_looks_like_it():
    choices = ("snow", "(A)")
    assert parse_reply(reply_text("Cold.", "snow", choices), choices).prediction == "snow"
    assert parse_reply(reply_text("Cold.", "(A)", choices), choices).prediction == "(A)"


def test_the_last_marker_wins():
    reply = parse_reply(f"One. {MARKER} (A). No. so the answer is: (B).", CHOICES)
    assert reply == Reply(f"One. {MARKER} (A). No.", "ice")


def test_without_a_marker_there_is_no_answer():
    reply = parse_reply(" It is (B). ", CHOICES)
    assert reply == Reply("It is (B).", None)
    assert not reply.parsed
    assert not is_correct(reply.prediction, "ice", CHOICES)


@pytest.mark.parametrize("text", ["Also the answer is (A).", "So the answer isn't (A)."])
def test_words_that_contain_the_marker_are_none(text):
    assert not has_marker(text)
    assert parse_reply(text, CHOICES).prediction is None


def test_the_marker_is_found_behind_letters_that_grow_in_lower_case():
    assert parse_reply(f"İİİİ. {MARKER} (B).", CHOICES) == Reply("İİİİ.", "ice")


@pytest.mark.parametrize(
    ("rationale", "expected"),
    [
        ("Ice melts", "Ice melts. So the answer is (B)."),
        ("Ice melts.", "Ice melts. So the answer is (B)."),
        ("Does it?", "Does it? So the answer is (B)."),
        ("  ", "So the answer is (B)."),
    ],
)
def test_reply_text(rationale, expected):
    assert reply_text(rationale, "ice", CHOICES) == expected


def test_free_form_reply_holds_the_answer_itself():
    assert reply_text("Add.", "42", None) == "Add. So the answer is 42."
    assert answer_label("42", None) == "42"


@given(unmarked, choice_lists, st.data())
def test_what_is_written_is_read_back(rationale, choices, data):
    answer = data.draw(st.sampled_from(choices))
    reply = parse_reply(reply_text(rationale, answer, choices), choices)
    assert reply.prediction == answer
    assert reply.rationale in (rationale.strip(), rationale.strip() + ".")


@given(unmarked, st.from_regex(r"[\w-]([\w ,-]*\w)?", fullmatch=True))
def test_free_form_answers_are_read_back(rationale, answer):
    reply = parse_reply(reply_text(rationale, answer, None), None)
    assert reply.prediction == answer.strip()
    assert is_correct(reply.prediction, answer)


@given(texts, unmarked, choice_lists)
def test_only_what_follows_the_last_marker_counts(before, after, choices):
    reply = parse_reply(f"{before} {MARKER} {after}", choices)
    assert reply.prediction == read_answer(" " + after, choices)
    assert reply.rationale == before.strip()


@given(texts, st.one_of(st.none(), choice_lists), texts)
def test_parsing_never_raises_and_predicts_only_choices(completion, choices, answer):
    reply = parse_reply(completion, choices)
    read = read_answer(completion, choices)
    if choices:
        assert reply.prediction is None or reply.prediction in choices
        assert read is None or read in choices
    is_correct(reply.prediction, answer, choices)
    number(completion)


@pytest.mark.parametrize(
    ("after", "right", "wrong"),
    [
        (" 12. Check: 12 * 2 = 24", "12", "24"),
        (" 24 because 12 * 2 = 24 and 2 packs", "24", "2"),
        (" 12 * 2 = 24", "24", "12"),
        (" **24** packs", "24", "2"),
        (" $1,200.50 a year, or 3 times as much", "1200.5", "3"),
        (" -3 degrees", "-3", "3"),
        (" −3 degrees", "-3", "3"),
        (" 24.0", "24", "240"),
        (" £5", "5", "50"),
        (" $ 24 in all", "24", "2"),
        (" .5 litres", "0.5", "5"),
        (" 1/2", "0.5001", "2"),
        (" between 3 and 4", "3.5", "4"),
        (" yes, a dog can", "yes", "no"),
        (" No. Yes is what the others say", "no", "yes"),
    ],
)
def test_only_the_answer_itself_is_matched(after, right, wrong):
    """What is unreadable, as a fraction, is right for nothing."""
    reply = parse_reply(f"Because. {MARKER}{after}", None)
    assert not is_correct(reply.prediction, wrong)
    assert is_correct(reply.prediction, right) or right in ("0.5001", "3.5")


@pytest.mark.parametrize(
    ("after", "expected"),
    [(" yes, a dog can", "yes"), (" No. Not yes", "no"), (" (A), no", "yes"), (" nobody", None)],
)
def test_yes_or_no_is_the_first_of_these_words(after, expected):
    assert parse_reply(f"Because. {MARKER}{after}", ("yes", "no")).prediction == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [("not true", "no"), ("It is not true that he did", "no"), ("that isn't true", "no"),
     ("not false", "yes"), ("It is true", "yes"), ("false, it did not", "no"),
     ("not yes", None), ("not no", None), ("not a clear yes", None), ("cannot say yes", None),
     ("I can't say no", None), ("neither yes nor no", None), ("either yes or no", None),
     ("yes or no", None), ("yes/no", None), ("true or false", None), ("yes and no", None),
     ("not **true**", "no"), ("**true** or **false**", None), ("I would say yes", "yes"),
     ("not entirely true", None), ("It is not the case that it is true", None),
     ("I do not think so, no", "no"), ("I am not sure but yes", "yes"),
     ("yes, not no", "yes"), ("It was not there, so no", "no"), ("Yes, or so it seems", "yes")],
)  # fmt: skip
def test_a_denied_yes_or_no_is_not_its_opposite(after, expected):
    assert parse_reply(f"{MARKER} {after}.", ("yes", "no")).prediction == expected
    if "true" not in after and "false" not in after:
        assert is_correct(after, "yes") is (expected == "yes")
        assert is_correct(after, "no") is (expected == "no")


@pytest.mark.parametrize(
    ("prediction", "answer", "choices", "expected"),
    [
        ("24 because 12 * 2 = 24", "7", None, "24"),
        ("$1,200 a year", "1200", None, "$1,200"),
        ("12 * 2 = 24", "24", None, "24"),
        ("yes, a dog can", "no", None, "yes"),
        ("12 May, a Monday", "12 May", None, "12 May, a Monday"),
        ("3 hats", "3 hats", ("3 hats", "4 hats"), "3 hats"),
        ("nothing of the kind", "7", None, "nothing of the kind"),
    ],
)
def test_an_answer_alone(prediction, answer, choices, expected):
    assert answer_alone(prediction, answer, choices) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "choices", "expected"),
    [
        ("ice", "ice", CHOICES, True),
        ("Ice.", "ice", CHOICES, True),
        ("snow", "ice", CHOICES, False),
        ("10", "1", ("1", "10"), False),
        (None, "ice", CHOICES, False),
        ("42", "42", None, True),
        ("42.0", "42", None, True),
        ("$1,200", "1200", None, True),
        ("1200 dollars", "1,200", None, True),
        ("-3", "3", None, False),
        ("it is 7", "7", None, True),
        ("eelk", "eelk", None, True),
        ("seven", "7", None, False),
        ("7", "eelk", None, False),
    ],
)
def test_matching(prediction, answer, choices, expected):
    assert is_correct(prediction, answer, choices) is expected


def test_normalising_ignores_case_space_and_the_full_stop():
    assert normalise("  The  Plane. ") == "the plane"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("So the answer is (A).\n\nNext. So the answer is (B).", "So the answer is (A)."),
        ("So the answer is: **$4**.\n\nNext.", "So the answer is: **$4**."),
        ("**So the answer is:**\n\n**(A)**\n\nNext.", "**So the answer is:**\n\n**(A)**"),
        ("So the answer is steel.\n\nNext.", "So the answer is steel."),
        ("So the answer is Yes, it does.\n\nNext.", "So the answer is Yes, it does."),
        ("It is dense.\n\nSo the answer is B\n\nNext.", "It is dense.\n\nSo the answer is B"),
        ("So the answer is not clear yet.\n\nSo the answer is (B).\n\nNext.",
         "So the answer is not clear yet.\n\nSo the answer is (B)."),
        ("So the answer is the sum minus three.\n\n10 - 3", None),
        ("So the answer is (A).\nIt is dense.", None),
        ("It is dense.\n\nNext.", None),
        ("", None),
    ],
)  # fmt: skip
def test_where_a_reply_ends_after_its_answer(text, kept):
    end = end_after_answer(text, "\n\n")
    assert (text[:end] if end >= 0 else None) == kept


@pytest.mark.parametrize(("said", "gold"), [
    ("2x", "2"), ("2n", "2"), ("2θ", "2"), ("2/x", "2"), ("x>2", "2"), ("2 < x", "2"),
    ("x ≥ 2", "2"), ("x = 2, y = 3", "2"),
    ("1/2 or 1/3", "1/2"), ("2 : 1", "2"), ("3 remainder 1", "3"), ("5 ft 3 in", "5"),
    ("3 hours 20 minutes", "3"), ("1 2", "12"), ("12345678901e300", "5"),
])  # fmt: skip
def test_a_number_that_goes_on_is_not_its_beginning(said, gold):
    assert not is_correct(read_answer(said, None), gold)


@pytest.mark.parametrize(("said", "gold"), [
    ("20 €", "20"), ("5$", "5"), ("30¥", "30"), ("(1, 2)", "(1,2)"), ("3 + 4i", "3+4i"),
    ("-2 < x < 3", "-2<x<3"), ("12km", "12 km"), ("5m", "5"), ("3 days", "3"),
    ("-> 24", "24"), ("=> 24", "24"), ("<final>24</final>", "24"), ("24<br>", "24"),
])  # fmt: skip
def test_spaces_and_signs_behind_are_not_another_answer(said, gold):
    assert is_correct(read_answer(said, None), gold)


@pytest.mark.parametrize("gold", [
    "5 ft. 3 in.", "3 sq. ft.", "5 lb. 2 oz.", "Dept. of State", "Jul. 4", "Hwy. 61", "Adm. Nelson",
])  # fmt: skip
def test_our_own_form_of_an_abbreviation_is_read_back(gold):
    assert is_correct(parse_reply(reply_text("Look.", gold, None), None).prediction, gold)


def test_true_and_false_are_choices_that_yes_and_no_name():
    said = {"yes": "True", "no": "False", "not true": "False", "False": "False"}
    for reply, choice in said.items():
        assert read_answer(reply, ("True", "False")) == choice
