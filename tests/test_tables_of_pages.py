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


def test_a_claim_is_decided_by_its_interval(tmp_path):
    tables = copied(tmp_path)
    rows = [
        {"row": "a", "against": "b", "n": 9, "gain": {"mean": 0.0349, "low": 0.01, "high": 0.06}},
        {"row": "a", "against": "c", "n": 9, "gain": {"mean": 0.0, "low": 0.0, "high": 0.02}},
        {"row": "a", "against": "d", "n": 9, "gain": {"mean": -0.2, "low": -0.3, "high": -0.1}},
        {"row": "a", "attempts": 80, "auc": {"mean": 0.6, "low": 0.5, "high": 0.7}},
    ]
    (tables.STORED / "mine.json").write_text(json.dumps({"meta": {}, "tables": {"found": rows}}))
    group = {
        "about": "ours", "page": "p.md", "file": "mine", "table": "found", "cell": "gain",
        "scale": 100, "unit": "points", "places": 1,
        "rows": [{"claim": x, "row": {"against": x}} for x in "bcd"],
    }  # fmt: skip
    assert [row[1:] for row in tables.claims([group])[2:]] == [
        ["**yes**", "+3.5 [+1.0, +6.0] points", "9"],
        ["no", "+0.0 [+0.0, +2.0] points", "9"],
        ["the opposite", "-20.0 [-30.0, -10.0] points", "9"],
    ]
    auc = {"claim": "auc", "row": {"attempts": 80}, "cell": "auc", "above": 0.5}
    told = {**group, "scale": 1, "unit": "AUC", "places": 2, "rows": [auc]}
    assert tables.claims([told])[2][1:] == ["no", "0.60 [0.50, 0.70] AUC", "80"]
    with pytest.raises(SystemExit, match="both: 4 rows, not one"):
        tables.claims([{**group, "rows": [{"claim": "both", "row": {"row": "a"}}]}])
