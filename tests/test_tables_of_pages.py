"""Tables of the documentation equal what their stored results print."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "tables.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="no experiments beside the tests")


def load(script):
    """The script as a module; it works on the checkout that it lies in."""
    spec = importlib.util.spec_from_file_location("tables_of_pages", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copied(folder):
    """The script in a checkout of its own."""
    script = folder / "experiments" / "tables.py"
    (script.parent / "results").mkdir(parents=True)
    script.write_text(SCRIPT.read_text())
    return load(script)


def test_every_marked_table_is_what_its_file_prints():
    tables = load(SCRIPT)
    assert not [page for page in tables.pages() if tables.outdated(page)]


def test_a_marked_place_is_filled_from_a_stored_file(tmp_path):
    tables = copied(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("no table\n")
    page = tmp_path / "docs" / "page.md"
    place = "before\n<!-- table: mine rows links try auc -->\nold\n<!-- end of table -->\nafter\n"
    page.write_text(place)
    rows = [{"try": "one", "n": 3, "auc": {"mean": 0.5, "low": 0.25, "high": 1}}, {"try": "two"}]
    (tables.STORED / "mine.json").write_text(json.dumps({"meta": {}, "tables": {"links": rows}}))
    assert [page for page in tables.pages() if tables.outdated(page)] == [page]
    assert page.read_text() == place
    assert tables.outdated(page, write=True)
    assert page.read_text().splitlines()[2:6] == [
        "| try | auc |", "| --- | --- |", "| one | 0.500 [0.250, 1] |", "| two |  |",
    ]  # fmt: skip
    assert page.read_text().endswith("<!-- end of table -->\nafter\n")
    assert not tables.outdated(page)


def test_a_stored_run_has_no_paths_and_no_steps(tmp_path):
    tables = copied(tmp_path)
    results = {
        "training": [{"loss": 1.0}],
        "chains": [{"rationale": "a text"}],
        "bins": [{"share": 1 / 3}],
        "meta": {
            "config": {"model": "/home/me/models/small", "questions": "builtin"},
            "command": "rationalize demo --out /home/me/runs/demo --seed 0",
        },
    }
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "results.json").write_text(json.dumps(results))
    assert json.loads(tables.store(run_folder, "mine").read_text()) == {
        "bins": [{"share": 0.333333}],
        "meta": {
            "config": {"model": "small", "questions": "builtin"},
            "command": "rationalize demo --out demo --seed 0",
        },
    }
