"""The page of rewards names every reward, its range, and whether it may be trained on."""

import math
import re
from pathlib import Path

import pytest

from rationalize.errors import UserError
from rationalize.rewards.known import known_rewards

PAGE = Path(__file__).parents[1] / "docs" / "rewards.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="no documentation beside the tests")


def test_every_reward_stands_on_its_page():
    rows = re.findall(
        r"^\| `(\w+)` \| .+ \| ([^|]+) \| [^|]+ \| (yes|no) \|$", PAGE.read_text(), re.M
    )
    with pytest.raises(UserError) as unknown:
        known_rewards(["no_such_reward"])
    names = re.search(r"expected one of (.+), or module", str(unknown.value))[1].split(", ")
    assert sorted(name for name, _, _ in rows) == sorted(names)
    for name, said, trainable in rows:
        [reward] = known_rewards([name])
        assert reward.trainable == (trainable == "yes"), name
        low, high = reward.range
        told = {"unbounded": (-math.inf, math.inf), "from 0": (0, math.inf),
                "below 0": (-math.inf, 0)}.get(said)  # fmt: skip
        numbers = [float(n) for n in re.findall(r"-?\d+", said)]
        assert (low, high) == (told or (numbers[0], numbers[-1])), name
