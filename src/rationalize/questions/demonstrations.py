"""Few-shot demonstrations: built in per form of answer, from a file, or the first solved training
questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from rationalize.errors import UserError
from rationalize.questions.files import SUFFIXES
from rationalize.questions.load import load_questions
from rationalize.questions.splits import same_question_key
from rationalize.records import Question
from rationalize.teacher import solved
from rationalize.templates import Form, form_of


@dataclass(frozen=True)
class Demonstrations:
    """Solved questions to show before others: of the same form of answer, and never the question
    itself.
    """

    candidates: Sequence[Question]
    """In the order in which they are shown; of a form that none of them has, none is shown."""
    shots: int

    def before(self, question: Question) -> list[Question]:
        """The first `shots` of the question's form that do not ask the same."""
        key = same_question_key(question)
        others = (q for k, q in self._by_form.get(form_of(question), ()) if k != key)
        return list(islice(others, self.shots))

    def __bool__(self) -> bool:
        return bool(self.shots and self.candidates)

    @cached_property
    def _by_form(self) -> dict[Form, list[tuple[tuple[str, ...], Question]]]:
        by_form: dict[Form, list[tuple[tuple[str, ...], Question]]] = {}
        for q in self.candidates:
            by_form.setdefault(form_of(q), []).append((same_question_key(q), q))
        return by_form


def training_demonstrations(
    train: Sequence[Question], shots: int, *, answers: bool = False
) -> Demonstrations:
    """Training questions as demonstrations, each with a rationale that leads to its answer (with
    `answers`, without); for forms of answer that none of them has, the built-in ones.
    """
    shown = list(train) if answers else [one for q in train if (one := solved(q))]
    forms = {form_of(q) for q in shown}
    return Demonstrations([*shown, *(q for q in BUILT_IN if form_of(q) not in forms)], shots)


def demonstrations(
    source: str, questions: Sequence[Question], shots: int, train: Sequence[Question]
) -> dict[Form, list[Question]]:
    """Form of answer -> up to `shots` solved questions, for every form among `questions`.

    `source`: `builtin`, `train` (the first training questions with a rationale), or a file or named
    set of questions with rationales. Raises `UserError` if a form has no solved question.
    """
    forms = sorted({form_of(q) for q in questions})
    if not shots:
        return {form: [] for form in forms}
    candidates = BUILT_IN if source == "builtin" else train
    if source not in ("builtin", "train"):
        candidates = load_questions(_file(source), "train")
    distinct: dict[tuple[str, ...], Question] = {}
    for q in candidates:
        if one := solved(q):
            distinct.setdefault(same_question_key(q), one)
    with_rationale = list(distinct.values())
    shown = {form: [q for q in with_rationale if form_of(q) == form][:shots] for form in forms}
    missing = [form for form, demos in shown.items() if not demos]
    if missing:
        raise UserError(
            f"no demonstration for questions whose answer is a {missing[0]} in {source!r}; "
            "name a file of solved questions (`demos`), or ask without (`shots 0`)"
        )
    return shown


def _file(source: str) -> str:
    if source.endswith(SUFFIXES) and not Path(source).exists():
        raise UserError(f"{source}: no such file of demonstrations; or use `builtin` or `train`")
    return source


def _solved(form: Form, *rows: tuple) -> list[Question]:
    return [
        Question(
            id=f"demonstration/{form}/{i}", question=text, choices=tuple(choices) or None,
            answer=answer, rationales=(rationale,),
        )
        for i, (text, rationale, answer, *choices) in enumerate(rows)
    ]  # fmt: skip


BUILT_IN: list[Question] = [
    *_solved(
        "number",
        ("Mara picked 14 plums and gave 5 to her brother. How many plums has she left?",
         "Mara had 14 plums. She gave 5 away. 14 - 5 = 9.", "9"),
        ("A shelf holds 6 boxes with 4 jars each. How many jars are there?",
         "Each box holds 4 jars and there are 6 boxes. 6 * 4 = 24.", "24"),
        ("A ticket costs 7 dollars. Four friends pay with a 50 dollar note. What is their change?",
         "Four tickets cost 4 * 7 = 28 dollars. The change is 50 - 28 = 22 dollars.", "22"),
        ("Omar reads 12 pages a day. After 5 days he has 40 pages to go. How long is the book?",
         "In 5 days Omar reads 5 * 12 = 60 pages. With the 40 that are left, 60 + 40 = 100.",
         "100"),
        ("Three children share 27 marbles evenly, then each loses 2. How many has each?",
         "Each child gets 27 / 3 = 9 marbles. After losing 2 each has 9 - 2 = 7.", "7"),
        ("A train leaves with 80 riders. At a stop 15 leave and 23 enter. How many are on it now?",
         "After 15 leave there are 80 - 15 = 65. With 23 more, 65 + 23 = 88.", "88"),
        ("A rope of 36 metres is cut in half, and one half into 3 parts. How long is each part?",
         "Half of the rope is 36 / 2 = 18 metres. A third of that is 18 / 3 = 6 metres.", "6"),
        ("Lena has 8 stamps, Ivo twice as many, and Pia 3 fewer than Ivo. How many has Pia?",
         "Ivo has 2 * 8 = 16 stamps. Pia has 16 - 3 = 13.", "13"),
    ),
    *_solved(
        "choice",
        ("Where would you keep milk so that it stays fresh?",
         "Milk spoils when it is warm. A refrigerator is the cold place in a kitchen.",
         "refrigerator", "oven", "refrigerator", "bookshelf", "garage"),
        ("What do people use to see in a dark cellar?",
         "In the dark there is no light to see by. A torch makes light.",
         "torch", "torch", "umbrella", "spoon", "pillow"),
        ("Why did the puddle vanish by noon?",
         "The sun warmed the puddle. Warm water turns into vapour and leaves.",
         "it evaporated", "it froze", "it was painted", "it evaporated", "it grew"),
        ("Two cups hold the same tea. One has a lid. Which tea cools more slowly?",
         "A lid keeps warm air and steam inside. So the covered tea loses its heat more slowly.",
         "the one with the lid", "the one with the lid", "the one without"),
        ("What would a tired hiker most likely do at the top?",
         "Walking uphill takes strength. Somebody who is tired wants to rest.",
         "sit down", "sprint", "sit down", "build a house"),
        ("The shop opens after the bakery and before the bank. Which opens last?",
         "The bakery opens first, then the shop. The bank opens after both.",
         "the bank", "the bakery", "the shop", "the bank"),
        ("Who is most likely to own a stethoscope?",
         "A stethoscope is for listening to the heart. Doctors do that.",
         "a doctor", "a pilot", "a baker", "a doctor", "a painter"),
    ),
    *_solved(
        "yes/no",
        ("Could a whale live in a bathtub?",
         "A whale is many metres long. A bathtub is shorter than two metres.", "no", "yes", "no"),
        ("Can you buy bread with coins?",
         "Coins are money, and shops take money for bread.", "yes", "yes", "no"),
        ("Did people in the Middle Ages send e-mail?",
         "E-mail needs computers. The Middle Ages ended centuries before there were any.", "no",
         "yes", "no"),
        ("Is a dozen eggs enough for five people who want two each?",
         "Five people with two each need 10 eggs. A dozen is 12, which is more.", "yes", "yes",
         "no"),
        ("Would a wooden spoon sink in a pot of water?",
         "Wood is lighter than water of the same size, so it floats.", "no", "yes", "no"),
        ("Can a person without a passport still own a dog?",
         "A passport is for crossing borders. Owning a dog needs none.", "yes", "yes", "no"),
    ),
]  # fmt: skip
"""Written for this library."""
