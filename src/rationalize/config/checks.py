"""What a configuration's numbers may be; for the `__post_init__` of its dataclass."""

from __future__ import annotations

import math
from typing import Any

from rationalize.errors import UsageError

LARGEST_SEED = 2**32 - 1
"""What every generator takes."""


class OutOfRange(UsageError):
    """A setting's value that its dataclass refuses; the message begins with the setting's name."""


def at_least(config: Any, least: float, *names: str) -> None:
    """Raise `OutOfRange` where one of these numbers is below `least`, not finite, or NaN."""
    for name, value in _numbers(config, names):
        if not least <= value < math.inf:
            raise OutOfRange(f"{name} is {_shown(value)}; expected at least {least:g}")


def above(config: Any, bound: float, *names: str) -> None:
    """Raise `OutOfRange` where one of these numbers is not above `bound`, or not finite."""
    for name, value in _numbers(config, names):
        if not bound < value < math.inf:
            raise OutOfRange(f"{name} is {_shown(value)}; expected a number above {bound:g}")


def between(config: Any, low: float, high: float, *names: str) -> None:
    """Raise `OutOfRange` where one of these numbers is not from `low` to `high`."""
    for name, value in _numbers(config, names):
        if not low <= value <= high:
            raise OutOfRange(f"{name} is {_shown(value)}; expected {_range(low, high)}")


def finite(config: Any, *names: str) -> None:
    """Raise `OutOfRange` where one of these numbers is NaN or infinite."""
    for name, value in _numbers(config, names):
        if not -math.inf < value < math.inf:
            raise OutOfRange(f"{name} is {_shown(value)}; expected a finite number")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raise `OutOfRange` for no seed, one twice, or one that no generator takes."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise OutOfRange(f"seeds is {list(seeds)}; expected at least one, each once")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise OutOfRange(f"seeds holds {seed}; expected numbers from 0 to {LARGEST_SEED}")


def _numbers(config: Any, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Name and value; of a list or mapping every value, and none of what is not set."""
    found: list[tuple[str, float]] = []
    for name in names:
        value = getattr(config, name)
        if isinstance(value, dict):
            found += [(f"{name}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, tuple | list):
            found += [(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
        elif value is not None:
            found.append((name, value))
    return found


def _range(low: float, high: float) -> str:
    return f"at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"


def _shown(value: float) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
