"""Fixed shards: the same values for any number of processes, and a resume within a part."""

import json
import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import contents, killed_at
from launches import launch
from tiny import tiny_folder, tiny_policy
from toys import attempt, question

from rationalize.cli import main, run
from rationalize.rewards import Reward, RewardSuite
from rationalize.runs import Run, Stage
from rationalize.runs.shards import by_shards, forget, in_shards, kept_in
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import Provenance, Recorded, write_attempts


def together(size, work, folder):
    """What `work()` returned in each of so many processes of one launch."""
    folder.mkdir()
    said = [folder / f"{rank}.json" for rank in range(size)]
    statuses = launch(lambda rank: said[rank].write_text(json.dumps(work())), folder, size=size)
    told = [file.read_text() for file in sorted(folder.glob("output*"))]
    assert statuses == [0] * size, "\n".join(told)
    return [json.loads(file.read_text()) for file in said]


def noted(file, rows):
    """A value per row that depends on all rows of its shard; the shards that were made go to a
    file.
    """
    with open(file, "a") as lines:
        lines.write(json.dumps(rows) + "\n")
    return [[row, len(rows), hash(tuple(rows)) % 97] for row in rows]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_values_come_in_the_order_of_the_rows(rows, size):
    def work(shard):
        assert 0 < len(shard) <= size
        return [[row, sum(shard)] for row in shard]

    plain = in_shards(rows, work, settings=None, size=size)
    assert [value[0] for value in plain] == rows
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with kept_in(Path(folder) / "part"):
                assert in_shards(rows, work, settings=None, size=size) == plain
        with kept_in(Path(folder) / "part"):  # nothing is made a second time
            assert in_shards(rows, pytest.fail, settings=None, size=size) == plain
        forget(Path(folder) / "part")
        assert not (Path(folder) / "part").exists()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_share_the_shards_and_each_has_all_values(tmp_path, size):
    rows, made = list(range(50)), tmp_path / "made"

    def part():
        with kept_in(tmp_path / "part"):
            first = in_shards(rows, partial(noted, made), settings="first", size=8)
            return [first, in_shards(rows[:3] * 2, partial(noted, made), settings=2, size=4)]

    whole = [value for at in range(0, 50, 8) for value in noted(os.devnull, rows[at : at + 8])]
    expected = [whole, noted(os.devnull, [0, 1, 2, 0]) + noted(os.devnull, [1, 2])]
    assert together(size, part, tmp_path / "said") == [expected] * size
    assert len(made.read_text().splitlines()) == 7 + 2  # each was made by one of them


def test_a_shard_that_nobody_works_at_is_taken_by_whoever_is_done(tmp_path):
    def part():
        def work(shard):
            while shard == [0, 1] and len(list((tmp_path / "part").glob("*.json"))) < 9:
                os.sched_yield()  # busy until all others are done
            return [os.getpid() for _ in shard]

        with kept_in(tmp_path / "part"):
            return in_shards(list(range(20)), work, settings=None, size=2)

    first, second = together(2, part, tmp_path / "said")
    assert first == second
    assert sum(pid != first[0] for pid in first) == 18


def test_a_claim_of_a_killed_launch_does_not_block(tmp_path):
    rows, made, folder = list(range(12)), tmp_path / "made", tmp_path / "part"
    with kept_in(folder):
        for at, _ in by_shards(rows, partial(noted, made), settings=None, size=4):
            if at.start == 4:
                break
    for file in folder.glob("*.json"):
        file.with_suffix(".claim").touch()
    (folder / f"{sorted(folder.glob('*.json'))[0].stem[:4]}-000002-x.claim").touch()
    before = made.read_text()

    def part():
        with kept_in(folder):
            return in_shards(rows, partial(noted, made), settings=None, size=4)

    again, same = together(2, part, tmp_path / "said")
    assert again == same
    assert [row for row, _, _ in again] == rows
    assert made.read_text() == before + "[8, 9, 10, 11]\n"


def test_other_rows_settings_or_calls_find_no_shard_of_theirs(tmp_path):
    made = tmp_path / "made"
    for rows, settings_ in (([1, 2], "a"), ([1, 3], "a"), ([1, 2], "b"), ([1, 2], "a")):
        with kept_in(tmp_path / "part"):
            in_shards(rows, partial(noted, made), settings=settings_)
    with kept_in(tmp_path / "part"):
        for _ in range(2):  # another call of the part: perhaps with other weights
            in_shards([1, 2], partial(noted, made), settings="a")
    assert len(made.read_text().splitlines()) == 3 + 1


# Writing

QUESTIONS = [question(i) for i in range(140)]
SHORT = SamplingConfig(max_new_tokens=3, n=2)


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


def write(policy, questions=QUESTIONS):
    recorded = Recorded(Sampler(policy))
    attempts = write_attempts(recorded, questions, SHORT, Provenance("train", 0))
    assert len(recorded.ids) == len(attempts)
    return [[a.id, a.completion, a.finish, list(ids)] for a, ids in zip(attempts, recorded.ids)]


def test_replies_do_not_depend_on_the_other_shards(policy):
    whole = write(policy)
    assert write(policy, QUESTIONS[:64]) == whole[:128]
    assert [row[1:] for row in write(policy, QUESTIONS[64:128])] == [r[1:] for r in whole[128:256]]
    assert write(policy, []) == []
    twice = write(policy, QUESTIONS[:64] * 2)  # the second time in another shard
    assert twice[:128] == whole[:128]
    assert len({id for id, *_ in twice}) == 256


def test_processes_write_the_same_replies(policy, tmp_path):
    whole = write(policy)

    def part(folder):
        with kept_in(folder):
            return write(policy)

    for size in (2, 3):
        assert (
            together(size, partial(part, tmp_path / str(size)), tmp_path / f"said{size}")
            == [whole] * size
        )
        assert len(list((tmp_path / str(size)).glob("*.json"))) == 3


def test_a_killed_part_goes_on_by_shards_to_the_same_bytes(policy, tmp_path):
    def work(path, made):
        def count(prompts, completions, **columns):
            with open(made, "a") as lines:
                lines.write(f"{len(completions)}\n")
            return [len(c) / 9 for c in completions]

        reward = Reward("long", count, scorer_hash="model", all_columns=True)
        with Run.open(path, {}) as run:
            suite = RewardSuite([reward], cache=run.path / "scores")

            def part():
                attempts = write_attempts(Sampler(policy), QUESTIONS, SHORT, Provenance("train", 0))
                return suite.score(attempts, {q.id: q for q in QUESTIONS})

            Stage(run, "mario").attempts("round0", part)

    whole, made = tmp_path / "whole", tmp_path / "made"
    writes = killed_at(None, whole, partial(work, whole, made))
    shards = made.read_text().splitlines()
    assert len(shards) > 1
    assert not (whole / "unfinished").exists()
    again = 0
    for write in range(writes // 3, writes, writes // 4):
        run, made = tmp_path / f"run{write}", tmp_path / f"made{write}"
        assert killed_at(write, run, partial(work, run, made)) is None
        left = {f.name: f.stat().st_ino for f in run.glob("unfinished/*/*.json")}
        assert killed_at(None, run, partial(work, run, made)) is not None
        assert contents(run) == contents(whole)
        # a shard is scored twice at most if the kill came before its file was in place
        assert len(made.read_text().splitlines()) <= len(shards) + 1
        again += len(left)
    assert again


REWARDS = """
from rationalize.rewards import Reward

def bare(completions, **columns):
    return [len(completions) + len(c) / 7 for c in completions]

def count(completions, **columns):
    with open("made", "a") as lines:
        lines.writelines(c + "\\n" for c in completions)
    return [len(c) / 9 for c in completions]

model = Reward("model", count)
"""


def test_the_commands_of_a_launch_write_the_files_of_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "launched_rewards.py").write_text(REWARDS)
    tiny_folder("decoder", tmp_path / "tiny")
    sample = ["sample", "--model", "tiny", "--questions", "builtin", "--limit", "150",
              "--max-new-tokens", "3", "--out"]  # fmt: skip
    score = ["score", "in.jsonl", "--rewards", "launched_rewards:bare", "launched_rewards:model",
             "length", "--out"]  # fmt: skip
    given = ({"question": "Is it?", "answer": "yes", "completion": f"{i} is"} for i in range(600))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    for name, argv in (("a", sample), ("b", score)):
        assert main([*argv, f"{name}1.jsonl"]) == 0
        (tmp_path / "made").unlink(missing_ok=True)
        statuses = launch(lambda _, argv=argv, name=name: run([*argv, f"{name}3.jsonl"]),
                          tmp_path / "said", size=3)  # fmt: skip
        assert statuses == [0, 0, 0], (tmp_path / "said/output0").read_text()
        assert (tmp_path / f"{name}3.jsonl").read_bytes() == (
            tmp_path / f"{name}1.jsonl"
        ).read_bytes()
        assert not list(tmp_path.glob("*.partial"))
    assert len((tmp_path / "made").read_text().splitlines()) == 600  # each by one of them


def test_equal_rows_are_scored_once_whatever_the_shard(tmp_path):
    rows = [attempt(QUESTIONS[i % 70], "so it is", "yes", i) for i in range(150)]
    asked = []

    def count(completions, **columns):
        asked.append(len(completions))
        return [float(len(asked))] * len(completions)

    reward = Reward("r", count, scorer_hash="x")
    suite = RewardSuite([reward], cache=tmp_path)
    scored = suite.score(rows, {q.id: q for q in QUESTIONS})
    assert asked == [64, 6]
    assert [a.rewards["r"] for a in scored[:70]] == [1.0] * 64 + [2.0] * 6
    assert suite.score(rows[:70], {q.id: q for q in QUESTIONS}) == scored[:70]
    assert len(asked) == 2
