"""MaRio's pool: bins, filters, and what the steps draw."""

import dataclasses
from collections import Counter

from rationalize.methods.mario import control_bins
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.pool import Pool
from rationalize.records import Completion
from rationalize.rewards import RewardSuite, load_rewards
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from tests.toys import attempt, question

CONFIG = MarioConfig(
    rewards=("correctness", "diversity"), bins=3, steps=40, sample_interval=20, contrast=1.0,
    select_by="diversity", entries=(0, 10), variant="additive",
)  # fmt: skip
BOTH = CONFIG.rewards
QUESTIONS = [question(i) for i in range(30)]
SUITE = RewardSuite(load_rewards(["correctness", "diversity", "length"]))
ATTEMPTS = SUITE.score(
    [
        attempt(q, "it is so " * (1 + i % 4), "yes" if i % 5 else "no", i)
        for i, q in enumerate(QUESTIONS)
    ],
    {q.id: q for q in QUESTIONS},
)


def pool(active=BOTH, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    made = Pool(config, SUITE, control_bins(config, SUITE), 0)
    made.add(ATTEMPTS, active)
    return made


def test_a_row_is_told_apart_from_the_bins_of_one_reward():
    drawn = [row for step in range(20) for row in pool().draw(step, BOTH)]
    changed = Counter()
    for row in drawn:
        [name] = [n for n in BOTH if row.other[n] != row.bins[n]]
        assert row.other[name] in pool().filled()[name]
        changed[name] += 1
    assert min(changed[n] for n in BOTH) > 0.3 * len(drawn)
    assert drawn[:8] == pool().draw(0, BOTH)  # a resumed run draws the same
    assert all(row.other is None for row in pool(contrast=0.0).draw(0, BOTH))


def test_a_reward_with_one_bin_has_nothing_to_be_told_from():
    drawn = pool(filters={"correctness": 1.0}).draw(0, ("correctness",))
    assert all(row.other is None for row in drawn)


def test_a_filter_acts_from_the_step_on_which_its_reward_enters():
    """The released code's `filter_quark`, in ADDITIVE; exploring again does not come first."""
    made = pool(("correctness",), filters={"diversity": 0.9})
    low = {a.id for a in ATTEMPTS if a.rewards["diversity"] < 0.9}
    early, late = (
        {row.attempt.id for step in range(30) for row in made.draw(step, active)}
        for active in (("correctness",), BOTH)
    )
    assert early & low
    assert not late & low


def test_a_reward_may_be_scored_without_token_or_filter():
    """The released code's `quark_no_tag`: a threshold that every score passes."""
    made = pool(filters={"length": 0.0})
    assert len(made.attempts) == len(ATTEMPTS)
    assert set(made.bins) == set(BOTH)


def test_tokens_that_mean_nothing():
    """As many attempts in each bin, but not the same ones."""
    right, lot = pool(), pool(bins_within="nothing")
    for name in BOTH:
        assert Counter(right.bins[name]) == Counter(lot.bins[name])
        assert (right.bins[name] != lot.bins[name]).any()
        assert (lot.bins[name] == pool(bins_within="nothing").bins[name]).all()


class Echo:
    """A sampler that answers with the bins that it was asked under."""

    name = "echo"

    def sample(self, prompts, config, *, controls, **_):
        return [[Completion(str(dict(control)), "stop", 1)] for control in controls]

    def fits(self, *_):
        return True


def test_questions_draw_their_bins_where_several_are_asked_for():
    """The released code's switch to random tokens."""
    asked = PromptOptions(control={"correctness": 0, "diversity": (0, 1, 2)})
    first, again, other = (
        write_attempts(Echo(), QUESTIONS, SamplingConfig(), Provenance("dev", seed), asked)
        for seed in (0, 0, 1)
    )
    assert {a.control["diversity"] for a in first} == {0, 1, 2}
    assert {a.control["correctness"] for a in first} == {0}
    assert all(a.completion == str(a.control) for a in first)
    assert [a.control for a in first] == [a.control for a in again]
    assert [a.control for a in first] != [a.control for a in other]
