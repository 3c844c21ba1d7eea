"""Run folders: what is stored when, and what a second start finds."""

from rationalize.runs.inputs import Inputs, digest
from rationalize.runs.lock import lock, unlock
from rationalize.runs.resume import (
    BASE_HASH,
    check_resumable,
    destination_of,
    differences,
    read_config,
    size_may_change,
)
from rationalize.runs.run import Run, slug
from rationalize.runs.stage import Stage, before_parts

__all__ = [
    "BASE_HASH",
    "Inputs",
    "Run",
    "Stage",
    "before_parts",
    "check_resumable",
    "destination_of",
    "differences",
    "digest",
    "lock",
    "read_config",
    "size_may_change",
    "slug",
    "unlock",
]
