"""What refinement is worth: hand-computed utilities of two questions."""

import pytest
from toys import attempt, question

from rationalize.evaluation.refining import refining_rows, refining_utilities
from rationalize.report.coalition import refining


def candidate(id, asked, writer, utility, refines=None):
    q = question(0, id=asked)
    return attempt(q, "so it is", None, id=id, writer=writer, refines=refines).scored(
        {"utility": utility}
    )


ATTEMPTS = [
    candidate("q/1", "q", "a", 0.5),
    candidate("q/2", "q", "b", 0.3),
    candidate("q/3", "q", "b", 0.9),  # nobody refined it
    candidate("q/1a", "q", "a", 0.6, "q/1"),
    candidate("q/1b", "q", "b", 0.7, "q/1"),
    candidate("q/2a", "q", "a", 0.9, "q/2"),
    candidate("q/2b", "q", "b", 0.2, "q/2"),
    candidate("r/1", "r", "b", 0.4),
    candidate("r/1a", "r", "a", 0.1, "r/1"),
]


def test_own_and_others_refinements_are_told_apart():
    utilities = refining_utilities({"q": 0.2, "r": 0.3, "s": 0.9}, ATTEMPTS)
    assert utilities["none"] == {"q": 0.2, "r": 0.3}
    assert utilities["written"] == pytest.approx({"q": 0.4, "r": 0.4})
    assert utilities["self"] == pytest.approx({"q": 0.4})
    assert utilities["cross"] == pytest.approx({"q": 0.8, "r": 0.1})


def test_differences_are_paired_where_both_are_known_and_averaged_over_seeds():
    one = refining_utilities({"q": 0.2, "r": 0.3}, ATTEMPTS)
    rows = {(r["a"], r["b"]): r for r in refining_rows([one])}
    assert rows["cross", "self"]["n"] == 1
    assert rows["cross", "self"]["mean"] == pytest.approx(0.4)
    assert rows["cross", "written"]["mean"] == pytest.approx((0.4 - 0.3) / 2)
    assert rows["written", "none"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    other = {**one, "cross": {"q": 0.6, "r": 0.1}}
    rows = {(r["a"], r["b"]): r for r in refining_rows([one, other])}
    assert rows["cross", "self"]["mean"] == pytest.approx(0.3)
    shown = {row[0]: row for row in refining(list(rows.values()))["rows"]}
    assert shown["cross − self"][2:4] == ["0.700", "0.400"]
    assert shown["cross − self"][4].startswith("+0.300")


def test_nothing_refined_gives_no_rows():
    assert refining_rows([refining_utilities({"q": 0.2}, ATTEMPTS[:2])]) == []
