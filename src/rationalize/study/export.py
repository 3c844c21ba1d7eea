"""A study's votes in other tools' formats: judged questions for `check-rewards --people`, tasks
with annotations for Label Studio, and every vote as a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from rationalize.errors import UsageError
from rationalize.records import Question, question_row
from rationalize.study.answers import preference
from rationalize.study.asks import Ask
from rationalize.study.design import Item, Study
from rationalize.study.store import Annotator, Vote


def ask_named(study: Study, name: str | None) -> Ask:
    """The question of this name; without one the first about each text, else the last about the
    pair (the overall preference, of MaRio's). Raises `UsageError` for an unknown name.
    """
    asks = study.asks.questions
    if name is None:
        return next((a for a in asks if a.kind == "each"), asks[-1])
    for ask in asks:
        if ask.name == name:
            return ask
    raise UsageError(
        f"--question {name!r}: the study asks {', '.join(ask.name for ask in asks)}; name one"
    )


def judged_rows(study: Study, votes: Sequence[Vote], ask: Ask) -> list[dict[str, Any]]:
    """A judged question per question with votes, as `check-rewards --people` reads them.

    Each vote counts for both texts of its item: yes accepts a text, and of a pair the preferred
    text is accepted and the other is not. A vote for neither of a pair says nothing and is left
    out.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    writers: dict[tuple[str, str], str] = {}
    questions: dict[str, Item] = {}
    for vote in votes:
        item = study.items[vote.item]
        if ask.kind == "each":
            accepts = {side: vote.answers[f"{ask.name}/{side}"] == "yes" for side in "ab"}
        elif (value := preference(ask, vote.answers)) != 0.5:
            accepts = {"a": value == 1, "b": value == 0}
        else:
            continue
        questions.setdefault(item.question_id, item)
        for side, text in (("a", item.a), ("b", item.b)):
            of_text = counts.setdefault(item.question_id, {}).setdefault(text.rationale, [0, 0])
            of_text[0] += accepts[side]
            of_text[1] += 1
            writers.setdefault((item.question_id, text.rationale), text.method)
    return [
        {
            "id": id, **question_row(_question(questions[id])),
            "judged_rationales": [
                {"rationale": text, "votes_acceptable": accepted, "votes": of,
                 "method": writers[id, text]}
                for text, (accepted, of) in texts.items()
            ],
        }
        for id, texts in counts.items()
    ]  # fmt: skip


def vote_rows(
    study: Study, votes: Sequence[Vote], annotators: Sequence[Annotator]
) -> list[dict[str, Any]]:
    """A row per vote, with the methods in the place of sides."""
    names = {who.id: who.name for who in annotators}
    rows = []
    for vote in votes:
        item = study.items[vote.item]
        methods = {"a": item.a.method, "b": item.b.method, "same": "same"}
        answers = {}
        for name, given in vote.answers.items():
            name, _, side = name.partition("/")
            answers[f"{name}/{methods[side]}" if side else name] = methods.get(given, given)
        rows.append({
            "annotator": names[vote.annotator], "item": vote.item, "question_id": item.question_id,
            "methods": [item.a.method, item.b.method], "answers": answers,
            "first": methods[vote.first], "seconds": vote.seconds, "at": vote.at,
        })  # fmt: skip
    return rows


def label_studio_tasks(study: Study, votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """A task per item that is counted, with an annotation per vote, for Label Studio's import.

    Explanation 1 is side `a`; annotations are turned to it, whatever stood first.
    """
    by_item: dict[int, list[Vote]] = {}
    for vote in votes:
        by_item.setdefault(vote.item, []).append(vote)
    tasks = []
    for number in study.compared:
        item = study.items[number]
        tasks.append({
            "data": {
                "item": number, "question_id": item.question_id, "question": item.question,
                "choices": list(item.choices or ()), "answer": item.answer,
                "context": item.context or "", "rationale_1": item.a.rationale,
                "rationale_2": item.b.rationale, "method_1": item.a.method,
                "method_2": item.b.method,
            },
            "annotations": [
                {"result": _result(study, vote), "completed_by": vote.annotator,
                 "lead_time": vote.seconds}
                for vote in by_item.get(number, [])
            ],
        })  # fmt: skip
    return tasks


def label_studio_view(study: Study) -> str:
    """The labelling interface that the tasks' annotations refer to, for Label Studio's settings."""
    shown = (
        ("Text", "context"), ("Header", "question"), ("Text", "answer"), ("Text", "rationale_1"),
        ("Text", "rationale_2"),
    )  # fmt: skip
    lines = ["<View>"]
    for kind, name in shown:
        lines.append(f'  <{kind} name="{name}" value="${name}"/>')
    for ask in study.asks.questions:
        for field, _, about in _fields(ask):
            lines.append(f"  <Header value={quoteattr(about)}/>")
            lines.append(f'  <Choices name="{field}" toName="question" choice="single">')
            lines += [f'    <Choice value="{value}"/>' for value in ask.answers]
            lines.append("  </Choices>")
    return "\n".join([*lines, "</View>", ""])


def _result(study: Study, vote: Vote) -> list[dict[str, Any]]:
    turned = {"a": "1", "b": "2"}
    return [
        {"from_name": field, "to_name": "question", "type": "choices",
         "value": {"choices": [turned.get(vote.answers[key], vote.answers[key])]}}
        for ask in study.asks.questions for field, key, _ in _fields(ask)
    ]  # fmt: skip


def _fields(ask: Ask) -> list[tuple[str, str, str]]:
    """Names in Label Studio, the vote's own, and what is asked."""
    if ask.kind == "pair":
        return [(ask.name, ask.name, ask.ask)]
    return [
        (f"{ask.name}_{n}", f"{ask.name}/{side}", f"{ask.ask} (Explanation {n})")
        for n, side in (("1", "a"), ("2", "b"))
    ]


def _question(item: Item) -> Question:
    return Question(item.question_id, item.question, item.answer, item.choices, item.context)
