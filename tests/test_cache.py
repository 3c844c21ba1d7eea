"""The score cache: keys, and several processes at once."""

import dataclasses
import multiprocessing

from rationalize.records import Question
from rationalize.rewards import Reward, RewardSuite, ScoreCache
from rationalize.rewards.suite import COLUMNS, score_key
from tests.reward_toys import QUESTION, attempt


def test_scores_come_back_exactly_and_none_is_a_score(tmp_path):
    cache = ScoreCache(tmp_path)
    scores = {bytes([i]): 0.1 * i if i % 3 else None for i in range(250)}
    cache.put(scores)
    cache.put({bytes([1]): 99.0})  # the first score stays
    assert ScoreCache(tmp_path).get([*scores, b"unknown"]) == scores
    assert len(cache) == 250
    assert cache.get([]) == {}


def test_a_second_suite_asks_only_for_what_is_new(tmp_path):
    asked = []

    def function(completions, **_):
        asked.append(list(completions))
        return [None if c == "odd" else float(len(c)) for c in completions]

    reward = Reward("size", function)
    questions = {"q1": QUESTION}
    first = RewardSuite([reward], cache=str(tmp_path)).score(
        [attempt("a"), attempt("odd")], questions
    )
    both = [attempt("odd"), attempt("bb"), attempt("a")]
    second = RewardSuite([reward], cache=str(tmp_path)).score(both, questions)
    assert asked == [["a", "odd"], ["bb"]]
    assert [a.rewards["size"] for a in first] == [1.0, None]
    assert [a.rewards["size"] for a in second] == [None, 2.0, 1.0]
    uncached = dataclasses.replace(reward, cacheable=False)
    RewardSuite([uncached], cache=str(tmp_path)).score([attempt("a")], questions)
    assert asked[-1] == ["a"]


def test_key_changes_with_everything_a_score_depends_on():
    row = dict.fromkeys(COLUMNS, "x")
    reward = Reward("r", lambda **_: [])
    rewards = [
        dataclasses.replace(reward, name="s"),
        dataclasses.replace(reward, version="2"),
        dataclasses.replace(reward, scorer_hash="abc"),
    ]
    keys = {score_key(reward, row)} | {score_key(r, row) for r in rewards}
    keys |= {score_key(reward, {**row, name: "y"}) for name in COLUMNS}
    assert len(keys) == 1 + len(rewards) + len(COLUMNS)
    assert score_key(reward, row) == score_key(reward, dict(row))


def test_gold_is_part_of_the_key_only_where_it_is_used(tmp_path):
    calls = []

    def function(completions, **_):
        calls.append(len(completions))
        return [0.0] * len(completions)

    regraded = dataclasses.replace(attempt("a"), gold="wood")
    questions = {"q1": Question("q1", "Which is heavier?", "wood", ("wood", "steel"))}
    for needs_gold, expected in [(False, 1), (True, 2)]:
        calls.clear()
        suite = RewardSuite(
            [Reward(f"r{needs_gold}", function, needs_gold=needs_gold)], str(tmp_path)
        )
        suite.score([attempt("a")], questions)
        suite.score([regraded], questions)
        assert sum(calls) == expected


def test_several_processes_share_one_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    workers = [context.Process(target=_work, args=(tmp_path, i, start)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(50)
    assert [w.exitcode for w in workers] == [0] * 4
    cache = ScoreCache(tmp_path)
    keys = [f"{i}/{j}".encode() for i in range(4) for j in range(200)]
    assert cache.get(keys) == {key: float(key.split(b"/")[1]) for key in keys}
    assert len(cache) == 800 + 50


def _work(folder, number, start):
    start.wait()  # all create the file at once
    cache = ScoreCache(folder)
    for j in range(200):
        cache.put({f"{number}/{j}".encode(): float(j), f"shared/{j % 50}".encode(): 1.0})
        assert cache.get([f"{number}/{j}".encode()])
