"""The factorial table: rows as look-ups, the oracle on another draw, variance of variants."""

import dataclasses

import numpy as np
import pytest
from tiny import tiny_policy
from toys import attempt, question

from rationalize.evaluation.clones import variance_row
from rationalize.methods.coalition.candidates import by_source
from rationalize.methods.coalition.controller import (
    Example,
    controller_examples,
    fixed_choice,
    measure,
)
from rationalize.methods.coalition.diagnostics import in_words
from rationalize.methods.coalition.inference import BASE
from rationalize.methods.coalition.table import Cell, look_up, oracle

NAMES = ("v1", "v2")
Q = question(0)


def cell(writer, refiner, draw, utility, picked=False):
    scored = attempt(Q, f"{writer} {refiner} {draw}", "yes", rewards={"utility": utility})
    return Cell(writer, refiner, draw, picked, "no", scored)


CELLS = [
    cell(w, r, d, 0.1 * i, picked=(w, r) == ("v2", "v1"))
    for d in (0, 1)
    for i, (w, r) in enumerate((w, r) for w in NAMES for r in ("keep", *NAMES))
] + [cell(BASE, r, d, 0.9) for d in (0, 1) for r in ("keep", BASE)]  # fmt: skip


def who(rows, row):
    return sorted({(c.writer, c.refiner) for c in rows[row]})


def test_every_row_is_a_look_up():
    rows = look_up(CELLS, NAMES, "both", "COALITION", {"writer": "v1", "refiner": "keep"})
    assert who(rows, "COALITION") == who(rows, "last variant answers") == [("v2", "v1")]
    assert who(rows, "no refinement") == [("v1", "keep"), ("v2", "keep")]
    assert who(rows, "self-refinement") == [("v1", "v1"), ("v2", "v2")]
    assert who(rows, "cross-refinement") == [("v1", "v2"), ("v2", "v1")]
    assert who(rows, "fixed controller") == [("v1", "keep")]
    assert who(rows, "M_IFT alone") == [(BASE, "keep")]
    assert who(rows, "Self-Refine") == [(BASE, BASE)]
    assert len(rows["random controller"]) == 12  # an expectation: every option of both draws
    assert all(c.writer != BASE for c in rows["oracle controller"])


def test_the_surest_variant_of_each_draw_bears_the_tokens_of_all():
    sure = iter([0.9, 0.6, 0.7, 0.8])
    cells = [
        dataclasses.replace(c, sure=next(sure) if c.refiner == "keep" else 0.99)
        for c in CELLS if c.writer != BASE
    ]  # fmt: skip
    rows = look_up(cells, NAMES, "both", "COALITION", None)
    assert [(c.writer, c.draw) for c in rows["surest variant"]] == [("v1", 0), ("v2", 1)]
    assert {c.attempt.n_tokens for c in rows["surest variant"]} == {2 * CELLS[0].attempt.n_tokens}
    assert who(rows, "COALITION") == [("v2", "v1")]
    empty = dataclasses.replace(cells[0].attempt, rationale="")
    without = [dataclasses.replace(cells[0], attempt=empty), *cells[1:]]
    kept = look_up(without, NAMES, "both", "COALITION", None)["surest variant"]
    assert [(c.writer, c.draw) for c in kept] == [("v2", 0), ("v2", 1)]  # a rationale goes first
    rows = look_up(cells, NAMES, "both", "COALITION", None, "surest")
    assert rows["COALITION"] == rows["surest variant"]
    alone = look_up([c for c in cells if c.writer == "v1"], ("v1",), "both", "COALITION", None)
    assert "surest variant" not in alone
    assert "surest variant" not in look_up(CELLS, NAMES, "both", "COALITION", None)  # not known


def test_rows_without_cells_are_left_out():
    cross = look_up(CELLS, NAMES, "cross", "COALITION", None)
    assert ("v1", "v1") not in who(cross, "random controller")
    assert ("v1", "v1") in who(cross, "self-refinement")
    assert "fixed controller" not in cross
    unpicked = [dataclasses.replace(c, picked=False) for c in CELLS if c.writer != BASE]
    rows = look_up(unpicked, NAMES, "both", "COALITION", None)
    assert rows["COALITION"] == rows["random controller"]
    assert not {"M_IFT alone", "Self-Refine"} & set(rows)
    alone = [c for c in unpicked if c.draw == 0]
    assert "oracle controller" not in look_up(alone, NAMES, "both", "COALITION", None)


def test_the_oracle_is_scored_on_another_draw():
    """Where draws are noise, what was best on one is no better than chance on the other."""
    cells = [cell("v1", "keep", 0, 0.9), cell("v2", "keep", 0, 0.1),
             cell("v1", "keep", 1, 0.2), cell("v2", "keep", 1, 0.6)]  # fmt: skip
    assert [c.attempt.rewards["utility"] for c in oracle(cells)] == [0.1, 0.2]


def test_the_controllers_oracle_is_scored_on_another_draw():
    noise = Example(Q, None, (0.5, 0.5), ((0.9, 0.1), (0.1, 0.9)))
    facts = measure(tiny_policy(), [noise], [0])
    assert facts["oracle_utility"] == pytest.approx(0.1)
    assert facts["oracle_accuracy"] == 0.0
    assert facts["random_utility"] == pytest.approx(0.5)
    real = Example(Q, None, (0.8, 0.2), ((0.9, 0.1), (0.7, 0.3)))
    assert measure(tiny_policy(), [real], [0])["oracle_utility"] == pytest.approx(0.8)


def scored(id, writer, utility, refines=None):
    return attempt(
        Q, "so", None, id=id, writer=writer, refines=refines, rewards={"utility": utility}
    )


def test_examples_know_their_draws_and_the_best_fixed_choice():
    candidates = by_source({"q0": 0.5}, [
        scored("a0", "v1", 0.6), scored("a1", "v1", 0.2),
        scored("b0", "v2", 0.4), scored("b1", "v2", 0.5),
        scored("a0>1", "v2", 0.9, "a0"), scored("a0>2", "v2", 0.7, "a0"),
    ])  # fmt: skip
    write, refine = controller_examples(candidates, [Q], NAMES)
    assert write.draws == ((0.6, 0.4), (0.2, 0.5))
    assert write.utilities == pytest.approx((0.4, 0.45))
    assert [draw[1:] for draw in refine.draws] == [(0.9, 0.6), (0.7, 0.6)]
    assert np.isnan([draw[0] for draw in refine.draws]).all()
    best = fixed_choice(candidates, NAMES)
    assert (best["writer"], best["refiner"]) == ("v1", "v2")
    assert best["utility"] == pytest.approx(0.8)


def test_variance_between_variants_is_set_against_that_of_draws():
    rng = np.random.default_rng(0)

    def utilities(apart):
        return {
            name: {f"q{i}": list(apart * k + rng.normal(size=2)) for i in range(300)}
            for k, name in enumerate(NAMES)
        }

    alike, differ = variance_row(utilities(0.0)), variance_row(utilities(2.0))
    assert alike["low"] < 1 < alike["high"]
    assert alike["draws"] == pytest.approx(1.0, abs=0.15)
    assert differ["low"] > 1
    assert differ["variants"] == pytest.approx(2.0, abs=0.3)  # of 0 and 2
    assert "--parts kinds" in in_words(alike)
    assert "--parts" not in in_words(differ)
    level = {name: {"q": [0.5, 0.5]} for name in NAMES}
    assert variance_row(level)["ratio"] is None
