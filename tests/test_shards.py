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
from launches import environments
from tiny import tiny_policy
from toys import attempt, question

from rationalize.rewards import Reward, RewardSuite
from rationalize.runs import Run, Stage
from rationalize.runs.shards import by_shards, forget, in_shards, kept_in
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import Provenance, Recorded, write_attempts


def together(size, work):
    """What `work()` returned in each of so many processes of one launch."""
    pipes, children = [os.pipe() for _ in range(size)], []
    for place, (_, writer) in zip(environments(size), pipes, strict=True):
        child = os.fork()
        if child == 0:
            os.environ |= place
            status = 1
            try:
                os.write(writer, json.dumps(work()).encode())
                status = 0
            finally:
                os._exit(status)
        children.append(child)
        os.close(writer)
    said = []
    for reader, _ in pipes:
        with os.fdopen(reader) as stream:
            said.append(stream.read())
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * size
    return [json.loads(text) for text in said]


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
    assert together(size, part) == [expected] * size
    assert len(made.read_text().splitlines()) == 7 + 2  # each was made by one of them


def test_a_shard_that_nobody_works_at_is_taken_by_whoever_is_done(tmp_path):
    def part():
        def work(shard):
            while shard == [0, 1] and len(list((tmp_path / "part").glob("*.json"))) < 9:
                os.sched_yield()  # busy until all others are done
            return [os.getpid() for _ in shard]

        with kept_in(tmp_path / "part"):
            return in_shards(list(range(20)), work, settings=None, size=2)

    first, second = together(2, part)
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

    again, same = together(2, part)
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


def test_processes_write_the_same_replies(policy, tmp_path):
    whole = write(policy)

    def part(folder):
        with kept_in(folder):
            return write(policy)

    for size in (2, 3):
        assert together(size, partial(part, tmp_path / str(size))) == [whole] * size
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
