"""One process writes a folder: an advisory lock that the system drops when the process ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rationalize.errors import UserError

_locks: dict[Path, int] = {}
"""Open lock files of this process."""


def lock(path: Path) -> None:
    """Take a folder for this process; taking it twice is fine. Another's raises `UserError`."""
    key = path.resolve()
    if key in _locks:
        return
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1024, os.SEEK_SET)  # past the text, which others read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        writer = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(
            f"{path} is being written by another process (pid {writer}); "
            "wait until it ends, stop it, or choose another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    _locks[key] = descriptor


def unlock(path: Path) -> None:
    """Let another process take the folder."""
    held = _locks.pop(path.resolve(), None)
    if held is not None:
        os.close(held)
