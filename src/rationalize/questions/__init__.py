"""Load questions, split them, find duplicates among them. No torch here."""

from rationalize.questions.bad_rows import BadRow, BadRows
from rationalize.questions.builtin import builtin_questions
from rationalize.questions.load import (
    ReferenceRationale,
    load_questions,
    load_reference_rationales,
    load_sample,
    load_splits,
)
from rationalize.questions.splits import (
    check_overlap,
    group_duplicates,
    hold_out,
    same_question_key,
    without_repeats,
)

__all__ = [
    "BadRow",
    "BadRows",
    "ReferenceRationale",
    "builtin_questions",
    "check_overlap",
    "group_duplicates",
    "hold_out",
    "load_questions",
    "load_reference_rationales",
    "load_sample",
    "load_splits",
    "same_question_key",
    "without_repeats",
]
