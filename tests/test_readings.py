"""The two readings of a reply: what chat and reasoning models write is read as meant, or not."""

import json
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rationalize.answers import (
    end_after_answer,
    is_correct,
    number,
    parse_reply,
    read_answer,
    read_prediction,
    split_reasoning,
    stated_answer,
)
from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.numerals import exact_number, number_text, plain
from rationalize.records import Completion, Question
from rationalize.sampling.writing import Provenance, _attempt

CHOICES = ("a pond", "the moon", "wet sand", "moonlight")


@pytest.mark.parametrize("said", [
    "[c]", "{C}", "$C$!", "\\(\\mathbf{C}\\).", "option C", "the choice (C).", "Option C) wet sand",
    "C since it drains", "C – wet sand", "C: wet sand", "‘C’.", "*C*", "`(C)`",
    "<strong>C</strong>",
    "（Ｃ）", "Ｃ．", "wet sand (C)", "the wet sand", "Wet sand, because it drains.", "clearly C.",
    "... C", "→ (C)", "\n\n> **C**", "WET SAND", "“wet sand”.", "\\text{wet sand}", "C is right",
])  # fmt: skip
def test_a_choice_in_any_wrapping_is_that_choice(said):
    assert parse_reply(f"It drains. So the answer is {said}", CHOICES).prediction == "wet sand"


@pytest.mark.parametrize("said", [
    "(A) or (C).", "A and C", "A, B and C", "(A)/(C)", "not (C).", "neither A nor C",
    "A pond or sand",
    "wet sand or a pond", "wet sand and the moon", "between A and C", "(E).", "wet", "moon light",
    "wet sandals", "A wet place", "wet sand (A)",
])  # fmt: skip
def test_what_names_no_choice_or_several_is_none(said):
    assert parse_reply(f"It drains. So the answer is {said}", CHOICES).prediction is None


@pytest.mark.parametrize("reply", [
    "It drains.\n\n**Answer: (C) wet sand**", "It drains. The answer is (C).", "Answer: C", "**C**",
    "It drains.\nThe correct option is C.", "It drains, so I would pick (C).", "C. wet sand",
    "Option C is correct.", "It is $\\boxed{\\text{C}}$.", "Working.\n#### C", '{"answer": "C"}',
    "**Final answer:**\n\n\\[ \\boxed{C} \\]", "The answer is (A)? No.\nThe answer is (C).",
    "If the answer is (A), it floats. My final answer is wet sand.",
    "<think>The answer is (A).</think>\n\nThe answer is (C).", "**Answer**: `C`", "Wet sand.",
])  # fmt: skip
def test_an_answer_in_another_form_is_stated_but_not_strict(reply):
    assert parse_reply(reply, CHOICES).prediction is None
    assert stated_answer(reply, CHOICES) == "wet sand"


@pytest.mark.parametrize("reply", [
    "", "It drains.", "I am not sure.", "The answer is (A) or (C).", "The answer is not (C).",
    "If the answer is (C), it drains.", "<think>The answer is (C).",
    "A pond is wet and C is round.",
    "The answer is (C).\n<think>Or is it",
])  # fmt: skip
def test_what_states_no_answer_is_none(reply):
    assert stated_answer(reply, CHOICES) is None


def test_the_strict_reading_goes_before_any_other():
    reply = "The answer is (A). So the answer is (B). Answer: C"
    assert stated_answer(reply, CHOICES) == parse_reply(reply, CHOICES).prediction == "the moon"


@pytest.mark.parametrize(("reply", "gold"), [
    ("Add.\n#### 72", "72"), ("It is \\boxed{9{,}500}.", "9500"), ("Answer: **$1,200**", "1200"),
    ("Half is left.\n**-3**", "-3"), ("The answer is approximately 3.5 cm", "3.5"), ("yes.", "Yes"),
    ("The answer is **Paris**.", "Paris"), ("Answer: “Hamlet”", "Hamlet"), ("eelk", "eelk"),
])  # fmt: skip
def test_free_answers_are_stated_too(reply, gold):
    assert is_correct(stated_answer(reply, None), gold)


@pytest.mark.parametrize(("reply", "gold"), [
    ("**Answer: United States**", "United States"), ("The answer is United Kingdom.",
    "United Kingdom"), ("Answer: the union", "the union"), ("Answer: Uncle Tom", "Uncle Tom"),
    ("The final answer is 42. I am confident that the answer is correct.", "42"),
    ("**Answer: 42**\n\nThis answer is reasonable because it is even.", "42"),
    ("The answer is: \\boxed{42}.\n\nThe answer is an integer, as expected.", "42"),
    ("The answer is 42. The answer is in dollars.", "42"),
    ("The answer is 42. That answer is close to our guess.", "42"),
    ("The answer is 42. The answer is rounded to a whole number.", "42"),
    ("The answer is 42. The answer is not 41.", "42"),
    ("The answer is 41. My answer is 42.", "42"), ("The answer is correct.", "correct"),
    ("The answer is 41. The answer is 42.", "42"), ("This answer is 42.", "42"),
    ("The answer is left. The answer is right angle.", "right angle"),
])  # fmt: skip
def test_a_remark_on_the_answer_is_not_the_answer(reply, gold):
    assert is_correct(stated_answer(reply, None), gold)


@pytest.mark.parametrize("reply", [
    "The answer is unknown.", "The answer is unclear, though 42 is near.", "Answer: undetermined",
    "The answer is 42. No, the answer is not 42.", "The answer is 42. The answer is not correct.",
    "The answer is 42. The answer is uncertain.",
    "The answer is 42. This answer is wrong.", "The answer is 42. This answer is not right.",
])  # fmt: skip
def test_an_answer_that_is_taken_back_is_none(reply):
    assert stated_answer(reply, None) is None


@pytest.mark.parametrize(("reply", "expected"), [
    ("The correct answer is (B) snow. The answer is not (A).", "snow"),
    ("The answer is (B). The answer is not ice, since that is hard.", "snow"),
    ("The answer is (A). Wait. The answer is not (A).", None),
    ("The answer is (A). The answer is not clear.", None),
    ("The answer is (A). This answer is incorrect.", None),
    ("The answer is (A). This answer is the best of them.", "ice"),
    ("The answer is (B). Some say (A), but that answer is wrong.", "snow"),
    ("The answer is not (A).", None), ("The answer is not (A). The answer is (B).", "snow"),
    ("The answer is (B). The answer is neither ice nor rain.", None),
])  # fmt: skip
def test_a_denied_choice_leaves_another_one_that_was_stated(reply, expected):
    assert stated_answer(reply, ("ice", "snow")) == expected


# choice texts: no letter label, nothing that a line or an answer's own syntax takes away
choice_texts = st.from_regex(r"\w[\w $%.,;:'+*/!-]{0,12}[\w.!]?", fullmatch=True).filter(
    lambda t: t.strip() == t and len(t.splitlines()) == 1
)


@given(st.lists(choice_texts, min_size=2, max_size=6, unique=True), st.data())
def test_any_choice_text_is_read_as_itself(choices, data):
    choice = data.draw(st.sampled_from(choices))
    assert read_prediction(choice, choices) == choice
    assert is_correct(choice, choice, choices)
    # one letter and a stop may be another's label; any other text is the choice with this text
    assert parse_reply(f"So. So the answer is {choice}.", choices).prediction == choice
    for other in choices:
        assert is_correct(choice, other, choices) == (choice == other)


@pytest.mark.parametrize("choices", [
    ("Polish", "polish"), ("C", "C++", "C#"), ("5", "-5", "5%"), ("its", "it's"), ("a.m", "a.m."),
    ("Yes", "Yes, but rarely"),
])  # fmt: skip
def test_choices_that_differ_in_case_or_punctuation_stay_apart(choices):
    for a in choices:
        for b in choices:
            assert is_correct(a, b, choices) == (a == b)


@given(st.text(), st.text())
def test_a_prediction_equal_to_the_answer_is_right(text, other):
    assert is_correct(read_prediction(text, None) or "", text.strip())
    assert is_correct(text, text)


whole = st.integers(-(10**15), 10**15)
decimals = st.tuples(whole, st.integers(1, 999)).map(lambda t: Fraction(f"{t[0]}.{t[1]:03}"))


def _forms(value: int) -> list[str]:
    digits, grouped = f"{abs(value)}", f"{abs(value):,}"
    texts = [digits, grouped, grouped.replace(",", "{,}"), grouped.replace(",", "\\,"),
             grouped.replace(",", "\u202f"), f"{digits}.0", f"{digits}.", f"{digits}%",
             f"{digits}\\%",
             f"{digits}e0", f"{digits} \\times 10^{{0}}", f"{digits}/1", f"\\frac{{{digits}}}{{1}}",
             "".join(chr(ord(c) + 0xFEE0) for c in digits), f"{digits} km",
             f"\\text{{{digits}}}"]  # fmt: skip
    signs = ["-", "−", "–"] if value < 0 else [""]
    return [sign + text for sign in signs for text in texts]


wrappings = st.sampled_from(["{}", "${}$", "\\({}\\)", "\\boxed{{{}}}", "**{}**", "“{}”", "\\$ {}",
                             "{} because I added", "<b>{}</b>", "$\\boxed{{{}}}$"])  # fmt: skip


@given(whole, wrappings, st.data())
def test_a_number_is_read_as_itself_or_not_at_all(value, wrapping, data):
    written = wrapping.format(data.draw(st.sampled_from(_forms(value))))
    assert exact_number(written) in (value, None)
    prediction = parse_reply(f"Add. So the answer is {written}", None).prediction
    assert not is_correct(prediction, str(value + 1))
    assert value in (0, -value) or not is_correct(prediction, str(-value))
    for cut in range(1, len(str(value))):
        part = str(value)[:cut]
        assert part == "-" or int(part) == value or not is_correct(prediction, part)


@given(whole, wrappings.filter(lambda w: w != "\\$ {}"))
def test_the_usual_forms_are_read(value, wrapping):
    for written in (f"{value}", f"{value:,}", f"{value:,}".replace(",", "{,}"), f"{value}.0"):
        assert exact_number(wrapping.format(written)) == value, written
        reply = f"Add. So the answer is {wrapping.format(written)}."
        assert is_correct(parse_reply(reply, None).prediction, str(value)), reply


@given(st.integers(1, 10**6), st.sampled_from([
    "{}_500", "{}K", "{}\\pi", "{}π", "{}-5", "{}–5", "{}:30", "{},5", "{}.5.5", "{} or 3",
    "\\sqrt{{{}}}", "$\\log {}$", "\\pi/{}", "{} to 9", "{}'5", "{}\\sqrt{{2}}", "{} and a half",
    "{} 1/0", "not {}",
]))  # fmt: skip
def test_the_beginning_of_something_longer_is_no_number(value, form):
    assert number(form.format(value)) != value


@pytest.mark.parametrize(("said", "gold"), [
    ("1.5e3", "1500"), ("3 × 10^8", "300000000"), ("3 \\times 10^{-2}", "0.03"), ("10²", "100"),
    ("2^{10}", "1024"), ("\\frac{3}{4}", "0.75"), ("0.5", "1/2"), ("2½", "2.5"), ("50 percent",
    "50%"),
    ("1.5 million", "1,500,000"), ("٧", "7"), ("90^\\circ", "90"),
])  # fmt: skip
def test_powers_fractions_and_counts_have_their_value(said, gold):
    assert is_correct(parse_reply(f"So the answer is {said}.", None).prediction, gold)


@pytest.mark.parametrize(("said", "gold"), [
    ("12345678901234567", "12345678901234568"), ("0.0000001", "0.0000002"), ("1/0", "0"),
    ("9" * 9000, "9"), ("1e999999999", "1"), ("not 5", "5"), ("3π", "3"), ("50%", "0.5"),
])  # fmt: skip
def test_what_is_another_number_is_wrong(said, gold):
    assert not is_correct(said, gold)


@pytest.mark.parametrize(("said", "value"), [
    ("$3 \\cdot 4 = 12$", 12), ("12 \\div 4 = 3", 3), ("3 \\cdot 10^8", 3 * 10**8),
    ("3·10^8", 3 * 10**8), ("3 ⋅ 4 = 12", 12), ("3 ∙ 4 = 12", 12), ("1.5 Million", 1_500_000),
    ("$2 THOUSAND", 2000), ("negative 5", -5), ("Minus 5 degrees", -5), ("it is minus $5", -5),
    ("the sum is negative 5", -5), ("· 42", 42), ("5× faster", 5), ("about *5* (or so)", 5),
    ("5 N·m", 5), ("24 packs, since 12 * 2 = 24", 24), ("24 packs - 12 * 2 = 24", 24),
    ("60 minutes = 1 hour", 60), ("24 \\cdots", 24),
])  # fmt: skip
def test_signs_of_calculations_in_any_writing_are_read(said, value):
    assert exact_number(said) == value


@pytest.mark.parametrize("said", [
    "5 apples + 3 apples = 8 apples", "5 apples - 3 apples = 2 apples", "3 hours × 60 = 180",
    "3 hours x 60 = 180", "5 apples + 3 apples", "20% of 50 = 10", "√5", "√(5)", "sqrt(5)",
    "the square root of 5", "half of 10", "twice 5", "2*sqrt(3)", "2 * √3", "2\\cdot \\sqrt{3}",
    "3 ± √2", "3 ± 2", "3 \\pm 2", "3 + √2", "1/√2", "3 √2", "3 \\sqrt{2}", "3 π", "2^{n+1}",
    "2^n", "2 × n", "5 squared", "10 minus 3", "10 minus 3 = 7", "5 times 3", "5 plus 3 = 8",
    "8 divided by 2 = 4", "she felt minus 5", "1.5 Millions",
    "5 dollars/hour * 3 hours = 15 dollars", "5kg + 3kg = 8kg", "20% * 50 = 10", "20% + 5% = 25%",
    "100% - 25% = 75%", "72 days of school – 3 days missed = 69",
])  # fmt: skip
def test_a_number_that_goes_on_is_never_its_first_digits(said):
    assert number(said) is None


@pytest.mark.parametrize(("said", "expected"), [
    ("- 1", None), ("– 1", None), ("-1", "-1"), ("−1", "-1"), ("minus 1", "-1"), ("1", "1"),
    ("negative 1", "-1"), ("— 1", "1"), ("- $1", None), ("→ 1", "1"), (".5", None), ("... 5", "5"),
    ("-- 1", "1"), ("--1", "1"), ("-> 1", "1"),
])  # fmt: skip
def test_the_sign_of_a_choice_is_kept(said, expected):
    choices = ("-1", "1", "0", "5")
    assert parse_reply(f"So the answer is {said}.", choices).prediction == expected


@pytest.mark.parametrize(("said", "expected"), [
    ("3 apples", "3"), ("13 apples", "13"), ("3.0 km per hour", "3"), ("**3 apples**", "3"),
    ("1,300 m", "1300"), ("$13 dollars", "13"), ("3 or 13", None),
    ("3 apples or 13", None), ("3 not 13", None), ("3 apples (B)", None), ("4 apples", None),
    ("3 to 13", None), ("3 hundred", None), ("3 of the 13", None), ("-3 degrees", None),
])  # fmt: skip
def test_a_choice_that_is_a_number_may_have_a_unit(said, expected):
    assert parse_reply(f"So the answer is {said}.", ("3", "13", "1300")).prediction == expected
    assert parse_reply(f"So the answer is {said}.", ("3", "13 km")).prediction in (None, "13 km")


@pytest.mark.parametrize(("said", "value"), [
    ("0.75 (3/4)", "0.75"), ("3/4 (0.75) of it", "3/4"), ("$1,200 (1200)", "1200"),
    ("0.75 (2/4)", None), ("0.333 (1/3)", None), ("12 (5 or 7)", None), ("2 (3)(4)", None),
])  # fmt: skip
def test_a_number_may_be_said_again_in_brackets(said, value):
    assert exact_number(said) == (None if value is None else Fraction(value))


@given(st.text())
def test_numbers_of_any_text(text):
    assert plain(plain(text)) is not None
    written = number_text(text)
    assert written is None or exact_number(text) is not None


@pytest.mark.parametrize("gold", [
    "E. M. Forster", "St. Louis", "U.N. Charter", "Prof. Moriarty", "Vol. 3", "Ph.D. student",
    "9 p.m. sharp", "No. 7", "Capt. Ahab", "Washington, D.C.", "3.5", "Mt. Fuji", "Smith vs. Jones",
])  # fmt: skip
def test_stops_that_belong_to_an_answer_end_none(gold):
    prediction = parse_reply(f"Known. So the answer is {gold}. It is known.", None).prediction
    assert is_correct(prediction, gold), prediction


@pytest.mark.parametrize(("said", "gold"), [
    ("No. It does not", "no"), ("A. The letter comes first", "A"), ("b. because", "b"),
    ("Rome. I was there", "Rome"), ("D.C. It is a city", "D.C."), ("12. 12 is even", "12"),
])  # fmt: skip
def test_a_sentence_after_the_answer_is_no_part_of_it(said, gold):
    assert is_correct(parse_reply(f"So the answer is {said}.", None).prediction, gold)


@pytest.mark.parametrize(("completion", "expected"), [
    ("no tags", (None, "no tags")),
    ("<think>a</think>b", ("a", "b")),
    ("a</think>b", ("a", "b")),  # the chat template wrote the first tag
    ("<think>a</think>b<THINK>c</THINK>d", ("abc", "d")),
    ("<think>a", ("a", "")),
    ("b <thinking>a", ("b a", "")),
    ("[THINK]a[/THINK]b", ("a", "b")),
])  # fmt: skip
def test_reasoning_is_split_from_the_reply(completion, expected):
    assert split_reasoning(completion) == expected


def test_reasoning_is_kept_apart_from_the_rationale(tmp_path):
    question = Question("q", "Where?", "wet sand", CHOICES)
    text = "<think>So the answer is (A)?</think>It drains. So the answer is (C)."
    attempts = [
        _attempt(question, "p", completion, mode, Provenance("test", 0), id=f"{i}", model="m")
        for i, (completion, mode) in enumerate([
            (Completion(text, "stop", 3), "rationale_answer"),
            (Completion("<think>x</think>(C)", "stop", 3), "answer"),
            (Completion("So the answer is (C).", "stop", 3, reasoning="Aside."),
            "rationale_answer"),
            (Completion("<think>So the answer is (C)", "length", 3), "rationale_answer"),
            (Completion("(C)", "stop", 3), "answer"),
        ])
    ]  # fmt: skip
    assert [a.reasoning for a in attempts] == ["So the answer is (A)?", "x", "Aside.",
                                               "So the answer is (C)", None]  # fmt: skip
    assert [a.rationale for a in attempts] == ["It drains.", "", "", "", ""]
    assert [a.prediction for a in attempts] == ["wet sand"] * 3 + [None, "wet sand"]
    for name in ("a.parquet", "a.jsonl"):
        save_attempts(attempts, tmp_path / name)
        assert load_attempts(tmp_path / name) == attempts


def test_attempts_of_an_earlier_version_have_no_reasoning(tmp_path):
    import pyarrow.parquet as pq

    question = Question("q", "Where?", "wet sand", CHOICES)
    attempt = _attempt(question, "p", Completion("(C)", "stop", 1), "answer", Provenance("test", 0),
                       id="a", model="m")  # fmt: skip
    save_attempts([attempt], tmp_path / "new.parquet")
    pq.write_table(pq.read_table(tmp_path / "new.parquet").drop_columns(["reasoning"]),
                   tmp_path / "old.parquet")  # fmt: skip
    assert load_attempts(tmp_path / "old.parquet") == [attempt]
    assert load_attempts(tmp_path / "old.parquet", reasoning="x") == []
    save_attempts([attempt], tmp_path / "new.jsonl")
    row = json.loads((tmp_path / "new.jsonl").read_text())
    del row["reasoning"]
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    assert load_attempts(tmp_path / "old.jsonl") == [attempt]


def test_a_stop_within_the_reasoning_ends_no_reply():
    text = "<think>So the answer is (A)?\n\nNo.</think>\nSo the answer is (C).\n\nNext."
    assert text[: end_after_answer(text, "\n\n")].endswith("(C).")
    assert end_after_answer("<think>So the answer is (A).\n\nOr", "\n\n") == -1


@given(st.text(), st.one_of(st.none(), st.lists(choice_texts, min_size=2, unique=True)))
def test_readings_never_raise_and_agree(completion, choices):
    strict, stated = parse_reply(completion, choices).prediction, stated_answer(completion, choices)
    assert strict is None or stated == strict
    assert stated is None or not choices or stated in choices
    assume(choices)
    assert read_answer(completion, choices) in (None, *(choices or ()))
