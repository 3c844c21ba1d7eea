"""The chains of a coalition on the page and on the terminal."""

from rationalize.records import Attempt, Question
from rationalize.report.chains import chains, changes
from rationalize.sampling.coalition import Chain
from rationalize.verbs.chain import chain_text


def row(**values):
    base = {
        "method": "COALITION", "split": "test", "question_id": "q", "question": "Why?",
        "writer": "variant-1", "refiner": "variant-2", "written": "a b", "refined": "a c",
        "prediction": "yes", "gold": "yes", "right": True, "alone": 0.5, "before": 0.4,
        "after": 0.9, "tokens": 10,
    }  # fmt: skip
    return {**base, **values}


def test_the_largest_moves_stand_first():
    found = chains([row(after=0.41), row(question="moved"), row(after=None, before=None)])
    assert found["rows"][0]["question"] == "moved"
    [summary] = found["summary"]
    assert summary["picked"] == [("variant-1", "variant-2", 3)]
    assert (summary["before"], summary["after"], summary["tokens"]) == ("0.400", "0.655", "10")
    assert chains([]) is None


def test_changes():
    assert changes("a b c", "a c d") == [
        ("same", "a"), ("gone", "b"), ("same", "c"), ("come", "d"),
    ]  # fmt: skip
    assert changes("", "") == []


def attempt(rationale, writer):
    return Attempt(
        id=writer, question_id="q", mode="rationale", prompt="p", completion=rationale,
        rationale=rationale, prediction=None, gold="oil", parsed=False, finish="stop",
        writer=writer, model="m", round=0, step=0, split="asked", seed=0, n_tokens=3,
    )  # fmt: skip


def test_ask_shows_the_chain():
    question = Question("q", "Which floats?", "oil", ("oil", "iron"))
    chain = Chain(
        question, "variant-1", attempt("Oil is heavy.", "variant-1"), "variant-2",
        attempt("Oil is light.", "variant-2"), "oil", (0.5, 0.5), (0.3, 0.7), (0.9, 0.1),
    )  # fmt: skip
    shown = chain_text(chain)
    assert "variant-1 writes:  Oil is heavy." in shown
    assert "Oil is [-heavy.-] {+light.+}" in shown
    assert "oil: 0.50 alone, 0.30 as written, 0.90 refined" in shown
    assert chain.as_attempt("COALITION").n_tokens == 6
    assert chain.as_attempt("COALITION").completion == "Oil is light. So the answer is (A)."
    kept = Chain(
        question, "variant-1", attempt("", "variant-1"), "keep", attempt("", "variant-1"), None,
        (0.6, 0.4), (0.6, 0.4), (0.6, 0.4),
    )  # fmt: skip
    assert kept.as_attempt("COALITION").parsed is False
    assert (kept.as_row()["after"], kept.as_row()["right"]) == (0.6, False)
    assert "kept as it is" in chain_text(kept)
