"""Studies of a few items, and people who answer them over HTTP."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

from rationalize.records import Question
from rationalize.study.asks import BUILT_IN, Ask, Questionnaire
from rationalize.study.design import Study, make_items, save_study
from rationalize.study.store import Store
from tests.result_toys import attempts_of

EACH = Ask("fine", "Is it fine?", kind="each")


def questions(n: int, text: str = "Which is number") -> dict[str, Question]:
    return {
        f"q{i}": Question(f"q{i}", f"{text} {i}?", "yx"[i % 2], ("x", "y"), "Numbers.")
        for i in range(n)
    }


def study(
    methods: Sequence[str] = ("Alpha9", "Beta7"), n: int = 6,
    asks: Sequence[Ask] = BUILT_IN["mario"], checks: int = 0, text: str = "I count", **facts,
) -> Study:  # fmt: skip
    """`n` comparisons of methods whose rationales and scores differ: later methods score higher."""
    asked = questions(n, facts.pop("question", "Which is number"))
    attempts = {
        method: {
            a.question_id: replace(a, rationale=f"{text} {k} and {a.rationale}").scored(
                {"length": float(k)}
            )
            for a in attempts_of(method, questions=asked)
        }
        for k, method in enumerate(methods)
    }
    items, notes = make_items(attempts, asked, n, checks=checks, seed=0)
    facts = {"seed": 0, "per_annotator": None, "max_failed_checks": 0, "show_answer": True} | facts
    return Study(
        Questionnaire(tuple(asks)), tuple(methods), tuple(items), notes=tuple(notes), **facts
    )


def stored(folder: Path, made: Study, names: Sequence[str] = ("anna", "ben")):
    """The study in a folder, and the token of each name."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.create(folder)
    save_study(made, folder)
    return store, {name: store.invite(name) for name in names}


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """`study serve` in a process of its own, and its port."""
    argv = [sys.executable, "-m", "rationalize", "study", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            assert "serving the study at http://127.0.0.1:" in line, server.stderr.read()
            yield server, int(line.rsplit(":", 1)[1])
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)


class Form(HTMLParser):
    """The fields of a page's form: hidden ones, and radio buttons with all of their values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.hidden: dict[str, str] = {}
        self.radios: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        if tag == "form":
            self.action = of["action"]
        elif tag == "input" and of["type"] == "hidden":
            self.hidden[of["name"]] = of["value"]
        elif tag == "input":
            self.radios.setdefault(of["name"], []).append(of["value"])

    def filled(self, choice: int = 0) -> dict[str, str]:
        return self.hidden | {name: values[choice] for name, values in self.radios.items()}


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def elements(page: str) -> tuple[set[str], set[str]]:
    """The names of all elements of a page and of all their attributes."""
    found = _Elements()
    found.feed(page)
    return found.tags, found.attributes


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str


class Person:
    """Somebody with a link, over one connection."""

    def __init__(self, port: int, token: str) -> None:
        self.link = f"/s/{token}"
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, names)
        reply = self.connection.getresponse()
        text = reply.read().decode()
        return Answer(reply.status, {k.lower(): v for k, v in reply.headers.items()}, text)

    def get(self) -> Answer:
        return self.ask("GET", self.link)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        kind = {"Content_Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(fields).encode(), **(kind | headers))

    def consent(self) -> None:
        form = Form(self.get().text)
        if form.action.endswith("/consent"):
            assert self.post(form.action, form.hidden).status == 303

    def vote(self, choice: int = 0) -> tuple[int, int] | None:
        """Answer the next item: its number and the status; None where there is none left."""
        form = Form(self.get().text)
        if not form.action:
            return None
        return int(form.hidden["item"]), self.post(form.action, form.filled(choice)).status


def texts_of(page: str) -> list[str]:
    """What stands under Explanation 1 and 2."""
    return re.findall(r'<div class="text" dir="auto">(.*?)</div>', page, re.DOTALL)
