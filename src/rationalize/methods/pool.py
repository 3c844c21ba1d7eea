"""MaRio's pool: every attempt so far, and its bin under every reward, quantised anew each round."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rationalize.errors import UserError
from rationalize.methods.base import NothingToLearn
from rationalize.records import Attempt
from rationalize.rewards.base import counted
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Stage
from rationalize.signals.bins import rank_bins, value_bins
from rationalize.signals.draws import BinMembers, balanced_bins, shuffled_passes
from rationalize.signals.filters import keep_above
from rationalize.signals.variance import centred_within, intraclass_correlation

if TYPE_CHECKING:
    from rationalize.methods.mario_config import MarioConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """An attempt to learn from."""

    attempt: Attempt
    bins: Mapping[str, int]
    """Its bin under every active reward."""
    other: Mapping[str, int] | None = None
    """Bins that it shall be told apart from: those, but for one reward's."""


class Pool:
    """Nothing ever leaves it; what cannot be learned from is counted."""

    def __init__(
        self, config: MarioConfig, suite: RewardSuite, controls: Mapping[str, int], seed: int
    ) -> None:
        self._config, self._suite, self._controls, self._seed = config, suite, controls, seed
        self._rounds: list[list[Attempt]] = []
        self._active: tuple[str, ...] = ()
        self.attempts: list[Attempt] = []
        """What is learned from: parsed, and passed by the filters."""
        self.bins: dict[str, np.ndarray] = {}
        self._members: dict[str, BinMembers] = {}

    @property
    def rounds(self) -> int:
        return len(self._rounds)

    def add(self, attempts: list[Attempt], active: Sequence[str]) -> None:
        """Append a round and quantise."""
        self._rounds.append(attempts)
        self._quantise(active)

    def _quantise(self, active: Sequence[str]) -> None:
        """Filter and bin all attempts. A reward with a token filters once it is active (3.3)."""
        self._active = tuple(active)
        parsed = [a for r in self._rounds for a in r if a.parsed]
        filters = {
            name: threshold
            for name, threshold in self._config.filters.items()
            if name in active or name not in self._controls
        }
        scores = {name: [a.rewards[name] for a in parsed] for name in filters}
        kept = keep_above(scores, filters, len(parsed))
        self.attempts = [a for a, keep in zip(parsed, kept, strict=True) if keep]
        if not self.attempts:
            raise NothingToLearn(
                f"no attempt of {sum(map(len, self._rounds))} can be learned from: {len(parsed)} "
                f"parsed, none passed the filters {filters}; lower the thresholds or start from a "
                "better SFT model"
            )
        self.bins = {name: self._bins(name) for name in self._controls}
        self._members = {name: BinMembers.of(bins) for name, bins in self.bins.items()}

    def draw(self, step: int, active: Sequence[str]) -> list[Drawn]:
        """The rows of a step, with their bins, spread over the active rewards' bins."""
        config = self._config
        if tuple(active) != self._active:
            self._quantise(active)
        size, seed = config.fit.batch_size, [self._seed, self.rounds]
        if config.over_draw != 1:
            shown = {name: self._members[name] for name in active}
            limit = config.over_draw or math.inf
            indices = balanced_bins(shown, size, step, seed, over_draw=limit)
        else:
            within = step % config.sample_interval
            indices = shuffled_passes(len(self.attempts), size, within, seed)
        drawn = [
            Drawn(self.attempts[i], {name: int(self.bins[name][i]) for name in active})
            for i in indices
        ]
        return self.told_apart(drawn, step) if config.contrast else drawn

    def told_apart(self, drawn: Sequence[Drawn], step: int) -> list[Drawn]:
        """Every row with other bins beside its own: one reward's, by lot."""
        filled = {n: b for n, b in self.filled().items() if len(b) > 1}
        rng = np.random.default_rng([self._seed, self.rounds, step, 1])
        told = []
        for row in drawn:
            if names := [n for n in row.bins if n in filled]:
                name = names[rng.integers(len(names))]
                others = [b for b in filled[name] if b != row.bins[name]]
                other = {**row.bins, name: others[rng.integers(len(others))]}
                row = replace(row, other=other)
            told.append(row)
        return told

    def log_drawn(self, stage: Stage, steps: Sequence[tuple[int, Sequence[str]]]) -> None:
        """What the coming steps (each with its active rewards) will learn from: the share of rows
        with a wrong answer, and of rows whose tokens are all the best, as a policy is asked later.
        """
        drawn = [row for step, active in steps for row in self.draw(step, active)]
        found = {
            "rows": len(drawn),
            "attempts": len({row.attempt.id for row in drawn}),
            "wrong": _share(row.attempt.rewards.get("correctness") == 0 for row in drawn),
            "all_best": _share(not any(row.bins.values()) for row in drawn),
        }
        stage.log("drawn", self.rounds - 1, [{"round": self.rounds - 1, **found}])

    def filled(self) -> dict[str, list[int]]:
        """Bins of each reward that hold an attempt: the others' tokens were never trained."""
        return {name: of.filled.tolist() for name, of in self._members.items()}

    def lowest(self) -> dict[str, int]:
        """The worst filled bin of each reward."""
        return {name: bins[-1] for name, bins in self.filled().items()}

    def log(self, stage: Stage) -> None:
        """Counts of the newest round and occupancy of every bin; an empty bin warns."""
        round, attempts = self.rounds - 1, self._rounds[-1]
        undefined = {n: sum(a.rewards[n] is None for a in attempts) for n in attempts[0].rewards}
        found = {
            "written": len(attempts), "learned_from": len(self.attempts),
            "unparsed": sum(not a.parsed for a in attempts),
            "cut": sum(a.finish == "length" for a in attempts),
            "undefined": {n: count for n, count in undefined.items() if count},
        }  # fmt: skip
        stage.log("pool", round, [found])
        occupancy = {
            n: np.bincount(bins, minlength=self._controls[n]).tolist()
            for n, bins in self.bins.items()
        }
        asked = [a.question_id for a in self.attempts]
        rows = [
            {
                "round": round, "reward": n, "counts": counts,
                "icc": intraclass_correlation(self._values(n), asked),
            }
            for n, counts in occupancy.items()
        ]  # fmt: skip
        stage.log("bins", round, rows)
        for name, counts in occupancy.items():
            if not counts[0] and name in self._active:
                raise NothingToLearn(
                    f"no attempt has the best value of {name!r} (counts, best first: {counts}), so "
                    "its best token cannot be learned; start from a better SFT model, or "
                    "drop this reward"
                )
            if 0 in counts:
                logger.warning(
                    "%s: bins %s of %s are empty, their tokens not trained (counts: %s)",
                    stage.name, [b for b, count in enumerate(counts) if not count], name, counts,
                )  # fmt: skip
        share = sum(a.parsed for a in attempts) / len(attempts)
        if share < 0.8:
            logger.warning(
                "%s: only %.0f %% of round %d could be parsed", stage.name, 100 * share, round
            )

    def _bins(self, name: str) -> np.ndarray:
        bins = self._ranked(name)
        if self._config.bins_within != "nothing":
            return bins
        # the same bins, each at an attempt by lot
        return bins[np.random.default_rng([self._seed, self.rounds]).permutation(len(bins))]

    def _ranked(self, name: str) -> np.ndarray:
        scores = self._values(name)
        if name != "product" and (levels := self._suite[name].levels):
            return value_bins(scores, levels)
        if self._config.bins_within == "question":
            scores = centred_within(scores, [a.question_id for a in self.attempts])
        return rank_bins(scores, self._controls[name], self._config.ties)

    def _values(self, name: str) -> np.ndarray:
        return self._product() if name == "product" else self._scores(self.attempts, name)

    def _scores(self, attempts: Sequence[Attempt], name: str) -> np.ndarray:
        """An undefined score counts as `counted` says."""
        given = [a.rewards[name] for a in attempts]
        return np.array(counted(self._suite[name], given), dtype=np.float64)

    def _product(self) -> np.ndarray:
        product = np.ones(len(self.attempts))
        for name in self._config.rewards:
            scores = self._scores(self.attempts, name)
            if self._config.variant == "product":
                low, high = self._suite[name].range
                if not np.isfinite(high - low):
                    raise UserError(
                        f"PRODUCT needs finite ranges, and {name!r} has [{low}, {high}]; "
                        "declare its range, or use variant=product-raw"
                    )
                scores = (scores - low) / (high - low)
            product *= scores
        return product


def _share(of: Iterable[bool]) -> float:
    values = list(of)
    return sum(values) / len(values)
