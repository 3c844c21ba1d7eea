"""Examples in docstrings give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import rationalize

NEED_A_MODEL = {
    f"rationalize.{name}"
    for name in (
        "models.choices", "models.reward_model", "models.scorers", "rewards.suite", "runs.run",
    )
}  # fmt: skip
"""Their examples load what is not here, or go on from somebody's attempts."""

MODULES = [
    module.name
    for module in pkgutil.walk_packages(rationalize.__path__, "rationalize.")
    if not module.name.endswith("__main__") and module.name not in NEED_A_MODEL
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0, f"{found.failed} of {found.attempted} examples in {name}"


def test_that_there_are_examples():
    assert sum(doctest.testmod(importlib.import_module(m)).attempted for m in MODULES) > 20
