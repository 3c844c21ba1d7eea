"""Run folders: what is stored when, and what a second start finds."""

from rationalize.runs.inputs import Inputs, digest
from rationalize.runs.lock import lock, unlock
from rationalize.runs.resume import (
    BASE_HASH,
    MAY_CHANGE,
    check_resumable,
    destination_of,
    differences,
    read_config,
)
from rationalize.runs.run import Run, slug
from rationalize.runs.stage import Stage

__all__ = [
    "BASE_HASH",
    "MAY_CHANGE",
    "Inputs",
    "Run",
    "Stage",
    "check_resumable",
    "destination_of",
    "differences",
    "digest",
    "lock",
    "read_config",
    "slug",
    "unlock",
]
