"""Run folders: what is stored when, and what a second start finds."""

from rationalize.runs.lock import lock, unlock
from rationalize.runs.run import (
    BASE_HASH,
    Run,
    check_resumable,
    differences,
    read_config,
    slug,
)
from rationalize.runs.stage import Stage

__all__ = [
    "BASE_HASH",
    "Run",
    "Stage",
    "check_resumable",
    "differences",
    "lock",
    "read_config",
    "slug",
    "unlock",
]
