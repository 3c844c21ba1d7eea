"""The study's server: what it shows, what it refuses, and that no acknowledged vote is lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from dataclasses import replace
from http.client import HTTPException
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from rationalize.study.app import HEADERS, LARGEST_BODY
from rationalize.study.asks import BETTER
from rationalize.study.design import order_for
from rationalize.study.store import Store
from tests.browser import Page, needs_browser
from tests.score_files import HOSTILE
from tests.study_toys import EACH, Form, Person, elements, served, stored, study, texts_of

ATTACKS = (
    "<script>document.title='owned'</script>", "<img src=x onerror=document.title='owned'>",
    "<svg onload=document.title='owned'>", "\"><script>document.title='owned'</script>",
    "' autofocus onfocus='document.title=1", "</textarea></title></style><script>alert(1)</script>",
    "{{ 7*7 }}{% raw %}", "<a href='javascript:alert(1)'>x</a>", "<base href='//evil.example'>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<form action=//evil.example>",
    "<iframe srcdoc='<script>parent.document.title=1</script>'>", "&lt;script&gt;alert(1)&lt;",
    "<style>*{display:none}</style>", "<input name=form value=forged>", HOSTILE,
)  # fmt: skip
TAGS = {
    "html", "head", "meta", "title", "link", "script", "body", "main", "h1", "h2", "p", "label",
    "progress", "section", "ul", "li", "bdi", "div", "form", "input", "button", "fieldset",
    "legend", "strong", "kbd", "small",
}  # fmt: skip
"""Every element that the pages of these tests have."""
ATTRIBUTES = {
    "lang", "charset", "name", "content", "rel", "href", "src", "defer", "dir", "class", "for",
    "id", "max", "value", "aria-label", "aria-labelledby", "method", "action", "type", "required",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A served study of six items with MaRio's questions; many people with links."""
    folder = tmp_path_factory.mktemp("study")
    made = study(checks=2)
    names = [f"p{i}" for i in range(12)]
    store, tokens = stored(folder, made, names)
    with served(folder) as (_, port):
        yield made, store, [tokens[name] for name in names], port


def test_from_link_to_last_vote(place):
    made, store, tokens, port = place
    person = Person(port, tokens[0])
    page = person.get()
    assert page.status == 200
    assert "I agree" in page.text
    form = Form(page.text)
    person.consent()
    shown = []
    for done in range(8):
        page = person.get()
        assert f"{done} of 8 done" in page.text
        assert not any(name in page.text for name in made.methods)  # blinded
        form = Form(page.text)
        assert list(form.radios) == ["plausibility", "consistency", "better"]
        assert all(values == ["1", "2", "same"] for values in form.radios.values())
        item, first = order_for(made, 1)[done]
        assert int(form.hidden["item"]) == item
        a, b = made.items[item].a.rationale, made.items[item].b.rationale
        assert texts_of(page.text) == ([a, b] if first == "a" else [b, a])
        assert person.post(form.action, form.filled()).status == 303
        shown.append((item, first))
    assert "last one" in person.get().text
    votes = [v for v in store.votes() if v.annotator == 1]
    assert sorted((v.item, v.first) for v in votes) == sorted(shown)
    assert all(set(v.answers.values()) == {v.first} for v in votes)  # "1" is what stood first
    assert all(0 <= v.seconds < 60 for v in votes)


def test_every_answer_carries_the_headers(place):
    _, _, tokens, port = place
    person = Person(port, tokens[1])
    answers = [
        person.get(), person.ask("GET", "/"), person.ask("GET", "/study.js"),
        person.ask("GET", "/study.css"), person.ask("GET", "/nothing"),
        person.ask("GET", "/s/wrong"), person.ask("DELETE", person.link), person.post("/", {}),
    ]  # fmt: skip
    assert [a.status for a in answers] == [200, 200, 200, 200, 404, 404, 405, 405]
    for answer in answers:
        assert {k: answer.headers.get(k) for k in HEADERS} == HEADERS
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "<script>" not in answers[0].text
    assert "style=" not in answers[0].text


def test_a_vote_counts_once_and_under_its_own_link_alone(place):
    _, store, tokens, port = place
    anna, ben = Person(port, tokens[2]), Person(port, tokens[3])
    early = Form(anna.get().text)  # the consent form
    assert anna.post(f"{anna.link}/vote", {"item": "0"}).status == 403
    anna.consent()
    ben.consent()
    form = Form(anna.get().text)
    # under another's link, for another item or time, or with a made-up signature
    assert ben.post(f"{ben.link}/vote", form.filled()).status == 403
    assert ben.post(f"{ben.link}/consent", early.hidden).status == 403
    for changed in (
        {"item": "5"},
        {"shown": "1.0"},
        {"form": "0" * 64},
        {"form": "é"},
        {"item": "-1"},
    ):
        other = form.filled() | changed
        if other != form.filled():
            assert anna.post(form.action, other).status == 403
    unknown = Person(port, tokens[2][::-1])
    assert unknown.post(f"{unknown.link}/vote", form.filled()).status == 404
    assert store.answered(3) == store.answered(4) == set()
    # once, then never again, with the same answers or with others
    assert anna.post(form.action, form.filled(0)).status == 303
    assert anna.post(form.action, form.filled(0)).status == 409
    assert anna.post(form.action, form.filled(1)).status == 409
    [vote] = [v for v in store.votes() if v.annotator == 3]
    assert set(vote.answers.values()) == {vote.first}


def test_other_sites_other_forms_and_what_is_too_large_are_refused(place):
    _, store, tokens, port = place
    person = Person(port, tokens[4])
    person.consent()
    form = Form(person.get().text)
    for headers in (
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"}, {"Origin": f"http://127.0.0.1:{port + 1}"},
    ):  # fmt: skip
        assert person.post(form.action, form.filled(), **headers).status == 403
    full = form.filled()
    part = {k: v for k, v in full.items() if k != "better"}
    assert person.post(form.action, part).status == 400
    assert person.post(form.action, full | {"better": "3"}).status == 400
    assert person.post(form.action, full, Content_Type="text/plain").status == 415
    kind = {"Content_Type": "application/x-www-form-urlencoded"}
    for body in (b"\xff\xfe", b"item", b"a=1&a=2", b"&".join(b"x%d=1" % i for i in range(200))):
        assert person.ask("POST", form.action, body, **kind).status == 400
    assert person.ask("POST", form.action, b"x" * (LARGEST_BODY + 1), **kind).status == 413
    person = Person(port, tokens[4])
    assert person.get().status == 200
    with socket.create_connection(("127.0.0.1", port)) as raw:  # headers without end
        raw.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000)
        assert b" 400 " in raw.recv(100)
    assert store.answered(5) == set()
    good = {"Origin": f"http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}
    assert person.post(form.action, full, **good).status == 303


def test_tokens_are_stored_as_hashes_and_logged_nowhere(place, tmp_path):
    _, store, tokens, _ = place
    content = b"".join(p.read_bytes() for p in store.path.parent.iterdir())
    assert not any(token.encode() in content for token in tokens)
    assert len(set(tokens)) == len(tokens)
    assert all(len(token) == 32 for token in tokens)  # 192 bits
    fresh, old = stored(tmp_path, study())
    new = fresh.invite("anna", renew=True)
    with served(tmp_path) as (server, port):
        assert Person(port, old["anna"]).get().status == 404
        assert Person(port, new).get().status == 200
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=30)
    assert new not in out + err
    assert server.returncode == 143


def hostile(n: int):
    """A study whose every text holds attacks; its `n` items share them."""
    made = study(n=n, asks=[EACH])
    attacks = [" ".join(ATTACKS[i::n]) for i in range(n)]
    items = tuple(
        replace(item, question=text, answer=text, choices=(text, "x"), context=text,
                a=replace(item.a, rationale=text), b=replace(item.b, rationale=text[::-1]))
        for item, text in zip(made.items, attacks, strict=True)
    )  # fmt: skip
    asks = replace(made.asks, title=ATTACKS[0], consent=" ".join(ATTACKS))
    return replace(made, items=items, asks=asks)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A served study of hostile texts: the links of two people, of whom ben has agreed."""
    folder = tmp_path_factory.mktemp("attacked")
    store, tokens = stored(folder, hostile(3))
    store.consent(2)
    with served(folder) as (_, port):
        yield port, tokens


def test_hostile_texts_are_escaped(attacked):
    port, tokens = attacked
    person = Person(port, tokens["anna"])
    pages = [person.get().text]
    person.consent()
    for _ in range(3):
        pages.append(person.get().text)
        assert person.vote(1)[1] == 303
    assert "&lt;img src=x onerror=document.title=&#39;owned&#39;&gt;" in "".join(pages)
    plain_tags, plain_attributes = set(), set()
    for page in pages:
        tags, attributes = elements(page)
        assert tags <= TAGS
        assert attributes <= ATTRIBUTES
        assert page.count("<script") == page.count('<script src="/study.js" defer></script>')
        assert page.count("<form") == 1
        assert "49" not in texts_of(page)[0]  # templates in texts are text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]", page)
        plain_tags |= tags
        plain_attributes |= attributes
    assert plain_tags == TAGS
    assert plain_attributes == ATTRIBUTES


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(400, True), (1280, False)])
def test_a_browser_shows_hostile_texts_and_runs_nothing(attacked, width, dark):
    port, tokens = attacked
    url = f"http://127.0.0.1:{port}/s/{tokens['ben']}"
    with Page(url, width=width, dark=dark) as page:
        assert page.console == []  # what the policy stops would be told here
        assert {urlsplit(asked).netloc for asked in page.requests} == {f"127.0.0.1:{port}"}
        assert page.evaluate("document.title") == ATTACKS[0]
        assert elements(page.dom)[0] <= {*TAGS, "tbody"}
        assert page.overflow == 0


@needs_browser
def test_an_item_is_answered_by_keys(place):
    _, store, tokens, port = place
    store.consent(12)
    with Page(f"http://127.0.0.1:{port}/s/{tokens[11]}") as page:
        page.press("Enter")  # nothing is answered yet: the browser says so, and nothing is sent
        for key in ("1", "2", "1", "Backspace", "3", "2", "Enter"):
            page.press(key)
        deadline = time.monotonic() + 30
        while not store.answered(12) and time.monotonic() < deadline:
            time.sleep(0.02)
    [vote] = [v for v in store.votes() if v.annotator == 12]
    second = "b" if vote.first == "a" else "a"
    assert vote.answers == {"plausibility": vote.first, "consistency": "same", "better": second}


def answer_all(port: int, token: str, acknowledged: list, stop: threading.Event) -> None:
    """Vote until nothing is left, or the server is gone; what was acknowledged is written down."""
    try:
        person = Person(port, token)
        person.consent()
        while not stop.is_set() and (voted := person.vote()):
            assert voted[1] == 303
            acknowledged.append(voted[0])
    except (OSError, HTTPException):
        pass


def test_fifty_people_at_once_and_a_kill_in_the_middle(tmp_path):
    names = [f"p{i}" for i in range(50)]
    store, tokens = stored(tmp_path, study(n=3, asks=[BETTER]), names)
    acknowledged: dict[str, list[int]] = {name: [] for name in names}

    def everybody(port):
        stop = threading.Event()
        threads = [
            threading.Thread(target=answer_all, args=(port, tokens[n], acknowledged[n], stop))
            for n in names
        ]
        for thread in threads:
            thread.start()
        return threads

    with served(tmp_path) as (server, port):
        threads = everybody(port)
        deadline = time.monotonic() + 60
        while sum(map(len, acknowledged.values())) < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(timeout=60)
    told = {(i + 1, item) for i, name in enumerate(names) for item in acknowledged[name]}
    assert 50 <= len(told) < 150
    there = {(v.annotator, v.item) for v in Store(tmp_path).votes()}
    assert told <= there  # nothing that was acknowledged is lost
    # a second start goes on, until everybody has voted once on everything
    with served(tmp_path) as (_, port):
        for thread in everybody(port):
            thread.join(timeout=60)
    votes = store.votes()
    assert len(votes) == 150
    assert {(v.annotator, v.item) for v in votes} == {
        (i, k) for i in range(1, 51) for k in range(3)
    }
