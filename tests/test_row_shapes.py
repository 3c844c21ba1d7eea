"""Rows of every shape that sets have: read as what they are, or refused by name."""

from __future__ import annotations

import gzip
import json
import string

import datasets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rationalize import load_questions
from rationalize.errors import UserError
from rationalize.questions import BadRows
from rationalize.questions.bad_rows import RowError
from rationalize.questions.choices import cut_choices, unmapped_choices
from rationalize.questions.columns import read_row
from rationalize.questions.files import has_split
from rationalize.questions.forms import ENOUGH
from rationalize.questions.gold import solution_answer

FOUR = ["rock", "snow", "iron", "wax"]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(row, columns=None):
    return read_row({"question": "Which?", **row}, columns or {}, "x").question


def refused(row, columns=None):
    with pytest.raises(RowError) as error:
        read(row, columns)
    return str(error.value)


# Answers: a text, label, letter or position in any type


@pytest.mark.parametrize(
    "answer",
    ["snow", "Snow.", "B", "b", "(B)", "B.", "B)", "B) snow", "(b) Snow", "B. snow", 1, 1.0],
)
def test_an_answer_is_read_in_any_form(answer):
    assert read({"choices": FOUR, "answer": answer}).answer == "snow"


@pytest.mark.parametrize(
    ("answer", "form"),
    [("1", "index"), ("1.0", "index"), (1, "index"), ("2", "number"), (2.0, "number"),
     ("b", "letter"), ("snow", "text"), ("Cold. #### B", "solution"),
     ("It is \\boxed{snow}.", "solution")],
)  # fmt: skip
def test_a_form_reads_any_type(answer, form):
    row = {"choices": FOUR, "key": answer}
    assert read(row, {"answer": f"key:{form}"}).answer == "snow"
    del row["key"]
    assert read({**row, "answer": answer, "answer_form": form}).answer == "snow"


@pytest.mark.parametrize(
    ("choices", "answer", "other"),
    [
        (["C", "A", "B"], "A", "letter"),
        (["b", "a"], "A", "letter"),
        (["2", "4", "1"], "2", "position"),
        (["3", "x", "y"], "3", "position"),
        (["4", "2", "8"], 2, "position"),
        (["5", "1", "0"], 1.0, "position"),
    ],
)
def test_what_can_mean_two_choices_is_refused_or_settled(choices, answer, other):
    message = refused({"choices": choices, "answer": answer})
    assert f"which is a choice's text and another's {other}" in message
    assert "answer=COLUMN:" in message
    row = {"choices": choices, "answer": answer}
    assert read(row, {"answer": "answer:text"}).answer in (str(answer), "a", "1")
    labels = [f"({i})" for i in range(len(choices))]
    assert read({**row, "labels": labels}).answer in (str(answer), "a", "1")


def test_agreeing_readings_are_fine():
    assert read({"choices": ["A", "B"], "answer": "B"}).answer == "B"
    assert read({"choices": ["0", "1", "2"], "answer": 1}, {"answer": "answer:index"}).answer == "1"
    assert read({"choices": ["70", "90"], "answer": "90"}).answer == "90"


def test_digits_that_are_no_text_are_refused_with_both_ways_to_count():
    message = refused({"choices": FOUR, "answer": "2"})
    assert "answer=COLUMN:index (0) or :number (1)" in message


def test_labels_that_the_row_has_decide():
    row = {"choices": {"text": ["2", "4", "1"], "label": ["1", "2", "3"]}}
    assert read({**row, "answer": "2"}).answer == "4"
    assert read({**row, "answer": 2}).answer == "4"
    assert read({**row, "answer": "4"}).answer == "4"
    assert "the answer 0" in refused({**row, "answer": 0})
    letters = {"choices": FOUR, "labels": ["E", "F", "G", "H"]}
    assert read({**letters, "answer": "(f)"}).answer == "snow"
    assert "'B'" in refused({**letters, "answer": "B"})
    assert "labels that are" in refused({**letters, "labels": ["A"], "answer": "A"})
    assert "labels that are" in refused({**letters, "labels": ["A", "A", "B", "C"], "answer": "A"})


def test_many_rows_settle_what_one_cannot(tmp_path):
    """As in AQuA with texts as answers: a few of them are also positions."""
    odd = {"question": "How many?", "choices": ["2", "4", "1", "8"], "answer": "2"}
    clear = [
        {"question": f"{i}?", "choices": [str(i + 30), str(i + 60)], "answer": str(i + 30)}
        for i in range(ENOUGH)
    ]
    file = tmp_path / "q.jsonl"
    assert load_questions(write(file, odd, *clear))[0].answer == "2"
    with pytest.raises(BadRows, match="line 1: found the answer '2'"):
        load_questions(write(file, odd, *clear[1:]))
    mixed = {"question": "z?", "choices": FOUR, "answer": "B"}
    with pytest.raises(BadRows, match="1 bad row"):
        load_questions(write(file, odd, *clear, mixed))


def test_numbers_that_are_never_zero_may_count_from_one(tmp_path):
    rows = [{"question": f"{i}?", "choices": FOUR, "answer": 1 + i % 3} for i in range(ENOUGH)]
    file = write(tmp_path / "q.jsonl", *rows)
    with pytest.raises(BadRows, match="none of the file's is 0"):
        load_questions(file)
    assert load_questions(file, columns={"answer": "answer:number"})[0].answer == "rock"
    write(file, *rows, {"question": "z?", "choices": FOUR, "answer": 0})
    assert load_questions(file)[0].answer == "snow"


@pytest.mark.parametrize("said", [True, "True", "TRUE", "true", "yes", "Yes."])
def test_true_is_yes(said):
    question = read({"answer": said})
    assert (question.choices, question.answer) == (("yes", "no"), "yes")
    assert read({"answer": said, "choices": ["False", "True"]}).answer == "True"
    assert read({"answer": said, "choices": ["no", "yes"]}).answer == "yes"
    assert read({"answer": said}, {"answer": "answer:text"}).choices is None


# Choices


@pytest.mark.parametrize(
    "choices",
    [
        ["rock", "snow", None, None],
        ["rock", "snow", float("nan")],
        {"A": "rock", "B": "snow", "C": None},
        {"option_a": "rock", "option_b": "snow"},
        {"1": "rock", "2": "snow"},
        {"text": ["rock", "snow", None], "label": ["A", "B", None]},
        [{"label": "A", "text": "rock"}, {"label": "B", "text": "snow"}],
        [{"key": "A", "value": "rock"}, {"key": "B", "value": "snow"}],
        [{"A": "rock"}, {"B": "snow"}],
        ["A) rock", "B) snow"],
        ["(A) rock", "(B) snow"],
        ["A. rock", "B. snow"],
        '["rock", "snow"]',
        "['rock', 'snow']",
        '{"A": "rock", "B": "snow"}',
    ],
)
def test_choices_of_every_shape(choices):
    question = read({"choices": choices, "answer": "snow"})
    assert (question.choices, question.answer) == (("rock", "snow"), "snow")


def test_letters_name_a_dictionarys_keys():
    row = {"choices": {"B": "rock", "A": "snow"}, "answer": "A"}
    assert read(row).answer == "snow"


@pytest.mark.parametrize(
    "choices",
    [
        ["rock", None, "snow"], ["rock", ""], {"good": "rock", "bad": "snow"}, "rock; snow",
        "[rock", [{"word": "rock"}, {"word": "snow"}], [["rock"], ["snow"]], 3, ["rock", None],
        "{[1]: 2}",
    ],
)  # fmt: skip
def test_choices_of_no_known_shape_are_refused(choices):
    assert "choice" in refused({"choices": choices, "answer": "rock"})


def test_padding_of_columns_and_a_key_that_points_into_it():
    columns = {"choices": "a,b,c,d"}
    row = {"a": "rock", "b": "snow", "c": None}
    assert read({**row, "answer": "B"}, columns).choices == ("rock", "snow")
    assert "the answer 'C'" in refused({**row, "answer": "C"}, columns)


@pytest.mark.parametrize(
    "question",
    ["Which? (A) rock (B) snow", "Which? A) rock B) snow", "Which?\nA. rock\nB. snow",
     "Which?\nA: rock\nB: snow", "Which? a) rock, b) snow"],
)  # fmt: skip
@pytest.mark.parametrize("answer", ["B", "snow", "Cold.\n#### B"])
def test_choices_inside_the_question(question, answer):
    found = read({"question": question, "answer": answer})
    assert (found.question, found.choices, found.answer) == ("Which?", ("rock", "snow"), "snow")


def test_a_list_that_the_answer_is_not_in_is_part_of_the_question():
    found = read({"question": "Do (A) then (B) what?", "answer": "42"})
    assert (found.question, found.choices) == ("Do (A) then (B) what?", None)
    assert cut_choices("e.g. a) b) c") is None


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"options": FOUR}, "choices=options"),
        ({"endings": FOUR}, "choices=endings"),
        ({"option_a": "x", "option_b": "y"}, "choices=option_a,option_b"),
        ({"A": "x", "B": "y", "C": "z"}, "choices=A,B,C"),
        ({"sol1": "x", "sol2": "y"}, "choices=sol1,sol2"),
        ({"ending0": "x", "ending1": "y"}, "choices=ending0,ending1"),
    ],
)
@pytest.mark.parametrize("answer", ["B", 1, "1", "some text"])
def test_choices_in_another_column_are_never_left_out(row, hint, answer):
    assert hint in refused({**row, "answer": answer})
    assert read({**row, "answer": answer}, {"answer": "answer:text"}).answer == str(answer)


def test_a_field_under_another_name_is_refused_with_the_flag_that_names_it():
    with pytest.raises(RowError, match="--columns question=COLUMN"):
        read_row({"stem": "x?", "key": "yes"}, {}, "x")
    assert "--columns answer=COLUMN" in refused({"key": "yes"})
    assert "--columns" not in refused({"answer": ""})  # it is there, and empty


def test_columns_that_are_no_choices_are_left_alone():
    assert unmapped_choices({"question": "?", "option": ["x", "y"], "q1": "a", "q2": "b"}) is None
    assert unmapped_choices({"options": [], "A": "x"}) is None


# Free-form answers


@pytest.mark.parametrize("answer", ["B", "(c)", "two\nlines", [], {"spans": ["3"]}, [["3"]]])
def test_what_is_no_free_form_answer_is_refused(answer):
    assert "answer" in refused({"answer": answer})


def test_several_right_answers():
    found = read({"a": {"spans": ["3", "three", "3", 3.0]}}, {"answer": "a.spans"})
    assert (found.answer, found.accepted) == ("3", ("three",))
    assert [found.is_right(said) for said in ("3", "Three.", "4", None)] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("solution", "answer", "reasoning"),
    [
        ("3+4=<<3+4=7>>7 pens.\n#### 7", "7", "3+4=7 pens."),
        ("Total.\n#### $1,200", "1200", "Total."),
        ("#### -3.50", "-3.50", ""),
        ("#### five apples", "five apples", ""),
        (r"So $\boxed{\frac{3}{4}}$.", r"\frac{3}{4}", r"So $\boxed{\frac{3}{4}}$."),
        (r"\boxed{1}, then \boxed{\text{odd \} brace}}", r"\text{odd \} brace}", None),
        (r"$\boxed{7}$", "7", ""),
        (r"It is $\boxed 7$.", "7", None),
        ("It is cold. So the answer is snow.", "snow", "It is cold."),
    ],
)
def test_solutions_end_in_their_answer(solution, answer, reasoning):
    found = solution_answer(solution)
    assert found is not None
    assert found[0] == answer
    assert reasoning is None or found[1] == reasoning
    question = read({"answer": solution})
    assert question.answer == answer
    assert question.rationales == ((found[1],) if found[1] else ())
    assert read({"answer": solution, "rationale": "Mine."}).rationales == ("Mine.",)


@pytest.mark.parametrize(
    "solution", ["#### ", "#### Step 1\nfirst\n#### Step 2\nsecond", r"\boxed{1", r"\boxed{}"]
)
def test_a_solution_without_its_end_is_refused(solution):
    assert "expected" in refused({"answer": solution})
    assert read({"answer": solution}, {"answer": "answer:text"}).answer == solution.strip()


@given(number=st.integers(-(10**9), 10**9), steps=st.text(max_size=40))
@example(number=0, steps="####")
def test_any_number_comes_out_of_a_gsm8k_solution(number, steps):
    assert solution_answer(f"{steps}\n#### {number:,}")[0] == str(number)


@given(st.recursive(st.text("abc+ ", max_size=5), lambda t: t.map(lambda s: "{" + s + "}")))
def test_a_box_keeps_its_braces(inner):
    if inner.strip():
        assert solution_answer(rf"text \boxed{{{inner}}} text")[0] == inner.strip()


# Any choices survive


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).map(str.strip)
choice = texts.filter(bool) | st.sampled_from([*string.ascii_letters[:6], *"012345", "A) x", "[1]"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(choice, min_size=2, max_size=6, unique_by=lambda c: c.lower().strip(". ")), st.data()
)
def test_any_choice_is_read_back_or_refused(choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    row = {"choices": choices, "answer": choices[index]}
    for question in (read({**row, "answer_form": "text"}), read(row, {"answer": "answer:text"})):
        assert question.choices == tuple(choices)
        assert question.answer == choices[index]
    try:
        found = read(row)
    except RowError:
        return
    assert found.choices.index(found.answer) == index


@settings(deadline=None)
@given(
    st.lists(choice, min_size=2, max_size=6, unique_by=lambda c: c.lower().strip(". ")), st.data()
)
def test_a_label_names_its_choice_whatever_the_texts_are(choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    labels = list(string.ascii_uppercase[: len(choices)])
    row = {"choices": {"text": choices, "label": labels}, "answer": labels[index]}
    found = read(row)
    assert found.choices.index(found.answer) == index


# Tables


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.csv.gz"])
def test_tables_are_read(tmp_path, name):
    mark = "\t" if ".tsv" in name else ","
    lines = [
        mark.join(["id", "question", "a", "b", "c", "answer"]),
        mark.join(["1", '"Which melts,\nand ""why""?"', "rock", "snow", "", "B"]),
        "",
        mark.join(["2", "Which is hard?", "rock", "snow", "wax", "A"]),
    ]
    content = ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    one, two = load_questions(path, columns={"choices": "a,b,c"})
    assert one.question == 'Which melts,\nand "why"?'
    assert (one.id, one.choices, one.answer) == ("1", ("rock", "snow"), "snow")
    assert (two.choices, two.answer) == (("rock", "snow", "wax"), "rock")


def test_cells_hold_lists_and_booleans(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('question,choices,answer\nWhich?,"[""rock"", ""snow""]",snow\nCold?,,TRUE\n')
    one, two = load_questions(path)
    assert (one.choices, one.answer) == (("rock", "snow"), "snow")
    assert (two.choices, two.answer) == (("yes", "no"), "yes")


def test_cells_hold_lists_of_rationales(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text(
        "question,answer,rationales\n"
        """Cold?,yes,"['Ice is cold.', 'Snow is too.']"\n"""
        'Wet?,yes,"[""It rains.""]"\n'
        'Sorted?,no,"[3, 1] is not."\n'
    )
    found = [q.rationales for q in load_questions(path)]
    assert found == [("Ice is cold.", "Snow is too."), ("It rains.",), ("[3, 1] is not.",)]


def test_bad_rows_of_a_table_have_their_line(tmp_path):
    path = tmp_path / "q.csv"
    path.write_bytes(
        b'question,answer\n"two\nlines",1\nshort\n\xff,2\nmany,3,4\n"open,5\nnever closed\n'
    )
    with pytest.raises(BadRows) as error:
        load_questions(path)
    assert [(row.place, row.found) for row in error.value.rows] == [
        ("line 4", "1 cells"), ("line 5", "a byte that is not UTF-8"), ("line 6", "3 cells"),
        ("line 7", "a broken table (unexpected end of data)"),
    ]  # fmt: skip


@pytest.mark.parametrize("head", ["question;answer", "question,question", "question,"])
def test_a_table_without_column_names_is_refused(tmp_path, head):
    (tmp_path / "q.csv").write_text(head + "\nx,y\n")
    with pytest.raises(UserError, match="line 1: found"):
        load_questions(tmp_path / "q.csv")
    (tmp_path / "empty.csv").write_text("question,answer\n")
    with pytest.raises(BadRows, match="an empty file"):
        load_questions(tmp_path / "empty.csv")


# Chats


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


@pytest.mark.parametrize(
    ("asked", "reply", "answer", "rationales"),
    [
        ("Which? (A) rock (B) snow", "It is cold. So the answer is (B).", "snow", ("It is cold.",)),
        ("Which? (A) rock (B) snow", "B", "snow", ()),
        ("3 + 4?", "3 and 4 are seven in all, says Ann.\n#### 7", "7",
         ("3 and 4 are seven in all, says Ann.",)),
        ("Capital of France?", "Paris", "Paris", ()),
        ("Is ice cold?", "Yes.", "yes", ()),
    ],
)  # fmt: skip
def test_a_chat_is_a_question_and_its_solution(asked, reply, answer, rationales):
    row = chat(("system", "Be brief."), ("user", asked), ("assistant", reply), id=3)
    found = read_row(row, {}, "x").question
    assert (found.id, found.answer, found.rationales) == ("3", answer, rationales)
    assert found.extra == {"system": "Be brief."}
    share = {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": reply}]}
    assert read_row(share, {}, "x").question.answer == answer


def test_content_in_parts_and_an_answer_beside_the_chat():
    parts = [{"type": "text", "text": "3 + "}, {"type": "text", "text": "4?"}]
    row = chat(("user", parts), ("assistant", "Seven, as we all know, of course it is."))
    with pytest.raises(RowError, match="a reply without an answer sentence"):
        read_row(row, {}, "x")
    row["messages"][1]["content"] = "7"
    assert read_row(row, {}, "x").question.question == "3 + 4?"


@pytest.mark.parametrize(
    "row",
    [
        chat(("user", "a?")), chat(*[("user", "a?"), ("assistant", "b")] * 2),
        {"messages": []}, {"messages": ["a?"]}, {"messages": [{"role": "user"}]},
    ],
)  # fmt: skip
def test_other_chats_are_refused(row):
    with pytest.raises(RowError, match=r"message|question"):
        read_row(row, {}, "x")


# Folders


ROWS = [{"question": f"Which floats, {i}?", "choices": FOUR, "answer": "wax"} for i in range(30)]


def test_what_save_to_disk_left_has_its_splits(tmp_path):
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list(ROWS)
    parts = {"train": data, "validation": data.select(range(2)), "test": data.select([3])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    assert [len(load_questions(tmp_path / "set", s)) for s in ("train", "dev", "test")] == [
        30,
        2,
        1,
    ]
    assert load_questions(tmp_path / "set")[0].id == "set-train-00000"
    assert has_split(tmp_path / "set", "dev")
    with pytest.raises(UserError, match="no split 'unseen'"):
        load_questions(tmp_path / "set", "unseen")
    data.save_to_disk(tmp_path / "one")
    assert sum(len(load_questions(tmp_path / "one", s)) for s in ("train", "dev", "test")) == 30
    assert not has_split(tmp_path / "one", "test")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="save_to_disk"):
        load_questions(tmp_path / "one")


def test_a_clone_from_the_hub_has_its_shards_in_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("A set.")
    data = datasets.Dataset.from_list(ROWS)
    for i in range(2):
        data.select(range(15 * i, 15 * i + 15)).to_parquet(
            tmp_path / "data" / f"train-0000{i}-of-00002.parquet"
        )
    data.select([0]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert len(load_questions(tmp_path, "test")) == 1
    assert len(load_questions(tmp_path)) > 20
    assert has_split(tmp_path, "train")
