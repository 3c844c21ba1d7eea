"""Mirrors of metrics.jsonl: trackers get what the file holds, and nothing leaves the machine.

Each tracker is tested where its package is installed.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import sys

import pytest

from rationalize.cli import main
from rationalize.runs import Run
from rationalize.runs.track import _TRACKERS, Mirror

LINES = [
    ("sft", 0, {"loss": 2.5, "note": None}),
    ("sft", 1, {"loss": 2.0}),
    ("mario/rounds", 0, {"reward": "diversity", "mean": 0.5, "seed": 0, "counts": [1, 2]}),
]
SENT = {
    "sft/loss": [2.5, 2.0],
    "mario/rounds/diversity/0/mean": [0.5],
    "mario/rounds/diversity/0/counts/0": [1],
    "mario/rounds/diversity/0/counts/1": [2],
}


def mirrored(tracker, path):
    """A run that logs the lines, the last of them after a resume."""
    for start in (LINES[:2], LINES[2:]):
        with Run.open(path, {"method": "toy", "track": tracker}) as run:
            for stage, step, metrics in start:
                run.log(stage, step, **metrics)
    assert len(Run.read(path).metrics()) == 3


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_there_is_told_before_anything_begins(
    tracker, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, tracker, None)
    for more in ([], ["--dry-run"]):
        argv = ["train", "sft", "--track", tracker, "--out", str(tmp_path / "run"), *more]
        assert main(argv) == 1
        assert f"the package {tracker} is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_tracker_is_the_same_run(tmp_path):
    with Run.open(tmp_path, {"method": "toy"}) as run:
        run.finish("sft")
    with Run.open(tmp_path, {"method": "toy", "track": None}) as run:
        assert run.done("sft") == {}


def test_the_stages_of_runs_inside_a_run_are_kept_apart(tmp_path, monkeypatch):
    sent = []
    tracker = lambda *_: (lambda *line: sent.append(line), lambda: None, "")  # noqa: E731
    monkeypatch.setitem(_TRACKERS, "tensorboard", tracker)
    run = Run.open(tmp_path, {"method": "toy"})
    run = dataclasses.replace(run, mirror=Mirror("tensorboard", tmp_path, {}))
    run.log("tuning", 0, loss=1.0)
    for arm in ("arm-full", "arm-rank"):
        run.nested(arm).log("tuning", 0, loss=2.0)
    run.nested("arm-full").nested("scorer").log("tuning", 0, loss=3.0)
    stages = ["tuning", "arm-full/tuning", "arm-rank/tuning", "arm-full/scorer/tuning"]
    assert [stage for stage, *_ in sent] == stages
    assert [[*values] for *_, values in sent] == [[f"{stage}/loss"] for stage in stages]
    sent.clear()
    run.log("m", 3, reward="r", auc={"mean": 0.5, "n": 2}, counts=[4, 5], gap=None)
    assert sent == [
        ("m", 3, {"m/r/auc/mean": 0.5, "m/r/auc/n": 2.0, "m/r/counts/0": 4.0, "m/r/counts/1": 5.0})
    ]


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mirrored("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard")).Reload()
    found = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == SENT


def records(file):
    """The records of a .wandb file: blocks as in LevelDB's log, after a header of seven bytes."""
    place, block, record = 7, 32768, b""
    while place + 7 <= len(file):
        if block - place % block < 7:  # too little room for a header: the block's padding
            place += block - place % block
            continue
        length, kind = int.from_bytes(file[place + 4 : place + 6], "little"), file[place + 6]
        record += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def test_wandb_gets_the_numbers(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    mirrored("wandb", tmp_path / "run")
    wandb.teardown()  # its process ends, so that the files are whole
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list[float]] = {}
    ids = set()
    for file in sorted((tmp_path / "run").glob("trackers/wandb/offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.run.run_id:
                ids.add(record.run.run_id)
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                if not key.startswith("_") and not key.endswith("/step"):
                    found.setdefault(key, []).append(json.loads(item.value_json))
    assert found == SENT
    assert ids == {(tmp_path / "run" / "trackers" / "id").read_text()}


def test_trackio_gets_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "home"))  # read when it is imported
    pytest.importorskip("trackio")
    mirrored("trackio", tmp_path / "run")
    [file] = (tmp_path / "home").glob("rationalize*.db")
    rows = sqlite3.connect(file).execute("select metrics from metrics order by id").fetchall()
    found: dict[str, list[float]] = {}
    for (text,) in rows:
        for key, value in json.loads(text).items():
            if key.startswith(("sft", "mario")):
                found.setdefault(key, []).append(value)
    assert found == SENT
