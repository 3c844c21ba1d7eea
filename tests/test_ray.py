"""`--executor ray` on two nodes of which one is lost. Needs the extra `ray`."""

import os
import sys
import threading
import time

import pytest
from score_files import read, rows, write
from tiny import tiny_folder

from rationalize.cli import main

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

REWARD = """
import os
import time
import ray

calls = 0

def words(completions, **columns):
    "Counts words; the second batch of a process lasts until a node was removed."
    global calls
    calls += 1
    if ray.is_initialized():
        while calls == 2 and not os.path.exists("removed"):
            time.sleep(0.02)
        with open("made", "a") as lines:
            lines.write(f"{ray.get_runtime_context().get_node_id()} {completions[0].split()[0]}\\n")
    return [len(c.split()) / 7 for c in completions]
"""


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            yield nodes, [nodes.add_node(num_cpus=1) for _ in range(2)]
        finally:
            nodes.shutdown()


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_sample_and_score_are_the_same_and_a_lost_node_loses_nothing(
    cluster, tmp_path, monkeypatch, capsys
):
    nodes, (_, second) = cluster
    monkeypatch.chdir(tmp_path)
    on_ray = ["--executor", "ray", "--address", nodes.address]

    tiny_folder("decoder", tmp_path / "tiny")
    flags = ["sample", "--model", "tiny", "--questions", "builtin", "--limit", "150",
             "--max-new-tokens", "3", "--n", "2"]  # fmt: skip
    assert main([*flags, "--out", "here.jsonl"]) == 0
    assert main([*flags, "--out", "ray.jsonl", *on_ray]) == 0
    assert read(tmp_path / "ray.jsonl") == read(tmp_path / "here.jsonl")

    (tmp_path / "words.py").write_text(REWARD)
    given = [{**row, "completion": f"{i} says so"} for i, row in enumerate(rows(6 * 256 + 9))]
    write(tmp_path / "in.jsonl", given)
    flags = ["score", "in.jsonl", "--rewards", "correctness", "words:words"]
    status = []
    work = threading.Thread(
        target=lambda: status.append(main([*flags, "--out", "ray-scored.jsonl", *on_ray]))
    )
    work.start()
    made = tmp_path / "made"
    wait_until(lambda: made.exists() and len(made.read_text().splitlines()) == 2)
    nodes.remove_node(second)
    (tmp_path / "removed").touch()
    work.join(120)
    assert status == [0]
    lines = [line.split() for line in made.read_text().splitlines()]
    assert len({node for node, _ in lines}) == 2
    # what was finished is not made again, on whichever node it was
    assert sorted(int(first) for _, first in lines) == list(range(0, 6 * 256 + 9, 256))

    sys.path.insert(0, os.getcwd())
    assert main([*flags, "--out", "here-scored.jsonl"]) == 0
    scored = (tmp_path / "ray-scored.jsonl").read_bytes()
    assert scored == (tmp_path / "here-scored.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_an_error_in_an_actor_is_told_as_here(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def two(completions, **columns):\n    return [1, 2]\n")
    write(tmp_path / "in.jsonl", rows(3))
    flags = ["score", "in.jsonl", "--rewards", "bad:two"]
    assert main(flags) == 1
    here = capsys.readouterr().err.splitlines()[-1]
    assert main([*flags, "--executor", "ray", "--address", cluster[0].address]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == here
