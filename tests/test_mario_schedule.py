import dataclasses

from rationalize.config.old import upgrade
from rationalize.methods.mario_config import (
    MarioConfig,
    active_when_sampling,
    active_when_training,
    entry_steps,
)

FOUR = ("a", "b", "c", "d")
RIGHT = MarioConfig(rewards=FOUR, variant="additive", entries=(0, 10, 20, 30), steps=60)
LEFT = dataclasses.replace(RIGHT, variant="additive-left")


def test_additive_training_schedule():
    # 4 rewards, interval 10: s = 0..9 -> 1 token, 10..19 -> 2, 30+ -> 4
    counts = [len(active_when_training(s, RIGHT)) for s in range(60)]
    assert counts[:10] == [1] * 10
    assert counts[10:20] == [2] * 10
    assert counts[20:30] == [3] * 10
    assert counts[30:] == [4] * 30


def test_additive_sampling_never_uses_an_untrained_token():
    # sampling at s = 10 uses 1, at 20 uses 2, at 11 uses 2
    counts = {s: len(active_when_sampling(s, RIGHT)) for s in (0, 10, 11, 20, 30, 31, 40, 50)}
    assert counts == {0: 0, 10: 1, 11: 2, 20: 2, 30: 3, 31: 4, 40: 4, 50: 4}


def test_sides():
    assert active_when_training(15, RIGHT) == ("a", "b")
    assert active_when_training(15, LEFT) == ("c", "d")
    assert active_when_sampling(0, LEFT) == ()  # the released slice [-0:] took all


def test_groups_enter_together():
    config = dataclasses.replace(RIGHT, entries=(0, 0, 10, 20))
    assert [len(active_when_training(s, config)) for s in (0, 10, 20, 40)] == [2, 3, 4, 4]
    left = dataclasses.replace(RIGHT, variant="additive-left", entries=(0, 10, 20, 20))
    assert [active_when_training(s, left) for s in (0, 10, 20)] == [("d",), ("c", "d"), FOUR]


def test_classic_and_product():
    classic = dataclasses.replace(RIGHT, variant="classic")
    assert active_when_training(0, classic) == FOUR
    assert active_when_sampling(0, classic) == ()  # the reference writes without tokens
    assert active_when_sampling(10, classic) == FOUR
    assert active_when_training(3, dataclasses.replace(RIGHT, variant="product")) == ("product",)


def test_entries_are_spread_evenly():
    assert entry_steps(MarioConfig(rewards=FOUR, variant="additive", steps=60)) == (0, 15, 30, 45)


def test_interval_and_groups_are_read_as_entries():
    stored = {"method": "mario", "rewards": list(FOUR), "variant": "additive", "interval": 10}
    assert upgrade(stored)["entries"] == [0, 10, 20, 30]
    assert upgrade({**stored, "groups": [2, 1, 1]})["entries"] == [0, 0, 10, 20]
    left = {
        **stored,
        "side": "left",
        "groups": [2, 1, 1],
    }  # groups from the list's end, as released
    assert upgrade(left)["entries"] == [0, 10, 20, 20]
    assert "entries" not in upgrade({**stored, "interval": 0})
