"""MaRio's pool: bins, filters, and what the steps draw."""

import dataclasses
from collections import Counter

import pytest

from rationalize.methods.base import NothingToLearn
from rationalize.methods.mario import control_bins
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.pool import Pool
from rationalize.records import Completion
from rationalize.rewards import Reward, RewardSuite, load_rewards
from rationalize.runs import Run, Stage
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


def test_what_a_row_is_told_from_is_drawn_anew_each_step():
    made = pool()
    drawn = made.draw(0, BOTH)
    assert made.told_apart(drawn, 0) == drawn
    assert made.told_apart(drawn, 1) != drawn


UNPARSED = SUITE.score([attempt(QUESTIONS[0], "who knows", None)], {"q0": QUESTIONS[0]})


def test_what_is_not_parsed_is_not_learned_from():
    made = pool()
    made.add(UNPARSED, BOTH)
    assert made.rounds == 2
    assert made.attempts == ATTEMPTS


@pytest.mark.parametrize("over_draw", [1.0, 3.0])
def test_a_round_draws_in_an_order_of_its_own(over_draw):
    made, orders = pool(over_draw=over_draw), []
    for _ in range(2):
        orders.append([row.attempt.id for row in made.draw(0, BOTH)])
        made.add(UNPARSED, BOTH)  # nothing new to learn from
    assert orders[0] != orders[1]


def test_the_worst_bin_of_a_reward_is_its_lowest_that_holds_an_attempt():
    assert pool().lowest() == {"correctness": 1, "diversity": max(pool().filled()["diversity"])}
    assert pool(filters={"correctness": 1.0}).lowest()["correctness"] == 0


MADE_UP = RewardSuite(
    [
        Reward("penalty", lambda completions, **_: [0.0] * len(completions), range=(-1.0, 0.0)),
        Reward("share", lambda completions, **_: [0.0] * len(completions), range=(0.0, 1.0)),
    ]
)


def pool_of(scores, config):
    """A pool of attempts with these scores, each at a question: `(question, reward -> score)`."""
    own = [attempt(QUESTIONS[i], "so", "yes", k, rewards=s) for k, (i, s) in enumerate(scores)]
    controls = control_bins(config, MADE_UP)
    made = Pool(config, MADE_UP, controls, 0)
    made.add(own, tuple(controls))
    return made


@pytest.mark.parametrize(
    ("variant", "bins"), [("product", [0, 0, 1, 1]), ("product-raw", [0, 1, 1, 0])]
)
def test_a_product_is_of_rewards_mapped_by_their_range_or_raw(variant, bins):
    config = dataclasses.replace(
        CONFIG, rewards=("penalty", "share"), variant=variant, select_by="share", bins=2
    )
    scores = [(0.0, 0.6), (-0.2, 0.9), (-0.9, 0.9), (-0.5, 0.2)]  # .6, .72, .09, .1; 0, -.18, ..
    rewards = [(i, {"penalty": p, "share": s}) for i, (p, s) in enumerate(scores)]
    assert pool_of(rewards, config).bins["product"].tolist() == bins


@pytest.mark.parametrize(("within", "bins"), [("pool", [0, 0, 1, 1]), ("question", [0, 1, 0, 1])])
def test_attempts_are_ranked_in_the_pool_or_within_their_question(within, bins):
    config = dataclasses.replace(
        CONFIG, rewards=("share",), bins=2, select_by="share", entries=(), variant="classic",
        bins_within=within,
    )  # fmt: skip
    scores = [(0, {"share": 0.9}), (0, {"share": 0.8}), (1, {"share": 0.2}), (1, {"share": 0.1})]
    assert pool_of(scores, config).bins["share"].tolist() == bins


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


def test_a_token_that_is_not_there_yet_needs_no_attempt_of_its_best_value(tmp_path):
    none_right = [a for a in ATTEMPTS if not a.rewards["correctness"]]
    made = Pool(CONFIG, SUITE, control_bins(CONFIG, SUITE), 0)
    with Run.open(tmp_path, {}) as run:
        made.add(none_right, ("diversity",))
        made.log(Stage(run, "m"))
        made.add(none_right, BOTH)
        with pytest.raises(NothingToLearn, match="no attempt has the best value of 'correctness'"):
            made.log(Stage(run, "m"))


def test_an_undefined_score_passes_no_filter():
    rated = [{"mine": 0.7}, {"mine": 0.9}, {"mine": None}]
    suite = RewardSuite([Reward("mine", lambda **_: [])])  # without a range, it has no worst score
    config = MarioConfig(rewards=("mine",), filters={"mine": 0.5}, select_by="mine")
    made = Pool(config, suite, control_bins(config, suite), 0)
    attempts = [dataclasses.replace(a, rewards=r) for a, r in zip(ATTEMPTS[:3], rated, strict=True)]
    made.add(attempts, ("mine",))
    assert made.attempts == attempts[:2]


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
