"""Where bfloat16 is computed in hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed in hardware there, not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast where it is fast, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
