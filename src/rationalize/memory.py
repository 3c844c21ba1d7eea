"""Keep freed memory in the process while a stage trains, and return it at the stage's end.

Every training step on a CPU allocates and frees the same large tensors. glibc returns them to the
system, which clears each page again: a third of the time of a step of a 135M model. Without the
return, the memory freed by all stages of a long run adds up to several times what one needs.
The few tensors of 32 MiB and more are returned at once: small ones would take pieces of the room
that they leave, so that the next large one needs new pages, and memory creeps up.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_LARGE = 2**25
"""Bytes of a tensor that is returned once it is freed: the most that glibc takes for this."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # malloc.h


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """A block within which freed memory stays in the process; returned at its end. What the block
    has held must be gone by then.
    """
    keep_freed_memory()
    try:
        yield
    finally:
        give_back_freed_memory()


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory but that of large tensors; False if that failed, or with
    another C library.
    """
    return _set_options(
        {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
    )


def give_back_freed_memory() -> None:
    """Return free pages to the system, and from now on those of large tensors once freed.

    Does nothing with another C library.
    """
    gc.collect()
    _set_options(
        {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**20}
    )
    if trim := _glibc_function("malloc_trim"):
        trim(0)


def _set_options(settings: Mapping[int, int]) -> bool:
    mallopt = _glibc_function("mallopt")
    return bool(mallopt) and all(mallopt(name, value) == 1 for name, value in settings.items())


def _glibc_function(name: str) -> Any:
    """A function of glibc, or None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
