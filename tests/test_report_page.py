"""The report page in a real browser: what a reader can do, and that no text can do anything."""

import html
import json
import os
import random
import re
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from rationalize.report import write_report
from rationalize.text import visible
from tests.browser import Page, needs_browser, opened
from tests.report_toys import SKILL, cards, fake_run

HOSTILE = (
    "<script>document.title='pwned'</script></script><img src=x onerror=\"document.title='pwned'\">"
    "</textarea><!-- &lt;b&gt; \x00\x07\x1b\x7f \ud800 \u202eevil\u2066 \u2028 \u2029 שלום {{ 7*7 "
    "}} end"
)


@pytest.fixture(scope="module")
def run():
    return fake_run()


@needs_browser
def test_hostile_text_shows_and_does_nothing(tmp_path):
    results, attempts, questions = fake_run(6)
    evil = f"MaRio {HOSTILE}"
    text = json.dumps(results).replace('"MaRio"', json.dumps(evil)).replace("physics", "<b>x</b>")
    results = json.loads(text)
    results["meta"]["command"] = HOSTILE
    results["meta"]["config"] = {HOSTILE: [HOSTILE]}
    attempts[evil] = [
        replace(a, rationale=HOSTILE, prediction=HOSTILE) for a in attempts.pop("MaRio")
    ]
    questions = {
        i: replace(q, question=HOSTILE, context=HOSTILE, choices=(q.answer, HOSTILE), kind=HOSTILE)
        for i, q in questions.items()
    }
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    assert "<script>document" not in path.read_text(encoding="utf-8")
    dom, console = opened(path)
    assert console == []
    assert "<title>Rationales: SmolLM2-135M-Instruct</title>" in dom  # nothing changed it
    assert dom.count("<script") == 2  # the data and the page's own
    assert not re.search(r"<(img|b>|textarea)", dom.split("<noscript>")[0])
    assert len(cards(dom)) == 12
    shown = html.unescape(dom[dom.index('id="cards"') : dom.index('id="pages"')])
    assert visible(HOSTILE) in shown
    assert "␀␇␛␡ \ufffd" in shown


@needs_browser
def test_sorting_filtering_and_links(run, tmp_path):
    results, attempts, questions = run
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    of = {
        m: {a.question_id: a.rewards["plausibility"] for a in attempts[m]}
        for m in ("MaRio", "SFT", "PRODUCT")
    }
    gain = {q: of["MaRio"][q] - of["SFT"][q] for q in questions if q.startswith("test")}
    by_gain = sorted(gain, key=lambda q: -round(gain[q], 3))
    dom, console = opened(path, "#sort=gain&metric=plausibility&split=test")
    assert console == []
    assert "1–25 of 40 questions" in dom
    assert cards(dom)[:3] == by_gain[:3]
    dom, _ = opened(path, "#sort=loss&metric=plausibility&split=test")
    assert cards(dom)[:3] == by_gain[:-4:-1]
    other = {q: of["PRODUCT"][q] - of["SFT"][q] for q in questions if q.startswith("unseen")}
    link = "#sort=gain&metric=plausibility&a=PRODUCT&split=unseen&page=2"
    dom, _ = opened(path, link)
    assert "26–40 of 40 questions" in dom
    assert cards(dom)[-1] == min(other, key=other.get)
    dom, _ = opened(path, "#sort=order&kind=ordering&q=CASE 1&split=test")
    assert cards(dom) == [f"test-{i:04d}" for i in (1, 13, 17)]


@needs_browser
def test_a_link_shows_one_question(run, tmp_path):
    path = write_report(*run, tmp_path / "report.html")
    dom, console = opened(path, "#id=test-0007&split=test")
    assert console == []
    assert cards(dom) == ["test-0007"]
    dom, _ = opened(path, "#id=test-00&split=test")
    assert cards(dom) == []  # a whole id, not a part of one


@needs_browser
def test_disagreement_sorts_by_spread_over_methods(run, tmp_path):
    results, attempts, questions = run
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    dom, _ = opened(path, "#sort=disagreement&metric=accuracy&split=test")
    right = {}
    for method in SKILL:
        for a in attempts[method]:
            right.setdefault(a.question_id, []).append(a.prediction == a.gold)
    split = [min(sum(right[q]), len(right[q]) - sum(right[q])) for q in cards(dom)]
    assert split == sorted(split, reverse=True)
    assert split[0] == 2  # of five methods


@needs_browser
def test_answers_methods_and_words_can_be_chosen(run, tmp_path):
    results, attempts, questions = run
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    right = {
        m: {a.question_id for a in attempts[m] if a.prediction == a.gold and a.split == "test"}
        for m in ("MaRio", "SFT")
    }
    link = path.as_uri() + "#split=test&sort=order&outcome=gained&hide=direct&hide=PRODUCT&words=1"
    with Page(link) as page:
        dom = page.dom
        assert set(cards(dom)) == right["MaRio"] - right["SFT"]
        first = page.evaluate("document.querySelector('#cards .attempts').innerHTML")
        assert re.findall(r"<h3[^>]*>([^<]*)</h3>", first) == ["MaRio", "SFT", "FILT-ACC"]
        marked = page.evaluate(
            "[...document.querySelectorAll('#cards .attempt')].slice(0, 2).map(box => "
            "[...box.querySelectorAll('ins, del')].map(w => w.textContent))"
        )
        assert all(marked)
        pairs = page.evaluate("differing('Oil is heavy.', 'Oil is light.')")
        assert pairs == [["Oil", True], ["is", True], ["heavy.", False]]
        assert differing_by_difflib(page) == []
        page.evaluate("document.querySelector('[name=outcome]').value = 'neither'")
        page.evaluate("document.getElementById('controls').dispatchEvent(new Event('input'))")
        assert "outcome=neither" in page.evaluate("location.hash")
        assert not {*cards(page.dom)} & (right["MaRio"] | right["SFT"])


@needs_browser
def test_a_head_sorts_its_table_by_click_and_by_key(run, tmp_path):
    path = write_report(*run, tmp_path / "report.html")
    rows = (
        "[...document.querySelector('#results table').tBodies[0].rows].map(r => "
        "r.cells[2].firstChild.textContent)"
    )
    with Page(path.as_uri()) as page:
        before = page.evaluate(rows)
        page.evaluate("document.querySelectorAll('#results thead button')[2].focus()")
        page.press("Enter")
        down = page.evaluate(rows)
        assert down == sorted(before, key=float, reverse=True)
        head = "document.querySelectorAll('#results thead th')[2].getAttribute('aria-sort')"
        assert page.evaluate(head) == "descending"
        page.press("Enter")
        assert page.evaluate(rows) == sorted(before, key=float)
        page.press("Enter")
        assert page.evaluate(rows) == before
        assert page.evaluate(head) is None


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_a_tablet_and_a_desk(run, tmp_path, dark):
    results, attempts, questions = run
    long = "MaRio with a name that goes on and on" * 3
    results = json.loads(json.dumps(results).replace('"PRODUCT"', json.dumps(long)))
    attempts = {long if m == "PRODUCT" else m: of for m, of in attempts.items()}
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    for width in (400, 800, 1280):
        with Page(path.as_uri(), width=width, dark=dark) as page:
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            assert page.overflow <= 0
            assert page.console == []
            assert page.requests == [path.as_uri()]
            assert (AXE is None) or serious(page) == []


def differing_by_difflib(page):
    """Random texts of which a common subsequence is not kept whole, by an independent measure."""
    rng, wrong = random.Random(3), []
    for _ in range(20):
        x, y = ([rng.choice("abcd") for _ in range(12)] for _ in range(2))
        shared = page.evaluate(f"differing({json.dumps(' '.join(x))}, {json.dumps(' '.join(y))})")
        kept = [word for word, same in shared if same]
        rest = iter(y)
        if [word for word, _ in shared] != x or not all(word in rest for word in kept):
            wrong.append((x, y))
        if len(kept) < sum(
            b.size for b in SequenceMatcher(None, x, y, False).get_matching_blocks()
        ):
            wrong.append((x, y))
    return wrong


AXE = os.environ.get("AXE_CORE")
"""axe.min.js of npm's axe-core, where accessibility is to be checked."""


def serious(page):
    """axe-core's violations that stop a reader."""
    page.evaluate(Path(AXE).read_text(encoding="utf-8") + "; 0")
    found = page.evaluate(
        "axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes[0].html]))"
    )
    return [violation for violation in found if violation[0] in ("serious", "critical")]
