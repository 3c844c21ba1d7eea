"""Questions from every kind of source, and every kind of bad row."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rationalize.errors import UsageError, UserError
from rationalize.questions import (
    BadRows,
    check_overlap,
    load_questions,
    load_reference_rationales,
    load_sample,
    load_splits,
)
from rationalize.questions.choices import cut_choices
from rationalize.records import Question

SHARED = Path(__file__).parents[2] / "shared" / "data"
ROW = {"id": "q1", "question": "Which is colder?", "choices": ["tea", "ice"], "answer": "ice"}
FREE = {"id": "q2", "question": "How many?", "choices": None, "answer": 43.0}


def write(path, *rows):
    """Rows as JSONL; text and bytes stand as they are."""
    lines = [
        r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode()
        for r in rows
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def problem(path, **options):
    """The one bad row of a file."""
    with pytest.raises(BadRows) as error:
        load_questions(path, **options)
    assert error.value.count == 1
    return error.value.rows[0]


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("the shared question sets are not here")
    return SHARED


def test_a_row_becomes_a_question(tmp_path):
    row = {
        **ROW, "context": "It is winter.", "rationales": ["Ice is frozen.", " Tea is hot. "],
        "rationale": "By hand.", "kind": "physics", "teacher": "gpt3",
        "rationales_wrong": [{"rationale": "x"}],
    }  # fmt: skip
    assert load_questions(write(tmp_path / "q.jsonl", row, FREE)) == [
        Question(
            id="q1",
            question="Which is colder?",
            answer="ice",
            choices=("tea", "ice"),
            context="It is winter.",
            rationales=("Ice is frozen.", "Tea is hot."),
            kind="physics",
            extra={
                "teacher": "gpt3",
                "rationales_wrong": [{"rationale": "x"}],
                "rationale": "By hand.",
            },
        ),
        Question(id="q2", question="How many?", answer="43"),
    ]


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.json", "q.parquet"])
def test_formats_hold_the_same(tmp_path, name):
    rows = [{**ROW, "id": f"q{i}", "rationale": "Cold."} for i in range(3)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        write(path, *rows)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    questions = load_questions(path)
    assert [q.id for q in questions] == ["q0", "q1", "q2"]
    assert questions[0].rationales == ("Cold.",)
    assert questions[0].extra == {}
    assert load_questions(path, limit=2) == questions[:2]


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = write(
        tmp_path / "q.jsonl", b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r", b"", FREE
    )
    assert len(load_questions(path)) == 2


@pytest.mark.parametrize("indent", [None, 2])
def test_released_files_are_one_object_and_merge_by_question(tmp_path, indent):
    text = "Which is colder? (A) tea (B) ice"
    document = {
        "0": {"question": text, "rationale": "Ice is frozen.", "answer": "(B)"},
        "1": {"question": text, "rationale": "Tea is hot.", "answer": "(B)"},
        "2": {"question": "Is ice cold?", "rationale": "dummy", "answer": "yes"},
        "3": {"question": "Sand is (a) wet (b) dry or so (c) blue", "rationale": "r", "answer": "(c)"},
        "4": {"question": "<mask> legs \n (A) no (B) one", "rationale": "So the answer is (A).", "answer": "(A)"},
    }  # fmt: skip
    (tmp_path / "train.jsonl").write_text(json.dumps(document, indent=indent))
    first, second, third, fourth = load_questions(tmp_path / "train.jsonl")
    assert first.question == "Which is colder?"
    assert first.choices == ("tea", "ice")
    assert first.answer == "ice"
    assert first.rationales == ("Ice is frozen.", "Tea is hot.")
    assert (second.choices, second.answer, second.rationales) == (("yes", "no"), "yes", ())
    assert third.choices == ("wet", "dry or so", "blue")
    assert (fourth.question, fourth.answer, fourth.rationales) == ("<mask> legs", "no", ())


def test_choices_are_cut_from_text():
    assert cut_choices("Is it (A) more or (B) less?") == ("Is it", ("more", "less?"))
    assert cut_choices("Line (a) of (A) x (B) y") == ("Line (a) of", ("x", "y"))
    assert cut_choices("No list (A) here") is None
    assert cut_choices("(A) x (B) y") is None
    assert cut_choices("Empty (A) (B) y") is None


def test_rationales_that_hold_the_answer_are_left_out_and_counted(tmp_path, caplog):
    row = {
        **ROW,
        "rationales": ["Cold. So the answer is (B).", "Cold. so the answer is: ice", "Fine."],
    }
    assert load_questions(write(tmp_path / "q.jsonl", row))[0].rationales == ("Fine.",)
    assert "left out 2 rationales" in caplog.text


@pytest.mark.parametrize(
    ("row", "columns", "answer"),
    [
        ({"stem": "?", "o": {"text": ["a", "b"]}, "key": "B"}, {"question": "stem", "choices": "o.text", "answer": "key"}, "b"),
        ({"q": {"stem": "?", "choices": [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]}, "key": "2"},
         {"question": "q.stem", "choices": "q.choices.text", "labels": "q.choices.label", "answer": "key"}, "b"),
        ({"question": "?", "choices": {"text": ["a", "b"], "label": ["C", "D"]}, "answer": "D"}, {}, "b"),
        ({"question": "?", "choices": [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}], "answer": "1"}, {}, "a"),
        ({"question": "?", "sol1": "a", "sol2": "b", "label": 1}, {"choices": "sol1,sol2", "answer": "label"}, "b"),
        ({"question": "?", "o1": "a", "o2": "b", "answer": "2"}, {"choices": ["o1", "o2"], "answer": "answer:number"}, "b"),
        ({"question": "?", "choices": ["1", "2", "0"], "answer": 1}, {"answer": "answer:index"}, "2"),
        ({"question": "?", "choices": ["1", "2", "0"], "answer": 1}, {"answer": "answer:text"}, "1"),
        ({"question": "?", "choices": ["b", "a"], "answer": "A"}, {"answer": "answer:letter"}, "b"),
        ({"question": "?", "choices": ["b", "a"], "answer": "A"}, {"answer": "answer:text"}, "a"),
        ({"question": "?", "choices": ["x", "y"], "answer": "(b)"}, {}, "y"),
        ({"question": "?", "answer": True}, {}, "yes"),
        ({"question": "? (A) x (B) y", "at": 1}, {"answer": "at:index"}, "y"),
        ({"a.b": "?", "answer": 4}, {"question": "a.b"}, "4"),
    ],
)  # fmt: skip
def test_columns_and_the_forms_of_an_answer(tmp_path, row, columns, answer):
    assert load_questions(write(tmp_path / "q.jsonl", row), columns=columns)[0].answer == answer


def test_a_mapping_that_cannot_be_meant_is_refused(tmp_path):
    path = write(tmp_path / "q.jsonl", ROW)
    with pytest.raises(UsageError, match="did you mean 'answer'"):
        load_questions(path, columns={"anwser": "key"})
    with pytest.raises(UserError, match="no row has 'why'"):
        load_questions(path, columns={"rationale": "why"})


BAD = [
    (b'{"id": "\xff"}', "a byte that is not UTF-8 (0xff at byte 9)", "text in UTF-8"),
    ('{"id": "q1"', "broken JSON", "one JSON object a line"),
    ("[1, 2]", "[1, 2]", "one JSON object a line"), ("[" * 200_000, "", "JSON object"),
    ('"text"', "'text'", "one JSON object a line"),
    ({**ROW, "question": None}, "no question", "'question'"),
    ({**ROW, "question": "  "}, "an empty question", "text"),
    ({**ROW, "question": 3}, "3 as question", "text"),
    ({**ROW, "question": "\ud800"}, "an unpaired surrogate in the question", "valid Unicode"),
    ({**ROW, "choices": ["tea", "ice\udfff"]}, "an unpaired surrogate in the choice", "valid Unicode"),
    ({"question": "?"}, "no answer (columns: 'question')", "'answer'"),
    ({**ROW, "answer": ""}, "no answer", "'answer'"),
    ({**ROW, "answer": "snow"}, "the answer 'snow'", "one of ['tea', 'ice']"),
    ({**ROW, "answer": "C"}, "the answer 'C'", "one of ['tea', 'ice']"),
    ({**ROW, "answer": 2}, "the answer 2", "one of ['tea', 'ice']"),
    ({**ROW, "choices": ["1", "0"], "answer": 1}, "a choice's text and another's position", "answer=COLUMN:index"),
    ({**ROW, "answer": ["ice"]}, "['ice'] as answer", "text"),
    ('{"question": "?", "answer": NaN}', "nan", "text"),
    ('{"question": "?", "answer": ' + "9" * 4000 + "}", "more than 300 digits", "number"),
    ({**ROW, "choices": ["ice", "tea", "Ice."]}, "the right choice 'ice' twice", "unlike the others"),
    ({**ROW, "choices": ["ice"]}, "1 choices", "2 to 26"),
    ({**ROW, "choices": [str(i) for i in range(27)], "answer": "1"}, "27 choices", "2 to 26"),
    ({**ROW, "choices": ["ice", " "]}, "an empty choice", "text in every choice"),
    ({**ROW, "choices": "tea, ice"}, "choices that are 'tea, ice'", "a list of texts"),
    ({**ROW, "choices": {"words": ["a", "b"]}}, "choices without text", "a list of texts"),
    ({**ROW, "rationale": 3}, "3 as rationale", "text"),
    ({**ROW, "context": ["x"]}, "['x'] as context", "text"),
    ({**ROW, "id": ["x"]}, "['x'] as id", "text"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "found", "expected"), BAD)
def test_bad_rows_are_found(tmp_path, row, found, expected):
    good = {**ROW, "id": "good"}
    path = write(tmp_path / "q.jsonl", good, row)
    bad = problem(path)
    assert (bad.file, bad.place) == (str(path), "line 2")
    assert found in bad.found
    assert expected in bad.expected
    assert len(str(bad)) < 500
    assert len(load_questions(path, skip_bad_rows=tmp_path / "bad.jsonl")) == 1


def test_a_second_id_and_a_second_answer_are_bad(tmp_path):
    again = {**ROW, "question": "Other?"}
    assert "'q1' a second time" in problem(write(tmp_path / "q.jsonl", ROW, again)).found
    rows = [{k: v for k, v in {**ROW, "answer": a}.items() if k != "id"} for a in ("ice", "tea")]
    assert "'tea' to a question that was 'ice'" in problem(write(tmp_path / "r.jsonl", *rows)).found


def test_wrong_choices_may_repeat(tmp_path):
    row = {**ROW, "choices": ["tea", "ice", "tea"]}
    assert load_questions(write(tmp_path / "q.jsonl", row))[0].choices == ("tea", "ice", "tea")


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.json", "q.parquet"])
def test_empty_and_damaged_files_are_said(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    assert problem(path).found.startswith(("an empty file", "a damaged file"))
    path.write_bytes(gzip.compress(json.dumps(ROW).encode() * 500)[:-20])
    with pytest.raises(BadRows, match=r"a damaged file|broken JSON|not UTF-8"):
        load_questions(path)
    with pytest.raises(UserError):
        load_questions(path, skip_bad_rows=tmp_path / "bad.jsonl")


def test_parquet_text_that_is_not_utf8_is_one_bad_row(tmp_path):
    raw = pa.array([b"a", b"b", b"\xff", b"d"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    table = pa.table({"question": texts, "answer": ["1", "2", "3", "4"]})
    pq.write_table(table, tmp_path / "q.parquet")
    assert problem(tmp_path / "q.parquet").place == "row 3"


def test_columns_of_other_names_are_suggested(tmp_path):
    path = write(
        tmp_path / "q.jsonl", {"Query": "?", "A": "ice", "B": "tea", "key": "A", "cot": "x"}
    )
    asked = "--columns question=Query choices=A,B answer=key rationales=cot"
    assert problem(path).expected.endswith(f"here perhaps {asked}")
    columns = {"question": "query", "choices": "A,B", "answer": "key"}
    assert problem(path, columns=columns).expected.endswith("did you mean 'Query'?")
    assert load_questions(path, columns={**columns, "question": "Query"})[0].answer == "ice"


def test_the_first_ten_are_listed_and_all_are_counted(tmp_path):
    path = write(tmp_path / "q.jsonl", *[{**ROW, "id": i, "answer": "no"} for i in range(25)])
    with pytest.raises(BadRows) as error:
        load_questions(path)
    text = str(error.value)
    assert text.startswith("25 bad rows (the first 10 follow):")
    answer = "found the answer 'no'; expected one of ['tea', 'ice']"
    assert f"{path}, line 1 to line 10: {answer}" in text
    assert "line 11" not in text
    assert "--skip-bad-rows FILE" in text


def test_skipped_rows_are_said_and_written(tmp_path, caplog):
    skipped = tmp_path / "bad" / "rows.jsonl"
    one = write(tmp_path / "one.jsonl", ROW, '{"id": "q2"', {**FREE, "answer": None})
    two = write(tmp_path / "two.jsonl", ROW, b"\xff")
    for path in (one, two, one):
        assert [q.id for q in load_questions(path, skip_bad_rows=skipped)] == ["q1"]
    assert f"left out 2 bad rows of {one}, listed in {skipped}" in caplog.text
    rows = [json.loads(line) for line in skipped.read_text().splitlines()]
    assert [(r["file"], r["place"]) for r in rows] == [
        (str(two), "line 2"), (str(one), "line 2"), (str(one), "line 3"),
    ]  # fmt: skip
    assert rows[1]["row"] == '{"id": "q2"'


def test_skipped_rows_overwrite_nothing_else(tmp_path):
    path = write(tmp_path / "q.jsonl", ROW, "{")
    with pytest.raises(UserError, match="not a list of bad rows"):
        load_questions(path, skip_bad_rows=path)
    assert path.read_text().startswith('{"id"')


def test_skipped_rows_go_where_a_folder_can_be(tmp_path):
    path = write(tmp_path / "q.jsonl", ROW, "{")
    with pytest.raises(UserError, match=r"q\.jsonl: the folder cannot be made"):
        load_questions(path, skip_bad_rows=path / "x")


def test_megabytes_and_control_characters_are_text(tmp_path):
    big = {**ROW, "question": "x" * 3_000_000}
    odd = {**ROW, "id": "q2", "question": "a\x00b\x1b[31m\u202ec\u2028d"}
    broken = '{"question": "' + "y" * 3_000_000
    path = write(tmp_path / "q.jsonl", big, odd, broken)
    bad = problem(path)
    assert bad.place == "line 3"
    assert len(str(bad)) < 300
    questions = load_questions(path, skip_bad_rows=tmp_path / "bad.jsonl")
    assert len(questions[0].question) == 3_000_000
    assert questions[1].question == odd["question"]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v), max_leaves=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    row=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("id", "question", "choices", "answer", "rationale", "rationales", "context", "kind"), values)
    )
)  # fmt: skip
def test_any_row_is_a_question_or_a_bad_row(tmp_path, row):
    path = write(tmp_path / "q.jsonl", ROW, {**row, "id": row.get("id", "other")})
    try:
        questions = load_questions(path)
    except BadRows as error:
        str(error).encode()
        return
    for question in questions:
        assert question.choices is None or question.answer in question.choices


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(), name=st.sampled_from(["q.jsonl", "q.json", "q.parquet", "q.jsonl.gz"]))
def test_any_bytes_are_refused_without_a_traceback(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        load_questions(tmp_path / name)


def folder(path, **splits):
    path.mkdir()
    for name, questions in splits.items():
        write(path / f"{name}.jsonl", *[{"id": f"{name}{i}", "question": q, "answer": "1"} for i, q in enumerate(questions)])  # fmt: skip
    return path


def test_a_folder_has_splits(tmp_path):
    source = folder(tmp_path / "set", train=["a?", "b?"], validation=["c?"], test=["d?"])
    assert [q.question for q in load_questions(source)] == ["a?", "b?"]
    assert [q.question for q in load_questions(source, "dev")] == ["c?"]
    assert {s: len(q) for s, q in load_splits(source).items()} == {"train": 2, "dev": 1, "test": 1}
    with pytest.raises(UserError, match="no file for the split 'unseen'"):
        load_questions(source, "unseen")
    write(source / "train.json", ROW)
    with pytest.raises(UserError, match=r"in train\.json and in train\.jsonl; expected one file"):
        load_questions(source)


def test_ids_that_two_splits_share_get_the_name_of_their_split(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.jsonl", {"id": 0, "question": f"{name}?", "answer": 1})
    assert [q.id for part in load_splits(tmp_path).values() for q in part] == [
        "train-0", "dev-0", "test-0",
    ]  # fmt: skip


def test_shards_are_read_in_order(tmp_path):
    for i in range(2):
        write(tmp_path / f"train-0000{i}-of-00002.jsonl", {**ROW, "id": i})
    assert [q.id for q in load_questions(tmp_path)] == ["0", "1"]


def test_missing_splits_are_cut_alike_every_time(tmp_path, caplog):
    path = write(
        tmp_path / "all.jsonl", *[{"question": f"{i} + 1?", "answer": i + 1} for i in range(400)]
    )
    splits = load_splits(path)
    assert {s: len(q) for s, q in splits.items()} == {"train": 314, "dev": 44, "test": 42}
    assert "all.jsonl has no dev or test" in caplog.text
    assert "(314 train, 44 dev, 42 test)" in caplog.text
    assert len(load_questions(path)) == 400
    (tmp_path / "set").mkdir()
    path.rename(tmp_path / "set" / "train.jsonl")
    parts = {split: load_questions(tmp_path / "set", split) for split in ("train", "dev", "test")}
    texts = {s: [q.question for q in part] for s, part in parts.items()}
    assert texts == {s: [q.question for q in part] for s, part in splits.items()}


def test_a_small_file_gives_each_split_a_tenth(tmp_path, caplog):
    rows = [{"question": f"{i} + 1?", "answer": i + 1} for i in range(30)]
    splits = load_splits(write(tmp_path / "all.jsonl", *rows))
    assert {s: len(q) >= 3 for s, q in splits.items()} == dict.fromkeys(splits, True)
    assert len({q.question for part in splits.values() for q in part}) == 30
    assert f"An accuracy of {len(splits['test'])} test questions is open by" in caplog.text
    again = load_splits(write(tmp_path / "again.jsonl", *rows[::-1]))
    assert {s: {q.question for q in part} for s, part in again.items()} == {
        s: {q.question for q in part} for s, part in splits.items()
    }
    three = load_splits(write(tmp_path / "three.jsonl", *rows[:3]))
    assert [len(part) for part in three.values()] == [1, 1, 1]
    with pytest.raises(UserError, match="no usable question for 'dev'"):
        load_splits(write(tmp_path / "two.jsonl", *rows[:2]))


def test_one_question_in_two_splits_is_refused_or_left_out_of_the_earlier(tmp_path):
    source = folder(tmp_path / "set", train=["a?", "B  ?"], dev=["b ?", "c?"], test=["C?", "d?"])
    with pytest.raises(UserError, match="2 questions are in two splits") as error:
        load_splits(source)
    assert "'train1' of train is 'dev0' of dev: 'B  ?'" in str(error.value)
    splits = load_splits(source, skip_bad_rows=tmp_path / "bad.jsonl")
    assert {s: [q.id for q in part] for s, part in splits.items()} == {
        "train": ["train0"], "dev": ["dev0"], "test": ["test0", "test1"],
    }  # fmt: skip
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2


def test_overlap_looks_at_context_question_and_choices_in_any_order():
    def question(**changes):
        return Question(
            **{"id": "x", "question": "Who?", "answer": "a", "choices": ("a", "b"), **changes}
        )

    train = [question()]
    check_overlap({"train": train, "dev": [question(choices=("a", "c"))]})
    check_overlap({"train": train, "dev": [question(context="Once.")]})
    check_overlap({"train": train * 2, "dev": []})
    for twin in (question(choices=("B", "a")), question(question=" who? "), question(answer="b")):
        with pytest.raises(UserError, match="'x' of train is 'x' of test"):
            check_overlap({"train": train, "dev": [], "test": [twin]})


def test_overlap_names_ten():
    train = [Question(id=str(i), question=f"{i}?", answer="1") for i in range(12)]
    with pytest.raises(
        UserError, match=r"12 questions are in two splits \(the first 10 follow\)"
    ) as error:
        check_overlap({"train": train, "test": train})
    assert len(str(error.value).splitlines()) == 12


def test_builtin_questions_by_name():
    splits = load_splits("builtin:train=12,dev=4,test=4,unseen=2,seed=3")
    assert {s: len(q) for s, q in splits.items()} == {"train": 12, "dev": 4, "test": 4, "unseen": 2}
    assert load_questions("builtin:dev=4,seed=3", "dev") == splits["dev"]
    assert len(load_questions("builtin", "test")) == 120
    with pytest.raises(UsageError, match="did you mean 'train'"):
        load_questions("builtin:trian=3")
    with pytest.raises(UsageError, match="expected a number"):
        load_questions("builtin:train=many")
    with pytest.raises(UserError, match="no split 'validation'"):
        load_questions("builtin", "validation")


def test_what_is_nowhere_is_said(tmp_path):
    with pytest.raises(UserError, match="did you mean 'quarel'"):
        load_questions("quarrel")
    with pytest.raises(UserError, match="no such file"):
        load_questions(tmp_path / "none.jsonl")
    write(tmp_path / "quiz.jsonl", ROW)
    with pytest.raises(UserError, match=r"did you mean '.*quiz\.jsonl'"):
        load_questions(tmp_path / "quiz.json")
    with pytest.raises(UserError, match=r"Or name .*quiz\.jsonl itself, which is cut into splits"):
        load_questions(tmp_path)
    (tmp_path / "q.txt").write_text("x")
    with pytest.raises(UserError, match="cannot tell its format"):
        load_questions(tmp_path / "q.txt")


def test_a_sample_of_the_cot_collection_is_drawn_before_it_is_read(monkeypatch):
    rows = [
        {"source": f"Do: {i}", "target": "t", "rationale": f"r{i}", "task": "nli", "type": "Flan"}
        for i in range(50)
    ]
    stored = Dataset.from_list(rows)
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: {"train": stored})
    read = load_sample("cot-collection", 10, seed=3)
    assert len(read) == 10
    assert {q.question for q in read} < {row["source"] for row in rows}
    assert [q.question for q in read] != [row["source"] for row in rows[:10]]
    assert all(q.rationales == (f"r{q.question[4:]}",) and q.kind == "nli" for q in read)
    assert load_sample("cot-collection", 10, seed=3) == read
    assert len(load_sample("cot-collection")) == 50  # no tenth is cut off


def test_a_sample_of_a_file_and_of_the_built_in_questions(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"id": i, "question": f"{i}?", "answer": "yes"} for i in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = load_sample(file, 4)
    assert len(drawn) == 4
    assert {q.id for q in drawn} < {str(row["id"]) for row in rows}
    assert len(load_sample(file, 20)) == 9
    assert len(load_sample("builtin:train=20", 5)) == 5


def test_other_hub_sets_load_by_id_and_mapping(monkeypatch):
    rows = [{"stem": f"{i}?", "key": "B", "o": {"text": ["tea", "ice"]}} for i in range(50)]
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *a, **k: {"train": rows, "validation": rows[:1]}
    )
    columns = {"question": "stem", "choices": "o.text", "answer": "key"}
    (question,) = load_questions("owner/name:config", "dev", columns=columns)
    assert (question.id, question.answer) == ("name-dev-00000", "ice")
    assert load_questions("owner/name", "test", columns=columns)
    bad = {"question": "stem", "choices": "o.text", "answer": "key:index"}
    with pytest.raises(BadRows, match=r"owner/name \[dev\], row 1: found the answer 'B' as index"):
        load_questions("owner/name", "dev", columns=bad)


def test_a_hub_out_of_reach_is_said(monkeypatch):
    def unreachable(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(UserError, match=r"community-datasets/quarel cannot be loaded \(no route\)"):
        load_questions("quarel")


def test_every_shared_file_loads(shared):
    files = sorted(p for p in shared.glob("*/*.jsonl*"))
    assert files
    for path in files:
        if path.name.startswith("reference_rationales"):
            rationales = load_reference_rationales(path)
            assert {r.model for r in rationales} >= {"gpt3", "llama-7b"}
        else:
            questions = load_questions(path)
            assert all(q.choices is None or q.answer in q.choices for q in questions)


@pytest.mark.parametrize(
    ("name", "train", "with_rationale"),
    [("quarel", 1930, 1757), ("numersense", 9833, 4410), ("qasc", 698, 0), ("gsm8k", 6927, 6927)],
)
def test_shared_sets_have_the_counts_that_they_say(shared, name, train, with_rationale):
    splits = load_splits(shared / name)
    assert len(splits["train"]) == train
    assert sum(bool(q.rationales) for q in splits["train"]) == with_rationale


def test_the_upstream_overlap_of_openbookqa_is_found(shared, tmp_path):
    with pytest.raises(UserError, match="7 questions are in two splits"):
        load_splits(shared / "openbookqa")
    splits = load_splits(shared / "openbookqa", skip_bad_rows=tmp_path / "bad.jsonl")
    assert len(splits["train"]) == 4931 - 7


def test_reference_rationales_of_another_shape_are_refused(tmp_path):
    row = {"id": "q", "model": "m", "rationale": "r", "predicted": None, "correct": False}
    path = write(tmp_path / "r.jsonl", row, {**row, "correct": "no"})
    with pytest.raises(BadRows, match="line 2: found correct: 'no'; expected bool"):
        load_reference_rationales(path)
    (kept,) = load_reference_rationales(path, skip_bad_rows=tmp_path / "bad.jsonl")
    assert kept.predicted is None
