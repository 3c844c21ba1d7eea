"""What a leak control leaves COALITION's judge to read.

    python experiments/leak_control.py                    # or --taught conclusion

M_IFT learns from the first 140 of 300 built-in questions to answer alone and from a teacher's
rationale, and judges the others: without a rationale, with one that led to the gold answer, and
with a bare claim of the gold or of the other answer. `none`, `mask`: as `candidates.leak` has them.
`conclusion` masks answers in the last clause that names one and in clauses that say no more, so
that premises stay. It is taught on rationales as they are, or on half of them under a control.

Stores experiments/results/leak_control.json; six minutes a judge on one core.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tables import write_tables

from rationalize.environment import environment
from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.methods.coalition.config import InstructionConfig
from rationalize.methods.coalition.tuning import counts_of, mode_rows, tuning_steps
from rationalize.models.answer_texts import answer_prompt, gold_text
from rationalize.models.choices import ChoiceScorer
from rationalize.models.policy import Policy, load_policy
from rationalize.models.scorers import AnswerFold, AnswerScorer
from rationalize.questions import load_questions
from rationalize.records import Question
from rationalize.rewards.mentions import masked
from rationalize.runs import Run
from rationalize.runs.stage import Stage
from rationalize.sampling.writing import teacher_attempts
from rationalize.text import words
from rationalize.training.batches import RowMaker, mixed_batch
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import nll

CONFIG = InstructionConfig(
    epochs=1.5, fit=FitConfig(learning_rate=3e-4, batch_size=8),
    shares={"rationale": 0.35, "answer_from_rationale": 0.55, "answer": 0.1},
)  # fmt: skip
EMPTY = set(
    words(
        "so then first we get want that and therefore thus hence it is the a an which this must "
        "be now"
    )
)


def conclusion(text: str, question: Question) -> str:
    """The text without the answer in its conclusion, and in clauses that say no more than it.

    >>> q = Question("1", "Is the shed warmer?", "warmer", choices=("warmer", "colder"))
    >>> conclusion("Shed: warmer; tower: colder; so shed: warmer.", q)
    'Shed: ___; tower: colder; so shed: ___.'
    """
    choices = question.choices or ()
    clauses = re.split(r"(?<=[,;.!?])\s+|\n+", text.strip())
    named = [i for i, clause in enumerate(clauses) if masked(clause, choices) != clause]
    last = _content(clauses[named[-1]]) if named else set()
    return " ".join(
        masked(clause, choices) if i in named and _content(clause) <= last else clause
        for i, clause in enumerate(clauses)
    )


def _content(clause: str) -> set[str]:
    return set(words(clause)) - EMPTY


Control = Callable[[str, Question], str]
CONTROLS: Mapping[str, Control] = {
    "none": lambda text, question: text,
    "mask": lambda text, question: masked(text, question.choices or ()),
    "conclusion": conclusion,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taught", nargs="*", default=["none"], choices=list(CONTROLS))
    args = parser.parse_args()
    questions = load_questions("builtin:train=300,dev=4,test=4,unseen=0", "train")
    random.Random(0).shuffle(questions)
    told: dict[str, str] = {}
    for attempt in teacher_attempts(questions[140:], "correct"):
        told.setdefault(attempt.question_id, attempt.rationale)
    held = [q for q in questions[140:] if q.id in told]
    rows = []
    for taught in args.taught:
        judge = judge_taught(questions[:140], CONTROLS[taught], taught)
        alone = judge.utilities(held, [None] * len(held))
        for name, control in CONTROLS.items():
            claims = [f"We look at how it works: {q.answer}." for q in held]
            others = [
                f"We look at how it works: {next(c for c in q.choices or () if c != q.answer)}."
                for q in held
            ]
            read = {
                said: judge.utilities(
                    held, [control(text, q) for text, q in zip(texts, held, strict=True)]
                )
                for said, texts in (
                    ("teacher", [told[q.id] for q in held]), ("claim", claims), ("other", others)
                )
            }  # fmt: skip
            rows.append({
                "taught_on": taught, "control": name, "n": len(held),
                "right_alone": _mean([u > 0.5 for u in alone]),
                "right_with_teacher": _mean([u > 0.5 for u in read["teacher"]]),
                "gain": _interval(paired_difference(
                    [float(u > 0.5) for u in read["teacher"]], [float(u > 0.5) for u in alone]
                )),
                "utility_alone": _mean(alone), "utility_of_teacher": _mean(read["teacher"]),
                "utility_of_claim": _mean(read["claim"]),
                "utility_of_other_claim": _mean(read["other"]),
            })  # fmt: skip
            print(rows[-1])
    meta = {"command": "python experiments/leak_control.py", "seed": 0, **environment()}
    write_tables("leak_control", meta, {"reading": rows})


def judge_taught(questions: list[Question], control: Control, name: str) -> AnswerScorer:
    """M_IFT, taught on rationales of which each is as it is, or under the control, by lot."""
    policy, chance = load_policy("default"), random.Random(1)
    rows = mode_rows(policy, questions, [], "choices")
    by_id = {q.id: q for q in questions}
    rows["answer_from_rationale"] = [
        _row(policy, by_id[a.question_id], chance.choice([CONTROLS["none"], control])(
            a.rationale, by_id[a.question_id]
        ))
        for a in teacher_attempts(questions, "correct")
    ]  # fmt: skip
    counts = counts_of(CONFIG, rows)
    with (
        tempfile.TemporaryDirectory() as place,
        Run.open(Path(place) / "run", {"method": "leak-control"}) as run,
    ):
        fit(
            policy, nll, lambda step: mixed_batch(rows, counts, step, 0), CONFIG.fit,
            Stage(run, name), steps=tuning_steps(rows, CONFIG, CONFIG.epochs),
        )  # fmt: skip
    reader = ChoiceScorer(policy)
    return AnswerScorer([AnswerFold(reader, reader)], texts="choices")


def _row(policy: Policy, question: Question, rationale: str) -> Any:
    prompt = answer_prompt("choices", question, rationale)
    return RowMaker(policy).text(prompt, gold_text("choices", question))


def _mean(values: Any) -> dict[str, float]:
    return _interval(bootstrap_mean([float(v) for v in values]))


def _interval(found: Any) -> dict[str, float]:
    return {key: round(getattr(found, key), 4) for key in ("mean", "low", "high")}


if __name__ == "__main__":
    main()
