r"""LaTeX answers by their value: `math-verify` in a child process, and what is true without it."""

import importlib.util

import pytest

from rationalize import latex
from rationalize.answers import is_correct
from rationalize.latex import Child, is_latex

installed = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra `math`"
)
SAME = [
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"), ("$x^2 + 1$", "1+x^2"),
    ("\\boxed{2\\pi}", "2\\pi"), ("x=3^{2}", "9"), ("\\{2, 1\\}", "\\{1,2\\}"),
    ("\\(2\\sqrt{3}\\).", "\\sqrt{12}"), ("\\sqrt{4}", "2"), ("0.785398", "\\frac{\\pi}{4}"),
]  # fmt: skip
OTHER = [
    ("\\sqrt{2}", "\\sqrt{3}"), ("(1,2)", "[1,2]^{1}"), ("0.7", "\\frac{\\pi}{4}"),
    ("\\sqrt{2} because of that", "\\sqrt{2}^{1}"), ("\\text{silent}", "\\text{listen}"),
    ("$1000\\%$", "10"), ("\\frac{", "\\pi"), ("}{", "\\pi"), ("", "\\pi"),
]  # fmt: skip


@installed
@pytest.mark.parametrize(("prediction", "answer"), SAME)
def test_values_that_are_equal(prediction, answer):
    assert is_correct(prediction, answer)


@pytest.mark.parametrize(("prediction", "answer"), OTHER)
def test_values_that_are_not(prediction, answer):
    assert not is_correct(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [("0.5", "\\frac{1}{2}"), ("\\frac12", "0.5"), ("1/2", "0.5"), ("0.75", "$\\frac{3}{4}$")],
)
def test_fractions_equal_decimals_without_the_extra(prediction, answer):
    assert is_correct(prediction, answer)
    assert not is_correct("0.51", answer)


def test_words_and_choices_are_no_latex():
    for text in ("seven", "\\text{Tuesday}", "$5 and so on, $6", "a_b", "3 \\$", "(A)", "7"):
        assert not is_latex(text)
    assert not is_correct("1+x^2", "x^2+1", ["x^2+1", "1+x^2"])  # choices: by identity


@installed
def test_what_hangs_is_ended_and_the_next_pair_is_compared():
    child = Child(seconds=0.3)
    assert not child.equal("10^{10^{10}}", "\\pi")
    assert child.equal("2^{2}", "4")
    child.stop()


@pytest.mark.skipif(latex.available(), reason="tells what is missing")
def test_a_latex_answer_is_told_of_once(caplog):
    latex._tell.cache_clear()
    for prediction in ("1", "2"):
        assert not is_correct(prediction, "\\sqrt{2}")
        assert not is_correct(prediction, "\\frac{1}{7}")  # a number, read by ourselves
    assert [r.message.count("rationalize[math]") for r in caplog.records] == [1]
