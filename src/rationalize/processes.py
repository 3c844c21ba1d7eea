"""The processes of a launch: `torchrun`, `srun` or `accelerate launch` start several, which run the
same program side by side, and each finds its place here. No torch is imported.

All of them go through the same lines with the same settings, so they hold the same weights, the
same attempts and the same state of the run. The first one alone writes what a user reads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rationalize.errors import UsageError

_STARTERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun; a batch script has no step
)


@dataclass(frozen=True)
class World:
    """This process among those of its launch."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those of its machine: which accelerator it takes."""

    @property
    def first(self) -> bool:
        """Whether this process writes metrics, results and pages."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1


def world() -> World:
    """This process's place, as its starter says it. Raises `UsageError` where that is no place."""
    for names in _STARTERS:
        found = [os.environ.get(name) for name in names]
        if found[0] is None or found[1] is None:
            continue
        try:
            rank, size, local = (int(value or 0) for value in found)
        except ValueError:
            rank, size, local = -1, 0, 0
        if not 0 <= rank < size or local < 0:
            told = ", ".join(f"{n}={v}" for n, v in zip(names, found, strict=True))
            raise UsageError(
                f"{told}: no place among processes; expected 0 <= {names[0]} < {names[1]}"
            )
        return World(rank, size, local)
    return World()
