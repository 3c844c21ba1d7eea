"""The study's pages. Jinja2 escapes every text (it is a dependency already, and the report's
environment also makes control characters visible); no page holds a script or a style of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rationalize.report.text import template
from rationalize.study.design import Side, Study

HOME = Path(__file__).parent / "pages"
"""Folder of template, style and script."""


@dataclass(frozen=True)
class Ballot:
    """The form of a vote."""

    action: str
    """Where it is posted."""
    hidden: Mapping[str, str]
    """Its item, time and signature."""
    done: int
    """Items that the annotator has voted on."""
    total: int
    """Items that the annotator has."""


def message(text: str, title: str = "Study", *, link: str | None = None) -> str:
    """A page with one sentence, and a link to go on."""
    return _render(title, kind="message", text=text, link=link)


def consent(study: Study, action: str, signature: str) -> str:
    """The consent text, and the button that agrees to it by a post to `action`."""
    ballot = Ballot(action, {"form": signature}, 0, 0)
    return _render(study.asks.title, kind="consent", text=study.asks.consent, ballot=ballot)


def item(study: Study, number: int, first: Side, ballot: Ballot) -> str:
    """An item, the side `first` on the left; nothing on the page says which method wrote what."""
    shown = study.items[number]
    texts = (shown.a, shown.b) if first == "a" else (shown.b, shown.a)
    return _render(
        study.asks.title, kind="item", item=shown, texts=[t.rationale for t in texts],
        asks=study.asks.questions, answer=shown.answer if study.show_answer else None,
        ballot=ballot,
    )  # fmt: skip


def _render(title: str, **values: object) -> str:
    return template("page.html.j2", HOME).render(title=title, **values)
