"""The sets that people use, by name: rows of their real shape (shortened) become questions."""

from __future__ import annotations

import pytest

from rationalize import load_questions
from rationalize.questions import BadRows, load_splits
from rationalize.questions.hub import find_set
from rationalize.questions.named import NAMED

KEYED = {"choices": {"text": ["tea", "ice"], "label": ["A", "B"]}, "answerKey": "B"}
ARC = {"id": "Mercury_{i}", "question": "Which {i}?", **KEYED}

# name -> a row as the hub has it, and what is read from it: choices, answer
ROWS = {
    "aqua": (
        {"question": "How much {i}?", "options": ["A)21", "B)21.5", "C)22", "D)2 : 5", "E)23"],
         "rationale": "Half of 43.\\nAnswer B", "correct": "B"},
        ("21", "21.5", "22", "2 : 5", "23"), "21.5",
    ),
    "arc": (ARC, ("tea", "ice"), "ice"),
    "arc-challenge": (ARC, ("tea", "ice"), "ice"),
    "arc-easy": (
        {**ARC, "choices": {"text": ["2", "4", "1"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        ("2", "4", "1"), "4",
    ),
    "boolq": (
        {"question": "is ice cold {i}", "answer": False, "passage": "Ice is water."},
        ("yes", "no"), "no",
    ),
    "commonsenseqa": (
        {"id": "c{i}", "question": "Where {i}?", "question_concept": "ice", **KEYED},
        ("tea", "ice"), "ice",
    ),
    "drop": (
        {"section_id": "nfl_1", "query_id": "q{i}", "passage": "Two and one.",
         "question": "How many {i}?",
         "answers_spans": {"spans": ["3", "three"], "types": ["number", "span"]}},
        None, "3",
    ),
    "e-snli": (
        {"premise": "A man sleeps {i}.", "hypothesis": "A man is awake.", "label": 2,
         "explanation_1": "Asleep is not awake.", "explanation_2": "", "explanation_3": ""},
        ("entailment", "neutral", "contradiction"), "contradiction",
    ),
    "ecqa": (
        {"q_no": "e{i}", "q_concept": "ice", "q_text": "What melts {i}?", "q_op1": "rock",
         "q_op2": "a", "q_op3": "ice", "q_op4": "b", "q_op5": "iron", "q_ans": "ice",
         "taskA_pos": "Ice melts.", "taskA_neg": "Rock does not.", "taskB": "Ice is water."},
        ("rock", "a", "ice", "b", "iron"), "ice",
    ),
    "gsm8k": (
        {"question": "How many {i}?", "answer": "It is 3+4=<<3+4=7>>7.\n#### 1,007"}, None, "1007",
    ),
    "hellaswag": (
        {"ind": 4, "activity_label": "Skating", "ctx_a": "A girl", "ctx_b": "she",
         "ctx": "A girl skates {i}. she", "endings": ["sits", "spins", "eats", "reads"],
         "source_id": "activitynet~v_1", "split": "train", "split_type": "indomain", "label": "3"},
        ("sits", "spins", "eats", "reads"), "reads",
    ),
    "math": (
        {"problem": "What is 1/2 + 1/4 ({i})?", "level": "Level 1", "type": "Algebra",
         "solution": "In quarters: $\\boxed{\\frac{3}{4}}$."},
        None, "\\frac{3}{4}",
    ),
    "mmlu": (
        {"question": "How many {i}?", "subject": "abstract_algebra",
         "choices": ["0", "4", "2", "6"], "answer": 1},
        ("0", "4", "2", "6"), "4",
    ),
    "numersense": (
        {"sentence": "<mask> legs {i}", "target": "two"},
        ("no", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
         "ten"),
        "two",
    ),
    "openbookqa": ({"id": "o{i}", "question_stem": "Which {i}?", **KEYED}, ("tea", "ice"), "ice"),
    "piqa": (
        {"goal": "Cool a drink {i}", "sol1": "add ice", "sol2": "add sand", "label": 0},
        ("add ice", "add sand"), "add ice",
    ),
    "qasc": (
        {"id": "a{i}", "question": "Which {i}?", "fact1": "f", "fact2": "g", "combinedfact": "h",
         "formatted_question": "Which {i}? (A) tea (B) ice", **KEYED},
        ("tea", "ice"), "ice",
    ),
    "quarel": (
        {"id": "u{i}", "answer_index": 1, "question": "Which {i}? (A) tea (B) ice",
         "logical_forms": ["x"]},
        ("tea", "ice"), "ice",
    ),
    "socialiqa": (
        {"context": "Kim fell {i}.", "question": "How is Kim?", "answerA": "hurt",
         "answerB": "glad", "answerC": "2", "label": "1"},
        ("hurt", "glad", "2"), "hurt",
    ),
    "strategyqa": (
        {"qid": "s{i}", "term": "Ice", "description": "Water.", "question": "Is ice cold {i}?",
         "answer": True, "facts": "Ice is frozen."},
        ("yes", "no"), "yes",
    ),
    "winogrande": (
        {"sentence": "Tea is warmer than ice {i}, so _ melts.", "option1": "tea", "option2": "ice",
         "answer": "2"},
        ("tea", "ice"), "ice",
    ),
}  # fmt: skip

RATIONALES = {
    "aqua": "Half of 43.\\nAnswer B", "e-snli": "Asleep is not awake.", "ecqa": "Ice is water.",
    "gsm8k": "It is 3+4=7.", "math": "In quarters: $\\boxed{\\frac{3}{4}}$.",
    "strategyqa": "Ice is frozen.",
}  # fmt: skip


def test_every_set_has_a_row_here():
    assert set(ROWS) == set(NAMED) - {"cot-collection"}


@pytest.mark.parametrize("name", ROWS)
def test_a_set_loads_by_its_name_in_any_case(monkeypatch, name):
    row, choices, answer = ROWS[name]
    asked = []

    def rows(start):
        return [
            {k: v.replace("{i}", str(i)) if isinstance(v, str) else v for k, v in row.items()}
            for i in range(start, start + 80)
        ]

    def load_dataset(*args, **options):
        asked.append((args, options))
        names = ("train", "validation", "test", "auxiliary_train")
        return {name: rows(100 * i) for i, name in enumerate(names)}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    splits = load_splits(name)
    hub = NAMED[name]
    assert asked == [((hub.id, hub.config), {"revision": hub.revision})]
    assert set(splits) == {"train", "dev", "test"}
    for question in splits["train"][:3] + splits["test"][:3]:
        assert (question.choices, question.answer) == (choices, answer)
        assert "(A)" not in question.question
    question = splits["train"][0]
    assert question.rationales == ((RATIONALES[name],) if name in RATIONALES else ())
    assert question.accepted == (("three",) if name == "drop" else ())
    assert bool(question.context) == (name in ("boolq", "drop", "e-snli", "socialiqa"))
    assert load_questions(name.upper(), "dev") == splits["dev"]


def test_a_set_is_known_by_its_address_too():
    assert find_set("openai/gsm8k") is NAMED["gsm8k"]
    assert find_set("allenai/ai2_arc:ARC-Easy") is NAMED["arc-easy"]
    assert find_set("openai/gsm8k:socratic").columns == {}


@pytest.mark.parametrize(
    ("name", "changed"),
    [("hellaswag", {"label": ""}), ("piqa", {"label": -1}), ("socialiqa", {"label": ""}),
     ("e-snli", {"label": -1}), ("winogrande", {"answer": ""}), ("arc", {"answerKey": ""}),
     ("gsm8k", {"answer": "It is 7."}), ("math", {"solution": "It is 1."})],
)  # fmt: skip
def test_a_row_without_its_label_is_refused(monkeypatch, name, changed):
    bad = {**ROWS[name][0], **changed}
    rows = {"train": [bad], "validation": [], "test": []}
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: rows)
    with pytest.raises(BadRows, match="row 1: found"):
        load_questions(name)
