"""A coalition on the page and on the terminal: its chains, and tables on itself."""

from rationalize.commands.chain import chain_text
from rationalize.methods.coalition.answering import Answer
from rationalize.methods.coalition.inference import Chain
from rationalize.records import Attempt, Question
from rationalize.report.chains import chains, changes
from rationalize.report.coalition import coalition


def row(**values):
    base = {
        "method": "COALITION", "split": "test", "question_id": "q", "question": "Why?",
        "writer": "variant-1", "refiner": "variant-2", "written": "a b", "refined": "a c",
        "prediction": "yes", "gold": "yes", "right": True, "alone": 0.5, "before": 0.4,
        "after": 0.9, "tokens": 10,
    }  # fmt: skip
    return {**base, **values}


def test_the_largest_moves_stand_first():
    section = chains([row(after=0.41), row(question="moved"), row(after=None, before=None)])
    assert section["rows"][0]["question"] == "moved"
    [summary] = section["summary"]
    assert summary["picked"] == [("variant-1", "variant-2", 3)]
    assert (summary["before"], summary["after"], summary["tokens"]) == ("0.400", "0.655", "10")
    assert chains([]) is None


def test_changes():
    assert changes("a b c", "a c d") == [
        ("same", "a"), ("gone", "b"), ("same", "c"), ("come", "d"),
    ]  # fmt: skip
    assert changes("", "") == []


def test_tables_on_the_coalition_itself():
    gain = {"mean": 0.2, "low": 0.1, "high": 0.3, "p": 0.01, "n": 9}
    picks = {
        f"{name}_{kind}": 0.5 for name in ("controller", "majority", "random", "oracle")
        for kind in ("accuracy", "utility")
    }  # fmt: skip
    spread, reading, variants, pairs, leak, rounds, refining, who = coalition(
        {
            "variance": [
                {"when": "tuned", "n": 9, "draws": 0.02, "variants": -0.001, "ratio": 0.9,
                 "low": 0.7, "high": 1.2}
            ],
            "preference_pairs": [
                {"when": "round0", "variant": "a", "pairs": {"generation": 3, "refinement": 2},
                 "dropped": {"generation: tie": 4}, "chosen_from_others": 1, "chosen_words": 9.5,
                 "rejected_words": 8.0,
                 "held_out": {"pairs": 3, "held_out_pairs": 2, "held_out_pair_accuracy": 0.75,
                              "held_out_pair_accuracy_low": 0.5,
                              "held_out_pair_accuracy_high": 1.0}},
                {"when": "round0", "variant": "b", "pairs": {}, "dropped": {},
                 "chosen_from_others": 0, "chosen_words": None, "rejected_words": None},
            ],
            "leak": [
                {"when": "round0", "control": "mask", "written": {"n": 8, "touched": 3},
                 "refined": {"n": 9, "touched": 4},
                 "pairs": {"n": 5, "chosen": 2, "rejected": 1, "without": 6, "same": 3}}
            ],
            "preference_rounds": [
                {"when": "tuned", "kept": True, "n": 4,
                 "accuracy": {"mean": 0.5, "low": 0.4, "high": 0.6}}
            ],
            "reading": [
                {"control": "mask", "alone": 0.5, "with_rationale": 0.7, "n": 9, "gain": gain}
            ],
            "variants": [
                {"when": "tuned", "variants": ["a", "b"], "n": 4, "bleu": 40.0, "identical": 0.25,
                 "disagreement": None, "kl": [0.01, None]}
            ],
            "refining": [{"a": "cross", "b": "self", "mean_a": 0.6, "mean_b": 0.4, **gain}],
            "controller": [{"choice": "write", "n": 5, "tokens_read": 56.2, **picks}],
        }
    )  # fmt: skip
    assert reading["rows"] == [["mask", 9, "50.0%", "70.0%", "+0.200 [+0.100, +0.300]"]]
    assert variants["rows"] == [["tuned: a and b", 4, "40.0", "25.0%", "–", "0.010 / –"]]
    assert refining["rows"][0][:4] == ["cross − self", 9, "0.600", "0.400"]
    assert who["rows"] == [["who writes", 5, *["0.500 / 0.500"] * 4, "56"]]
    assert spread["rows"] == [["tuned", 9, "-0.0010", "0.0200", "0.90 [0.70, 1.20]"]]
    assert pairs["rows"] == [
        ["round0: a", 5, 4, 1, "9.5 / 8.0", 2, "75.0% [50.0%, 100.0%]"],
        ["round0: b", 0, 0, 0, "– / –", 0, "–"],
    ]
    assert leak["rows"] == [["round0: mask", "3 of 8", "4 of 9", 5, 6, 3]]
    assert rounds["rows"] == [["tuned", 4, "0.500 [0.400, 0.600]", "–", "kept"]]
    for table in (spread, reading, variants, pairs, leak, rounds, refining, who):
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert coalition({"leaderboard": []}) == []


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
        attempt("Oil is light.", "variant-2"),
        Answer("oil", 0.9, (0.5, 0.5), (0.3, 0.7), (0.9, 0.1)),
    )  # fmt: skip
    shown = chain_text(chain)
    assert "variant-1 writes:  Oil is heavy." in shown
    assert "Oil is [-heavy.-] {+light.+}" in shown
    assert "oil: 0.50 alone, 0.30 as written, 0.90 refined" in shown
    assert chain.as_attempt("COALITION").n_tokens == 6
    assert chain.as_attempt("COALITION").completion == "Oil is light. So the answer is (A)."
    kept = Chain(
        question, "variant-1", attempt("", "variant-1"), "keep", attempt("", "variant-1"),
        Answer(None, 0.6, (0.6, 0.4), (0.6, 0.4), (0.6, 0.4)),
    )  # fmt: skip
    assert kept.as_attempt("COALITION").parsed is False
    assert (kept.as_row()["after"], kept.as_row()["right"]) == (0.6, False)
    assert "kept as it is" in chain_text(kept)
