"""The sets that people use, by name: where the hub has each, and what its columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rationalize.questions.columns import Columns

_NUMBER_WORDS = (
    "no", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"
)  # fmt: skip
_STANDARD = {"train": "train", "dev": "validation", "test": "test"}
_LABELLED = {"train": "train", "test": "validation"}
"""Of sets whose test labels are not public: the validation split is the test, and dev is cut from
train.
"""
_CONVERTED = "refs/convert/parquet"
"""The hub's own conversion, of sets that are a loading script: `datasets` runs none any more."""


@dataclass(frozen=True)
class HubSet:
    """A set's address on the hub, and the meaning of its columns."""

    id: str
    columns: Columns = field(default_factory=dict)
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_STANDARD))
    """Our split -> theirs; a missing dev or test is cut from train."""
    choices: tuple[str, ...] | None = None
    """Choices of every question, for a set without a column of choices."""


_KEYED: Columns = {
    "choices": "choices.text",
    "labels": "choices.label",
    "answer": "answerKey:label",
}


def _arc(config: str) -> HubSet:
    return HubSet("allenai/ai2_arc", _KEYED, config)


NAMED = {
    # elementary and commonsense science, choices with labels
    "arc": _arc("ARC-Challenge"),
    "arc-challenge": _arc("ARC-Challenge"),
    "arc-easy": _arc("ARC-Easy"),
    "commonsenseqa": HubSet("tau/commonsense_qa", _KEYED, splits=_LABELLED),
    "openbookqa": HubSet("allenai/openbookqa", {"question": "question_stem", **_KEYED}, "main"),
    "qasc": HubSet("allenai/qasc", _KEYED, splits=_LABELLED),
    # choices in columns or lists, the right one by its position
    "hellaswag": HubSet(
        "Rowan/hellaswag",
        {
            "question": "ctx",
            "choices": "endings",
            "answer": "label:index",
            "kind": "activity_label",
        },
        splits=_LABELLED,
    ),
    "mmlu": HubSet(
        "cais/mmlu",
        {"answer": "answer:index", "kind": "subject"},
        "all",
        splits={"train": "auxiliary_train", "dev": "validation", "test": "test"},
    ),
    "piqa": HubSet(
        "ybisk/piqa",
        {"question": "goal", "choices": "sol1,sol2", "answer": "label:index"},
        revision=_CONVERTED,
        splits=_LABELLED,
    ),
    "socialiqa": HubSet(
        "allenai/social_i_qa",
        {"choices": "answerA,answerB,answerC", "answer": "label:number"},
        revision=_CONVERTED,
        splits=_LABELLED,
    ),
    "winogrande": HubSet(
        "allenai/winogrande",
        {"question": "sentence", "choices": "option1,option2", "answer": "answer:number"},
        "winogrande_xl",
        splits=_LABELLED,
    ),
    "quarel": HubSet("community-datasets/quarel", {"answer": "answer_index:index"}),
    # yes and no
    "boolq": HubSet("google/boolq", {"context": "passage"}, splits=_LABELLED),
    "strategyqa": HubSet(
        "ChilleD/StrategyQA",
        {"id": "qid", "rationale": "facts"},
        splits={"train": "train", "test": "test"},
    ),
    # with rationales that people wrote
    "aqua": HubSet("deepmind/aqua_rat", {"choices": "options", "answer": "correct:letter"}, "raw"),
    "ecqa": HubSet(
        "tasksource/ecqa",
        {
            "id": "q_no",
            "question": "q_text",
            "choices": "q_op1,q_op2,q_op3,q_op4,q_op5",
            "answer": "q_ans:text",
            "rationale": "taskB",
        },
    ),
    "e-snli": HubSet(
        "esnli/esnli",
        {
            "question": "hypothesis",
            "context": "premise",
            "answer": "label:index",
            "rationales": "explanation_1,explanation_2,explanation_3",
        },
        revision=_CONVERTED,
        choices=("entailment", "neutral", "contradiction"),
    ),
    # free-form answers
    "drop": HubSet(
        "ucinlp/drop",
        {"id": "query_id", "context": "passage", "answer": "answers_spans.spans"},
        splits=_LABELLED,
    ),
    "gsm8k": HubSet(
        "openai/gsm8k",
        {"answer": "answer:solution"},
        "main",
        splits={"train": "train", "test": "test"},
    ),
    "math": HubSet(
        "DigitalLearningGmbH/MATH-lighteval",
        {"question": "problem", "answer": "solution:solution", "kind": "type"},
        splits={"train": "train", "test": "test"},
    ),
    # the test labels are not public, and the labelled validation file is not on the hub
    "numersense": HubSet(
        "INK-USC/numer_sense",
        {"question": "sentence", "answer": "target"},
        revision=_CONVERTED,
        splits={"train": "train"},
        choices=_NUMBER_WORDS,
    ),
    # 1.84 million instructions with rationales, for COALITION's tuning: use `load_sample`
    "cot-collection": HubSet(
        "kaist-ai/CoT-Collection",
        {"question": "source", "answer": "target:text", "kind": "task"},
        revision=_CONVERTED,
        splits={"train": "train"},
    ),
}
"""Name -> set; where the hub has other sets under one id, one name each."""
