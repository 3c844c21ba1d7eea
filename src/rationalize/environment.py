"""What results depend on besides the configuration: package versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

_PACKAGES = (
    "rationalize", "torch", "transformers", "accelerate", "peft", "tokenizers", "datasets",
    "numpy", "pyarrow",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions and hardware, without host, user or path. `threads` is None if unknown."""
    torch = sys.modules.get("torch")  # not imported only for this
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else _threads(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _threads() -> int | None:
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
