"""Ranks among the attempts at one question, induced by correctness.

    two levels:   1 = correct, 0 = wrong but parsed
    three levels: 2 = correct, 1 = wrong but parsed, 0 = unparsed

Attempts of one level are not ordered, so a pair always spans two levels. The rank is that of
Self-motivated Learning (arXiv 2404.07017), the levels are ours (docs/methods/self-motivated.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def rank_levels(
    correct_N: Sequence[bool], parsed_N: Sequence[bool], levels: int = 2
) -> list[int | None]:
    """The level (N,) of each attempt; with two levels, None for an unparsed attempt.

    >>> rank_levels([True, False, False], [True, True, False], levels=3)
    [2, 1, 0]
    """
    if levels not in (2, 3):
        raise ValueError(f"{levels} levels; expected 2 or 3")
    ranks: list[int | None] = []
    for correct, parsed in zip(correct_N, parsed_N, strict=True):
        level = (2 if correct else 1) if parsed else 0  # with three levels
        ranks.append(level if levels == 3 else (level - 1 if parsed else None))
    return ranks


def pairs_across(
    levels_N: Sequence[int | None], cap: int = 0, seed: int | Sequence[int] = 0
) -> list[tuple[int, int]]:
    """Indices `(better, worse)` of all pairs of attempts on different levels.

    At most `cap` of them, drawn uniformly (0: all).

    >>> pairs_across([1, 0, None, 0])
    [(0, 1), (0, 3)]
    """
    ranked = [(i, level) for i, level in enumerate(levels_N) if level is not None]
    below = {a: [j for j, b in ranked if b < a] for a in {level for _, level in ranked}}
    # all pairs in order, of which only the drawn ones are made: those of an attempt follow each
    # other, and end where `ends` says
    ends = np.cumsum([len(below[level]) for _, level in ranked])
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.arange(total)
    if cap and total > cap:
        drawn = np.sort(np.random.default_rng(seed).choice(total, cap, replace=False))
    pairs = []
    for number, place in zip(drawn, np.searchsorted(ends, drawn, side="right"), strict=True):
        i, level = ranked[place]
        pairs.append((i, below[level][number - ends[place]]))  # from the end of the attempt's own
    return pairs


def rates_in_order(groups_P: Sequence[Hashable], margins_P: Sequence[float]) -> list[float]:
    """Per group (a question), in order of appearance, the share of its pairs whose margin, better
    less worse, is above 0; a margin of 0 counts half.

    >>> rates_in_order(["a", "a", "b"], [0.3, -0.1, 0.0])
    [0.5, 0.5]
    """
    by_group: dict[Hashable, list[float]] = {}
    for group, margin in zip(groups_P, margins_P, strict=True):
        by_group.setdefault(group, []).append(0.5 * (1 + float(np.sign(margin))))
    return [float(np.mean(signs)) for signs in by_group.values()]


def usable_share(pass_rate: float, n: int) -> float:
    """Probability that `n` attempts at a question of this pass rate are neither all right nor all
    wrong, so that they give a pair: `1 - p^n - (1 - p)^n`.

    >>> round(usable_share(0.1, 8), 3)
    0.57
    """
    return 1 - pass_rate**n - (1 - pass_rate) ** n


def chance_weight(pass_rate: float, n_choices: int | None) -> float:
    """A question's pass rate corrected for guessing: `(p - 1/k) / (1 - 1/k)`, at least 0.

    Without choices, the pass rate itself.
    """
    if not n_choices or n_choices < 2:
        return pass_rate
    chance = 1 / n_choices
    return max(0.0, (pass_rate - chance) / (1 - chance))
