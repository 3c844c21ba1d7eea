"""Which weights learn where nothing is said: all of them, or a LoRA adapter; by size and memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from rationalize.errors import UsageError
from rationalize.processes import by_first

FULL_TUNING_LIMIT = 500_000_000
"""Full tuning up to this many parameters, LoRA above."""

FULL_BYTES = 24
"""Of full tuning, a parameter: weights, gradient and AdamW's two moments in float32, the base model
beside them in float32, a frozen reference and the sampler's copy in bfloat16.
"""
BESIDE = 2_000_000_000
"""Bytes beside weights: activations of a micro-batch, logits, the interpreter."""

_SHARE = 0.8  # of the memory; the rest is the system's and other processes'


Tuning = Literal["auto", "full", "lora"]
"""What a caller may ask for; `auto` leaves it to `decide_for`."""


def check_tuning(tuning: str) -> None:
    """Raise `UsageError` for any other word: a misspelled `lora` would tune all weights."""
    if tuning not in get_args(Tuning):
        raise UsageError(f"tuning is {tuning!r}; expected one of {', '.join(get_args(Tuning))}")


class Decision(NamedTuple):
    """Which weights learn, and why in words."""

    tuning: Literal["full", "lora"]
    why: str


def decide_tuning(
    parameters: int, dtype: torch.dtype, memory: int | None, *, limit: int = FULL_TUNING_LIMIT
) -> Decision:
    """What `tuning="auto"` means for a model of so many parameters. `memory`: bytes that the device
    has, used or not, so that a second start decides alike; None: unknown.

    >>> decide_tuning(135_000_000, torch.float32, 16_000_000_000)
    Decision(tuning='full', why='135M parameters, about 5.2 of 16.0 GB of memory')
    >>> decide_tuning(494_000_000, torch.float32, 8_000_000_000).why
    '494M parameters; full tuning takes about 13.9 GB, and the memory is 8.0 GB'
    """
    size, needed = f"{parameters / 1e6:.0f}M parameters", FULL_BYTES * parameters + BESIDE
    if parameters > limit:
        return Decision("lora", f"{size}, more than {limit / 1e6:.0f}M")
    if dtype != torch.float32:
        return Decision("lora", f"weights in {_name(dtype)}, which would round small steps away")
    if memory is None:
        return Decision("full", f"{size}, at most {limit / 1e6:.0f}M")
    if needed > _SHARE * memory:
        return Decision(
            "lora",
            f"{size}; full tuning takes about {needed / 1e9:.1f} GB, and the memory is "
            f"{memory / 1e9:.1f} GB",
        )
    return Decision("full", f"{size}, about {needed / 1e9:.1f} of {memory / 1e9:.1f} GB of memory")


def decide_for(model: Any, memory: int | None = None) -> Decision:
    """The decision for a loaded model, on the device where it lies; of several processes, on that
    of the first.
    """
    first = next(model.parameters())
    size = sum(p.numel() for p in model.parameters())
    memory = memory or by_first(lambda: device_memory(first.device))
    return decide_tuning(size, first.dtype, memory)


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory that a device has; on a CPU at most what the process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = Path("/sys/fs/cgroup")
    for path in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdigit() else []  # `max`: no limit
    return min(limits)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
