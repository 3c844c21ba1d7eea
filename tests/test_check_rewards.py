"""The adversarial self-tests find rewards that are easy to game, and pass honest ones."""

import pytest

from rationalize.errors import UserError
from rationalize.records import Question
from rationalize.rewards import Reward, load_rewards
from rationalize.rewards.base import ATTACKS
from rationalize.rewards.check import check_rewards, format_table, negated, spoil, unmoved

THINGS = ("steel", "wood", "cork", "clay", "glass", "wool", "stone", "paper")
PAIRS = [(a, b) for a in THINGS for b in THINGS if a != b][:40]
QUESTIONS = [
    Question(f"q{i}", f"Which weighs more, {a} or {b}?", a, (b, a))
    for i, (a, b) in enumerate(PAIRS)
]
GOOD = [
    f"A piece of {a} is denser than a piece of {b}. So it is {a}."
    if i % 2
    else f"{a} is denser, so it is {a}."
    for i, (a, b) in enumerate(PAIRS)
]


def verdicts(*rewards):
    rows = check_rewards(rewards, QUESTIONS, GOOD)
    return {(row.reward, row.attack): row for row in rows}


def test_one_row_per_reward_and_attack():
    rows = check_rewards(load_rewards(["correctness", "diversity"]), QUESTIONS, GOOD)
    assert [(r.reward, r.attack) for r in rows] == [
        (name, attack) for name in ("correctness", "diversity") for attack in ATTACKS
    ]


def test_diversity_notices_repetition_and_is_won_by_an_empty_text():
    by = verdicts(*load_rewards(["diversity"]))
    repetition = by["diversity", "repetition"]
    assert (repetition.moved, repetition.verdict) == ("drops", "ok")
    assert repetition.high < 0 < repetition.before - repetition.after
    assert by["diversity", "empty"].verdict == "suspicious"
    assert by["diversity", "empty"].moved == "rises"


def test_correctness_stays_because_the_answer_does():
    by = verdicts(*load_rewards(["correctness"]))
    assert {row.moved for row in by.values()} == {"stays"}
    assert all(row.ok for row in by.values())


def test_diagnostics_see_the_fault_they_count():
    by = verdicts(*load_rewards(["length", "option_copying", "answer_leak", "repetition"]))
    assert [key for key, row in by.items() if not row.ok] == []
    assert by["repetition", "repetition"].moved == "rises"
    assert by["answer_leak", "gold"].after == 1.0
    assert by["length", "options"].expected == "-"


def test_a_cheap_user_reward_is_suspicious():
    def names_gold(rationale, gold, **_):
        return [float(r.lower().count(g.lower())) for r, g in zip(rationale, gold, strict=True)]

    cheap = Reward("names_gold", names_gold, needs_gold=True, cacheable=False)
    by = verdicts(cheap)
    assert by["names_gold", "repetition"].verdict == "suspicious"
    blind = Reward(
        "blind", lambda completions, **_: [0.5] * len(completions), should_drop=frozenset({"empty"})
    )
    assert verdicts(blind)["blind", "empty"].verdict == "suspicious"


def test_undefined_counts_as_a_drop():
    reward = Reward(
        "shy",
        lambda rationale, **_: [1.0 if r else None for r in rationale],
        should_drop=frozenset({"empty"}),
    )
    row = verdicts(reward)["shy", "empty"]
    assert (row.moved, row.after, row.n, row.ok) == ("undefined", None, 0, True)


def test_attacks_do_what_they_say():
    for attack in ATTACKS:
        spoiled = spoil(attack, QUESTIONS, GOOD)
        assert len(spoiled) == len(GOOD)
        assert sum(a != b for a, b in zip(spoiled, GOOD, strict=True)) >= 38, attack
        assert spoiled == spoil(attack, QUESTIONS, GOOD)
    shuffled = spoil("shuffled", QUESTIONS, GOOD)
    assert [sorted(s.split()) for s in shuffled] == [sorted(g.split()) for g in GOOD]
    for question, text in zip(QUESTIONS, spoil("options", QUESTIONS, GOOD), strict=True):
        assert all(c in text for c in question.choices)


def test_where_an_attack_changes_nothing_nothing_is_expected():
    """Free-form questions have no options; of both kinds, those with choices are compared."""
    free = [Question(f"n{i}", f"{i} + 1?", str(i + 1)) for i in range(40)]
    said = [f"{i} and one more is {i + 1}." for i in range(40)]
    reader = Reward(
        "reader", lambda rationale, **_: [0.1 if "could be" in r else 0.9 for r in rationale],
        should_drop=frozenset({"options"}),
    )  # fmt: skip
    rows = {(r.reward, r.attack): r for r in check_rewards([reader], free, said)}
    row = rows["reader", "options"]
    assert (row.n, row.moved, row.expected, row.ok) == (0, "undefined", "-", True)
    both = check_rewards([reader], [*free, *QUESTIONS], [*said, *GOOD])
    [row] = [r for r in both if r.attack == "options"]
    assert (row.n, row.moved) == (len(GOOD), "drops")
    assert (row.before, row.after) == pytest.approx((0.9, 0.1))


def test_negation():
    assert negated("Steel is heavy. So it is the cart.") == "Steel is heavy. So it is not the cart."
    assert negated("It is not the cart.") == "It is the cart."
    assert negated("More light means faster.") == "More light does not mean faster."
    assert negated("Steel sinks.") == "It is not true that Steel sinks."


def test_table_and_bad_input():
    table = format_table(check_rewards(load_rewards(["diversity"]), QUESTIONS, GOOD))
    assert "suspicious" in table
    assert len(table.splitlines()) == 1 + len(ATTACKS)
    with pytest.raises(UserError, match="40 questions and 1 good rationales"):
        check_rewards(load_rewards(["diversity"]), QUESTIONS, ["one"])
    with pytest.raises(UserError, match="unknown attacks \\['typo'\\]"):
        Reward("r", lambda **_: [], should_drop=frozenset({"typo"}))


def test_rewards_that_no_attack_moves_are_named_and_others_not():
    rewards = load_rewards(["diversity", "correctness"])
    never = Reward("never", lambda completions, **_: [0.0] * len(completions))
    rows = check_rewards([*rewards, never], QUESTIONS[:4], GOOD[:4])
    assert unmoved(rows) == ["correctness", "never"]
