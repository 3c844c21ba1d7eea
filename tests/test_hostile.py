"""Rationales of people who mean harm, through compare to the terminal and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rationalize.cli import main
from rationalize.commands.chain import chain_text
from rationalize.evaluation.results import save_questions, summarise
from rationalize.methods.coalition.answering import Answer
from rationalize.methods.coalition.inference import Chain
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.text import clipped, visible
from tests.browser import needs_browser, opened
from tests.result_toys import REWARDS, attempts_of
from tests.score_files import HOSTILE

MEGABYTE = "<b>and</b> on and " * 60_000
NAME = "<img src=x onerror=alert(1)> \x1b[2J\u202egood"
QUESTIONS = {
    f"q{i}{HOSTILE[:40]}": Question(
        f"q{i}{HOSTILE[:40]}", HOSTILE, "x", ("x", HOSTILE), HOSTILE, kind=f"{HOSTILE}{i % 2}"
    )
    for i in range(8)
}


def hostile_run(path, method: str, wrong) -> str:
    attempts = [
        replace(a, rationale=HOSTILE, completion=HOSTILE, prediction=a.prediction, model=HOSTILE)
        for a in attempts_of(method, wrong, questions=QUESTIONS)
    ]
    attempts[0] = replace(attempts[0], rationale=MEGABYTE, completion=MEGABYTE)
    with Run.open(path, {"method": "evaluate", "name": path.name}) as run:
        run.append(attempts, "final")
        save_questions(run, QUESTIONS.values())
        meta = {"model": HOSTILE, "command": HOSTILE, "seeds": [0]}
        results = summarise({method: {"test": {0: attempts}}}, QUESTIONS, REWARDS, meta=meta)
        run.write_json("results.json", results)
    return str(path)


class Elements(HTMLParser):
    """Every element of a page, and its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes.update(name for name, _ in attrs)


def assert_ours_alone(page: str) -> None:
    """No element and no handler that the template has not."""
    found = Elements(page)
    assert found.names.count("script") == 2  # the data and the page's own
    assert not set(found.names) & {"img", "iframe", "object", "embed", "link", "base"}
    assert not [name for name in found.attributes if name.startswith("on")]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    runs = [
        hostile_run(folder / "a", NAME, (0, 1, 2, 3, 4, 5)),
        hostile_run(folder / "b", "plain", (6,)),
        hostile_run(folder / "c", f"{HOSTILE} c", ()),
    ]
    page = folder / "page.html"
    return runs, page


def test_compare_prints_nothing_that_a_terminal_obeys(compared, capfd):
    runs, page = compared
    assert main(["compare", *runs, "--out", str(page)]) == 0
    shown = capfd.readouterr().out
    assert "<img src=x onerror=alert(1)> ␛[2J\ufffdgood" in shown
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert page.stat().st_size < 500_000  # a megabyte each is in the run, its beginning here
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert_ours_alone(text)
    assert f"[{len(MEGABYTE) - 10_000} more characters are in the run]" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ufffe\uffff]", text)


def test_what_was_written_is_still_in_the_run(compared):
    runs, _ = compared
    found = [a.rationale for a in Run.read(runs[0]).attempts(split="test")]
    # parquet is UTF-8, which has no half characters; all else is as it was
    assert found == [
        MEGABYTE,
        *[HOSTILE.encode("utf-16", "surrogatepass").decode("utf-16", "replace")] * 7,
    ]


@needs_browser
def test_a_browser_shows_it_and_runs_nothing(compared, tmp_path):
    runs, page = compared
    assert main(["compare", *runs, "--out", str(page)]) == 0
    for hash in ("", "#sort=order&split=test"):
        dom, console = opened(page, hash)
        assert console == []  # a script or an image that was stopped would be reported here
        title = re.search("<title>(.*?)</title>", dom, re.DOTALL)
        assert title
        assert title[1].startswith("Rationales: ")
        assert_ours_alone(re.sub("<noscript>.*?</noscript>", "", dom, flags=re.DOTALL))
        shown = dom[dom.index('id="cards"') : dom.index('id="pages"')]
        assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in shown


def hostile_model(path) -> str:
    """The folder of a model whose every reply is its first token, a hostile one."""
    text = HOSTILE.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    reply = f"{text} So the answer is {text}"
    words = {reply: 0, "<end>": 1, **{f"w{i}": 2 + i for i in range(8)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="<end>"
    )
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, tie_word_embeddings=False, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)  # all logits are equal: the first is the greedy one
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_a_model_that_writes_escapes_cannot_use_them_on_a_terminal(tmp_path, capfd):
    model = hostile_model(tmp_path / "model")
    assert main(["ask", "Why?", "--model", model, "--max-new-tokens", "1"]) == 0
    question = next(iter(QUESTIONS.values()))
    [written] = attempts_of("m", questions={"q": question})
    written = replace(written, rationale=HOSTILE, prediction=HOSTILE)
    views = [(0.5, 0.5)] * 3
    answer = Answer(HOSTILE, 0.5, *views)
    print(chain_text(Chain(question, "w", written, "r", written, answer)))
    shown = capfd.readouterr().out
    assert shown.count("owned") >= 4
    assert all(c == "\n" or c.isprintable() for c in shown)


def test_a_clipped_text_says_what_is_left_out():
    assert clipped("abc", 3) == "abc"
    assert clipped("abcd", 3) == "abc [1 more characters are in the run]"
    assert json.loads(json.dumps(visible(HOSTILE))) == visible(HOSTILE)
