"""Keep freed memory in the process while a stage learns, and give it back at its end.

A training step on a processor allocates and frees the same large tensors again and again. glibc
gives each back to the system, which then clears every page anew: a third of a step of a 135M model.
Kept for good, what every stage of a long run has freed adds up to several times what one needs.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Mapping
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to reuse what is freed; returns whether it was told. Nothing happens elsewhere."""
    return _tell({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28})


def give_back_freed_memory() -> None:
    """Return the pages that hold nothing to the system, and from now on those of large tensors as
    soon as they are freed; nothing happens without glibc.
    """
    gc.collect()
    _tell({_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**20})
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _tell(settings: Mapping[int, int]) -> bool:
    mallopt = _of_glibc("mallopt")
    return bool(mallopt) and all(mallopt(name, value) == 1 for name, value in settings.items())


def _of_glibc(name: str) -> Any:
    """The function, or None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
