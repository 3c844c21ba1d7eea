"""Calibrations in the user's cache, by model, settings, machine and version of the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rationalize
from rationalize.environment import environment
from rationalize.files import cache_folder, make_folder, plain, write_text
from rationalize.methods.settings import RunConfig
from rationalize.planning.sizes import folder_stamp
from rationalize.planning.speeds import Measured
from rationalize.runs import digest

_ROOMS = ("models", "sampling", "training")
"""Where the code lies whose speed is measured."""


def file_of(source: str, config: RunConfig, tuning: str) -> Path:
    """Of the calibration of a model, named by all that its speeds depend on."""
    settings = (tuning, config.dtype, config.precision, config.lora_rank,
                config.gradient_checkpointing)  # fmt: skip
    key = digest([folder_stamp(source), settings, _machine(), _code()])
    return cache_folder() / "plans" / f"{key}.json"


def read(file: Path) -> Measured | None:
    """What an earlier plan measured; None where it measured nothing that can be read."""
    try:
        return Measured.from_dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(file: Path, known: Measured) -> None:
    make_folder(file.parent)
    write_text(file, json.dumps(plain(known.as_dict()), indent=1) + "\n")


def _machine() -> list[Any]:
    facts = environment()
    processor = Path("/proc/cpuinfo")
    name = ""
    if processor.is_file():
        lines = processor.read_text(errors="replace").splitlines()
        name = next((line for line in lines if line.startswith("model name")), "")
    return [facts, name, _accelerator()]


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _code() -> list[Any]:
    """Version, and sizes and times of the files that do the work."""
    root = Path(rationalize.__file__).parent
    files = sorted(p for room in _ROOMS for p in (root / room).glob("*.py"))
    return [rationalize.__version__, *((p.stat().st_size, p.stat().st_mtime_ns) for p in files)]
